"""DataParallel, which Lightning 2 removed: one process that splits each batch over its GPUs."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import strategies
from torch import Tensor, nn
from torch.nn.parallel import data_parallel

from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.module import in_single


class DataParallelStrategy(strategies.SingleDeviceStrategy):
    """Split each batch over all GPUs of one process.

    `torch.nn.parallel.data_parallel` copies the network for each batch, so parameters, checkpoint keys, optimizer
    and metrics are those of one device. `data.batch_size` is that of the whole batch.
    """

    strategy_name = "dp"

    def __init__(self, devices: list[int] | None = None) -> None:
        count = torch.cuda.device_count()
        if devices is None and count < 2:
            raise ConfigError(f"trainer=dp needs at least 2 GPUs, and this machine has {count}: use trainer=auto")
        self.devices = list(range(count)) if devices is None else devices
        if not self.devices or max(self.devices) >= count:
            known = ", ".join(map(str, range(count))) or "none"
            raise ConfigError(f"trainer.strategy.devices={devices}: the GPUs of this machine are {known}")
        # By the name that Lightning's own strategies have for them
        self.parallel_devices = [torch.device("cuda", number) for number in self.devices]
        super().__init__(self.parallel_devices[0])

    def setup(self, trainer: Any) -> None:
        """Run the module's forward pass on all devices."""
        super().setup(trainer)
        assert self.lightning_module is not None
        self.lightning_module.forward = split_over(self.lightning_module.network, self.devices)  # type: ignore[method-assign, arg-type]

    def teardown(self) -> None:
        """Restore the module's own forward pass."""
        if self.lightning_module is not None:
            self.lightning_module.__dict__.pop("forward", None)
        super().teardown()


def split_over(network: TransferNetwork, devices: list[int]) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the network on parts of a batch, one part per device.

    On cached features of a whole body, only the head is copied.
    """

    def forward(inputs: Tensor) -> Tensor:
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        part, values = (network.head, network.features(inputs)) if network.skips_body else (network, inputs)
        logits = data_parallel(_InPrecision(part, dtype), values, device_ids=devices)
        return in_single(logits)

    return forward


class _InPrecision(nn.Module):
    """A module whose copies compute in the precision of `dtype`; None for their own.

    Each runs in a thread of its own, where torch would open autocast with the default dtype: float16, without a scaler.
    It is no argument of the forward pass: torch would call copies that get no part of a small batch with it alone.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.module, self._dtype = module, dtype

    def forward(self, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, self._dtype, self._dtype is not None):
            return self.module(values)
