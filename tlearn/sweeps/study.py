"""The study of a search: one file in the sweep's folder, which its processes share and a killed one leaves whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar

from optuna.distributions import IntDistribution
from optuna.logging import disable_default_handler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tlearn.errors import SearchEndedError
from tlearn.locks import lock
from tlearn.runs.folder import RunFolder
from tlearn.sweeps.rows import STUDY, STUDY_NAME

# Where each process of a search holds a lock of its own, by which others know that it lives
_PROCESSES = ".processes"
# What is handed out as one more parameter, so that Hydra puts each trial into the folder of its number
_FOLDER = "hydra.sweep.subdir"
_OWNER, _PRUNED = "process", "pruned"

disable_default_handler()


class Lock:
    """A lock of a file that ends with its process, and that the same process may take again while it has it."""

    def __init__(self, path: Path) -> None:
        self._path, self._depth = path, 0
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
            lock(self._file, wait=True)
        self._depth += 1
        return True

    def release(self) -> None:
        """Release the lock once it was released as often as it was taken."""
        self._depth -= 1
        if not self._depth and self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Study(JournalStorage):
    """Optuna's storage of one search, which hands out each of its trials until one process has ended it.

    A trial whose process has died is handed out again, with its number, its settings and its folder.

    Args:
        folder: of the sweep.
        planned: how many trials there are to be.
    """

    # As which this process takes part, whichever object of it asks
    process: ClassVar[str] = ""

    def __init__(self, folder: str | Path, planned: int = 0) -> None:
        self.folder, self.planned = Path(folder).absolute(), planned
        self.folder.mkdir(parents=True, exist_ok=True)
        # Optuna's own lock is a file, which a killed process leaves behind.
        self.lock = Lock(self.folder / f"{STUDY}.lock")
        super().__init__(JournalFileBackend(str(self.folder / STUDY), self.lock))

    def join(self) -> tuple[RunFolder, int]:
        """Take part, inside of `lock`.

        Returns:
            The folder by which others know that this process lives, and how many processes took part before.
        """
        processes = self.folder / _PROCESSES
        before = sum(1 for _ in processes.glob("*"))
        place = RunFolder(processes / str(before))
        place.claim(again=True)
        Study.process = place.path.name
        return place, before

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Return a trial whose process has died, or else a new one.

        Raises:
            SearchEndedError: there are as many as planned.
        """
        with self.lock:
            lost = next((one for one in self.trials(TrialState.RUNNING) if not self._has_owner(one)), None)
            if lost is None:
                if self.get_n_trials(study_id) >= self.planned:
                    raise SearchEndedError(any(self._is_own(one) for one in self.trials(TrialState.RUNNING)))
                trial_id = super().create_new_trial(study_id, template_trial)
            else:
                trial_id = self.trial_id(lost.number)
            trial = self.get_trial(trial_id)
            if _FOLDER not in trial.params:
                self.set_trial_param(trial_id, _FOLDER, trial.number, IntDistribution(trial.number, trial.number))
            self.set_trial_user_attr(trial_id, _OWNER, self.process)
            return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set how a trial ended; one that was pruned is never complete, which is all that Hydra's sweeper can say."""
        if state == TrialState.COMPLETE and self.get_trial(trial_id).user_attrs.get(_PRUNED):
            state = TrialState.PRUNED
        return super().set_trial_state_values(trial_id, state, values)

    def note_pruned(self, number: int) -> None:
        """Note that a trial was pruned, until the sweeper says that it has ended."""
        self.set_trial_user_attr(self.trial_id(number), _PRUNED, True)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """List the trials of some states, or of any."""
        if not self.get_all_studies():
            return []
        study = self.get_study_id_from_name(STUDY_NAME)
        return self.get_all_trials(study, deepcopy=False, states=states or None)

    def trial_id(self, number: int) -> int:
        """Return by what the storage knows a trial."""
        return self.get_trial_id_from_study_id_trial_number(self.get_study_id_from_name(STUDY_NAME), number)

    def running_elsewhere(self) -> set[int]:
        """Return the numbers of the trials that other processes run."""
        running = self.trials(TrialState.RUNNING)
        return {one.number for one in running if self._has_owner(one) and not self._is_own(one)}

    def _is_own(self, trial: FrozenTrial) -> bool:
        return trial.user_attrs.get(_OWNER) == self.process

    def _has_owner(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(_OWNER)
        return owner is not None and RunFolder(self.folder / _PROCESSES / owner).is_taken()


def study_seed(seed: int | None) -> int | None:
    """Return a seed of this process alone: two processes with one seed would try the same settings."""
    return None if seed is None else seed + int(Study.process or 0)
