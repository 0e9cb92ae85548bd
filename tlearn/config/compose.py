"""The configuration tree: its location, and composing it in notebooks and tests."""

import os
import secrets
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from tlearn.analysis.direction import direction
from tlearn.config.options import Options
from tlearn.config.relaunch import quoted

_PACKAGE = Path(__file__).resolve().parent.parent
# In a wheel the tree lies in the package, in a checkout beside it. An absolute path works for both, with `python -m`
# and with a console script; a relative one or pkg:// does not.
CONF_DIR = next((path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()), _PACKAGE / "conf")

# One name per process, so that two runs started in the same second get two folders.
OmegaConf.register_new_resolver("unique", lambda: f"{os.getpid()}-{secrets.token_hex(3)}", use_cache=True, replace=True)
# min or max for callbacks and schedules: ${direction:METRIC,MODE}
OmegaConf.register_new_resolver("direction", direction, replace=True)

_OPTIONS = f"{Options.scheme()}://options"


def compose(
    overrides: list[str] | None = None,
    config_name: str = "train",
    *,
    config_dir: str | None = None,
    output_dir: str | Path | None = None,
    with_hydra: bool = False,
) -> DictConfig:
    """Compose the configuration of a program as its command line would.

    Args:
        overrides: what would stand on the command line, such as `["backbone=resnet18", "data.batch_size=16"]`.
        config_name: train, evaluate, predict or explore.
        config_dir: a folder with option files of your own.
        output_dir: the run folder (no program runs here that would make one).
        with_hydra: include Hydra's own settings, as `hydra`.
    """
    # The override hides the program's own search path, so repeat it, as for --config-dir.
    search = [f"hydra.searchpath=[{quoted(Path(config_dir).absolute())},{_OPTIONS}]"] if config_dir else []
    with initialize_config_dir(str(CONF_DIR), job_name=config_name, version_base="1.3"):
        config = hydra_compose(config_name, [*(overrides or []), *search], return_hydra_config=with_hydra)
    if output_dir is not None:
        with open_dict(config):
            config.paths.output_dir = str(Path(output_dir).absolute())
    return config


def task_overrides() -> list[str]:
    """Return the overrides of the command line; an empty list where no program runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain data; with `resolve`, a missing value is an error."""
    container = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
