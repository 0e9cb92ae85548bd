"""Learning-rate schedule: any torch scheduler after a linear warm-up, with the length of the run filled in."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, LinearLR, OneCycleLR

from tlearn.console import say
from tlearn.errors import ConfigError

# These schedulers overwrite the learning rate, where torch's others multiply it: they would undo a warm-up, or worse.
_SETTING = (OneCycleLR, CyclicLR, LambdaLR, CosineAnnealingWarmRestarts)


class Schedule:
    """Build the schedulers of a run.

    Args:
        build: optimizer -> scheduler; None keeps the learning rate constant.
        interval: "step" or "epoch": when the scheduler steps.
        warmup_steps: optimizer steps of the linear warm-up.
        from_run: scheduler argument -> "steps" (of the whole run), "epochs" or "learning_rates" (per parameter group).
    """

    def __init__(
        self,
        build: Callable[..., Any] | None,
        interval: str = "epoch",
        warmup_steps: int = 0,
        from_run: Mapping[str, str] | None = None,
    ) -> None:
        self.build, self.interval, self.warmup_steps = build, interval, warmup_steps
        self.from_run = dict(from_run or {})

    @property
    def changes_rates(self) -> bool:
        """Whether learning rates change at all."""
        return self.build is not None or bool(self.warmup_steps)

    @property
    def covers_run(self) -> bool:
        """Whether it is drawn over the whole run, and means nothing where the run ends early."""
        return any(quantity != "learning_rates" for quantity in self.from_run.values())

    def train_to_the_end(self, callbacks: Iterable[Callback]) -> None:
        """Turn off the patience of early stopping where it would end a schedule of the whole run; say so.

        Limits of callbacks.early_stopping, such as stopping_threshold, stay.
        """
        stopping = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
        if self.covers_run and stopping:
            for callback in stopping:
                callback.patience = sys.maxsize
            say("early stopping: off, because the scheduler covers the whole run; the best epoch is kept")

    def configure(self, optimizer: Optimizer, steps: float, epochs: int, monitor: str) -> list[dict[str, Any]]:
        """Build the schedulers in the form that Lightning takes.

        Args:
            optimizer: with its final parameter groups.
            steps: optimizer steps of the whole run, infinite if it has no end.
            epochs: epochs of the whole run, -1 if it has no end.
            monitor: the metric that a plateau scheduler watches.

        Raises:
            ConfigError: the scheduler refuses its arguments, or the run has no known end.
        """
        rates = [group["lr"] for group in optimizer.param_groups]
        known = {"steps": steps, "epochs": epochs, "learning_rates": rates}
        arguments = {name: known[quantity] for name, quantity in self.from_run.items()}
        lengths = [value for value in arguments.values() if value is not rates]
        if -1 in lengths or float("inf") in lengths:
            raise ConfigError("this scheduler needs the length of the run: set trainer.max_epochs")
        schedulers = []
        if self.build is not None:
            try:
                main = self.build(optimizer, **arguments)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"scheduler: {error}") from error
            needed = ("optimizer", "step", "state_dict", "load_state_dict")
            if missing := [name for name in needed if not hasattr(main, name)]:
                raise ConfigError(f"scheduler: {type(main).__name__} has no {missing[0]}, as those of torch have")
            if self.warmup_steps and isinstance(main, _SETTING):
                own = (
                    " has its own (scheduler.build.pct_start)"
                    if isinstance(main, OneCycleLR)
                    else " sets the rate itself"
                )
                raise ConfigError(f"scheduler.warmup_steps: no warm-up goes before {type(main).__name__}, which{own}")
            schedulers.append({"scheduler": main, "interval": self.interval, "monitor": monitor})
        if self.warmup_steps:
            # LinearLR multiplies the current rate and leaves it alone afterwards.
            rise = LinearLR(optimizer, start_factor=1e-3, total_iters=self.warmup_steps)
            schedulers.append({"scheduler": rise, "interval": "step"})
        return schedulers
