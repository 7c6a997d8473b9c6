"""The exceptions `LoupeError` and `UsageError`, and functions that describe errors and mask secrets in texts."""

import base64
import os
import re
import traceback
from typing import Any
from urllib.parse import unquote

LONGEST_DESCRIPTION = 300  # maximum number of characters in the description of an error
MASK = "***"
STORE_LIBRARIES = ("mlflow", "sqlalchemy", "alembic")  # packages that access the store of the runs
SHORTEST_PART = 3  # characters; shorter parts of a URL's secret are not masked

# A password may contain a slash, @ or a colon. All characters between `user:` and the last `@` before a space are
# masked.
_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*)?(:/{1,2})([^/?#:\s]*)(:\S*)@")
_TOKEN = re.compile(r"(?i)(\b(?:https?|s3a?|gc?s|oss)://)[^/?#:\s]+@")
# In URLs with these schemes, the user name may be a token and is masked too.
_ID_SCHEMES = re.compile(r"(?i)(.*\+)?(https?|s3a?|gc?s|oss)")
_FIELD = re.compile(
    r"""(?ix)
    (
        (?: (?<![^\W_]) [\w.%-]{0,40} (?: passw | passphrase | pwd | secret | credential | token | api_?key
            | (?:access|account|private|shared)_?key ) [\w.%-]{0,40}
        |   [?&;\#] [^=&\s]{0,40} (?: pass | key | sig | cred | auth(?!or) | token | secret | jwt | bearer | session
            | hmac | odbc_connect ) [^=&\s]{0,40}
        |   [?&;\#] (?: pw | sas | code | ticket )
        |   x-(?:amz|goog)-[\w-]+
        )
        =
    )
    (?: '[^']*' (?=\s|$) | "[^"]*" (?=\s|$) | [^&\s]*? (?= ['")\]>,;.]* (?: [&\s] | $ ) ) )
    """
)

# The next patterns match secrets in messages of libraries and servers: quoted values, as in JSON and Python, and HTTP
# headers.
_QUOTED = re.compile(
    r"""(?ix)
    (
        (?<![^\W_]) [\w.-]{0,40} (?: passw | passphrase | pwd | secret | credential | token | api[_-]?key )
        [\w.-]{0,40} ['"]? \s* [:=] \s* (['"])
    )
    (?: \\. | (?!\2)[^\\] )* \2
    """
)
_HEADER = re.compile(
    r"""(?ix)
    ( \b (?: authorization | x-[\w-]{0,40}(?:key|token) ) ['"]? \s* [:=] \s* ['"]? | \b bearer \s+ (?=[\w.~+/-]{6}) )
    (?: (?:basic|bearer|digest|token) \s+ )? [^\s'",}]+
    """
)
_BASIC = re.compile(r"(?i)(\bbasic\s+)([\w+/]{6,}={0,2})")  # an HTTP header with user and password, in base64
# Each match of _QUOTED, _HEADER and _BASIC contains one of these words.
_SECRET_WORD = re.compile(r"(?i)basic|passw|passphrase|pwd|secret|credential|token|key|authorization|bearer")
# Names of environment variables whose values are masked in errors
_SECRET_VARIABLE = re.compile(
    r"(PASSWORD|PASSPHRASE|TOKEN|SECRET|(ACCESS|ACCOUNT|API|STORAGE)_KEY|CONNECTION_STRING)$"
)
SHORTEST_VALUE = 6  # characters; shorter values are not masked, because they may be parts of normal words
# Used only for a whole URL: in a longer text, the end of a password that contains a space is unknown.
_PASSWORD_WITH_SPACE = re.compile(r"(?s)://[^/?#:]*:(.*\s.*)@")


def mask_secrets(text: str, *urls: str) -> str:
    """Replace passwords, tokens and keys in a text by MASK.

    Secrets are masked in URLs (before `@`), in fields such as `password=` or `X-Amz-Signature=`, in quoted values
    after names such as `token`, and in HTTP headers. The user name of a database remains:
    `postgresql://loupe:***@host/studies`.

    Args:
        text: any text.
        urls: URLs whose secrets are masked everywhere in the text, because a message may quote parts of a secret.
    """
    for url in urls:
        for part in _list_secret_parts(url):
            text = text.replace(part, MASK)
    if "@" in text:
        text = _TOKEN.sub(rf"\1{MASK}@", _PASSWORD.sub(_mask_password, text))
    if "=" in text:
        text = _FIELD.sub(_mask_field, text)
    if _SECRET_WORD.search(text):  # this search takes a tenth of the time of the substitutions
        text = _HEADER.sub(_mask_field, _QUOTED.sub(rf"\1{MASK}\2", _BASIC.sub(_mask_basic, text)))
    return text


def mask_error(text: str, *urls: str) -> str:
    """Mask secrets as `mask_secrets` does, and also mask secrets that environment variables contain.

    These are the values of variables such as `AWS_SECRET_ACCESS_KEY`, and the password in `MLFLOW_TRACKING_URI` if
    it contains spaces.
    """
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= SHORTEST_VALUE:
            text = text.replace(value, MASK)
    if found := _PASSWORD_WITH_SPACE.search(os.environ.get("MLFLOW_TRACKING_URI", "")):
        text = text.replace(found[1], MASK)
    return mask_secrets(text, *urls)


def mask_values(value: Any) -> Any:
    """Return a copy of a JSON value; `mask_secrets` is applied to each string in it, except keys."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {name: mask_values(part) for name, part in value.items()}
    return [mask_values(part) for part in value] if isinstance(value, list | tuple) else value


def is_masked(url: str) -> bool:
    """Return whether a URL contains a masked secret. Such a URL cannot be opened."""
    return "://" in url and (f"{MASK}@" in url or f"={MASK}" in url)


def _mask_password(found: re.Match[str]) -> str:
    scheme, separator, user, _ = found.groups()
    is_user_shown = "@" not in user and not _ID_SCHEMES.fullmatch(scheme or "")
    return f"{scheme or ''}{separator}{f'{user}:' if is_user_shown else ''}{MASK}@"


def _mask_field(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}"


def _mask_basic(found: re.Match[str]) -> str:
    try:
        is_password = b":" in base64.b64decode(found[2])
    except ValueError:  # not base64
        is_password = False
    return f"{found[1]}{MASK}" if is_password else found[0]


def _list_secret_parts(url: str) -> list[str]:
    """Return the secrets of a URL, as they are and percent-decoded, and their parts, from longest to shortest."""
    secrets = [found[4][1:] for found in _PASSWORD.finditer(url)]
    secrets += [found[0][len(found[1]) :].rstrip("@") for found in _TOKEN.finditer(url)]
    secrets += [found[0][len(found[1]) :] for found in _FIELD.finditer(url)]
    secrets += map(unquote, tuple(secrets))
    parts = {part for secret in secrets for part in re.split(r"[/?#@:]", secret) if len(part) >= SHORTEST_PART}
    return sorted({*secrets, *parts} - {"", MASK}, key=len, reverse=True)


class LoupeError(Exception):
    """A step failed: exit status 1. Secrets in the message are masked."""

    def __init__(self, message: str) -> None:
        super().__init__(mask_error(message))


class UsageError(LoupeError):
    """The user's request is wrong, for example because of a setting, a file or a model: exit status 2."""


def describe_error(error: BaseException, *urls: str) -> str:
    """Return the first line of an error message, or the class name if the message is empty.

    Secrets are masked (for `urls`, see `mask_secrets`), and the text is cut after LONGEST_DESCRIPTION characters.
    """
    text = mask_error(str(error).strip() or type(error).__name__, *urls)
    return text.splitlines()[0][:LONGEST_DESCRIPTION]


def was_raised_by_store(error: BaseException) -> bool:
    """Return whether MLflow or its database libraries raised the error, or returned a wrong result.

    A damaged database, or a server that is not an MLflow server, causes errors of any class. Errors raised in
    `loupe.tracking`, or in a library that it calls, count too, because this package fails if a store returns a wrong
    result.
    """
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = [name for name in frames if name.startswith("loupe.")][-1]
    return last.startswith("loupe.tracking.") or any(name.partition(".")[0] in STORE_LIBRARIES for name in frames)
