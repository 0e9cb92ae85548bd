"""Search for bytes that a reader answers with a trace, wrong pixels, code that runs, or too much time or memory.

python benchmarks/fuzz.py picture|checkpoint|model [--seconds N] [--corpus FOLDER]
python benchmarks/fuzz.py picture --replay FILE

atheris (libFuzzer for Python; installed by hand) changes bytes so that they reach other lines of tlearn and of the
libraries' Python. Digests are made anew after each change, so that they stop nothing. The first bytes choose the kind
of file. A find ends the search and is kept as FOLDER/found-DIGEST; `--replay` tries it again.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import atheris

with atheris.instrument_imports(include=["PIL"]):
    from PIL import Image

    # The plugins too
    Image.init()

# Of torch only the reader of pickles is watched: all of it would take minutes.
import lightning.pytorch  # noqa: F401
import torch
import torchvision  # noqa: F401
from torch._weights_only_unpickler import Unpickler

with atheris.instrument_imports(include=["tlearn"]):
    from reliability_parts.malformed_inputs import other_than_pillow, pictures
    from reliability_parts.mutations import answer
    from reliability_parts.small_run import trained

    from tlearn.models.digests import PLACEHOLDER, seal_safetensors, sealing_zip, with_digest
    from tlearn.runs.model import load_model
    from tlearn.training.checkpoints import CheckpointIO


class Pictures:
    """Images of each kind, which must be what Pillow decodes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = pictures()
        # The file's ending is chosen by the first byte.
        self._endings = sorted({name.partition("-")[0] for name in found})
        self.whole = [bytes([self._endings.index(name.partition("-")[0])]) + data for name, data in found.items()]

    def judge(self, data: bytes) -> str:
        """Return what is wrong with how an image is decoded."""
        ending = self._endings[data[0] % len(self._endings)]
        path = self._folder / f"a.{ending}"
        path.write_bytes(data[1:])
        return answer(lambda: other_than_pillow(path), path)


class Checkpoints:
    """Checkpoints with their right digest: any small archive, or a pickle beside the tensors of a real one."""

    def __init__(self, folder: Path) -> None:
        self._path, self._files = folder / "last.ckpt", CheckpointIO(folder)
        written = (trained(folder / "made", "logger=csv") / "checkpoints" / "last.ckpt").read_bytes()
        with zipfile.ZipFile(io.BytesIO(written)) as archive:
            self._members = {name: archive.read(name) for name in archive.namelist()}
        self._pickle = next(name for name in self._members if name.endswith("/data.pkl"))
        small = io.BytesIO()
        torch.save({"state_dict": {"a": torch.arange(3.0)}, "pytorch-lightning_version": "2"}, small)
        self.whole = [b"\0" + self._members[self._pickle], b"\1" + small.getvalue()]

    def judge(self, data: bytes) -> str:
        """Return what is wrong with how a checkpoint is read."""
        archive = data[1:] if data[0] % 2 else self._archive({**self._members, self._pickle: data[1:]})
        with self._path.open("w+b") as file, sealing_zip(file) as sealed:
            # A zip archive ends with the length of its comment, which its digest takes the place of.
            sealed.write(archive[:-2] + b"\0\0")
        return answer(lambda: "" if self._files.load_checkpoint(self._path) else "nothing was read", self._path)

    @staticmethod
    def _archive(members: dict[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()


class Models:
    """Model folders with their right digests, of which the description or the weights' header are any bytes."""

    def __init__(self, folder: Path) -> None:
        self._written, self._folder = trained(folder / "made", "logger=csv") / "model", folder / "model"
        shutil.copytree(self._written, self._folder)
        description = json.loads((self._written / "model.json").read_text())
        del description["digest"]
        weights = (self._written / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(weights[:8], "little")
        header, self._numbers = weights[:end], weights[end:]
        carried = json.loads(header[8:])["__metadata__"]["digest"].encode()
        self.whole = [b"\0" + json.dumps(description).encode(), b"\1" + header.replace(carried, PLACEHOLDER.encode())]

    def judge(self, data: bytes) -> str:
        """Return what is wrong with how a model folder is opened."""
        name = ("model.json", "model.safetensors")[data[0] % 2]
        path = self._folder / name
        # Not where a copy's hard link shares it
        path.unlink()
        path.write_bytes(self._sealed(data[1:]) if name == "model.json" else data[1:] + self._numbers)
        if name == "model.safetensors":
            # Without a place for a digest it is read as it is.
            with contextlib.suppress(AssertionError):
                seal_safetensors(path)
        fault = answer(lambda: "" if load_model(self._folder).network else "nothing was read", self._folder)
        path.unlink()
        shutil.copy(self._written / name, path)
        return fault

    @staticmethod
    def _sealed(data: bytes) -> bytes:
        try:
            return json.dumps(with_digest(json.loads(data))).encode()
        # No JSON of an object
        except (ValueError, TypeError, RecursionError):
            return data


KINDS: dict[str, Callable[[Path], Pictures | Checkpoints | Models]] = {
    "picture": Pictures,
    "checkpoint": Checkpoints,
    "model": Models,
}


def main() -> int:
    given = arguments()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    reader = KINDS[given.kind](folder)
    if given.replay:
        print(reader.judge(given.replay.read_bytes()) or "answered rightly")
        return 0

    def one(data: bytes) -> None:
        if data and (fault := reader.judge(data)):
            raise AssertionError(fault)

    corpus = given.corpus or folder / "corpus"
    (corpus / "grown").mkdir(parents=True, exist_ok=True)
    for number, whole in enumerate(reader.whole):
        (corpus / "grown" / f"whole-{number}").write_bytes(whole)
    largest = 2 * max(map(len, reader.whole))
    limits = [f"-max_total_time={given.seconds}", f"-max_len={largest}", "-rss_limit_mb=4096", "-timeout=70"]
    Unpickler.load = atheris.instrument_func(Unpickler.load)
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/found-", str(corpus / "grown")], one)
    atheris.Fuzz()
    return 0


def arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("kind", choices=KINDS, help="what is read")
    made.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    made.add_argument("--corpus", type=Path, help="where inputs and finds are kept (default a temporary folder)")
    made.add_argument("--replay", type=Path, help="try this input alone")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
