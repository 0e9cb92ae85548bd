"""The checkpoint from which a stopped run resumes, exactly where it was."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric

from tlearn.console import say
from tlearn.errors import counted
from tlearn.models.device import Arriving
from tlearn.ranges import require
from tlearn.training import signals
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.csv_logger import CSVLogger
from tlearn.training.rng_state import restore_rng_state, rng_state
from tlearn.training.signals import Stopped

_KEY = "progress"


class LastCheckpoint(Callback):
    """Save the state of a run at the start of each epoch, within long ones, at signals, and at the end of the fit.

    A run that resumes from it computes what it would have computed without the interruption. All that belongs to the
    steps so far, validations and rows of metrics.csv too, is done by then, so that nothing of it is done again. It must
    stand before callbacks that log at the start of an epoch.

    Args:
        dirpath: the folder of checkpoints.
        every_seconds: the time after which a state is saved within an epoch.
    """

    def __init__(self, dirpath: str | Path, every_seconds: float = 300.0) -> None:
        require("callbacks.last.every_seconds", every_seconds)
        self._path, self.every_seconds = Path(dirpath) / "last.ckpt", every_seconds
        self._saved_at = self._started = time.monotonic()
        # Of earlier processes, up to the state that this fit goes on from
        self.seconds_before = 0.0
        self._is_saving = False
        # What all processes of a run on several GPUs were asked at the batch before
        self._last_flags: Arriving | None = None
        self._restored: Mapping[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the last state names until there is a new one."""
        self._started = time.monotonic()
        _files(trainer).defers_removal = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where the checkpoint was saved."""
        self._saved_at = time.monotonic()
        signals.await_signals(True)
        if self._restored is None:
            return
        loop, restored, self._restored = trainer.fit_loop, self._restored, None
        # Otherwise the first epoch of a resumed run would not update a plateau schedule.
        loop.restarting = False
        batches = loop.epoch_loop.batch_progress.current.completed if restored["within_epoch"] else 0
        if batches:
            # The loop goes on within the epoch, whose start nobody is told again.
            loop.epoch_loop.restarting = True
            trainer.datamodule.skip_batches(batches)  # type: ignore[attr-defined]
            pl_module.on_train_epoch_start()
        processes = restored["processes"]
        if len(processes) != trainer.world_size:
            say(
                f"the run had {counted(len(processes), 'process', 'processes')} and now has {trainer.world_size}: its "
                "batches and random numbers are not those of a run without interruption"
            )
        if trainer.global_rank < len(processes):
            own = processes[trainer.global_rank]
            _set_metrics(pl_module, own["metrics"])
            restore_rng_state(own["random"], _gpus(trainer))
        _files(trainer).restored()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state between two epochs."""
        if trainer.fit_loop.epoch_loop.restarting:
            # Lightning would take the last epoch of the checkpoint for the one that starts.
            trainer.fit_loop.epoch_loop.restarting = False
            return
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the state before a batch, if the last one is older than `every_seconds`."""
        # Gradients that are being accumulated are not part of a state.
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return
        sent = _shared_flags(trainer, time.monotonic() - self._saved_at >= self.every_seconds)
        # No batch waits for a GPU: it has the answer to the batch before.
        answer, self._last_flags = (self._last_flags, sent) if sent.is_late else (sent, None)
        stopping, due = (0, False) if answer is None else _read(answer)
        if stopping or due:
            self._save(trainer)
        if stopping:
            raise Stopped(stopping)

    def on_validation_batch_start(self, *_: Any) -> None:
        """End a validation that takes longer than a signal leaves."""
        signals.stop_late()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state after the last epoch."""
        self._save(trainer)
        signals.await_signals(False)
        self._stop_if_asked(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave signals to end what follows at once."""
        signals.await_signals(False)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        stopping, _ = _asked(trainer, False)
        if stopping:
            raise Stopped(stopping)

    def _save(self, trainer: Trainer) -> None:
        # A try-out without files has no checkpoints either.
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        _, asked = _asked(trainer, False)
        self._is_saving, self._last_flags = True, None
        try:
            trainer.save_checkpoint(self._path)
            if asked:
                signals.saved()
        finally:
            self._is_saving, self._saved_at = False, time.monotonic()
        _files(trainer).remove_superseded()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out: generators, metrics of an epoch that has begun, rows of the table."""
        if not self._is_saving:
            return
        loop = trainer.fit_loop.epoch_loop
        # Within an epoch, this batch was made ready and not begun.
        within = loop.batch_progress.current.ready > loop.batch_progress.current.completed
        if within:
            _step_back(checkpoint["loops"]["fit_loop"], trainer)
        own = {"random": rng_state(_gpus(trainer)), "metrics": _metrics(pl_module) if within else {}}
        checkpoint[_KEY] = {
            "within_epoch": within,
            "stopped": trainer.should_stop,
            "rows": _table(trainer).rows,
            "seconds": self.seconds_before + time.monotonic() - self._started,
            "superseded": _files(trainer).superseded(),
            "processes": _of_all_processes(trainer, own),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the state for the start of training; a fit that had stopped early stays stopped."""
        self._restored = checkpoint[_KEY]
        for state in checkpoint["callbacks"].values():
            # Compared with a metric only after an epoch, where nobody would think of the checkpoint
            scores = [*state.get("best_k_models", {}).values(), state.get("best_score", torch.tensor(0))]
            if not all(isinstance(score, Tensor) for score in scores):
                raise TypeError(f"a score is {scores[0]!r}")
        trainer.should_stop = self._restored["stopped"]
        self.seconds_before = self._restored["seconds"]
        _table(trainer).keep(self._restored["rows"])
        if trainer.is_global_zero:
            _files(trainer).supersede(self._restored["superseded"])
        if trainer.should_stop or checkpoint["epoch"] >= (trainer.max_epochs or 0) > 0:
            say("this run was trained to its end: its best epoch is evaluated again")


def restoring(trainer: Trainer) -> AbstractContextManager[None]:
    """Name the checkpoint that a fit goes on from in errors of its content."""
    return _files(trainer).restoring()


def seconds_before(trainer: Trainer) -> float:
    """Return how long earlier processes trained, in seconds, up to the state that a fit went on from."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return sum(one.seconds_before for one in callbacks if isinstance(one, LastCheckpoint))


def _step_back(loops: dict[str, Any], trainer: Trainer) -> None:
    """Set a stored loop back to the moment before its batch was made ready."""
    progress = loops["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["completed"]
    done = progress["total" if trainer.check_val_every_n_epoch is None else "current"]["completed"]
    if done % trainer.val_check_batch == 0:
        # After a restart Lightning passes by this validation, and counts a step again for its loggers.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _asked(trainer: Trainer, save: bool) -> tuple[int, bool]:
    """Return the signal at which any process must stop, or 0, and whether any must save; all return the same."""
    return _read(_shared_flags(trainer, save))


def _read(sent: Arriving) -> tuple[int, bool]:
    stopping, save = sent.get().tolist()
    return stopping, bool(save)


def _shared_flags(trainer: Trainer, save: bool) -> Arriving:
    """Ask all processes whether they must stop or save."""
    flags = [signals.stopping_signal(), int(save or signals.saving_asked())]
    if trainer.world_size == 1:
        return Arriving(torch.tensor(flags))
    # Filled there: a copy would wait for all that a GPU was asked to do.
    shared = torch.stack([torch.full((), flag, device=trainer.strategy.root_device) for flag in flags])
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return Arriving(shared)


def _table(trainer: Trainer) -> CSVLogger:
    """Return the logger of metrics.csv, which every run has."""
    return next(logger for logger in trainer.loggers if isinstance(logger, CSVLogger))


def _files(trainer: Trainer) -> CheckpointIO:
    files = trainer.strategy.checkpoint_io
    assert isinstance(files, CheckpointIO)
    return files


def _gpus(trainer: Trainer) -> list[torch.device]:
    """Return the GPUs of this process."""
    device = trainer.strategy.root_device
    indices = getattr(trainer.strategy, "devices", None) or ([device.index] if device.type == "cuda" else [])
    return [torch.device("cuda", index) for index in indices]


def _of_all_processes(trainer: Trainer, own: dict[str, Any]) -> list[dict[str, Any]]:
    if trainer.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _metrics(module: LightningModule) -> dict[str, dict[str, Any]]:
    """Return the states of metrics that have been updated, by name."""
    named = ((name, one) for name, one in module.named_modules() if isinstance(one, Metric) and one.update_called)
    return {name: {key: _moved(value, "cpu") for key, value in one.metric_state.items()} for name, one in named}


def _moved(value: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    return value.to(device) if isinstance(value, Tensor) else [one.to(device) for one in value]


def _set_metrics(module: LightningModule, states: Mapping[str, Mapping[str, Any]]) -> None:
    for name, state in states.items():
        metric = module.get_submodule(name)
        assert isinstance(metric, Metric)
        for key, value in state.items():
            setattr(metric, key, _moved(value, metric.device))
