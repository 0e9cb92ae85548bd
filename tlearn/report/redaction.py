"""Remove secrets from settings: pages are shared."""

import re
from typing import Any

_SECRET = re.compile(r"token|passw|secret|credential|(api|access|private)_?key|auth(?!or)", re.IGNORECASE)
# An assignment to such a name within a text
_GIVEN = re.compile(rf"({_SECRET.pattern})\w*['\"]?\s*[:=]", re.IGNORECASE)
_QUERY = re.compile(r"(?<=\?)[^\s,]+")
# name:password@ in a URL
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redacted(key: str, value: Any) -> Any:
    """Return the value of a setting without the secrets in it."""
    if _SECRET.search(key):
        return "(not shown)"
    if isinstance(value, list):
        return ", ".join(_redacted_item(str(item)) for item in value)
    if not isinstance(value, str):
        return "null" if value is None else value
    if _GIVEN.search(value):
        return "(not shown)"
    # Logins and signatures in URLs
    return _QUERY.sub("(not shown)", _LOGIN.sub("(not shown)", value)) if "://" in value else value


def _redacted_item(item: str) -> str:
    key, sign, value = item.partition("=")
    return f"{key}={redacted(key, value)}" if sign and "://" not in key else str(redacted("", item))
