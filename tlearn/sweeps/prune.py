"""Prune the trials of a search whose validation is worse than that of most before them."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from optuna import load_study
from optuna.pruners import MedianPruner

from tlearn.errors import ConfigError, PrunedError
from tlearn.sweeps.rows import STUDY, STUDY_NAME
from tlearn.sweeps.study import Study


class Prune(Callback):
    """End a trial whose best value so far is below the median of what others had after as many epochs.

    Args:
        folder: of the run; outside of a search, nothing is pruned.
        metric: what the search optimises, of val.
        after_trials: so many must have ended before one is pruned.
        after_epochs: so many run in any case.
    """

    def __init__(self, folder: str, metric: str, after_trials: int = 5, after_epochs: int = 2) -> None:
        self._folder, self._metric = Path(folder), metric
        self._pruner = MedianPruner(n_startup_trials=after_trials, n_warmup_steps=after_epochs)
        self._study: Study | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the study, where the run is a trial of one.

        Raises:
            ConfigError: the metric is not of val, or several processes train.
        """
        if stage != "fit" or not (self._folder.parent / STUDY).is_file():
            return
        if trainer.world_size > 1:
            raise ConfigError("callbacks.prune works in one process: leave it out with ~callbacks.prune")
        if not self._metric.startswith("val/"):
            raise ConfigError(f"optimized_metric={self._metric}: only metrics of val can prune: add ~callbacks.prune")
        self._study = Study(self._folder.parent)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch's value, and end the trial where there is no hope.

        Raises:
            PrunedError: there is none.
        """
        if self._study is None or self._metric not in trainer.callback_metrics:
            return
        number, step = int(self._folder.name), trainer.current_epoch
        trial_id, value = self._study.trial_id(number), trainer.callback_metrics[self._metric].item()
        self._study.set_trial_intermediate_value(trial_id, step, value)
        study = load_study(study_name=STUDY_NAME, storage=self._study)
        if self._pruner.prune(study, self._study.get_trial(trial_id)):
            self._study.note_pruned(number)
            raise PrunedError(f"after epoch {step + 1}: {self._metric} {value:.4g}", {self._metric: value})
