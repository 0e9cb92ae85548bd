"""Heads of one shape that train as one on the same batches of features, each as it would train alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from tlearn.sweeps.stack import Stack, Steps
from tlearn.training.metrics import shifted
from tlearn.training.schedule import Schedule

# features [N, F] and targets [N]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What all heads of a stack have in common.

    Args:
        loss: of the run.
        optimizer: parameter groups -> optimizer; learning rate and weight decay are each head's own.
        schedule: of the learning rate.
        stopping: callback of early stopping, if any.
        epochs: of the run, at most.
        monitor: the metric that chooses the best epoch.
        mode: its best end, min or max.
        log_every: steps between two rows of the log.
        metrics: by split, train and val.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Any
    schedule: Schedule
    stopping: EarlyStopping | None
    epochs: int
    monitor: str
    mode: str
    log_every: int
    metrics: Mapping[str, MetricCollection]


@dataclass
class Course:
    """What the training of one head has left.

    Args:
        rows: of metrics.csv, each with its step.
        best: the best epoch, and `state` its parameters.
        epochs: how many it was trained.
        stopping: the callback that may have ended it.
        failed: a loss was not finite.
    """

    optimizer: Optimizer
    schedulers: list[dict[str, Any]]
    stopping: EarlyStopping | None
    rows: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    score: float | None = None
    best: int = -1
    epochs: int = 0
    steps: int = 0
    failed: bool = False
    ended: bool = False

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]


class Heads:
    """Heads that train together.

    Args:
        head: made ready, as each of them starts.
        own: learning rate and weight decay of each, by optimizer argument.
        recipe: what they have in common.
        train: epoch -> batches.
        val: all of it.
        steps: of an epoch.
    """

    def __init__(
        self,
        head: nn.Module,
        own: Sequence[Mapping[str, float]],
        recipe: Recipe,
        train: Callable[[int], Iterator[Batch]],
        val: Sequence[Batch],
        steps: int,
    ) -> None:
        self._recipe, self._train, self._steps = recipe, train, steps
        self._stack = Stack(head, len(own))
        features, targets = zip(*val, strict=True)
        self._val = torch.cat(features), torch.cat(targets)
        self.courses = [self._course(arguments) for arguments in own]
        self._optimizer = Steps(
            list(self._stack.parameters.values()), [course.optimizer for course in self.courses], recipe.optimizer
        )

    def _course(self, own: Mapping[str, float]) -> Course:
        # Stands in for the head: what schedulers change is read from its optimizer.
        group = {"name": "head", "params": [nn.Parameter(torch.zeros(1))], "lr": own["lr"]}
        optimizer = self._recipe.optimizer([group], **own)
        schedule, recipe = self._recipe.schedule, self._recipe
        made = schedule.configure(optimizer, self._steps * recipe.epochs, recipe.epochs, recipe.monitor)
        stopping = deepcopy(recipe.stopping)
        if stopping is not None:
            each_epoch: Any = SimpleNamespace(val_check_interval=1.0, check_val_every_n_epoch=1)
            stopping.setup(each_epoch, None, "fit")  # type: ignore[arg-type]
        return Course(optimizer, made, stopping)

    def fit(self) -> list[Course]:
        """Train until the last head has ended."""
        for epoch in range(self._recipe.epochs):
            training = [course for course in self.courses if not course.ended]
            if not training:
                break
            for course in training:
                self._log_rate(course, "epoch")
            self._epoch(epoch)
        return self.courses

    def _epoch(self, epoch: int) -> None:
        kept: list[tuple[Tensor, Tensor]] = []
        total, count = torch.zeros(len(self.courses)), 0
        for features, targets in self._train(epoch):
            logits = self._stack.logits(features, train=True)
            losses = vmap(self._recipe.loss, in_dims=(0, None))(logits, targets)
            losses.sum().backward()
            self._optimizer.step(self._lead())
            losses = losses.detach()
            total, count = total + losses * len(targets), count + len(targets)
            kept.append((logits.detach(), targets))
            self._after_step(losses, epoch)
        seen, targets = torch.cat([one for one, _ in kept], 1), torch.cat([one for _, one in kept])
        with torch.no_grad():
            logits = self._stack.logits(self._val[0], train=False)
            val = vmap(F.cross_entropy, in_dims=(0, None))(logits, self._val[1])
        train = total / count
        for place, course in enumerate(self.courses):
            if not course.ended:
                measured = {
                    "train": (train[place], seen[place], targets),
                    "val": (val[place], logits[place], self._val[1]),
                }
                self._after_epoch(place, course, epoch, measured)

    def _lead(self) -> Optimizer:
        """Return the optimizer of a head whose schedule goes on, if there is one."""
        return next((course for course in self.courses if not course.ended), self.courses[0]).optimizer

    def _after_step(self, losses: Tensor, epoch: int) -> None:
        finite = losses.isfinite().tolist()
        for course, loss, is_finite in zip(self.courses, losses, finite, strict=True):
            if course.ended:
                continue
            if not is_finite:
                course.ended = course.failed = True
                continue
            logs = (course.steps + 1) % self._recipe.log_every == 0
            if logs:
                # The rate of the step, before the scheduler moves it
                self._log_rate(course, "step")
                course.rows.append({"step": course.steps, "epoch": epoch, "train/step_loss": float(loss)})
            course.steps += 1
            self._move(course, "step")

    def _log_rate(self, course: Course, interval: str) -> None:
        """Note the learning rate, as Lightning's LearningRateMonitor does."""
        if not course.schedulers or course.schedulers[0]["interval"] == interval:
            name = f"lr-{type(course.optimizer).__name__}/head"
            course.rows.append({"step": course.steps, name: course.rate})

    def _move(self, course: Course, interval: str, score: float | None = None) -> None:
        for each in course.schedulers:
            scheduler = each["scheduler"]
            watches = isinstance(scheduler, ReduceLROnPlateau)
            if each["interval"] == interval and watches == (score is not None):
                # Without a gradient it changes nothing, and a scheduler wants to see it first.
                course.optimizer.step()
                scheduler.step(score) if watches else scheduler.step()

    def _after_epoch(
        self, place: int, course: Course, epoch: int, measured: Mapping[str, tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        """Measure a head, keep it if it is the best so far, and end its training where that would end alone."""
        course.ended = course.failed = not bool(measured["val"][0].isfinite())
        if course.failed:
            return
        values: dict[str, Tensor] = {}
        for split in ("val", "train"):
            loss, logits, targets = measured[split]
            metrics = self._recipe.metrics[split]
            metrics.reset()
            metrics.update(shifted(logits), targets)
            found = {f"{split}/loss": loss, **metrics.compute()}
            row = {name: float(value) for name, value in found.items()}
            course.rows.append({"step": course.steps - 1, "epoch": epoch, **row})
            values |= found
        current = values[self._recipe.monitor]
        if not current.isfinite():
            course.ended = course.failed = True
            return
        self._move(course, "epoch")
        self._move(course, "epoch", float(current))
        course.epochs = epoch + 1
        better = course.score is None or (float(current) < course.score) == (self._recipe.mode == "min")
        if better and float(current) != course.score:
            course.score, course.best = float(current), epoch
            course.state = {name: one[place].detach().clone() for name, one in self._stack.parameters.items()}
        course.ended = course.epochs == self._recipe.epochs or _stops(course, epoch, values)


def _stops(course: Course, epoch: int, values: Mapping[str, Tensor]) -> bool:
    if course.stopping is None:
        return False
    # What the callback asks of a Trainer
    state, strategy = (
        SimpleNamespace(fn=TrainerFn.FITTING),
        SimpleNamespace(reduce_boolean_decision=lambda one, all: one),
    )
    seen: Any = SimpleNamespace(state=state, strategy=strategy, sanity_checking=False, fast_dev_run=False)
    seen.callback_metrics, seen.current_epoch, seen.should_stop = dict(values), epoch, False
    course.stopping.on_train_epoch_end(seen, None)  # type: ignore[arg-type]
    return seen.should_stop
