"""Collect the network's outputs while the Trainer evaluates, from all processes in the first of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tlearn.analysis.outputs import Outputs
from tlearn.data.datamodule import SplitDataModule
from tlearn.models.device import Arriving
from tlearn.training.data_parallel import DataParallelStrategy
from tlearn.training.gather import gathered


@dataclass(frozen=True)
class Plan:
    """Which outputs of a run are kept for its report.

    `features`: keep the head's inputs. `train_pictures`: also evaluate the training images; otherwise `reason` says
    why not.
    """

    write: bool
    features: bool = False
    train_pictures: bool = False
    reason: str = ""


# name -> one value per image, [n, ...]
Part = dict[str, Tensor]


class Collector(Callback):
    """Collect logits, targets and indices, and on request the head's inputs, of every evaluation while attached.

    DataParallel runs copies of the head in parallel; their inputs cannot be put in order, so they are not kept.
    """

    def __init__(self, features: bool = False) -> None:
        self._wants_features = features
        self._parts: list[Part] = []
        self._arriving: dict[str, Arriving] = {}
        self._whole: Part = {}
        self._features: list[Tensor] = []

    @contextmanager
    def attached(self, trainer: Trainer, head: nn.Module) -> Iterator[None]:
        """Collect outputs during the block."""
        hook = None
        if self._wants_features and not isinstance(trainer.strategy, DataParallelStrategy):
            # Not before the pass: one that fails for want of memory is done again in parts.
            hook = head.register_forward_hook(lambda _, inputs, __: self._features.append(inputs[0].detach()))
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(self)
        try:
            yield
        finally:
            callbacks.remove(self)
            if hook is not None:
                hook.remove()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any) -> None:
        """Keep a batch."""
        self._keep(outputs)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any) -> None:
        """Keep a batch."""
        self._keep(outputs)

    def _keep(self, outputs: Part) -> None:
        # The first of several passes over a batch is the one on plain images; a pass may be in parts.
        count = len(outputs["indices"])
        features = {"features": torch.cat(self._features)[:count]} if self._features else {}
        # The batch before, while a GPU computes this one
        self._take_arrived()
        self._arriving = {name: Arriving(values) for name, values in {**outputs, **features}.items()}
        self._features.clear()

    def _take_arrived(self) -> None:
        arrived, self._arriving = {name: one.get() for name, one in self._arriving.items()}, {}
        if arrived:
            self._parts.append(
                {name: value.float() if value.is_floating_point() else value for name, value in arrived.items()}
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the parts of all processes."""
        self._gather(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the parts of all processes."""
        self._gather(trainer)

    def _gather(self, trainer: Trainer) -> None:
        self._take_arrived()
        parts, self._parts = self._parts, []
        # The Trainer is in inference mode, whose tensors nothing could be trained on.
        with torch.inference_mode(False):
            # One name after another, so that only one is in memory twice
            own = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
            self._whole = gathered(own, "indices", trainer.strategy.root_device)

    def take(self, split: str, data: SplitDataModule) -> tuple[Outputs | None, Part]:
        """Return and forget the outputs of the last evaluation, and everything else that its steps returned.

        Only the first of several processes has them; the others get None and nothing.
        """
        whole, self._whole = self._whole, {}
        if not whole:
            return None, {}
        paths = data.datasets[split].paths
        outputs = Outputs(
            split,
            data.image_set.classes,
            data.image_set.root,
            [paths[index] for index in whole.pop("indices").tolist()],
            whole.pop("targets"),
            whole.pop("logits"),
            whole.pop("features", None),
        )
        return outputs, whole
