"""Hides passwords, keys and tokens in every text that is printed, logged or stored."""

import re
from typing import Any

MASK = "***"
# In a URL, a password may contain any character except spaces; the last @ is the end of the password.
USER_PASSWORD = re.compile(r"(://[^/:@\s]*):\S*@")
USER_TOKEN = re.compile(r"(https?://)[^/:@\s?#]+@", re.IGNORECASE)
VALUE = r"""('[^']*'|[^\s&"'#]*)"""
PASSWORD_NAME = r"[\w.-]*(?:password|passwd|pwd|secret|credential)[\w.-]*"
KEY_NAME = (
    r"X-Amz-[\w-]+|[\w.-]*token[\w.-]*|(?:[\w.-]*[_-])?(?:key|signature|sig)(?:[_-]?id)?|\w*(?:api|access)key\w*"
)
PASSWORD = re.compile(rf"(?<![\w.-])({PASSWORD_NAME})=(?!=){VALUE}", re.IGNORECASE)
QUERY_KEY = re.compile(rf"([?&;](?:{KEY_NAME}))={VALUE}", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """Replace the secrets in the URLs of a text: `postgresql://loupe:***@host/studies?password=***`."""
    text = USER_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = USER_TOKEN.sub(rf"\1{MASK}@", text)
    return QUERY_KEY.sub(rf"\1={MASK}", PASSWORD.sub(rf"\1={MASK}", text))


def mask_values(value: Any) -> Any:
    """Return a copy of a JSON value without the secrets in its texts."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {name: mask_values(part) for name, part in value.items()}
    return [mask_values(part) for part in value] if isinstance(value, list | tuple) else value
