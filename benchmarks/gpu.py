"""What tlearn does on a GPU beside what the GPU and the decoder could do: rows of one table, see gpu.sh.

Each row stands alone: one that fails says so, stops nothing and is named again at the end, with exit status 1; one for
which no time is left is not begun.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import body_rate, rate_of, synchronised
from measure import machine, words
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform, complete
from tlearn.features.extract import Extractor, Reader
from tlearn.features.precision import DTYPES, similarity
from tlearn.machine import available_cpus, has_bf16, has_tf32
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.device import FittingParts, float32
from tlearn.models.network import TransferNetwork
from tlearn.training.data_parallel import split_over

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
KINDS = ["fp32", *(["tf32"] if has_tf32(DEVICE) else []), *(["bf16"] if GPU and has_bf16(DEVICE) else [])]
STARTED = time.monotonic()


class Table:
    """Rows as they come, printed and kept in a file."""

    def __init__(self, seconds: float, output: Path | None) -> None:
        self._until, self._output = STARTED + seconds, output
        self._rows: dict[str, Any] = {"machine": machine()}
        self.failed: list[str] = []

    def measure(self, name: str, job: Callable[[], Any], needs: float = 20.0) -> Any:
        """Run a job if there is time for it, and keep what it returns."""
        if time.monotonic() + needs > self._until:
            found: Any = "skipped: no time left"
        else:
            try:
                found = job()
            except Exception as error:
                found = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        # Rows that are to end with a refusal, or for want of memory, say so after a colon in their names.
        if str(found).startswith(("failed", "status 1:", "status -") if ": " in name else ("failed", "status")):
            self.failed.append(name)
        self._rows[name] = found
        print(f"[{time.monotonic() - STARTED:4.0f} s] {name}: {found}", flush=True)
        if self._output is not None:
            self._output.write_text(json.dumps(self._rows, indent=1) + "\n", encoding="utf-8")
        return found


def draw(folder: Path, number: int, side: int) -> Path:
    """Write a JPEG with the detail of a photograph: smooth colours of one of three classes, and noise."""
    random = np.random.default_rng(number)
    colours = random.integers(0, 256, (side // 12, side // 9, 3))
    colours[..., number % 3] //= 2
    smooth = Image.fromarray(colours.astype(np.uint8)).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, dtype=np.float32) + random.normal(0, 7, (side, side * 4 // 3, 3))
    split = ("train", "train", "train", "val", "test")[number // 3 % 5]
    path = folder / split / "rgb"[number % 3] / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def decode_rate(files: list[Path]) -> float:
    """Return JPEGs a second of the bare decoder on all CPUs."""
    contents = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files]
    torch.set_num_threads(1)
    with ThreadPoolExecutor(available_cpus()) as pool:
        started = time.perf_counter()
        list(pool.map(lambda content: decode_jpeg(content, ImageReadMode.RGB).shape, contents))
    return len(contents) / (time.perf_counter() - started)


def network_of(name: str) -> tuple[nn.Module, Reader]:
    """Build a random body with BatchNorm statistics under which nothing vanishes, and what reads images for it."""
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name, None)
    fixed = Transform(complete(backbone.preprocessing(), {}))
    body = backbone.build().module.train().to(DEVICE)
    with torch.no_grad():
        body(torch.rand(8, 3, fixed.size, fixed.size, device=DEVICE))
    return body.eval().requires_grad_(False), Reader(Decoder(), fixed, fixed)


@contextmanager
def in_kind(kind: str) -> Iterator[torch.dtype]:
    with float32(tf32=kind == "tf32"):
        yield DTYPES[kind]


def extraction(name: str, kind: str, files: list[Path], decoded: Any) -> dict[str, float]:
    """Files to features a second, as a share of the lower of what the decoder and the body allow."""
    body, reader = network_of(name)
    with in_kind(kind) as dtype:
        made = Extractor(body, reader, dtype, [DEVICE])
        rate_of(made, files[:128])
        rate = rate_of(made, files)
        alone = body_rate(made, 64 if GPU else 4, DEVICE, 2)
    limit = min(alone, decoded) if isinstance(decoded, float) else alone
    return {"pictures/s": rate, "body alone": alone, "share of the lower limit": rate / limit}


def likeness(name: str, kind: str, files: list[Path]) -> dict[str, float]:
    """Compare features of the device with those of the CPU in fp32."""
    body, reader = network_of(name)
    items = [(path, None) for path in files[:48]]
    exact = torch.cat(list(Extractor(body.cpu(), reader)(items)))
    with in_kind(kind) as dtype:
        found = torch.cat(list(Extractor(body, reader, dtype, [DEVICE], workers=0)(items))).float()
    return {"relative difference": float((found - exact).norm() / exact.norm()), "cosine": similarity(exact, found)}


def parallel(dtype: torch.dtype | None) -> dict[str, float]:
    """Compare DataParallel over one GPU twice with the network alone."""
    body, reader = network_of("resnet18")
    network = TransferNetwork(body, nn.Linear(512, 3)).to(DEVICE).eval()
    images = torch.rand(16, 3, reader.fixed.size, reader.fixed.size, device=DEVICE)
    with float32(), torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype is not None):
        one, two = network(images).float(), split_over(network, [0, 0])(images)
    return {"largest difference": float((one - two).abs().max()), "largest logit": float(one.abs().max())}


def halving() -> dict[str, int]:
    """Count the failures in nine batches of which a quarter fits."""
    fitting, failed = FittingParts(), []

    def compute(rows: Tensor) -> Tensor:
        if len(rows) > 16:
            failed.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.to(DEVICE)

    for _ in range(9):
        fitting(compute, torch.zeros(64, 1))
    return {"failures": len(failed), "size kept": fitting.most or 0}


def training_rate(name: str, batch: int) -> float:
    """Return images a second of whole training steps, with a batch that is on the device already."""
    body, reader = network_of(name)
    width = body(torch.zeros(1, 3, reader.fixed.size, reader.fixed.size, device=DEVICE)).shape[1]
    network = TransferNetwork(body, nn.Linear(width, 3), "all").to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    images = torch.rand(batch, 3, reader.fixed.size, reader.fixed.size, device=DEVICE)
    images, targets = images.to(memory_format=torch.channels_last), torch.arange(batch, device=DEVICE) % 3
    steps = 20 if GPU else 1
    started = 0.0
    for step in range(steps + 3):
        started = synchronised(DEVICE) if step == 3 else started
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = F.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * batch / (synchronised(DEVICE) - started)


def train(folder: Path, name: str, *overrides: str) -> dict[str, float] | str:
    """Train by the command line, and return its losses and seconds, or its last line."""
    run = folder / "runs" / name.replace(" ", "_")
    given = ["data=folder", f"data.root={folder / 'pictures'}", "backbone=resnet18", "backbone.weights=null"]
    given += ["report=off", "trainer.max_epochs=2", *([] if GPU else ["transforms.size=64", "data.num_workers=0"])]
    command = [sys.executable, "-m", "tlearn.train", *given, *overrides, f"hydra.run.dir={run}"]
    environment = {**os.environ, "TLEARN_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:150]}"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {key: metrics[key] for key in ("val/loss", "test/loss", "test/top1", "time/fit_s", "time/total_s")}


def runs() -> dict[str, tuple[str, ...]]:
    """List the trainings: what is told apart by one override is compared by its losses."""
    if not GPU:
        return {"cached": ("trainer=cpu",), "images": ("trainer=cpu", "features=off")}
    full, dp = ("trainer=gpu", "finetune=full"), ("trainer=dp", "trainer.strategy.devices=[0,0]")
    return {
        "on the CPU": ("trainer=cpu",),
        "cached": ("trainer=gpu",),
        "images": ("trainer=gpu", "features=off"),
        "images, all CPUs decode": ("trainer=gpu", "features=off", f"data.num_workers={available_cpus() - 1}"),
        "dp, cached": dp,
        "dp, images": (*dp, "features=off"),
        "ddp, one process": ("trainer=ddp", "trainer.devices=1"),
        **{f"full, {kind}": (*full, f"trainer.precision={kind}") for kind in ("32-true", "bf16-mixed", "bf16-true")},
        "full batch, 16-mixed: refused": ("trainer=gpu", "module=full_batch", "trainer.precision=16-mixed"),
        "out of memory: one line": (*full, "data.batch_size=100000", "transforms.size=1024"),
    }


def main() -> str | None:
    """Measure all rows, and return which have failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520, help="no row is begun that would end later (520)")
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file, after each one")
    parser.add_argument("--pictures", type=int, default=2400 if GPU else 60, help="how many are drawn")
    default = "resnet50,densenet121,vit_b_16" if GPU else "mobilenet_v3_small"
    parser.add_argument("--backbones", type=words, default=words(default), help=f"of torchvision ({default})")
    options = parser.parse_args()
    table = Table(options.seconds, options.output)
    table.measure("device", lambda: torch.cuda.get_device_name(DEVICE) if GPU else "the CPU, as there is no GPU", 0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with ThreadPoolExecutor(available_cpus()) as pool:
            side = 375 if GPU else 120
            files = list(pool.map(lambda number: draw(folder / "pictures", number, side), range(options.pictures)))
        many = list(islice(cycle(files), 3 * len(files) if GPU else len(files)))
        decoded = table.measure("decode_jpeg, all CPUs, pictures/s", partial(decode_rate, many))
        for name in options.backbones:
            for kind in KINDS:
                table.measure(
                    f"extract {name} {kind}", partial(extraction, name, kind, many, decoded), 40 if GPU else 5
                )
                table.measure(f"features of {name} {kind} beside the CPU's", partial(likeness, name, kind, files))
        table.measure("halving, nine batches", halving, 1)
        if GPU:
            for dtype in (None, torch.bfloat16, torch.float16):
                table.measure(f"dp on [0,0], {dtype or 'float32'}", partial(parallel, dtype))
        name = options.backbones[0]
        table.measure(f"train {name} bf16-mixed, images/s", partial(training_rate, name, 64 if GPU else 4))
        for label, overrides in runs().items():
            table.measure(f"run {label}", partial(train, folder, label, *overrides), 45 if GPU else 10)
    return f"failed: {', '.join(table.failed)}" if table.failed else None


if __name__ == "__main__":
    sys.exit(main())
