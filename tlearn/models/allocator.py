"""Keep glibc from returning the memory of large activations after every layer: getting it again costs page faults."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# From glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_KEEPING = {_TRIM_THRESHOLD: 2**30, _TOP_PAD: 64 * 2**20, _MMAP_MAX: 0, _ARENA_MAX: 1}
# The thresholds that glibc comes to by itself in a process that has freed large blocks (mallopt(3)); once one was set,
# it adapts them no longer. The number of arenas stays.
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20, _TOP_PAD: 128 * 2**10}


@contextmanager
def keep_memory(device: torch.device) -> Iterator[None]:
    """Let the block reuse freed memory, if it computes on the CPU and the C library is glibc; else change nothing."""
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    for option, value in _KEEPING.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _AFTERWARDS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    # musl has neither
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
