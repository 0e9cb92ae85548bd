"""What a machine can do at most, and how much of it tlearn uses, in one process that prints one JSON line.

python benchmarks/limits.py extract --data FOLDER --weights mobilenet_v2.pth --precision fp32
python benchmarks/limits.py decode --data FOLDER
python benchmarks/limits.py body --backbones resnet18,densenet121,mobilenet_v2
python benchmarks/limits.py gpu --data FOLDER --backbones resnet50,densenet121,vit_b_16
python benchmarks/limits.py batch --backbones densenet121,resnet50 --batch 64

A multiplication with its addition is two floating-point operations, in the peak and in the bodies alike: torch's own
counter counts both.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from measure import words
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform, complete, stack
from tlearn.features.extract import Extractor, Reader
from tlearn.models.allocator import keep_memory
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.graph.fold import fold
from tlearn.models.network import TransferNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# (channels in, channels out, kernel, height and width): convolutions as they occur in classifiers, all compute-bound
CONVOLUTIONS = {
    "3x3 64": (64, 64, 3, 56),
    "3x3 128": (128, 128, 3, 28),
    "3x3 256": (256, 256, 3, 14),
    "1x1 256": (256, 256, 1, 28),
    "1x1 512": (512, 512, 1, 14),
}


def files_below(folder: Path, count: int | None = None) -> list[Path]:
    """List the JPEG files, or as many of them, taken evenly."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder}: no JPEG files")
    return files if count is None else files[:: max(1, len(files) // count)][:count]


def synchronised(device: torch.device) -> float:
    """Return the time when the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def transform_of(backbone: TorchvisionBackbone) -> Transform:
    return Transform(complete(backbone.preprocessing(), {}))


def extractor(name: str, weights: str | None, dtype: torch.dtype, device: torch.device) -> Extractor:
    backbone = TorchvisionBackbone(name, weights)
    fixed = transform_of(backbone)
    return Extractor(backbone.build().module, Reader(Decoder(), fixed, fixed), dtype, [device])


def rate_of(made: Extractor, files: list[Path]) -> float:
    """Return pictures a second from files to features."""
    started = time.perf_counter()
    count = sum(len(features) for features in made([(path, None) for path in files]))
    return count / (time.perf_counter() - started)


def extract(options: argparse.Namespace) -> dict[str, float]:
    """Files to features as tlearn does it: pictures a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = extractor(options.backbones[0], options.weights, DTYPES[options.precision], device)
    files = files_below(options.data, options.image_set)
    return {"rate": rate_of(made, files), "pictures": len(files)}


def decode(options: argparse.Namespace) -> dict[str, float]:
    """Pictures a second on one thread: torchvision's bare decoder, tlearn's reading, the usual Pillow pipeline."""
    from baselines import evaluation_transforms
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)
    files = files_below(options.data, options.image_set or 60)
    contents = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files]
    transform = Transform(
        {"resize": 256, "size": 224, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.2] * 3}
    )
    reader, v1 = Reader(Decoder(), transform, transform), evaluation_transforms(256)

    def bare() -> None:
        for content in contents:
            decode_jpeg(content, ImageReadMode.RGB)

    def ours() -> None:
        for start in range(0, len(files), 16):
            transform.normalise(stack([reader((path, None)) for path in files[start : start + 16]]))

    def pillow() -> None:
        for path in files:
            with Image.open(path) as image:
                v1(image.convert("RGB"))

    seconds = rounds_of({"decode_jpeg": bare, "tlearn": ours, "Pillow, v1": pillow}, options.rounds)
    rates = {name: len(files) / statistics.median(values) for name, values in seconds.items()}
    return {
        **rates,
        "share of decode_jpeg": rates["tlearn"] / rates["decode_jpeg"],
        "times Pillow, v1": rates["tlearn"] / rates["Pillow, v1"],
    }


def rounds_of(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time jobs in turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def operations(module: nn.Module, images: Tensor) -> int:
    """Count the floating-point operations of a forward pass, two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops()


def body(options: argparse.Namespace) -> dict[str, float]:
    """GFLOP/s of bodies on one thread, as they are and folded, and their share of the fastest convolution's."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with keep_memory(torch.device("cpu")), torch.inference_mode():
        for kind in words(options.precision):
            dtype = DTYPES[kind]
            jobs, counts = convolutions(dtype, options.batch)
            for name in options.backbones:
                module = TorchvisionBackbone(name, None).build().module.eval()
                images = torch.randn(options.batch, 3, 224, 224)
                counts[name] = counts[f"{name} folded"] = operations(module, images)
                images = images.to(dtype, memory_format=torch.channels_last)
                jobs[f"{name} folded"] = partial(fold(module).to(dtype), images)
                jobs[name] = partial(module.to(dtype, memory_format=torch.channels_last), images)
            seconds = rounds_of(jobs, options.rounds)
            # The limit is the best that was seen; a body's is what it usually does.
            peak = max(counts[name] / min(seconds[name]) for name in CONVOLUTIONS)
            figures[f"{kind} peak GFLOP/s"] = peak / 1e9
            for name in [name for name in jobs if name not in CONVOLUTIONS]:
                speed = counts[name] / statistics.median(seconds[name])
                figures[f"{kind} {name} share"] = speed / peak
                figures[f"{kind} {name} pictures/s"] = options.batch / statistics.median(seconds[name])
    return figures


def convolutions(dtype: torch.dtype, batch: int) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    jobs: dict[str, Callable[[], Any]] = {}
    counts: dict[str, float] = {}
    for name, (width, out, kernel, side) in CONVOLUTIONS.items():
        layer = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
        images = torch.randn(batch, width, side, side)
        once = operations(layer, images)
        # Long enough to be timed: about half a second at 100 GFLOP/s
        times = max(1, round(5e10 / once))
        layer.to(dtype, memory_format=torch.channels_last)
        images = images.to(dtype, memory_format=torch.channels_last)
        jobs[name], counts[name] = partial(_repeat, layer, images, times), once * times
    return jobs, counts


def _repeat(layer: nn.Module, images: Tensor, times: int) -> None:
    for _ in range(times):
        layer(images)


class _Bare(Dataset):
    """The size of each picture: reading and decoding without anything after it."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> int:
        from torchvision.io import ImageReadMode, decode_image, read_file

        return decode_image(read_file(str(self._files[index])), ImageReadMode.RGB).numel()


def gpu(options: argparse.Namespace) -> dict[str, float]:
    """Files to features on a GPU, as a share of what decoding on all cores or the body alone would allow."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    files = list(islice(cycle(files_below(options.data)), options.image_set or 8192))
    figures: dict[str, float] = {}
    rates = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        for _ in DataLoader(_Bare(files), 256, num_workers=cores):
            pass
        rates.append(len(files) / (time.perf_counter() - started))
    figures["decode_jpeg, all cores"] = max(rates)
    for kind in words(options.precision):
        for name in options.backbones:
            made = extractor(name, None, DTYPES[kind], device)
            rate_of(made, files[:512])
            rate = statistics.median(rate_of(made, files) for _ in range(options.rounds))
            alone = body_rate(made, options.batch, device, options.rounds)
            figures[f"{kind} {name} pictures/s"] = rate
            figures[f"{kind} {name} body alone"] = alone
            figures[f"{kind} {name} share of the lower limit"] = rate / min(alone, max(rates))
    return figures


def body_rate(made: Extractor, batch: int, device: torch.device, rounds: int) -> float:
    """Return pictures a second of the folded body, with pixels that are on the device: the best of the rounds."""
    size = made.reader.fixed.size
    # With channels last, as workers hand them over
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device).movedim(-1, -3)
    repeats = 20 if device.type == "cuda" else 1
    best = 0.0
    with torch.inference_mode():
        for _ in range(rounds + 1):
            started = synchronised(device)
            for _ in range(repeats):
                made._features(made._bodies[0], pixels)
            best = max(best, repeats * batch / (synchronised(device) - started))
    return best


def batch(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds of forward, backward and step on each kind of device: the median after one that does not count.

    The body is frozen and the head the course's; once as tlearn holds them, once as the course does: in train mode.
    """
    figures: dict[str, float] = {}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        images = torch.randn(options.batch, 3, 224, 224, device=device)
        targets = torch.randint(0, 2, (options.batch,), device=device)
        for name in options.backbones:
            for kind in ("tlearn", "as the course has it"):
                body = TorchvisionBackbone(name, None).build()
                hidden = nn.Linear(body.num_features, 256)
                head = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2), nn.LogSoftmax(dim=1))
                if kind == "tlearn":
                    network: nn.Module = TransferNetwork(body.module, head).to(memory_format=torch.channels_last)
                else:
                    network = nn.Sequential(body.module.requires_grad_(False), head)
                step = partial(_step, network.to(device).train(), Adam(head.parameters(), lr=0.003), images, targets)
                [seconds] = rounds_of({name: step}, options.rounds).values()
                figures[f"{device}, {name}, {kind}: seconds"] = statistics.median(seconds)
    return figures


def _step(network: nn.Module, optimizer: Adam, images: Tensor, targets: Tensor) -> float:
    optimizer.zero_grad()
    loss = F.nll_loss(network(images), targets)
    loss.backward()
    optimizer.step()
    # The loss is there before the step is.
    synchronised(images.device)
    return loss.item()


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    part.__name__: part for part in (extract, decode, body, gpu, batch)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="folder with JPEG files at any depth")
    parser.add_argument("--weights", help="extract: state dict file; without it, random weights")
    parser.add_argument("--backbones", type=words, default=["mobilenet_v2"], help="names of torchvision's classifiers")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, or both with a comma (body and gpu)")
    parser.add_argument("--pictures", type=int, help="as many files only (decode: 60; gpu: 8192, repeated)")
    parser.add_argument("--batch", type=int, default=16, help="pictures in a pass of body, gpu and batch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.part not in ("body", "batch") and options.data is None:
        parser.error("--data is needed")
    # of torchvision: that its decoders will move to another package
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
    print(json.dumps(PARTS[options.part](options)), flush=True)


if __name__ == "__main__":
    main()
