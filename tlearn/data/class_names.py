"""Names of classes that may not be meant: two spellings of one, and what programs write for a missing value."""

import unicodedata
from collections.abc import Iterable

from tlearn.errors import capped

# As pandas, R, Excel and databases write it
_MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none", "?"}


def doubtful_names(classes: Iterable[str]) -> list[str]:
    """Return a warning for classes that differ in case, blanks, separators or decimals alone, or stand for nothing."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault(_folded(name), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in spellings.values() if len(names) > 1]
    missing = [repr(name) for names in spellings.values() for name in names if name.strip().lower() in _MISSING]
    warnings = [f"warning: these classes may be one each: {capped(alike)}"] if alike else []
    if missing:
        warnings.append(f"warning: is this a class, or a missing label? {capped(missing)}")
    return warnings


def _folded(name: str) -> str:
    try:
        # 0, 0.0 and 00
        return repr(float(name))
    except ValueError:
        # Without signs that nobody sees, such as a blank of no width
        seen = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
        plain = unicodedata.normalize("NFKC", seen).casefold()
        return " ".join(plain.replace("_", " ").replace("-", " ").split())
