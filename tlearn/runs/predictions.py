"""Compute what a model makes of images: their logits or features, or their most probable classes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import TypeVar

import torch
from torch import Tensor

from tlearn.analysis.answers import Answer, draw_answers
from tlearn.analysis.drawing import notebook_bytes
from tlearn.console import percent, say
from tlearn.data.bit_depth import depth_note
from tlearn.data.dataset import ImageInputDataset
from tlearn.data.image_inputs import ImageInput
from tlearn.data.loader import EpochLoader, worker_options
from tlearn.data.transforms import Transform, stack
from tlearn.data.workers import default_workers
from tlearn.errors import BadImageError, ConfigError, capped
from tlearn.models.allocator import keep_memory
from tlearn.models.device import FittingParts, float32, require_cuda
from tlearn.models.network import evaluating
from tlearn.ranges import require
from tlearn.runs.model import Model

Result = TypeVar("Result")
# Images of a figure that a notebook shows
_MOST_DRAWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """An image as it was given, and its most probable classes with their probabilities, best first."""

    image: ImageInput
    best: list[tuple[str, float]]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.best[0][0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.best[0][1]

    def __repr__(self) -> str:
        place = f" ({self.image})" if isinstance(self.image, str | PathLike) else ""
        return f"{self.label} {percent(self.probability)}{place}"

    def _repr_png_(self) -> bytes:
        """Draw the image beside its classes, as notebooks ask for."""
        return _drawn([self])


class Predictions(list[Prediction]):
    """The predictions of several images, in their order."""

    def __repr__(self) -> str:
        return "[" + capped(map(repr, self), separator=",\n ") + "]"

    def _repr_png_(self) -> bytes:
        """Draw the first images beside their classes, as notebooks ask for."""
        return _drawn(self[:_MOST_DRAWN])


def _drawn(predictions: Sequence[Prediction]) -> bytes:
    return notebook_bytes(draw_answers([Answer(one.image, one.label, one.best) for one in predictions]))


def predictions_of(
    model: Model,
    images: Sequence[ImageInput],
    *,
    topk: int = 1,
    calibrated: bool = True,
    batch_size: int = 32,
    num_workers: int | None = None,
) -> Iterator[Prediction | BadImageError]:
    """Predict the classes of images, in order; of one that cannot be read, yield the reason.

    Args:
        model: a finished one.
        images: files or pixels.
        topk: how many classes of each image.
        calibrated: probabilities as the model's temperature makes them, or as the network gives them.
        batch_size: images that are computed at once.
        num_workers: processes that decode; None: from the CPUs this process may use.

    Raises:
        ConfigError: the model knows fewer classes, or a value is out of its range.
    """
    require("topk", topk)
    if topk > len(model.classes):
        raise ConfigError(f"topk={topk}: the model knows {len(model.classes)} classes")
    temperature = model.temperature if calibrated else 1.0

    def most_probable(logits: Tensor) -> list[list[tuple[str, float]]]:
        top = (logits / temperature).softmax(1).topk(topk)
        return [
            [(model.classes[index], share) for share, index in zip(*row, strict=True)]
            for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]

    loading = {"batch_size": batch_size, "num_workers": num_workers}
    answers = results_of(model, images, model.network, most_probable, **loading)  # type: ignore[arg-type]
    for image, best in zip(images, answers, strict=True):
        yield best if isinstance(best, BadImageError) else Prediction(image, best)


def results_of(
    model: Model,
    images: Sequence[ImageInput],
    compute: Callable[[Tensor], Tensor],
    answer: Callable[[Tensor], Iterable[Result]],
    *,
    batch_size: int = 32,
    num_workers: int | None = None,
) -> Iterator[Result | BadImageError]:
    """Compute something of each image on the device of the network, in order; yield why one cannot be read.

    Args:
        model: a finished one, whose network is in eval mode meanwhile.
        images: files or pixels.
        compute: network inputs [N, 3, S, S], or [N, V, 3, S, S] of V versions -> outputs [N, ...]; in parts, if not all
            of a batch fit into the memory of the device.
        answer: these -> N results.
        batch_size: images that are computed at once.
        num_workers: processes that decode; None: from the CPUs this process may use.
    """
    require("batch_size", batch_size)
    require("num_workers", num_workers)
    network, transform = model.network, Transform(model.description["preprocessing"])
    device = next(network.parameters()).device
    dataset = ImageInputDataset(images, model.decoder, transform.pixels)
    index, needed, fitting = 0, set[int](), FittingParts()

    def outputs(pixels: Tensor) -> Tensor:
        return compute(transform.normalise(pixels.to(device)))

    batch_bytes = 3 * transform.size**2 * len(transform.versions) * batch_size
    # For a single batch it would not pay: to return what is kept takes time for all that the process has in memory.
    with keep_memory(device) if len(images) > batch_size else nullcontext():
        for batch in _loader(dataset, batch_size, num_workers, batch_bytes):
            readable = [pixels for pixels, _, _ in batch if pixels is not None]
            results: Iterator[Result] = iter(())
            if readable:
                with torch.no_grad(), evaluating(network), float32():
                    results = iter(answer(fitting(outputs, stack(readable))))
            for pixels, reason, bits in batch:
                image = images[index]
                name = str(image) if isinstance(image, str | PathLike) else f"image {index}"
                yield BadImageError(name, reason) if pixels is None else next(results)
                needed.add(bits)
                index += 1
    if note := depth_note(needed):
        say(note)


def _loader(dataset: ImageInputDataset, batch_size: int, num_workers: int | None, batch_bytes: int) -> EpochLoader:
    workers = default_workers() if num_workers is None else num_workers
    # A single image is done before a worker has started, and pixels need none.
    in_files = all(isinstance(image, str | PathLike) for image in dataset.images)
    workers = min(workers, len(dataset) // batch_size) if in_files else 0
    # The loader draws a seed: from a generator of its own, so that the caller's random numbers stay as they are.
    generator = torch.Generator().manual_seed(0)
    options = worker_options(workers, batch_bytes)
    return EpochLoader(dataset, batch_size, collate_fn=list, generator=generator, **options)


def device_of(name: str | torch.device) -> torch.device:
    """Return the device that auto (a GPU of NVIDIA's or Apple's if there is one), cpu or cuda stands for.

    Raises:
        ConfigError: there is no GPU.
    """
    require("device", name := str(name))
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        require_cuda(f"device={name}", "device=cpu")
    gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [kind for kind, is_there in gpus.items() if is_there]
    return torch.device("cpu" if name == "cpu" or not found else found[0])
