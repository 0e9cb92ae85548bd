"""Predictions: the most probable classes of images, with their probabilities."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tlearn.data.datamodule import default_workers
from tlearn.data.dataset import ImageFileDataset
from tlearn.data.transforms import Transform, stack
from tlearn.errors import BadImageError, ConfigError
from tlearn.runs.model import Model


class Prediction(NamedTuple):
    """An image's file, and its most probable classes with their probabilities, best first."""

    path: str
    best: list[tuple[str, float]]


def predict_files(
    model: Model,
    paths: Sequence[Path],
    *,
    topk: int = 1,
    calibrated: bool = True,
    batch_size: int = 32,
    num_workers: int | None = None,
    device: str = "auto",
) -> Iterator[Prediction | BadImageError]:
    """Predict the classes of image files, in order; of one that cannot be read, yield the reason.

    Args:
        model: whose network is moved to the device.
        paths: the files.
        topk: how many classes of each image.
        calibrated: probabilities as the model's temperature makes them, or as the network gives them.
        batch_size: images that are computed at once.
        num_workers: processes that decode; None: from the CPUs this process may use.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: the model knows fewer classes, or there is no GPU.
    """
    if topk > len(model.classes):
        raise ConfigError(f"topk={topk}: the model knows {len(model.classes)} classes")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: there is no GPU that this torch can use; choose auto or cpu")
    transform = Transform(model.description["preprocessing"])
    dataset = ImageFileDataset(paths, model.decoder, transform.pixels)
    workers = default_workers() if num_workers is None else num_workers
    # A single image is done before a worker has started.
    workers = min(workers, len(paths) // batch_size)
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=list)
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model.network.to(chosen)

    def most_probable(images: Sequence[Tensor]) -> list[list[tuple[str, float]]]:
        with torch.inference_mode():
            logits = model.network(transform.normalise(stack(images).to(chosen)))
        return name_classes(model, logits, topk, calibrated)

    return _in_order(paths, loader, most_probable)


def _in_order(
    paths: Sequence[Path], loader: DataLoader, most_probable: Callable[[Sequence[Tensor]], list[Any]]
) -> Iterator[Prediction | BadImageError]:
    """Yield the prediction of each image that can be read, and the reason of each other, in the order of the files."""
    remaining = iter(paths)
    for batch in loader:
        images = [image for image, _ in batch if image is not None]
        best = iter(most_probable(images) if images else [])
        for image, reason in batch:
            path = next(remaining)
            yield BadImageError(path, reason) if image is None else Prediction(str(path), next(best))


def name_classes(model: Model, logits: Tensor, topk: int, calibrated: bool) -> list[list[tuple[str, float]]]:
    """Return the `topk` most probable classes of each row of logits [N, num_classes], with their probabilities."""
    top = (logits / (model.temperature if calibrated else 1.0)).softmax(1).topk(topk)
    return [
        [(model.classes[index], share) for share, index in zip(*row, strict=True)]
        for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
