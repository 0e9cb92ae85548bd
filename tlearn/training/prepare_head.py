"""A head made ready for frozen features: they are standardised for it, and a linear head starts from a fit to some."""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional

from tlearn.analysis.linear_probe import lbfgs, minimise
from tlearn.console import say
from tlearn.models.heads import folded
from tlearn.models.network import TransferNetwork
from tlearn.ranges import require
from tlearn.training.module import TransferModule

# Features [N, F] and targets [N]
Images = tuple[Tensor, Tensor]

# From a fit to 1,024 of 2,400 images, training ended at a 7 to 15 % higher loss: steps do not make up for the others.
_MOST_IMAGES = 4096
# Elements of features in memory, 64 MiB: fewer images where features are wide
_MOST_ELEMENTS = 2**24
# Root mean square length of standardised features. A step of Adam changes logits by its rate, here 0.003, times the sum
# of absolute features. With longer ones, it undoes the first fit in an epoch; with shorter ones, it learns too little
# from images that the fit has not seen.
_LENGTH = 1.5
# A feature that varies by much less than this part of its mean, or of that of most, is not scaled up any further.
_LEAST_VARIATION = 0.01


class StandardisedLinear(nn.Linear):
    """A linear layer that shifts and scales its inputs [N, F] first, with the parameters of a given one."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        # Without drawing parameters, which would change all random numbers that follow.
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("shift", torch.zeros_like(layer.weight[0]))
        self.register_buffer("scale", torch.ones_like(layer.weight[0]))

    def forward(self, features: Tensor) -> Tensor:
        """Compute outputs [N, C]."""
        return super().forward(self.standardised(features))

    def standardised(self, features: Tensor) -> Tensor:
        """Shift and scale features [N, F]."""
        return (features - self.shift) * self.scale

    @torch.no_grad()
    def adapt(self, features: Tensor) -> None:
        """Set shift and scale by features [N, F], to mean 0 and equal deviations; what is always 0 stays so."""
        mean, deviation = features.mean(0), features.std(0, correction=0)
        # What is constant but for rounding, which differs between images and cached features, would become noise.
        least = _LEAST_VARIATION * mean.hypot(mean.abs().median())
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, _LENGTH / len(mean) ** 0.5 / deviation.hypot(least), 0.0))

    def folded(self) -> nn.Linear:
        """Return the plain linear layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight, plain.bias = map(nn.Parameter, folded(self.weight, self.bias, self.shift, self.scale))
        return plain


class PrepareHead(Callback):
    """Standardise features for the first linear layer of a head, and start a linear head from a fit.

    Only where the body is frozen for the whole run. The fits are those of `module=full_batch`, to the first training
    images alone and with fewer weight decays, and val chooses among them as it does there: so training starts near the
    head that would end there, and leaves it only for one with a lower loss on val. All depends on the images as they
    come, so it is the same for them and for their cached features. The layer is plain again after training.

    Args:
        weight_decays: coefficients of half the squared weights, for standardised features and the loss summed over
            images, times classes (each class has a smaller share of the loss where there are many): so the same suit
            small and large sets. None for a head that starts from random weights.
    """

    def __init__(self, weight_decays: Sequence[float]) -> None:
        require("callbacks.prepare_head.weight_decays", weight_decays)
        self.weight_decays = sorted(weight_decays, reverse=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the standardising layer in place, before a checkpoint is restored into it."""
        assert isinstance(pl_module, TransferModule)
        network = pl_module.network
        if stage == "fit" and not (pl_module.full_batch or network.stages or pl_module.later_stages):
            standardise(network)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt the layer to the first training images; a resumed run has it from its checkpoint."""
        assert isinstance(pl_module, TransferModule)
        _, _, layer = _first_layer(pl_module.network)
        if trainer.global_step > 0 or not isinstance(layer, StandardisedLinear):
            return
        most = most_images(layer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # Loaders of their own: the Trainer has started its ones, and would find them used up where workers persist.
        batches = islice(data.train_dataloader(), int(trainer.num_training_batches))
        train = _together(_features(trainer, pl_module, batches, most), trainer, pl_module, most)
        checked, val = sum(trainer.num_val_batches), None
        if layer is pl_module.network.head and self.weight_decays and checked:
            val = _features(trainer, pl_module, islice(data.val_dataloader(), int(checked)), most)
        reduce = partial(trainer.strategy.reduce, reduce_op="sum")
        say(prepare(layer, pl_module.loss, train, val, self.weight_decays, reduce))


def standardise(network: TransferNetwork) -> None:
    """Put the standardising layer in place of the head's first one, where that is a plain linear layer."""
    parent, name, layer = _first_layer(network)
    # A weight that is computed, as by torch.nn.utils.weight_norm, is not the layer's to give away.
    if type(layer) is nn.Linear and layer.bias is not None and isinstance(layer.weight, nn.Parameter):
        setattr(parent, name, StandardisedLinear(layer))


def most_images(layer: nn.Linear) -> int:
    """Return how many images of train, and of val, a layer is prepared with at most."""
    return min(_MOST_IMAGES, max(1, _MOST_ELEMENTS // layer.in_features))


def prepare(
    layer: StandardisedLinear,
    loss: Any,
    train: Images,
    val: Images | None,
    weight_decays: Sequence[float],
    reduce: Callable[[Tensor], Any] = lambda sums: sums,
) -> str:
    """Adapt a layer to features of train, and start it from a fit that val chooses, if given; return what was done.

    Args:
        layer: the first of the head.
        loss: of the run.
        train: features [N, F] and targets [N].
        val: the same of val, where the layer is the whole head.
        weight_decays: as `PrepareHead` has them.
        reduce: sums a tensor over all processes.
    """
    layer.adapt(train[0])
    done = f"head: features standardised by {len(train[0]):,} training images"
    if val is not None:
        chosen = _Fit(layer, loss, reduce).start(train, val, weight_decays)
        done += f", first weights fitted to them with weight decay {chosen:g}, which val chose"
        if chosen > max(weight_decays):
            done += " above callbacks.prepare_head.weight_decays, which were worse than chance"
    return f"{done} (callbacks.prepare_head=null: neither)"


def fold(network: TransferNetwork) -> None:
    """Make the head plain again, as a model folder holds it."""
    parent, name, layer = _first_layer(network)
    if isinstance(layer, StandardisedLinear):
        setattr(parent, name, layer.folded())


def _first_layer(network: TransferNetwork) -> tuple[nn.Module, str, nn.Module]:
    """Return the layer that takes the features, the module that it is part of, and its name there."""
    head = network.head
    if isinstance(head, nn.Sequential) and len(head):
        # A sequence of your own may give its layers names.
        return head, *next(head.named_children())
    return network, "head", head


@torch.no_grad()
def _features(trainer: Trainer, module: TransferModule, batches: Iterable[Any], most: int) -> Images:
    """Return features [n, F] and targets [n] of this process's images, of which all processes together have `most`."""
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        images, targets, _ = trainer.precision_plugin.convert_input(batch)
        with trainer.precision_plugin.forward_context():
            features = module.network.features(images.to(module.device)).float()
        parts.append((features, targets.to(module.device)))
        if sum(len(seen) for _, seen in parts) * trainer.world_size >= most:
            break
    features, targets = (torch.cat(values) for values in zip(*parts, strict=True))
    return features, targets


def _together(images: Images, trainer: Trainer, module: TransferModule, most: int) -> Images:
    """Return the images of all processes, each with as many, as one process would see them."""
    if trainer.world_size > 1:
        # Processes take turns in the order of the images.
        gathered = (torch.as_tensor(module.all_gather(one)) for one in images)
        images = tuple(one.transpose(0, 1).flatten(0, 1) for one in gathered)  # type: ignore[assignment]
    return images[0][:most], images[1][:most]


def _in_double(loss: Any, num_classes: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss for logits in double precision, which one with tensors of its own may only take in single."""
    # In two steps, here and below: Apple's GPUs convert to no double precision.
    precise = copy.deepcopy(loss).to(device).double() if isinstance(loss, nn.Module) else loss
    try:
        logits = torch.zeros(1, num_classes, dtype=torch.double, device=device)
        precise(logits, torch.zeros(1, dtype=torch.long, device=device))
    except RuntimeError:
        single = copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss
        return lambda logits, targets: single(logits.float(), targets).double()
    return precise


class _Fit:
    """Fits of a linear layer to standardised features, by the loss of the run and weight decay."""

    def __init__(self, layer: StandardisedLinear, loss: Any, reduce: Callable[[Tensor], Any]) -> None:
        self._layer, self._reduce = layer, reduce
        # In double precision: line searches in single take other turns for images than for cached features, whose last
        # digits differ. Apple's GPUs have none.
        self._device = layer.weight.device if layer.weight.device.type == "cuda" else torch.device("cpu")
        self._loss = _in_double(loss, layer.out_features, self._device)
        self._weight, self._bias = (
            torch.zeros_like(one, dtype=torch.double, device=self._device).requires_grad_()
            for one in (layer.weight, layer.bias)
        )

    def start(self, train: Images, val: Images, weight_decays: Sequence[float]) -> float:
        """Set the layer to the fit with the lowest loss on val, and return its weight decay; a rise ends the search.

        Where the first fit is worse than chance, as with a few images for each of many classes, the search goes up.
        """
        (features, targets), val = self._standardised(train), self._standardised(val)
        # The mean loss is the sum's by images; features of length _LENGTH are smaller than those of deviation 1.
        share = _LENGTH**2 / self._layer.in_features / len(targets) / self._layer.out_features
        # That of the layer as it is here, with zeros: of chance
        chance, lowest, chosen = self._val_loss(*val), float("inf"), weight_decays[0]
        waiting = [*weight_decays]
        while waiting:
            weight_decay = waiting.pop(0)
            optimizer = lbfgs([self._weight, self._bias], max_iter=100, tolerance=1e-5)
            minimise(optimizer, lambda: self._loss(self._logits(features), targets), self._weight, weight_decay * share)
            loss = self._val_loss(*val)
            if loss >= lowest:
                break
            if loss > chance and weight_decay == weight_decays[0]:
                # A weaker one would be worse still.
                waiting = [weight_decay * 10**power for power in range(1, 7)]
            lowest, chosen = loss, weight_decay
            with torch.no_grad():
                self._layer.weight.copy_(self._weight)
                self._layer.bias.copy_(self._bias)
        return chosen

    def _standardised(self, images: Images) -> Images:
        return self._layer.standardised(images[0]).to(self._device).double(), images[1].to(self._device)

    def _logits(self, features: Tensor) -> Tensor:
        return functional.linear(features, self._weight, self._bias)

    @torch.no_grad()
    def _val_loss(self, features: Tensor, targets: Tensor) -> float:
        """Compute the mean cross-entropy over the images of all processes."""
        total = functional.cross_entropy(self._logits(features), targets, reduction="sum")
        total, count = self._reduce(torch.stack((total, total.new_tensor(len(targets)))))
        return float(total / count)
