"""hydra/launcher=batched: trials of a sweep that differ in their heads alone train together, the others one by one."""

import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from tlearn.sweeps.groups import Planned

# A group and one of its options, or a key at the top and a word
_OPTION = re.compile(r"[\w/]+=[\w/.-]+")


class BatchedLauncher(BasicLauncher):
    """Run the trials one after another in this process; those of a group have been trained with its first one."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Compose by differences from now on, where the sweeper checks the trials, too."""
        hydra_context.config_loader = _Composer(hydra_context.config_loader)  # type: ignore[assignment]
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan the groups, then run the trials."""
        # Imported here, as below: Hydra imports this file at the start of every program.
        from tlearn.sweeps.groups import grouped

        trials = [(initial_job_idx + n, list(overrides)) for n, overrides in enumerate(job_overrides)]
        with grouped(self._planned(*trial) for trial in trials) as groups:
            if not groups:
                return super().launch(job_overrides, initial_job_idx)
            return [done for trial in trials for done in self._launched(*trial)]

    def _launched(self, number: int, overrides: list[str]) -> Sequence[JobReturn]:
        """Run one trial, as Hydra does, but for one that has been trained and is only to be finished."""
        from tlearn.config.trained_job import is_plain, run_trained_job
        from tlearn.sweeps.groups import is_trained

        assert self.hydra_context is not None
        assert self.task_function is not None
        config = self._composed(number, overrides)
        if not (is_trained(Path(_folder(config))) and is_plain(config.hydra)):
            return super().launch([overrides], number)
        return [run_trained_job(config, _folder(config), self.task_function, self.hydra_context.callbacks)]

    def _composed(self, number: int, overrides: list[str]) -> DictConfig:
        """Compose the configuration of a trial as Hydra will start it."""
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def _planned(self, number: int, overrides: list[str]) -> "Planned":
        """Describe a trial in plain data."""
        from tlearn.sweeps.groups import Planned

        config = self._composed(number, overrides)
        folder = _folder(config)
        with open_dict(config):
            program = config.pop("hydra").job.config_name
        settings: Any = OmegaConf.to_container(config, resolve=False)

        def resolved(name: str) -> Any:
            return OmegaConf.to_container(config[name], resolve=True, throw_on_missing=True)

        return Planned(number, folder, program, overrides, settings, resolved)


def _folder(config: DictConfig) -> str:
    return os.path.abspath(os.path.join(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)))


class _Composer:
    """A loader of configurations that composes a trial from one of the same options.

    Trials of a grid mostly differ in single values, which change no other part of the composition; composing each anew
    takes 0.1 s, twice.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        # Options and keys -> (values, pickled configuration)
        self._composed: dict[tuple[str, ...], tuple[list[str], bytes]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose the configuration of a trial, as Hydra would."""
        parsed = [_parsed(text) for text in sweep_overrides]
        kind = tuple(text if one is None else one.key for text, one in zip(sweep_overrides, parsed, strict=True))
        known = self._composed.get(kind)
        keys = [text.partition("=")[0].lstrip("+~") for text in sweep_overrides if not _OPTION.fullmatch(text)]
        # Of a node and a value in it, the later one holds.
        if known is not None and not any(f"{a}.".startswith(f"{b}.") for a, b in permutations(keys, 2)):
            config: DictConfig = pickle.loads(known[1])
            try:
                _change(config, known[0], sweep_overrides, parsed)
            except OmegaConfBaseException:
                # Which Hydra says in its own words.
                return self._loader.load_sweep_config(master_config, sweep_overrides)
            OmegaConf.copy_cache(from_config=master_config, to_config=config)
            return config
        config = self._loader.load_sweep_config(master_config, sweep_overrides)
        self._composed[kind] = list(sweep_overrides), pickle.dumps(config)
        return config


@dataclass(frozen=True)
class _Value:
    """An override that gives a single value or a list to a key that is there."""

    override: Override

    @property
    def key(self) -> str:
        return self.override.key_or_group

    @cached_property
    def value(self) -> Any:
        return self.override.value()


@cache
def _parsed(text: str) -> _Value | None:
    """Return an override of one value, and None for all that may change the composition, such as options."""
    found = OverridesParser.create().parse_override(text)
    is_single = found.type == OverrideType.CHANGE and found.package is None and not found.is_sweep_override()
    # A key without a dot may be a group.
    if not is_single or "." not in found.key_or_group or found.is_hydra_override():
        return None
    return None if isinstance(found.value(), dict) else _Value(found)


def _change(config: DictConfig, before: Sequence[str], after: Sequence[str], parsed: Sequence[_Value | None]) -> None:
    """Change a configuration that was composed by some overrides to that of others of the same keys."""
    job, tasks = config.hydra.job, config.hydra.overrides.task
    lines = list(tasks)
    for old, new, one in zip(before, after, parsed, strict=True):
        if new != old and one is not None:
            OmegaConf.update(config, one.key, one.value, merge=True)
            place = lines.index(old)
            lines[place] = tasks[place] = new
    # Hydra 1.4 makes it of the lines when it is read.
    if OmegaConf.is_interpolation(job, "override_dirname"):
        return
    style = job.config.override_dirname
    kept = sorted(line for line in lines if line.partition("=")[0] not in style.exclude_keys)
    job.override_dirname = re.sub("=", style.kv_sep, style.item_sep.join(kept))


@dataclass
class BatchedLauncherConf:
    """The option hydra/launcher=batched."""

    _target_: str = "hydra_plugins.tlearn_launcher.BatchedLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="batched", node=BatchedLauncherConf, provider="tlearn")
