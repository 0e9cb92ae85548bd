"""K heads of one shape as one: what they compute, and the steps of their optimizers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from tlearn.training.prepare_head import StandardisedLinear


class Stack:
    """K heads: the first layers as one matrix product, what follows mapped over the heads, with the same dropout."""

    def __init__(self, head: nn.Module, count: int) -> None:
        is_sequence = isinstance(head, nn.Sequential)
        self._first: Any = head[0] if is_sequence else head  # type: ignore[index]
        self._rest = head[1:] if is_sequence else nn.Sequential()  # type: ignore[index]
        self._prefix, self._count = "0." if is_sequence else "", count
        # A part of a sequence keeps the names that it has in the whole.
        self._names = [name for name, _ in self._rest.named_parameters()]
        self.parameters = {
            name: one.detach().expand(count, *one.shape).clone().requires_grad_()
            for name, one in head.named_parameters()
        }

    def logits(self, features: Tensor, train: bool) -> Tensor:
        """Compute logits [K, N, C] of features [N, F]."""
        first, own = self._first, self.parameters
        values = first.standardised(features) if isinstance(first, StandardisedLinear) else features
        weight, bias = own[f"{self._prefix}weight"], own.get(f"{self._prefix}bias")
        wide = F.linear(values, weight.flatten(0, 1), None if bias is None else bias.flatten())
        hidden = wide.unflatten(1, (self._count, -1)).transpose(0, 1)
        if not len(self._rest):
            return hidden
        self._rest.train(train)
        rest = {name: own[name] for name in self._names}
        # A run alone draws which units drop out in the same order, from the same seed.
        each = vmap(lambda own, values: functional_call(self._rest, own, (values,)), randomness="same")
        return each(rest, hidden)


class Steps:
    """The steps of one torch optimizer for all heads, scaled by the learning rate and weight decay of each.

    The steps of Adam, AdamW and SGD are proportional to the learning rate, and without weight decay they depend on
    gradients alone: the optimizer takes them at a rate of 1, from 0.

    Args:
        parameters: [K, ...] each.
        own: the optimizer of each head, over a stand-in, with the rate that its scheduler gives it.
        make: parameter groups -> optimizer.
    """

    def __init__(self, parameters: Sequence[Tensor], own: Sequence[Optimizer], make: Callable[..., Optimizer]) -> None:
        self._parameters, self._own = parameters, own
        self._steps = [torch.zeros_like(one) for one in parameters]
        # Fused, it reads and writes each number once: several times faster for what no cache holds.
        self._all = make([{"params": self._steps, "lr": 1.0, "weight_decay": 0.0}], fused=True, foreach=False)
        self._decay = self._column("weight_decay")
        self._decays = bool(self._decay.any())

    def _column(self, name: str) -> Tensor:
        return torch.tensor([one.param_groups[0][name] for one in self._own], dtype=torch.float64)

    def _per_head(self, values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))

    @torch.no_grad()
    def step(self, lead: Optimizer) -> None:
        """Change all heads by their gradients, with the momentum that one's optimizer has."""
        rate, group = self._column("lr"), lead.param_groups[0]
        # OneCycleLR changes momentum, too, for all alike.
        self._all.param_groups[0].update({name: group[name] for name in ("betas", "momentum") if name in group})
        decoupled = isinstance(self._all, AdamW) or group.get("decoupled_weight_decay")
        for one, step in zip(self._parameters, self._steps, strict=True):
            assert one.grad is not None
            if self._decays and decoupled:
                one.mul_(self._per_head(1 - rate * self._decay, one))
            elif self._decays:
                one.grad.addcmul_(self._per_head(self._decay, one), one)
            step.grad, one.grad = one.grad, None
        self._all.step()
        for one, step in zip(self._parameters, self._steps, strict=True):
            one.addcmul_(self._per_head(rate, one), step)
            step.zero_()
