"""The errors that a user can cause. The command line prints their message in one line, without a traceback."""

LONGEST_DESCRIPTION = 300  # characters


class LoupeError(Exception):
    """A step failed: exit status 1."""


class UsageError(LoupeError):
    """The request is wrong, and nothing was started: exit status 2."""


def describe_error(error: BaseException) -> str:
    """Return the first line of a library's error message, or the class of the error if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:LONGEST_DESCRIPTION]
