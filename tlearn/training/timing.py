"""Time what a training step of a network costs on a device."""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from tlearn.errors import ConfigError, OutOfMemoryError, is_out_of_memory
from tlearn.machine import peak_memory
from tlearn.models.allocator import keep_memory
from tlearn.models.device import require_cuda
from tlearn.models.network import TransferNetwork


def devices(chosen: str = "auto") -> dict[torch.device, str]:
    """Return the devices to time and what they are called: the CPU, and one GPU of each kind.

    Args:
        chosen: auto for all of them, cpu or cuda.

    Raises:
        ConfigError: there is no GPU, and cuda is chosen; or one that torch cannot use.
    """
    count = torch.cuda.device_count()
    # On the CPU, too: torch's optimizers ask GPUs that the driver counts.
    if count or chosen == "cuda":
        require_cuda(f"device={chosen}", "device=cpu")
    gpus = {torch.cuda.get_device_name(index): index for index in reversed(range(count)) if chosen != "cpu"}
    found = {torch.device("cpu"): f"CPU, {torch.get_num_threads()} threads"} if chosen != "cuda" else {}
    return found | {torch.device("cuda", index): name for name, index in gpus.items()}


def batch_shapes(network: TransferNetwork, batch_size: int, size: int) -> dict[str, list[int]]:
    """Return the shapes of a batch of images [N, 3, S, S], of their features and of their logits."""
    images = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        features = network.eval().features(images)
        shapes = {"images": images, "features": features, "logits": network.head(features)}
    return {name: [batch_size, *tensor.shape[1:]] for name, tensor in shapes.items()}


def time_steps(
    network: TransferNetwork,
    optimizer: Callable[[TransferNetwork], Optimizer],
    shapes: dict[str, list[int]],
    device: torch.device,
    batches: int,
    warmup: int,
) -> dict[str, float]:
    """Train on random images, and return the medians of a batch's seconds, images per second and peak memory.

    Args:
        network: is moved to the device.
        optimizer: makes the optimizer of what trains.
        shapes: of images and logits, as `batch_shapes` returns them.
        device: what is timed.
        batches: how many are timed.
        warmup: how many are not, before.

    Raises:
        ConfigError: a batch is too small for BatchNorm.
        OutOfMemoryError: it is too large for the device.
    """
    count, num_classes = shapes["logits"]
    images = torch.randn(shapes["images"], device=device).to(memory_format=torch.channels_last)
    targets = torch.randint(num_classes, (count,), device=device)
    steps = optimizer(network.to(device).train())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with keep_memory(device):
            seconds = [_step(network, steps, images, targets) for _ in range(warmup + batches)][warmup:]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"data.batch_size={count} does not fit into the memory of {device}: lower it") from error
    # BatchNorm refuses a single value.
    except ValueError as error:
        raise ConfigError(f"data.batch_size={count} and images of {images.shape[-1]} pixels: {error}") from error
    memory = peak_memory(device)
    return _medians(seconds, count) | ({} if memory is None else {"peak_memory_gb": memory / 1e9})


def _medians(seconds: list[tuple[float, ...]], count: int) -> dict[str, float]:
    """Return the medians of what `_step` took of batches of so many images, and images per second."""
    parts = zip(("forward_s", "backward_s", "step_s"), zip(*seconds, strict=True), strict=True)
    total = median(map(sum, seconds))
    return {name: median(part) for name, part in parts} | {"total_s": total, "images_per_s": count / total}


def _step(network: TransferNetwork, optimizer: Optimizer, images: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Train one batch, and return the seconds of forward, backward and step."""
    moments = [_now(images.device)]
    loss = F.cross_entropy(network(images), targets)
    moments.append(_now(images.device))
    loss.backward()
    moments.append(_now(images.device))
    optimizer.step()
    optimizer.zero_grad()
    moments.append(_now(images.device))
    return tuple(later - earlier for earlier, later in pairwise(moments))


def _now(device: torch.device) -> float:
    """Return the time when the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
