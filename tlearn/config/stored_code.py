"""What a stored run may not choose: code, and where something is written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlearn.config.arguments import key_of
from tlearn.config.options import BACKBONES
from tlearn.config.tree import CONF_DIR
from tlearn.errors import CheckpointError
from tlearn.runs.trust import targets

# Where something is written: by what a stored run says, only in its folder
_PLACES = re.compile(r"^\W*paths\b|\b(dirpath|filename|save_dir|log_dir|default_root_dir|output_dir)\W{0,2}[:=]")


def check_stored_code(config: Mapping[str, Any], typed: Sequence[str], config_dir: str | Path | None) -> None:
    """Refuse code in the configuration of a resumed run that no option of tlearn names and nobody has typed now.

    However a text in a run folder may become a `_target_`, it does not count.

    Args:
        config: the configuration, resolved.
        typed: the arguments beside `resume`.
        config_dir: the folder of options given beside it.

    Raises:
        CheckpointError: with the code.
    """
    folders = [CONF_DIR, *([Path(config_dir)] if config_dir else [])]
    files = [path for folder in folders for path in folder.rglob("*.yaml")]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    known = {*re.findall(r"[\w.]+", " ".join(typed)), *re.findall(r"_target_\W+([\w.]+)", "\n".join(texts)), *BACKBONES}
    if foreign := [target for target in targets(config) if target not in known]:
        raise CheckpointError(
            f"{config['resume']} names code that no option of tlearn does ({foreign[0]}): if you trust it, give the "
            "argument that names it again"
        )


def of_code(overrides: list[str]) -> list[str]:
    """Return the overrides that could choose code, or where is written, and that none after them removes."""
    removed = [{key_of(one) for one in overrides[place:] if one.startswith("~")} for place in range(len(overrides))]
    return [one for one, gone in zip(overrides, removed, strict=True) if _names_code(one) and key_of(one) not in gone]


def _names_code(argument: str) -> bool:
    """Return whether an argument could choose code, by a `_target_` or an unknown option file, or a place."""
    if _PLACES.search(argument):
        return True
    group = "." not in key_of(argument).partition("@")[0]
    return any(word in argument for word in ("_target_", "oc.create", "oc.decode")) or (group and ".." in argument)
