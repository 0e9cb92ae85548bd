"""The Lightning module around a network: one shared step, metrics cloned per split, optimizer and schedule."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from tlearn.data.datamodule import SplitDataModule
from tlearn.data.sources.base import SPLITS
from tlearn.errors import CheckpointError, ConfigError, NonFiniteError
from tlearn.models.device import FittingParts
from tlearn.models.network import TransferNetwork, tensor_digest
from tlearn.training.checkpoints import restore_frozen, strip_frozen
from tlearn.training.ddp import share_buffers
from tlearn.training.metrics import MeanLoss, accuracies, cloned, shifted
from tlearn.training.non_finite import LossCheck
from tlearn.training.schedule import Schedule

# images [N, 3, S, S] or their cached features [N, ...], targets [N], indices into the split [N]
Batch = tuple[Tensor, Tensor, Tensor]


def in_single(logits: Tensor) -> Tensor:
    """Return logits in single precision if theirs is lower: in half, losses and probabilities would be equal ones."""
    return logits.float() if logits.element_size() < 4 else logits


def _takes_closure(optimizer: Optimizer) -> bool:
    parameters = inspect.signature(optimizer.step).parameters
    return "closure" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


class TransferModule(LightningModule):
    """Train a network and measure it.

    A subclass may have its own steps, losses and optimizers, and arguments from the `module` node of the configuration;
    it takes the keywords below too, and hands on those that it does not use. What is kept, evaluated and used for
    predictions is `network` alone. Steps of validation and test return logits, targets and indices, and every step
    calls `measure`.

    `train/loss` is the objective (with label smoothing, class weights and mixed labels); `val/loss` and `test/loss`
    are plain cross-entropy over all images, so that runs with different objectives can be compared.

    Args:
        network: images [N, 3, S, S] -> logits [N, num_classes].
        loss: logits and targets (indices [N] or probabilities [N, num_classes]) -> mean loss.
        optimizer: parameter groups -> optimizer, a partial whose keyword `lr` is the head's learning rate.
        later_stages: parts of the body that a callback unfreezes later.
        mix: mixes the images and labels of a training batch.
        monitor: the metric that chooses checkpoints, and that a plateau schedule watches.
        metrics: by name, as `tlearn.training.metrics` says; None for top-1 and top-5.
    """

    # Whether all training images must come as one batch, whose inputs are features that are read by slicing
    full_batch = False
    # The splits whose images the network at the end was trained on
    trained_on = "train"

    def __init__(
        self,
        network: TransferNetwork,
        num_classes: int,
        loss: nn.Module | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Schedule | None = None,
        body_lr_scale: float = 1.0,
        later_stages: Sequence[str] | str = (),
        mix: Callable[[Tensor, Tensor], Any] | None = None,
        monitor: str = "val/loss",
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss or nn.CrossEntropyLoss()
        self._optimizer, self._schedule, self.monitor = optimizer, schedule, monitor
        chosen = {"optimizer": optimizer is not None, "scheduler": schedule is not None and schedule.changes_rates}
        self._unused = {name for name, is_chosen in chosen.items() if is_chosen}
        self.body_lr_scale, self.later_stages, self.mix = body_lr_scale, later_stages, mix
        metrics = accuracies(num_classes) if metrics is None else metrics
        better = {name: metric.higher_is_better for name, metric in metrics.items()}
        # Which end of each metric is best, where it says so
        self.directions = {name: "max" if higher else "min" for name, higher in better.items() if higher is not None}
        passing = {name: metric for name, metric in metrics.items() if getattr(metric, "on_train", False)}
        # The keys end in a slash: a key of a ModuleDict may not be called `train`, as the method is.
        self.metrics = nn.ModuleDict(
            {f"{split}/": cloned(passing if split == "train" else metrics, f"{split}/") for split in SPLITS}
        )
        self.losses = nn.ModuleDict({f"{split}/": MeanLoss() for split in SPLITS})
        # Evaluates in parts what does not fit into the memory at once
        self.fitting = FittingParts()
        self._check_loss = LossCheck()
        self._logged_epoch = -1
        self._frozen_once: tuple[Collection[str], str] | None = None

    @property
    def optimizer(self) -> Callable[..., Optimizer] | None:
        """The optimizer that the run was given, without parameters."""
        self._unused.discard("optimizer")
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Callable[..., Optimizer]) -> None:
        self._optimizer = optimizer

    @property
    def schedule(self) -> Schedule | None:
        """The schedule that the run was given."""
        self._unused.discard("scheduler")
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule | None) -> None:
        self._schedule = schedule

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [N, num_classes], in single precision or better."""
        return in_single(self.network(images))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move, and convert to another precision, but never loss and metrics to a lower one."""
        names = [name for name in ("loss", "metrics", "losses") if isinstance(self._modules.get(name), nn.Module)]
        exact: dict[str, Any] = {name: self._modules.pop(name) for name in names}

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.element_size() >= tensor.element_size() else tensor.to(moved.device)

        try:
            super()._apply(fn, recurse)
        finally:
            self._modules.update(exact)
        for part in exact.values():
            part._apply(kept)
        return self

    def _step(self, batch: Batch, batch_idx: int, split: str) -> tuple[Tensor, Tensor]:
        """Compute loss and logits of a batch, and update the metrics."""
        images, targets, indices = batch
        if split == "train" and self.mix is not None:
            images, objective_targets = self.mix(images, targets)
        else:
            objective_targets = targets
        logits = self._logits(images) if split == "train" else self.fitting(self, images)
        loss = self.loss(logits, objective_targets) if split == "train" else F.cross_entropy(logits, targets)
        if split == "train":
            self._check_loss(self.trainer, loss, indices)
        self.measure(split, batch_idx, logits, targets, loss)
        return loss, logits

    def _logits(self, images: Tensor) -> Tensor:
        try:
            return self(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError("one image cannot train BatchNorm: raise data.batch_size, or add images") from error

    def measure(self, split: str, batch_idx: int, logits: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Add a batch to the metrics and the loss of a split; a step of your own calls it once for each batch."""
        metrics, mean = self.metrics[f"{split}/"], self.losses[f"{split}/"]
        assert isinstance(metrics, MetricCollection)
        assert isinstance(mean, MeanLoss)
        metrics.update(shifted(logits.detach()), targets)
        mean.update(loss.detach(), len(targets))
        # Once per epoch is enough: metric objects are logged, which accumulate over all batches and processes until the
        # epoch ends. Each call to log takes as long as a step of a head on cached features.
        if split == "train" and self.current_epoch == self._logged_epoch:
            return
        if split == "train":
            self._logged_epoch = self.current_epoch
        self.log_dict(dict(metrics.items(keep_base=False)), on_step=False, on_epoch=True)
        self.log(f"{split}/loss", mean, on_step=False, on_epoch=True, prog_bar=split != "test")

    def on_train_start(self) -> None:
        """Refuse an optimizer or a scheduler that `configure_optimizers` of a subclass has not asked for."""
        if self._unused:
            name = min(self._unused)
            raise ConfigError(f"{type(self).__name__} does not use the {name} of the run: choose {name}=none")
        groups = [group["params"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        own = {id(parameter) for parameter in self.parameters()}
        if self.automatic_optimization and not any(id(one) in own for params in groups for one in params):
            raise ConfigError(
                f"configure_optimizers of {type(self).__name__} returned none for a parameter of the module"
            )

    def on_train_epoch_start(self) -> None:
        """Set the trainable parts to train mode: Lightning keeps the modes in which the network was built."""
        self.network.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the objective of one batch."""
        loss, _ = self._step(batch, batch_idx, "train")
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every == 0:
            self.log("train/step_loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Refuse what `training_step` of a subclass returns if it is not one number with a gradient."""
        if loss.numel() != 1 or not loss.requires_grad:
            found = f"{list(loss.shape)}" if loss.numel() != 1 else "one without a gradient"
            raise ConfigError(f"training_step of {type(self).__name__} must return one loss, and returned {found}")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Refuse a `training_step` of a subclass that trains or measures nothing, after the first batch."""
        if self.current_epoch or batch_idx:
            return
        if self.automatic_optimization and not outputs:
            raise ConfigError(f"training_step of {type(self).__name__} must return one loss, and returned none")
        if self._logged_epoch < 0:
            self._refuse_unmeasured("train", "training")

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Evaluate one batch; return its logits, targets and indices."""
        return self._evaluation_step(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Evaluate one batch; return its logits, targets and indices."""
        return self._evaluation_step(batch, batch_idx, "test")

    def _evaluation_step(self, batch: Batch, batch_idx: int, split: str) -> dict[str, Tensor]:
        _, logits = self._step(batch, batch_idx, split)
        return {"logits": logits, "targets": batch[1], "indices": batch[2]}

    def on_validation_epoch_start(self) -> None:
        """Synchronise buffers, so that every process evaluates the same network; after callbacks that exchange it."""
        self._check_loss.settle(self.trainer)
        share_buffers(self)

    def on_validation_epoch_end(self) -> None:
        """Refuse to choose a checkpoint by a metric that is NaN or infinite."""
        self._check_measured("val")
        loss = float(self.losses["val/"].compute())  # type: ignore[operator]
        if not math.isfinite(loss):
            raise NonFiniteError(f"val/loss is {loss} after epoch {self.current_epoch}: lower optimizer.lr")
        kind = self.monitor.removeprefix("val/")
        if kind != "loss" and not math.isfinite(value := float(self.metrics["val/"][kind].compute())):  # type: ignore[index]
            raise ConfigError(f"{self.monitor} is {value} for the images of val: choose another monitor.metric")

    def on_test_epoch_end(self) -> None:
        """Refuse a test without metrics."""
        self._check_measured("test")

    def _check_measured(self, split: str) -> None:
        if not self.losses[f"{split}/"].update_called:
            self._refuse_unmeasured(split, "validation" if split == "val" else split)

    def _refuse_unmeasured(self, split: str, step: str) -> None:
        step = f"{step}_step of {type(self).__name__}"
        raise ConfigError(f'{step} must call self.measure("{split}", batch_idx, logits, targets, loss)')

    def configure_optimizers(self) -> Any:
        """Build the optimizer over head and body groups, and its schedule."""
        if self.optimizer is None:
            raise ConfigError(f"{type(self).__name__} needs an optimizer: choose optimizer=adam or another")
        rate = self.optimizer.keywords.get("lr")  # type: ignore[attr-defined]
        if rate is None:
            raise ConfigError("optimizer.lr must be given: the body's learning rate is relative to it")
        groups = self.network.parameter_groups(rate, self.body_lr_scale, self.later_stages)
        if not any(group["params"] for group in groups):
            raise ConfigError("nothing trains: the head has no parameters, and the body is frozen (finetune=full)")
        try:
            optimizer = self.optimizer(groups)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer: {error}") from error
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizer: {type(optimizer).__name__} is not a subclass of torch.optim.Optimizer")
        if self.automatic_optimization and not _takes_closure(optimizer):
            raise ConfigError(f"optimizer: step() of {type(optimizer).__name__} takes no closure, as those of torch do")
        if self.schedule is None:
            return optimizer
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        return [optimizer], self.schedule.configure(optimizer, steps, epochs or -1, self.monitor)

    def finish(self, data: SplitDataModule, epoch: int) -> dict[str, float]:
        """Complete the network between its evaluation on val and on test; return further metrics. Here nothing is done.

        Args:
            data: the images or features of the run.
            epoch: the best one, which the network has the weights of.
        """
        return {}

    def describe_epoch(self, epoch: int) -> dict[str, float]:
        """Return further values of an epoch for its line: none here."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out tensors that cannot change in this run; save nothing that a loss that is not finite has changed."""
        self._check_loss.settle(self.trainer)
        names, mark = self._frozen()
        strip_frozen(checkpoint, names, mark)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the tensors that were left out, if they are the same."""
        names, mark = self._frozen()
        state = self.state_dict()
        restore_frozen(checkpoint, {name: state[name] for name in names}, mark)
        own = {key: value.shape for key, value in state.items()}
        if own != {key: value.shape for key, value in checkpoint["state_dict"].items()}:
            raise CheckpointError(
                "the checkpoint holds another network than this run's: give the same head and classes"
            )

    def _frozen(self) -> tuple[Collection[str], str]:
        """Return the names of the tensors that cannot change in this run, and their digest."""
        if self._frozen_once is None:
            # Computed once: hashing a large body takes a second, and listing frozen keys longer than a short epoch.
            state = self.network.state_dict()
            frozen = {f"network.{key}": state[key] for key in self.network.frozen_keys(self.later_stages)}
            self._frozen_once = set(frozen), tensor_digest(frozen)
        return self._frozen_once
