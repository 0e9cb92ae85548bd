"""R4: damaged pictures, tables, archives, checkpoints, models and settings are read rightly or refused by name."""

import bz2
import contextlib
import gzip
import io
import lzma
import random
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, features

from reliability_parts.drawn import picture
from reliability_parts.mutations import answer, mutated
from reliability_parts.row import Options, Outcome, Row
from reliability_parts.small_run import trained
from tlearn.archive import extract
from tlearn.config.compose import compose
from tlearn.config.relaunch import restored_arguments
from tlearn.data.decode import Decoder
from tlearn.data.sources.csv import CsvSource
from tlearn.models.backbones.weights import read_state_dict
from tlearn.runs.model import load_model
from tlearn.training.checkpoints import CheckpointIO

ROW = Row(
    "R4",
    "malformed inputs unnamed, read wrongly, hanging or over 300 MiB",
    "Whole files of each kind with bytes cut off, changed, taken out or put in are read as tlearn reads them: pictures "
    "of 16 kinds, which must be what Pillow alone decodes, tables, archives, whose files must be whole, weights, "
    "checkpoints and model folders, which must be refused if they differ at all, "
    "settings of stored runs and of option folders, where a refusal may name the key.",
)
# Of 50 cases
SHARES = {"picture": 25, "table": 7, "archive": 7, "weights": 3, "checkpoint": 3, "model": 2, "stored": 2, "option": 1}
# How a refusal names a key of the configuration
KEY = r"[a-z_.]+=|unknown key \S|[a-z_]+\.[a-z_]+|\w+ is (missing|required)|argument|values for \w+"
ARCHIVED = {"pets/cat/a.jpg": b"cat" * 100, "pets/dog/b.jpg": bytes(range(256)) * 4, "pets/list.txt": b"a\nb\n"}
# A plain tar has no checksum of its files' bytes.
PACKED = {"zip": None, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
Read = Callable[[random.Random, Path], str]


def run(options: Options) -> Iterator[Outcome]:
    """Damage a file a case."""
    readers = Readers(options.folder)
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    for number in range(options.cases(5000, 150)):
        kind = kinds[number * 7 % len(kinds)]
        case = f"{kind} {number}"
        if options.wants(case):
            folder = options.folder / "case"
            folder.mkdir()
            yield Outcome(case, getattr(readers, kind)(options.random(case), folder), kind)
            shutil.rmtree(folder)


OPTION = (
    b"# @package _global_\ndefaults: [override /head: mlp]\nseed: 3\noptimizer: {lr: 0.01}\ntrainer:\n  max_epochs: 3\n"
)


def pictures() -> dict[str, bytes]:
    """Return whole pictures of each kind, by ending and kind."""
    drawn, turned = picture(1, size=(61, 47)), Image.Exif()
    turned[274] = 6
    made: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "jpg": (drawn, {}),
        "jpg-progressive": (drawn, {"progressive": True}),
        "jpg-grey": (drawn.convert("L"), {}),
        "jpg-cmyk": (drawn.convert("CMYK"), {}),
        "jpg-turned": (drawn, {"exif": turned}),
        "png": (drawn, {}),
        "png-palette": (drawn.convert("P"), {"transparency": 3}),
        "png-alpha": (drawn.convert("RGBA"), {}),
        "gif": (drawn.convert("P"), {}),
        "bmp": (drawn, {}),
        "tiff": (drawn, {"compression": "tiff_lzw"}),
        "tiff-plain": (drawn, {}),
        "ppm": (drawn, {}),
        "webp": (drawn, {}),
        "webp-lossless": (drawn, {"lossless": True}),
    }
    if features.check("avif"):
        made["avif"] = (drawn, {})
    found = {}
    for name, (image, settings) in made.items():
        file = io.BytesIO()
        ending = name.partition("-")[0]
        image.save(file, {"jpg": "jpeg"}.get(ending, ending), **settings)
        found[name] = file.getvalue()
    return found


def tables() -> dict[str, bytes]:
    """Return whole tables by ending."""
    rows = [(f"{number}.jpg", ("cat", "d\u00f6g")[number % 2], ("train", "val")[number // 2]) for number in range(4)]
    lines = [("path", "label", "split"), *rows]
    json_lines = [f'{{"path": "{path}", "label": "{label}", "split": "{split}"}}' for path, label, split in rows]
    return {
        "csv": "\r\n".join(map(",".join, lines)).encode(),
        "tsv": "\n".join(map("\t".join, lines)).encode("utf-16"),
        "jsonl": "\n".join(json_lines).encode(),
    }


def packed(kind: str) -> bytes:
    """Return a whole archive."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in ARCHIVED.items():
                archive.writestr(name, content)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in ARCHIVED.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return PACKED[kind](file.getvalue())


def other_than_pillow(path: Path) -> str:
    """Decode an image; return how it differs from what Pillow alone decodes, or an empty text."""
    found = Decoder()(path).permute(1, 2, 0).numpy()
    try:
        with Image.open(path) as image:
            image.load()
            expected = image.copy()
            # Viewers pass by damaged metadata, and show the image as it is stored.
            with contextlib.suppress(SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error):
                expected = ImageOps.exif_transpose(image)
    except Exception as error:
        return f"decoded, and Pillow says {type(error).__name__}: {error}"
    if expected.has_transparency_data or expected.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
        return "" if found.shape[1::-1] == expected.size else "of another size"
    return "" if np.array_equal(found, np.array(expected.convert("RGB"))) else "other pixels than Pillow's"


class Readers:
    """Whole files of each kind, and how each is read once it is damaged: the result is what was wrong."""

    def __init__(self, folder: Path) -> None:
        self.drawn = pictures()
        self.run = trained(folder / "made", "logger=csv")
        self.loaded = load_model(self.run)
        self.rows = tables()
        self.packed = {kind: packed(kind) for kind in PACKED}
        weights = io.BytesIO()
        torch.save({"a.weight": torch.arange(40.0), "a.bias": torch.zeros(3)}, weights)
        self.saved = weights.getvalue()

    def picture(self, draw: random.Random, folder: Path) -> str:
        """Decode a picture, as Pillow would."""
        ending = draw.choice(list(self.drawn))
        path = folder / f"a.{ending.partition('-')[0]}"
        path.write_bytes(mutated(self.drawn[ending], draw))
        return answer(lambda: other_than_pillow(path), path)

    def table(self, draw: random.Random, folder: Path) -> str:
        """List the samples of a table."""
        ending = draw.choice(list(self.rows))
        path = folder / f"t.{ending}"
        path.write_bytes(mutated(self.rows[ending], draw))
        for number in range(4):
            (folder / f"{number}.jpg").write_bytes(b"never opened")

        def read() -> str:
            listed = CsvSource(path).listing()
            lost = [one.path for one in listed.samples if not (folder / one.path).is_file()]
            return f"{lost[0]} is listed, and there is no such file" if lost else ""

        return answer(read, path)

    def archive(self, draw: random.Random, folder: Path) -> str:
        """Unpack an archive."""
        kind = draw.choice(list(self.packed))
        path = folder / f"a.{kind}"
        path.write_bytes(mutated(self.packed[kind], draw))

        def read() -> str:
            extract(path, folder / "unpacked")
            found = [one.read_bytes() for one in (folder / "unpacked").rglob("*") if one.is_file()]
            return "" if all(one in ARCHIVED.values() for one in found) else "other bytes were unpacked"

        fault = answer(read, path)
        more = [one.name for one in folder.iterdir() if one.name not in (path.name, "unpacked")]
        return fault or (f"{more[0]} was left" if more else "")

    def weights(self, draw: random.Random, folder: Path) -> str:
        """Read weights of another program, which carry no digest."""
        path = folder / "w.pth"
        path.write_bytes(mutated(self.saved, draw))
        return answer(lambda: "" if read_state_dict(path) is not None else "nothing was read", path)

    def checkpoint(self, draw: random.Random, folder: Path) -> str:
        """Load a checkpoint that differs from what was written."""
        path = folder / "checkpoints" / "last.ckpt"
        whole = (self.run / "checkpoints" / "last.ckpt").read_bytes()
        path.parent.mkdir()
        path.write_bytes(mutated(whole, draw))
        same = path.read_bytes() == whole

        def read() -> str:
            CheckpointIO(folder).load_checkpoint(path)
            return "" if same else "a changed checkpoint was loaded"

        return answer(read, path)

    def model(self, draw: random.Random, folder: Path) -> str:
        """Load a model folder one file of which is damaged."""
        shutil.copytree(self.run / "model", folder / "model")
        path = folder / "model" / draw.choice(("model.json", "model.safetensors"))
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, draw))

        def read() -> str:
            found = load_model(folder / "model")
            same = found.description == self.loaded.description and all(
                torch.equal(one, other)
                for one, other in zip(
                    found.network.state_dict().values(), self.loaded.network.state_dict().values(), strict=True
                )
            )
            return "" if same else "another model was loaded"

        return answer(read, folder / "model")

    def stored(self, draw: random.Random, folder: Path) -> str:
        """Restore the arguments of a run whose settings are damaged."""
        shutil.copytree(self.run / ".hydra", folder / ".hydra")
        path = folder / ".hydra" / draw.choice(("overrides.yaml", "config.yaml", "hydra.yaml"))
        path.write_bytes(mutated(path.read_bytes(), draw))

        def read() -> str:
            compose(restored_arguments([f"resume={folder}"]), "train")
            return ""

        return answer(read, f"{KEY}|{re.escape(str(folder))}")

    def option(self, draw: random.Random, folder: Path) -> str:
        """Compose a damaged option."""
        path = folder / "experiment" / "mine.yaml"
        path.parent.mkdir()
        path.write_bytes(mutated(OPTION, draw))

        def read() -> str:
            compose(["experiment=mine"], "train", config_dir=folder)
            return ""

        return answer(read, f"{KEY}|{re.escape(str(path))}|mine")
