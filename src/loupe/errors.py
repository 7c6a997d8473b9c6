"""The two kinds of failure that a user can cause; their text is the one line that the user sees."""


class LoupeError(Exception):
    """The step failed: exit status 1."""


class UsageError(LoupeError):
    """What was asked for does not exist or makes no sense: nothing was started, exit status 2."""


def describe_error(error: BaseException) -> str:
    """What an error of a library says, as far as a line of ours holds it; its class where it says nothing."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:300]
