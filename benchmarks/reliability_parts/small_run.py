"""A finished training of a second, for files as tlearn writes them."""

import contextlib
import io
from pathlib import Path

from reliability_parts.drawn import draw_classes
from tlearn.train import main


def arguments(data: Path) -> list[str]:
    """Return the command line of a training on drawn pictures."""
    return [
        *(
            "data=folder",
            f"data.root={data}",
            "data.batch_size=8",
            "data.num_workers=0",
            "backbone=tiny",
            "trainer=cpu",
        ),
        *("trainer.max_epochs=2", "report=off", "quiet=true"),
    ]


def trained(folder: Path, *more: str) -> Path:
    """Train in this process; return the run folder."""
    data = draw_classes(folder / "data")
    status, said = by_command(
        *arguments(data), f"paths.cache={folder / 'cache'}", f"hydra.run.dir={folder / 'run'}", *more
    )
    if status:
        raise RuntimeError(said)
    return folder / "run"


def by_command(*given: str) -> tuple[int, str]:
    """Run the program `train` in this process; return its status and what it printed."""
    with quiet() as said:
        status = main(given)
    return status, said.getvalue()


@contextlib.contextmanager
def quiet():
    """Keep what is printed in the block."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said
