"""Single flipped bits, anywhere in each kind of file that carries a digest."""

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reliability_parts.drawn import picture
from reliability_parts.row import Options, Outcome, Row
from reliability_parts.small_run import trained
from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest
from tlearn.data.pixel_cache import DiskPixels, Shrink
from tlearn.data.verify import Unchanged
from tlearn.errors import TlearnError
from tlearn.features.segments import KEY
from tlearn.features.store import Space
from tlearn.runs.model import load_model, read_description
from tlearn.training.checkpoints import CheckpointIO

ROW = Row(
    "flips",
    "flipped bits that changed what was read",
    "One bit, anywhere in a file of a finished run, is flipped before it is read: a checkpoint, the model's "
    "weights and description, a segment of kept features, kept pixels, an image of splits.csv. Good is a refusal, a "
    "warning after which it is computed anew, or, for JSON and features, the very same values, as where the bit lies "
    "between them.",
)
# Returns whether what was read is what was written; a refusal raises
Reader = Callable[[], bool]


def run(options: Options) -> Iterator[Outcome]:
    """Flip a bit a case."""
    count = options.cases(1000, 40)
    for kind, (path, read) in kinds(options.folder).items():
        whole = path.read_bytes()
        if not read():
            raise RuntimeError(f"{kind}: the whole file is not read")
        for number in range(count):
            case = f"{kind} {number}"
            if not options.wants(case):
                continue
            place = options.random(case).randrange(8 * len(whole))
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            yield Outcome(case, judged(read, f"bit {place} of {path.name}"), kind)
            path.write_bytes(whole)


def judged(read: Reader, name: str) -> str:
    """Return what is wrong with how a damaged file is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "" if read() else f"{name} changed what was read"
        except TlearnError:
            return ""
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"


def kinds(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """Return a file of each kind, and what reads it."""
    run = trained(folder / "made", "logger=csv")
    checkpoint, model = run / "checkpoints" / "last.ckpt", load_model(run)
    loaded, state = CheckpointIO(run).load_checkpoint(checkpoint), list(model.network.state_dict().values())
    image = folder / "a.png"
    picture(1, size=(12, 9)).save(image)
    pixels = Decoder()(image)
    space, features = Space(folder / "features", {}), torch.rand(40, 16)
    keys = np.array([bytes([n] * 16) for n in range(40)], KEY)
    space.add(keys, features)
    [segment] = space.folder.glob("*.safetensors")
    cache = DiskPixels(Shrink(Decoder(), 24), folder / "pixels")
    shrunk = cache(image).clone()
    [kept] = (folder / "pixels").rglob("*.pixels")
    unchanged = Unchanged(Decoder(), {str(image): content_digest(image)}.get)

    def same_checkpoint() -> bool:
        return _bytes(CheckpointIO(run).load_checkpoint(checkpoint)) == _bytes(loaded)

    def same_weights() -> bool:
        return _equal(list(load_model(run).network.state_dict().values()), state)

    def same_features() -> bool:
        rows, _ = Space(folder / "features", {}).find(keys)
        return rows is None or torch.equal(rows[torch.arange(40)], features)

    return {
        "checkpoint": (checkpoint, same_checkpoint),
        "model.safetensors": (run / "model" / "model.safetensors", same_weights),
        "model.json": (run / "model" / "model.json", lambda: read_description(run)[1] == model.description),
        "features": (segment, same_features),
        "pixels": (kept, lambda: torch.equal(cache(image), shrunk)),
        "image of splits.csv": (image, lambda: torch.equal(unchanged(str(image)), pixels)),
    }


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def _bytes(checkpoint: object) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()
