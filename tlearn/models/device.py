"""Computing on a device: what float32 means there, parts that fit into its memory, and copies back without a wait."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tlearn.console import say
from tlearn.errors import ConfigError, OutOfMemoryError, is_out_of_memory, may_be_out_of_memory

# Blocks that have begun, of all threads: the settings are the process's.
_blocks: dict[object, bool] = {}
_given_back: tuple[tuple[str, bool], list[tuple[Any, str]]] = ("highest", True), []
_changing = threading.Lock()


@contextmanager
def float32(tf32: bool = False) -> Iterator[None]:
    """Compute float32 exactly during the block, or with the 10 bits of TF32, in convolutions and products alike.

    By default torch lets cuDNN round the inputs of convolutions, and cuBLAS not those of products: features would
    differ from those of a CPU by 1e-3.
    """
    global _given_back
    block = object()
    with _changing:
        _ignore_advice()
        if not _blocks:
            _given_back = _settings(), _switches()
        _blocks[block] = tf32
    try:
        with _changing:
            _compute(tf32)
        yield
    finally:
        with _changing:
            _end(block)


def _end(block: object) -> None:
    """Return to the precision of the block that is left, of any thread, or to that before the first."""
    del _blocks[block]
    if _blocks:
        _compute(next(reversed(_blocks.values())))
        return
    settings, switches = _given_back
    _set(settings)
    for switch, precision in switches:
        switch.fp32_precision = precision


def _compute(tf32: bool) -> None:
    _set(("high", True) if tf32 else ("highest", False))
    # What is not set would follow the switch of a backend, or of all.
    for switch, _ in _given_back[1]:
        switch.fp32_precision = "tf32" if tf32 else "ieee"


@cache
def _ignore_advice() -> None:
    """Ignore, once, that some releases of torch advise against settings that older ones have alone.

    Each change of the filters lets Python tell all warnings again.
    """
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")


def _switches() -> list[tuple[Any, str]]:
    """List torch's switches of float32 for products, convolutions and recurrent layers, which it has since 2.9.

    Each is with its precision, "none" where it is that of the backend, whose switch it then goes on to follow.
    """
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    found = [(torch.backends.cuda.matmul, cudnn)]
    for backend in (cudnn, mkldnn):
        kinds = (kind for kind in ("matmul", "conv", "rnn") if hasattr(backend, kind))
        found += [(getattr(backend, kind), backend) for kind in kinds]
    return [
        (switch, "none" if switch.fp32_precision == backend.fp32_precision else switch.fp32_precision)
        for switch, backend in found
        if hasattr(switch, "fp32_precision")
    ]


def _settings() -> tuple[str, bool]:
    """Return the precision of products and whether convolutions take TF32, in the settings that all releases have."""
    try:
        products = torch.get_float32_matmul_precision()
    # torch refuses to tell these settings to a program that has used its switches: they are as it comes.
    except RuntimeError:
        products = "highest"
    try:
        return products, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return products, True


def _set(settings: tuple[str, bool]) -> None:
    torch.set_float32_matmul_precision(settings[0])
    torch.backends.cudnn.allow_tf32 = settings[1]


def require_cuda(asked: str, instead: str) -> None:
    """Refuse an argument that asks for a GPU of NVIDIA's which torch cannot use, with what it says of the driver.

    `torch.cuda.is_available` is not enough: Lightning lets it ask the driver alone, which may be too old for torch.

    Raises:
        ConfigError: there is none, torch was built without CUDA, or the driver is too old or broken.
    """
    try:
        torch.cuda.init()
    # Built without CUDA: an AssertionError
    except (RuntimeError, AssertionError) as error:
        told = " ".join(str(error).split())
        hidden = " with CUDA_VISIBLE_DEVICES= before the command" if torch.cuda.device_count() else ""
        raise ConfigError(
            f"{asked}: there is no GPU that this torch can use; choose {instead}{hidden} (torch: {told})"
        ) from error


class FittingParts:
    """Compute a batch in parts that fit into the memory of its device; the size that does is kept for later batches."""

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Compute outputs [N, ...] of inputs [N, ...], each of which must depend on its own input alone.

        Raises:
            OutOfMemoryError: one alone does not fit.
        """
        parts: list[Tensor] = []
        start = 0
        while start < len(inputs):
            part = inputs[start : start + (self.most or len(inputs))]
            try:
                parts.append(compute(part))
                start += len(part)
            except (RuntimeError, MemoryError) as error:
                if not (may_be_out_of_memory(error) if len(part) > 1 else is_out_of_memory(error)):
                    raise
                if len(part) == 1:
                    raise OutOfMemoryError(
                        "out of memory with a single image: choose a smaller backbone, or end what else takes memory"
                    ) from error
                # Tried again after the error is gone, and with it what it holds of the memory
                self.most = len(part) // 2
                say(f"out of memory with {len(part)} images at once: {self.most} from now on")
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Arriving:
    """A tensor on its way to the CPU; only `get` waits, and not for what the device was asked to do since."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._copied = tensor, None
        if tensor.device.type == "cuda":
            with torch.cuda.device(tensor.device):
                self._tensor = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
                self._copied = torch.cuda.Event()
                self._copied.record()

    @property
    def is_late(self) -> bool:
        """Whether it may not be there yet."""
        return self._copied is not None

    def get(self) -> Tensor:
        """Return the tensor on the CPU."""
        if self._copied is None:
            return self._tensor.cpu()
        self._copied.synchronize()
        # A copy, so that the pinned memory, which is slow to allocate, is used again.
        return self._tensor.clone()
