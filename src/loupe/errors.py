"""The errors that a user can cause, and the masking of passwords in texts.

The command line prints the message of a LoupeError in one line, without a traceback.
"""

import base64
import os
import re
from typing import Any
from urllib.parse import unquote

LONGEST_DESCRIPTION = 300  # maximum number of characters of a described error
MASK = "***"
# A library's message may quote only a part of a secret. Parts with at least this number of characters are masked.
SHORTEST_PART = 3

# A password may contain `/`, `@` or `:`. Therefore everything up to the last `@` before a space is masked, even text
# that is not a password, such as the path in `http://host:5000/a@b`.
_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*)?(:/{1,2})([^/?#:\s]*)(:\S*)@")
_TOKEN = re.compile(r"(?i)(\b(?:https?|s3a?|gc?s|oss)://)[^/?#:\s]+@")
# In URLs with these schemes, the user name may be a token or the id of a key, and is masked too.
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

# The next two patterns find secrets in messages of libraries and servers: quoted values, as in JSON and Python, and
# HTTP headers.
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
_BASIC = re.compile(r"(?i)(\bbasic\s+)([\w+/]{6,}={0,2})")  # the user and the password of an HTTP header, in base64
# Each match of the three patterns above contains one of these words.
_SECRET_WORD = re.compile(r"(?i)basic|passw|passphrase|pwd|secret|credential|token|key|authorization|bearer")
# The values of these environment variables are masked in errors, because servers and libraries may quote them.
_SECRET_VARIABLE = re.compile(
    r"(PASSWORD|PASSPHRASE|TOKEN|SECRET|(ACCESS|ACCOUNT|API|STORAGE)_KEY|CONNECTION_STRING)$"
)
# Minimum length of a variable's value that is masked, because a shorter value may be part of a normal word.
SHORTEST_VALUE = 6
# A password that contains a space. The URL itself shows where the password ends; a text that quotes the URL does not.
_PASSWORD_WITH_SPACE = re.compile(r"(?s)://[^/?#:]*:(.*\s.*)@")


def mask_secrets(text: str, *urls: str) -> str:
    """Replace the passwords, tokens and keys of URLs by MASK, for a text that is printed, logged or stored.

    Secrets are the part of a URL before `@`, and the values of query fields with names such as `password`, `token` or
    `X-Amz-Signature`. The user name of a database remains: `postgresql://loupe:***@host/studies`.

    Args:
        text: any text.
        urls: URLs whose secrets are masked everywhere in the text, because a library's message may quote a part of
            these secrets.
    """
    for url in urls:
        for part in _list_secret_parts(url):
            text = text.replace(part, MASK)
    if "@" in text:
        text = _TOKEN.sub(rf"\1{MASK}@", _PASSWORD.sub(_mask_password, text))
    if "=" in text:
        text = _FIELD.sub(_mask_field, text)
    if _SECRET_WORD.search(text):  # this search takes a tenth of the time of the three substitutions below
        text = _HEADER.sub(_mask_field, _QUOTED.sub(rf"\1{MASK}\2", _BASIC.sub(_mask_basic, text)))
    return text


def mask_error(text: str, *urls: str) -> str:
    """Mask the secrets that `mask_secrets` finds, and the values of environment variables with secrets."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= SHORTEST_VALUE:
            text = text.replace(value, MASK)
    if found := _PASSWORD_WITH_SPACE.search(os.environ.get("MLFLOW_TRACKING_URI", "")):
        text = text.replace(found[1], MASK)
    return mask_secrets(text, *urls)


def mask_values(value: Any) -> Any:
    """Return a copy of a JSON value in which the secrets of all texts are masked."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {name: mask_values(part) for name, part in value.items()}
    return [mask_values(part) for part in value] if isinstance(value, list | tuple) else value


def is_masked(url: str) -> bool:
    """Return whether `mask_secrets` has replaced secrets of a URL. A masked URL cannot be opened."""
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
    except ValueError:  # the word after `basic` is not base64
        is_password = False
    return f"{found[1]}{MASK}" if is_password else found[0]


def _list_secret_parts(url: str) -> list[str]:
    """Return the parts of a URL's secrets that a library's message may contain, longest first."""
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
    """The request is wrong, and nothing was started: exit status 2."""


def describe_error(error: BaseException, *urls: str) -> str:
    """Return the first line of a library's error message, or the class of an error without a message.

    Args:
        error: the error.
        urls: as in `mask_secrets`.
    """
    text = mask_error(str(error).strip() or type(error).__name__, *urls)
    return text.splitlines()[0][:LONGEST_DESCRIPTION]
