"""Hydra callback of sweeps: their start, the end of each trial in its own process, and their end."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlearn.console import say, session
from tlearn.errors import OutputError, PastHydra, SweepError
from tlearn.runs.folder import RunFolder
from tlearn.sweeps.continued import claim_sweep
from tlearn.sweeps.rows import RESULTS, collect, with_missing, write_results
from tlearn.sweeps.table import show_sweep


class SweepTable(Callback):
    """Write results.csv after each trial, and print the table at the end.

    It keeps only locks in memory: launchers give each process its own copy, and the trials' rows have everything.
    """

    # The folders that this process has taken, whichever copy took them
    _held: ClassVar[list[RunFolder]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the folder, and register the configuration for the program that ends it, as Hydra does for jobs only.

        Raises:
            PastHydra: another sweep has or had the folder.
        """
        hydra = config.hydra
        folder, typed = _folder(hydra).absolute(), _typed(hydra)
        shared: Any = OmegaConf.to_container(config, resolve=False)
        shared["sweeper"] = shared.pop("hydra")["sweeper"]
        try:
            held = RunFolder(folder)
            held.claim(again=True)
            self._held.append(held)
            told = claim_sweep(folder, typed, shared, bool(_planned(hydra)))
        except OutputError as error:
            self.release()
            raise PastHydra(error) from error
        if told and not config.get("quiet"):
            say(told)
        HydraConfig.instance().set_config(config)

    # Hydra calls it by keywords, and what it needs is known without them.
    def on_job_end(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the table of all trials that have started."""
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:
            write_results(_folder(job), collect(_folder(job)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and show the table of all trials, if one has started."""
        folder = _folder(config.hydra)
        if trials := collect(folder):
            trials = with_missing(trials, _planned(config.hydra))
            write_results(folder, trials)
            # A sibling of `hydra`, which is all that Hydra hands out once it has ended
            with session(quiet=bool(OmegaConf.select(config.hydra, "..quiet"))):
                show_sweep(folder, trials)

    def release(self) -> None:
        """Release the folder for other sweeps."""
        while self._held:
            self._held.pop().release()

    def require_all_done(self, hydra: HydraConf) -> None:
        """Refuse a sweep that has trials which are not done.

        Raises:
            SweepError: it has.
        """
        folder = _folder(hydra)
        if found := collect(folder):
            trials = with_missing(found, _planned(hydra))
            counts = [(status, sum(trial.status == status for trial in trials)) for status in ("failed", "missing")]
            told = ", ".join(f"{count} of {len(trials)} trials {status}" for status, count in counts if count)
            if told:
                raise SweepError(f"{told} (see {folder / RESULTS})")


def _folder(hydra: HydraConf) -> Path:
    return Path(hydra.runtime.cwd) / hydra.sweep.dir


def _typed(hydra: HydraConf) -> list[str]:
    """Return the arguments as they were typed: a reference in one (${seed}) is not to a key of Hydra's."""
    arguments: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return arguments


def _planned(hydra: HydraConf) -> int:
    """Count the trials of a plain grid; what a search will try is not known beforehand, which is 0."""
    sweeper = hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        return 0
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    given = [*(f"{name}={value}" for name, value in (sweeper.params or {}).items()), *_typed(hydra)]
    # Options chosen by glob(...) are unknown once Hydra has ended.
    with suppress(HydraException):
        parsed = OverridesParser.create(loader).parse_overrides(given)
        # As Hydra does: of several with one key, the last holds.
        last = {override.get_key_element(): override for override in parsed}.values()
        return math.prod(len(list(one.sweep_string_iterator())) for one in last if one.is_sweep_override())
    return 0
