"""An optimizer, a scheduler, a callback and a logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class SignedSGD(SGD):
    """Step by the sign of the gradient."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.sign_()
        return super().step(closure)


def halving(optimizer: Optimizer, every: int) -> LambdaLR:
    """Build a schedule that halves the rate every so many epochs."""
    return LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // every))


class Diary(Callback):
    """Write a line for each epoch."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"epoch {trainer.current_epoch}: {trainer.optimizers[0].param_groups[0]['lr']:g}\n")


class Notebook(Logger):
    """Write the names of all metrics."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.names = Path(path), set[str]()

    @property
    def name(self) -> str:
        return "notebook"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: Any) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.names |= set(metrics)
        self.path.write_text("\n".join(sorted(self.names)), encoding="utf-8")
