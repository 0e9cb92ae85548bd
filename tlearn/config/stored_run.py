"""What a run has stored of its start, and which settings of it may change when it is resumed."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tlearn import __version__
from tlearn.config.arguments import key_of
from tlearn.console import say
from tlearn.errors import CheckpointError, ConfigError
from tlearn.files import write_bytes, write_text
from tlearn.runs.dotted_keys import flat

# Settings that may change on resume: hardware, reporting, length
_FREE = (
    *("resume", "trust", "paths", "extra", "quiet", "logger", "callbacks", "report", "data.root", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.log_every_n_steps"),
    # where features are kept, and whether: the metrics are the same
    *("features.mode", "features.on_write_error", "features.limit_gb"),
)
# Of these, what each resume is told anew
_OF_RESUMING = ("resume", "trust")
# Paths, which are of the folder in which they were typed
_PATHS = ("data.root", "data.csv", "data.download_root", "paths.cache", "backbone.weights")


def read_stored(run: Path) -> tuple[list[str], str | None, Path]:
    """Return a run's arguments, its --config-dir and its working directory."""
    try:
        overrides = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "overrides.yaml"), resolve=False)
        stored = OmegaConf.load(run / ".hydra" / "hydra.yaml")
        runtime = OmegaConf.to_container(stored.hydra.runtime, resolve=False)
        assert isinstance(overrides, list)
        assert isinstance(runtime, dict)
        directories = [source["path"] for source in runtime["config_sources"] if source["provider"] == "command-line"]
        # Trust is given by who resumes, never by the run.
        arguments = [str(argument) for argument in overrides if key_of(str(argument)) not in _OF_RESUMING]
        # Such arguments can load pickles and plugins; Hydra itself never stores any.
        foreign = [one for one in arguments if one.startswith("-") or key_of(one).startswith("hydra")]
        if foreign:
            raise ValueError(f"{foreign[0]} is not an argument of a run")
        return arguments, directories[0] if directories else None, Path(str(runtime["cwd"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"{run} holds no run to resume: {error.filename} is missing") from error
    except Exception as error:
        # Damaged YAML raises errors of a dozen types.
        raise CheckpointError(f"{run}/.hydra cannot be read: {error}") from error


def stored_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run, unresolved."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml"), resolve=False)
        assert isinstance(config, dict), "it has no keys"
        return config
    # As above
    except Exception as error:
        raise CheckpointError(f"{run}/.hydra/config.yaml cannot be read: {error}") from error


def absolute_path(key: str, value: Any, folder: Path) -> str | None:
    """Return the absolute path that the value of a key is, or None if it is not a path."""
    if key not in _PATHS or value in ("", "null", None) or "${" in str(value):
        return None
    # Other weights are a name.
    if key == "backbone.weights" and "." not in str(value):
        return None
    return os.path.abspath(folder / os.path.expanduser(str(value)))


def check_resume(settings: Mapping[str, Any], folder: Path) -> list[str]:
    """Refuse to resume the run in a folder with other settings; both sides are compared unresolved.

    Returns the settings that are free to change and have changed, as `key: before -> now`.
    """
    before, now = flat(stored_config(folder)), flat(settings)
    for values, cwd in ((before, read_stored(folder)[2]), (now, Path.cwd())):
        values |= {key: path for key in _PATHS if (path := absolute_path(key, values.get(key), cwd))}
    # The learning rate of a schedule over the whole run would jump if the run became longer.
    free = _FREE if settings["scheduler"]["from_run"] else (*_FREE, "trainer.max_epochs")
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    changed = {key: f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys}
    if refused := [line for key, line in changed.items() if not key.startswith(free)]:
        refuse_other_version(folder)
        lines = "\n".join(f"  {line}" for line in refused)
        raise ConfigError(f"a resumed run keeps its configuration, and these differ:\n{lines}")
    return [line for key, line in changed.items() if key not in _OF_RESUMING]


def record_resume(settings: Mapping[str, Any], folder: Path, changed: Sequence[str]) -> None:
    """Say what a resumed run was told, and write it into its .hydra for the next; `started` there keeps what was first.

    Args:
        settings: the configuration, unresolved.
        folder: the run folder.
        changed: the settings that change, if any.
    """
    if not changed:
        return
    hydra, place = HydraConfig.get(), folder / ".hydra"
    overrides = [one for one in hydra.overrides.task if key_of(one) not in _OF_RESUMING]
    content: dict[str, Any] = {
        "config.yaml": {**settings, "resume": None, "trust": []},
        "hydra.yaml": {"hydra": OmegaConf.to_container(hydra, resolve=False)},
        "overrides.yaml": overrides,
    }
    for name, written in content.items():
        if not (place / "started" / name).exists():
            write_bytes(place / "started" / name, (place / name).read_bytes(), durable=True)
        write_text(place / name, OmegaConf.to_yaml(OmegaConf.create(written)), durable=True)
    say(*(f"changed: {line}" for line in changed))


def refuse_other_version(run: Path) -> None:
    """Refuse to resume a run of another tlearn version; call it where the stored configuration is invalid."""
    try:
        version = json.loads((run / "environment.json").read_text(encoding="utf-8"))["packages"]["tlearn"]
    except (OSError, ValueError, LookupError, TypeError):
        # The error of the configuration itself will say more.
        return
    if version != __version__:
        raise ConfigError(
            f"{run} was started by tlearn {version} and this is {__version__}, whose configuration differs: "
            "go on with that version, or start anew"
        )
