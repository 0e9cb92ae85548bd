"""Nested settings as plain data, by dotted keys."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings by dotted keys."""
    return dict(leaves(node))


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values one by one; what is empty is a value."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
