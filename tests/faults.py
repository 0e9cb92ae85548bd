"""Faults at the k-th write, fsync or replacement that goes through tlearn.files, as a full disk or a kill has them."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from tlearn import files
from tlearn.features import segments
from tlearn.runs import model

STEPS = ("write", "fsync", "replace")


class Killed(BaseException):
    """Ends a run as a kill does, but lets it tidy up."""


class Disk:
    """Notes every step that is taken, and fails at one of them.

    Args:
        step: write, fsync or replace.
        at: which of them fails, from 1; 0 for none.
        error: what it fails with; a function is called instead.
        ending: only targets whose path ends so count; how many steps another file takes depends on its size.
    """

    def __init__(
        self,
        step: str = "",
        at: int = 0,
        error: BaseException | Callable[[], None] | None = None,
        ending: str = "",
    ) -> None:
        self.step, self.at, self.error, self.ending = step, at, error, ending
        self._counted = 0
        # step -> the targets, in order
        self.taken: dict[str, list[Path]] = {name: [] for name in STEPS}
        # The target at which it failed
        self.failed: Path | None = None

    @property
    def targets(self) -> set[Path]:
        """The files that went through the door."""
        return {*self.taken["write"], *self.taken["replace"]}

    def take(self, step: str, target: Path, instead: Callable[[], Any] = lambda: None) -> None:
        """Note a step, and fail if its turn has come, after doing something else `instead`."""
        self.taken[step].append(target)
        if step != self.step or not str(target).endswith(self.ending):
            return
        self._counted += 1
        if self._counted != self.at:
            return
        self.failed = target
        instead()
        if isinstance(self.error, BaseException):
            raise self.error
        assert self.error is not None
        self.error()

    @contextmanager
    def installed(self) -> Iterator["Disk"]:
        """Stand between tlearn.files and the disk."""
        disk, fsync, replace = self, os.fsync, os.replace

        class Half(io.FileIO):
            """Writes half of what it shall when its turn has come."""

            target: Path

            def write(self, data: Any, /) -> int:
                half = memoryview(data)[: len(data) // 2]
                disk.take("write", self.target, lambda: super(Half, self).write(half))
                return super().write(data)

        def synced(descriptor: int) -> None:
            self.take("fsync", Path(os.path.realpath(f"/dev/fd/{descriptor}")))
            fsync(descriptor)

        def replaced(source: Path, target: Path) -> None:
            self.take("replace", Path(target))
            replace(source, target)

        def saving(save_file: Callable[..., None]) -> Callable[..., None]:
            def saved(tensors: Any, path: Path, **more: Any) -> None:
                try:
                    # The library writes past Python.
                    self.take("write", path, lambda: path.write_bytes(b"half"))
                except OSError as error:
                    raise SafetensorError(f"I/O error: {error}") from error
                save_file(tensors, path, **more)

            return saved

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_File", type("Faulty", (files._File, Half), {}))
            patch.setattr(os, "fsync", synced)
            patch.setattr(os, "replace", replaced)
            for module in (model, segments):
                patch.setattr(module, "save_file", saving(module.save_file))
            yield self


@contextmanager
def fault(step: str, error: BaseException, at: int = 1) -> Iterator[Disk]:
    """Fail at a step during the block."""
    with Disk(step, at, error).installed() as disk:
        yield disk


def temporaries(folder: Path) -> list[str]:
    """Name what was left in and below a folder under a temporary name."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(".tmp"))
