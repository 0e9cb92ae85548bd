"""All images of a fit, read in blocks: loss and gradient in constant memory, however many images there are."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlearn.analysis.linear_probe import Standardisation, sum_dtype
from tlearn.errors import ConfigError

# Bytes of a block: what a CPU's caches hold, and what keeps a GPU busy
_CPU_BLOCK, _GPU_BLOCK = 8 * 2**20, 256 * 2**20
# Bytes of features and logits of all images that stay in memory during a fit, as one block
_KEPT_BYTES = 96 * 2**20
# Images on which a loss is tried
_TRIED_IMAGES = 1000


class SlicedFeatures(Protocol):
    """Features [N, F] that are read where they are asked for, such as a tensor."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> Sequence[int]:
        """N and F."""

    def __getitem__(self, part: slice) -> Tensor: ...


class FeatureBlocks:
    """Blocks of (centred features [n, F], targets [n]); where all are few (96 MB on a CPU), a single one that is kept.

    Centred, because single precision would lose small differences of features far from 0.

    Args:
        parts: features and targets [N] of images that are fitted together.
        like: weight [C, F] of the layer, which tells device and precision.
    """

    def __init__(self, parts: Sequence[tuple[SlicedFeatures, Tensor]], like: Tensor) -> None:
        self._parts, self._device, self._dtype = parts, like.device, like.dtype
        # Of features and of logits
        row_bytes = like.element_size() * sum(like.shape)
        room = torch.cuda.mem_get_info(like.device)[0] // 3 if like.device.type == "cuda" else _KEPT_BYTES
        self._keeps = row_bytes * len(self) <= room
        size = max(1, (_CPU_BLOCK if like.device.type == "cpu" else _GPU_BLOCK) // row_bytes)
        places = [
            (number, slice(start, start + size))
            for number, (rows, _) in enumerate(parts)
            for start in range(0, len(rows), size)
        ]
        self._places = [places] if self._keeps else [[place] for place in places]
        self.standardise = Standardisation.of(self._read([place]) for place in places)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return sum(len(targets) for _, targets in self._parts)

    @property
    def targets(self) -> list[Tensor]:
        """The targets of each block."""
        return [torch.cat([self._parts[number][1][part] for number, part in block]) for block in self._places]

    def raw(self) -> Iterator[Tensor]:
        """Read the features [n, F] of each block as they are."""
        return (self._read(block) for block in self._places)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept:
            yield from self._kept
            return
        kept = []
        # Not by `raw`: the loop would hold what it has read.
        for places, targets in zip(self._places, self.targets, strict=True):
            block = self._read(places).sub_(self.standardise.mean), targets.to(self._device)
            if self._keeps:
                kept.append(block)
            yield block
        self._kept = kept

    def _read(self, places: Sequence[tuple[int, slice]]) -> Tensor:
        counts = [len(self._parts[number][1][part]) for number, part in places]
        features = torch.empty(sum(counts), self._parts[0][0].shape[1], device=self._device, dtype=self._dtype)
        for (number, part), rows in zip(places, features.split(counts), strict=True):
            rows.copy_(self._parts[number][0][part])
        return features


class BlockLoss:
    """The loss of a linear layer on standardised features of all images, added up over their blocks.

    Args:
        blocks: of the images.
        loss: logits and targets -> mean loss.
        layer: on standardised features.

    Raises:
        ConfigError: the mean over several blocks is not that of their means.
    """

    def __init__(self, blocks: FeatureBlocks, loss: Callable[[Tensor, Tensor], Tensor], layer: nn.Linear) -> None:
        self.blocks, self._loss, self.layer = blocks, loss, layer
        targets = blocks.targets
        self.shares = [1.0] if len(targets) == 1 else self._checked_shares(targets)

    def __call__(self) -> Tensor:
        """Compute the loss, and its gradient with it."""
        weight, bias = self.layer.weight, self.layer.bias
        # The scale is part of the weight, so that no block is scaled.
        scale = self.blocks.standardise.scale
        leaves = [(weight.detach() / scale).requires_grad_(), bias.detach().requires_grad_()]
        total = torch.zeros((), dtype=sum_dtype(weight), device=weight.device)
        gradients = [torch.zeros_like(leaf, dtype=total.dtype) for leaf in leaves]
        for share, (features, targets) in zip(self.shares, self.blocks, strict=True):
            # The mean over images that all count 0 is not a number.
            if share:
                loss = share * self._loss(functional.linear(features, *leaves), targets)
                for gradient, part in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
                    gradient += part
                total += loss.detach()
        known = gradients[0].to(weight.dtype) / scale, gradients[1].to(bias.dtype)
        return _WithGradients.apply(total, known, weight, bias)

    @torch.no_grad()
    def _checked_shares(self, targets: list[Tensor]) -> list[float]:
        """Return the part of each block in the mean: that of its images, or of their class weights."""
        weight = getattr(self._loss, "weight", None)
        ones = torch.ones(self.layer.out_features)
        for counts in (ones, *([weight.cpu()] if isinstance(weight, Tensor) else [])):
            if self._adds_up(counts, torch.cat(targets)):
                return _shares(counts, targets)
        raise ConfigError(
            f"module=full_batch adds up the loss over blocks of images, and {type(self._loss).__name__} is not a mean "
            "over images: choose loss=cross_entropy"
        )

    def _adds_up(self, counts: Tensor, targets: Tensor) -> bool:
        """Try the loss on some targets: whether its mean is that of parts, whose images count as their classes do."""
        weight = self.layer.weight
        some = targets[:: -(-len(targets) // _TRIED_IMAGES)].sort().values.to(weight.device)
        logits = torch.randn(len(some), len(counts), generator=torch.Generator().manual_seed(0)).to(weight)
        # Parts of unlike sizes and classes do not agree by chance.
        size = -(-2 * len(some) // 3)
        parts = some.split(size)
        means = [float(self._loss(*part)) for part in zip(logits.split(size), parts, strict=True)]
        mean = sum(share * mean for share, mean in zip(_shares(counts, parts), means, strict=True) if share)
        return math.isclose(mean, float(self._loss(logits, some)), rel_tol=1e-4, abs_tol=1e-6)


class _WithGradients(torch.autograd.Function):
    """A value with the gradients of its parameters."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, output: Tensor) -> Any:
        return None, None, *(output.to(gradient.dtype) * gradient for gradient in ctx.gradients)


def _shares(counts: Tensor, targets: Sequence[Tensor]) -> list[float]:
    """Return the part of each block of targets in their sum, each counted as its class is."""
    sums = torch.stack([counts[block.cpu()].double().sum() for block in targets])
    return (sums / sums.sum()).tolist()
