"""What --help prints: every group with its options, and every option with its default.

Hydra's own help reads each option file twice, which takes longer than everything else together.
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from tlearn.config.compose import CONF_DIR, compose

_TEXT = """\
== tlearn ==

== Groups of options: GROUP=OPTION ==
{groups}

== Options and their defaults: KEY=VALUE ==
{options}
Several values run one trial each: -m KEY=A,B.  Your own option files: --config-dir FOLDER.
Exit status: 0 done, 1 fault in tlearn, 2 configuration, 3 data, 4 checkpoint or output, 5 download,
6 training became NaN, 7 part of a sweep failed, 130 interrupted. HYDRA_FULL_ERROR=1 shows the full trace of an error.
"""


def help_text(config_name: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """Describe a program's options, as they are with the overrides."""
    groups: dict[str, set[str]] = {}
    for folder in (CONF_DIR, *([Path(config_dir)] if config_dir else [])):
        for option in folder.glob("*/*.yaml"):
            groups.setdefault(option.parent.name, set()).add(option.stem)
    lines = [f"{group}: {', '.join(sorted(groups[group]))}" for group in sorted(groups) if group != "hydra"]
    config = compose(list(overrides), config_name, config_dir=config_dir)
    return _TEXT.rstrip().format(groups="\n".join(lines), options=OmegaConf.to_yaml(config))
