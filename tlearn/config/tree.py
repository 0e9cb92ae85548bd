"""The configuration tree: its location, and composing it as it is asked for, without a check."""

import os
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tlearn.analysis.direction import direction
from tlearn.config.arguments import readable
from tlearn.config.options import Options
from tlearn.errors import ConfigError, quoted
from tlearn.launch import launched

_PACKAGE = Path(__file__).resolve().parent.parent
# In a wheel the tree lies in the package, in a checkout beside it. An absolute path works for both, with `python -m`
# and with a console script; a relative one or pkg:// does not.
CONF_DIR = next((path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()), _PACKAGE / "conf")

# Hydra 1.4 warns of what 1.3 needs, and 1.5 ends: resolvers, the version and targets as they are given here.
for _message in (
    "register_new_resolver() is deprecated",
    "The version_base parameter",
    "hydra.utils.instantiate() resolved",
):
    warnings.filterwarnings("ignore", re.escape(_message))

# One name per process, so that two runs started in the same second get two folders.
OmegaConf.register_new_resolver("unique", lambda: f"{os.getpid()}-{secrets.token_hex(3)}", use_cache=True, replace=True)
# What torchrun or SLURM has started: ${launched:devices,OTHERWISE}
OmegaConf.register_new_resolver("launched", launched, replace=True)
# min or max for callbacks and schedules: ${direction:METRIC,MODE}
OmegaConf.register_new_resolver("direction", direction, replace=True)

# What the processes of a search share, ${study:FOLDER,TRIALS}: importing it needs Optuna, and takes a second
for _name, _function in (("study", "Study"), ("study_seed", "study_seed")):
    OmegaConf.register_new_resolver(
        _name, lambda *about, _path=f"tlearn.sweeps.study.{_function}": get_object(_path)(*about), replace=True
    )

# The URL of a database file, whose path may have any characters
OmegaConf.register_new_resolver("sqlite", lambda path: f"sqlite:///{quote(path)}", replace=True)
_OPTIONS = f"{Options.scheme()}://options"


def compose_unchecked(
    overrides: Sequence[str] = (), program: str = "train", config_dir: str | Path | None = None
) -> DictConfig:
    """Compose the configuration of a program as its command line would, with Hydra's own as `hydra`."""
    folder = Path(os.path.expanduser(config_dir)).absolute() if config_dir else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"config_dir={config_dir}: there is no such folder")
    # The override hides the program's own search path, so repeat it, as for --config-dir.
    search = [f"hydra.searchpath=[{quoted(folder)},{_OPTIONS}]"] if folder else []
    with own_hydra(), initialize_config_dir(str(CONF_DIR), job_name=program, version_base="1.3"):
        return hydra_compose(program, [*readable(overrides), *search], return_hydra_config=True)


@contextmanager
def own_hydra() -> Iterator[None]:
    """Set aside what a Hydra program around this one, or before it, has left in Hydra's globals; add our options."""
    # Not where they are defined: Hydra imports every plugin first, which --version need not wait for.
    Plugins.instance().register(Options)
    before, runtime = (GlobalHydra.instance().hydra, HydraConfig.instance().cfg), JobRuntime.instance()
    # The name of the job, from which the folders of a sweep's next trials are made
    job = runtime.conf.copy()
    GlobalHydra.instance().hydra, HydraConfig.instance().cfg = None, None
    try:
        yield
    finally:
        # Hydra may have put other instances in their place.
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before
        JobRuntime.instance().conf = job


def task_overrides() -> list[str]:
    """Return the overrides of the command line; an empty list where no program runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


class RemovedKeyError(ConfigError, KeyError):
    """A key that a program reads, and that was removed: a KeyError, too, as who asks a dictionary may expect."""

    __str__ = Exception.__str__


class Settings(dict[str, Any]):
    """Plain values, which refuse to be read where they were removed; what a `_target_` builds is a bare dictionary."""

    def __init__(self, node: Mapping[str, Any], place: str = "") -> None:
        super().__init__()
        self._place = place
        for name, value in node.items():
            bare = not isinstance(value, dict) or "_target_" in value
            self[name] = value if bare else Settings(value, f"{place}{name}.")

    def __missing__(self, key: str) -> Any:
        raise RemovedKeyError(f"{self._place}{key} is missing: it can be changed, not removed")


def settings_of(config: DictConfig) -> Settings:
    """Return what a program reads its configuration from."""
    return Settings(plain(config))


def plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain data; with `resolve`, a missing value is an error."""
    container = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
