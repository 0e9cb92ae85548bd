"""Checkpoints without frozen weights, loaded as plain data, and written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO as LightningCheckpointIO
from torch import Tensor, nn

from tlearn.errors import CheckpointError, ConfigError, OutputError, TlearnError
from tlearn.files import writing
from tlearn.models.checkpoint_file import read_checkpoint
from tlearn.models.digests import sealing_zip

# 2: with a digest and the state within an epoch
FORMAT = 2
_KEY = "tlearn"
# What ModelCheckpoint keeps of its files beside `best_k_models`
_PATHS = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
# Where a checkpoint holds the module: with an average of weights, that is in state_dict, and what trains in the other
_STATES = ("state_dict", "current_model_state")


def strip_frozen(checkpoint: dict[str, Any], frozen: Collection[str], mark: str) -> None:
    """Replace the tensors `frozen` of a checkpoint by their digest `mark`."""
    for name in checkpoint.keys() & _STATES:
        checkpoint[name] = {key: value for key, value in checkpoint[name].items() if key not in frozen}
    checkpoint[_KEY] = {"format": FORMAT, "frozen": mark}


def restore_frozen(checkpoint: dict[str, Any], frozen: Mapping[str, Tensor], mark: str) -> None:
    """Complete a checkpoint with the network's own frozen tensors, whose digest is `mark`.

    Raises:
        CheckpointError: the checkpoint was made with other frozen weights, or by another program.
    """
    note = checkpoint.get(_KEY)
    if note is None or note.get("format") != FORMAT:
        raise CheckpointError("this checkpoint was not written by this version of tlearn")
    if note["frozen"] != mark:
        raise CheckpointError(
            "the frozen weights are not those this checkpoint was trained with: give the same backbone, "
            "backbone.weights, head.replace and finetune"
        )
    for name in checkpoint.keys() & _STATES:
        checkpoint[name] = {**frozen, **checkpoint[name]}


def trained_epochs(path: Path, most: int | None) -> int:
    """Return the number of whole epochs that a last checkpoint was trained for.

    Raises:
        ConfigError: they are more than `most`, the epochs of the run that goes on from it; None and -1 are no limit.
    """
    epochs = CheckpointIO(path.parent.parent).load_checkpoint(path)["epoch"]
    if most not in (None, -1) and epochs > most:
        raise ConfigError(f"trainer.max_epochs={most}: the run has trained for {epochs} epochs; give {epochs} or more")
    return epochs


def check_room(folder: Path, network: nn.Module) -> None:
    """Refuse a run folder whose disk has no room for what a run of the network keeps.

    Raises:
        OutputError: names the folder, and what is free and needed.
    """
    whole = sum(one.nbytes for one in network.state_dict().values())
    trained = sum(one.nbytes for one in network.parameters() if one.requires_grad)
    # The best and the last state and the next, each with two moments of an optimizer, and the model
    needed, free = whole + 3 * 3 * trained, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: {free / 2**20:,.0f} MiB free, and checkpoints and model may take {needed / 2**20:,.0f} MiB; "
            "free some space or choose another hydra.run.dir"
        )


class CheckpointIO(LightningCheckpointIO):
    """Write checkpoints whole or not at all, and read plain data only.

    The paths of a run's other checkpoints are kept relative to its folder, which may be moved.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._superseded: set[Path] = set()
        self._loaded: Path | None = None
        self.defers_removal = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint; on failure, the old file stays as it was.

        Raises:
            OutputError: the file cannot be written, or the run folder is gone.
        """
        if not self._run.is_dir():
            # A new one would hold nothing else, and nothing goes on from it.
            raise OutputError(f"cannot write {path}: the run folder was moved or removed")
        # Lightning's own writer goes through a temporary file on another filesystem and swallows missing permission.
        with writing(Path(path), durable=True) as file, sealing_zip(file) as sealed:
            torch.save(_with_paths(checkpoint, self._relative), sealed)
        self._superseded.discard(Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data, whatever `weights_only` says.

        Raises:
            CheckpointError: `read_checkpoint` refuses it, or it names a path outside the run folder, or none.
        """
        self._loaded = Path(path)
        with self.restoring():
            return _with_paths(read_checkpoint(self._loaded, map_location), self._absolute)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Name the checkpoint that was loaded last in errors of its content, until `restored`."""
        try:
            yield
        except TlearnError:
            raise
        except Exception as error:
            if self._loaded is None:
                raise
            raise CheckpointError(
                f"{self._loaded} does not hold a state of this run: {type(error).__name__}: {error}"
            ) from error

    def restored(self) -> None:
        """Leave errors from now on as they are: all that was loaded has taken its place."""
        self._loaded = None

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if `defers_removal` in `remove_superseded`: when a state without it is on the disk."""
        self._superseded.add(Path(path))
        if not self.defers_removal:
            self.remove_superseded()

    def superseded(self) -> list[str]:
        """Return the checkpoints that are to be removed, relative to the run folder."""
        return sorted(map(self._relative, map(str, self._superseded)))

    def supersede(self, paths: Iterable[str]) -> None:
        """Delete what a state on the disk has superseded: its run may have been killed before it could."""
        self._superseded.update(Path(self._absolute(path)) for path in paths)
        self.remove_superseded()

    def remove_superseded(self) -> None:
        """Delete the checkpoints that were to be removed."""
        while self._superseded:
            self._superseded.pop().unlink(missing_ok=True)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._run)

    def _absolute(self, path: str) -> str:
        found = Path(os.path.normpath(self._run / path))
        # Links, too: what is named is deleted when it is no longer among the best.
        inside = Path(os.path.realpath(found)).is_relative_to(os.path.realpath(self._run))
        if not (inside and found.is_relative_to(self._run)):
            raise CheckpointError(f"a checkpoint names {path}, which is outside its run folder {self._run}")
        return str(found)


def _with_paths(checkpoint: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Change the paths in the states of Lightning's ModelCheckpoint."""
    callbacks = {}
    for key, state in checkpoint.get("callbacks", {}).items():
        if isinstance(state, dict) and "best_k_models" in state:
            # An empty text is no path.
            state = state | {name: change(state[name]) for name in _PATHS if state.get(name)}
            state["best_k_models"] = {change(path): score for path, score in state["best_k_models"].items()}
        callbacks[key] = state
    return checkpoint | ({"callbacks": callbacks} if callbacks else {})
