"""DataParallel, which Lightning 2 removed: one process that splits each batch over its GPUs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import strategies
from torch import Tensor
from torch.nn.parallel import data_parallel

from tlearn.errors import ConfigError


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
        super().__init__(torch.device("cuda", self.devices[0]))

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


def split_over(network: torch.nn.Module, devices: list[int]) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the network on parts of a batch, one part per device."""
    return partial(data_parallel, network, device_ids=devices)
