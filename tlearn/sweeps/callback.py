"""Hydra callback of sweeps: their start, the end of each trial in its own process, and their end."""

import math
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlearn.analysis.direction import MEASURED, direction
from tlearn.console import say, session
from tlearn.errors import ConfigError, OutputError, PastHydra, SweepError
from tlearn.runs.folder import RunFolder
from tlearn.runs.trial import Trial
from tlearn.sweeps.continued import claim_sweep
from tlearn.sweeps.rows import RESULTS, collect, with_missing, write_results
from tlearn.sweeps.table import show_sweep

# The table is written again after so many times what that takes
_PAUSE = 20.0


class SweepTable(Callback):
    """Write results.csv after each trial, and print the table at the end.

    It keeps only locks in memory: launchers give each process its own copy, and the trials' rows have everything.
    """

    # The folders that this process has taken, whichever copy took them
    _held: ClassVar[list[RunFolder]] = []
    # The configuration of the sweep that has the folder, and whether its table was shown
    sweep: ClassVar[DictConfig | None] = None
    is_shown: ClassVar[bool] = False
    # What Hydra keeps of the last trial
    _last: ClassVar[list[JobReturn]] = []
    # When this process may write the table again: that takes longer with each trial, and a small part of the time
    _due: ClassVar[list[float]] = [0.0]

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the folder, and keep the configuration for the program that ends the sweep.

        Raises:
            PastHydra: another sweep has or had the folder.
        """
        self._due[:] = [0.0]
        hydra = config.hydra
        folder, typed = _folder(hydra).absolute(), _typed(hydra)
        shared: Any = OmegaConf.to_container(config, resolve=False)
        shared["sweeper"] = shared.pop("hydra")["sweeper"]
        try:
            study = _study(hydra)
            if study is not None:
                _refuse_folders(hydra)
                # More trials, or more at a time, are the same search.
                del shared["sweeper"]["n_trials"], shared["sweeper"]["n_jobs"]
            _check_direction(hydra.sweeper.get("direction"), config.get("optimized_metric"))
            with nullcontext() if study is None else study.lock:
                held, before = (RunFolder(folder), 0) if study is None else study.join()
                if study is None:
                    held.claim(again=True)
                self._held.append(held)
                told = claim_sweep(folder, typed, shared, bool(_planned(hydra)), before > 0)
        except (ConfigError, OutputError) as error:
            self.release()
            raise PastHydra(error) from error
        if told and not config.get("quiet"):
            say(told)
        SweepTable.sweep, SweepTable.is_shown = config, False

    # Hydra calls it by keywords, and the job's configuration is known without it.
    def on_job_end(self, *, job_return: JobReturn, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the table of all trials that have started, if it was not written just now."""
        job, started = HydraConfig.get(), time.monotonic()
        if job.mode != RunMode.MULTIRUN:
            return
        for before in self._last:
            # Hydra keeps the configurations of all trials until a sweep ends, and nobody looks at them again.
            before.cfg = before.hydra_cfg = None
        self._last[:] = [job_return]
        if started >= self._due[0]:
            write_results(_folder(job), collect(_folder(job)))
            self._due[:] = [started + (1 + _PAUSE) * (time.monotonic() - started)]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and show the table of all trials, if one has started."""
        # A sweep that was refused has a folder of others; Hydra 1.4 ends a sweep that broke, and 1.3 does not.
        if self.sweep is None or self.is_shown:
            return
        SweepTable.is_shown = True
        folder = _folder(config.hydra)
        if trials := _ended(config.hydra):
            write_results(folder, trials)
            # A sibling of `hydra`, which is all that Hydra hands out once it has ended
            with session(quiet=bool(OmegaConf.select(config.hydra, "..quiet"))):
                show_sweep(folder, trials, _program(config.hydra))

    def release(self) -> None:
        """Release the folder for other sweeps."""
        SweepTable.sweep = None
        self._last.clear()
        while self._held:
            self._held.pop().release()

    def require_all_done(self, hydra: HydraConf) -> None:
        """Refuse a sweep that has trials which are not done.

        Raises:
            SweepError: it has.
        """
        if trials := _ended(hydra):
            counts = [(status, sum(trial.status == status for trial in trials)) for status in ("failed", "missing")]
            told = ", ".join(f"{count} of {len(trials)} trials {status}" for status, count in counts if count)
            if told:
                raise SweepError(f"{told} (see {_folder(hydra) / RESULTS})")


def _folder(hydra: HydraConf) -> Path:
    return Path(hydra.runtime.cwd) / hydra.sweep.dir


def _typed(hydra: HydraConf) -> list[str]:
    """Return the arguments as they were typed: a reference in one (${seed}) is not to a key of Hydra's."""
    arguments: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return arguments


def _study(hydra: HydraConf) -> Any:
    """Return the study that the processes of a search share, or None."""
    stored: Any = OmegaConf.to_container(hydra.sweeper, resolve=False)
    return hydra.sweeper.storage if str(stored.get("storage")).startswith("${study:") else None


def _program(hydra: HydraConf) -> list[str]:
    """Return the command line of one run, without its settings."""
    sources = [one.path for one in hydra.runtime.config_sources if one.provider == "command-line"]
    search = ["--config-dir", sources[0]] if sources else []
    return ["python", "-m", f"tlearn.{hydra.job.config_name}", *search]


def _refuse_folders(hydra: HydraConf) -> None:
    """Refuse folders of trials that would not be used: those of a study have the trials' numbers."""
    for one in hydra.overrides.hydra:
        if one.startswith("hydra.sweep.subdir="):
            raise ConfigError(f"{one}: the folders of a search have the numbers of its trials; leave it out")


def _check_direction(asked: Any, objective: str | None) -> None:
    """Refuse a search for the worst value of a metric whose name says which is best."""
    name = getattr(asked, "name", asked)
    if objective is None or objective.rpartition("/")[2] not in (*MEASURED, "top1", "top5"):
        return
    best = f"{direction(objective)}imize"
    if name in ("minimize", "maximize") and name != best:
        raise ConfigError(f"hydra.sweeper.direction={name}: {objective} is to be hydra.sweeper.direction={best}")


def _ended(hydra: HydraConf) -> list[Trial]:
    """Collect the trials of a sweep that has ended, if one has started."""
    found, study = collect(_folder(hydra)), _study(hydra)
    elsewhere = study.running_elsewhere() if found and study is not None else ()
    return with_missing(found, _planned(hydra), elsewhere) if found else []


def _planned(hydra: HydraConf) -> int:
    """Count the trials of a plain grid or of a study; what another search will try is not known beforehand: 0."""
    sweeper = hydra.sweeper
    if (study := _study(hydra)) is not None:
        return int(study.planned)
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
