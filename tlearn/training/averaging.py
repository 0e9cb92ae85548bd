"""Averages of weights over the steps of a fit, by Lightning's `WeightAveraging` and `EMAWeightAveraging`."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging

from tlearn.errors import ConfigError
from tlearn.training.module import TransferModule


class ExactAverage(Callback):
    """Keep out of an average what does not train: rounding would change frozen tensors, truncation integer ones.

    Lightning averages every parameter and buffer of the module, such as the position indices of a Swin transformer. It
    shows the average to validations and checkpoints, so those tensors are set before each; it must stand before the
    averaging callback, whose hooks follow.
    """

    def __init__(self, averaging: WeightAveraging) -> None:
        self._averaging = averaging

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a fit whose steps are not steps of one training."""
        assert isinstance(pl_module, TransferModule)
        if pl_module.full_batch:
            kind = type(self._averaging).__name__
            raise ConfigError(f"callbacks: {kind} would average the fits of different weight decays: leave it out")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the tensors before the average is validated."""
        self._set(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set the tensors before the average is saved."""
        self._set(pl_module)

    def _set(self, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        average = self._averaging._average_model
        if average is None:
            return
        frozen = {f"network.{key}" for key in pl_module.network.frozen_keys(pl_module.later_stages)}
        averaged = average.module.state_dict()
        for key, tensor in pl_module.state_dict().items():
            if key in frozen or not tensor.is_floating_point():
                averaged[key].copy_(tensor)
