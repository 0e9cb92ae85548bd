"""The checkpoint from which a stopped run resumes."""

from pathlib import Path

from tlearn.errors import CheckpointError, in_shell, quoted


def last_path(run: Path) -> Path:
    """Return where the last checkpoint of a run is."""
    return run / "checkpoints" / "last.ckpt"


def last_checkpoint(run: Path) -> Path:
    """Return the last checkpoint of a run; raise CheckpointError if it has none yet."""
    path = last_path(run)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: {run} stopped before its first checkpoint; start it anew there, with the arguments of "
            f"{run / '.hydra' / 'overrides.yaml'} and {in_shell(f'hydra.run.dir={quoted(run)}')}"
        )
    return path
