"""Decide whether the frozen part's features are computed once, and if so, let the run train on them."""

import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from tlearn.assemble import cache, decoder, names
from tlearn.cli import is_main_process
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.sampling import draw_seed
from tlearn.errors import BadImageError, ConfigError
from tlearn.features import precision
from tlearn.features.compute import compute
from tlearn.features.datamodule import FeatureDataModule
from tlearn.features.extract import Extractor, Item, Reader
from tlearn.features.room import prune
from tlearn.features.store import Rows, Space, picture_key
from tlearn.logistic import FullBatch
from tlearn.models.network import TransferNetwork, fingerprint
from tlearn.models.split import FrozenPart, NotDivisibleError
from tlearn.parallel import DataParallelStrategy

# Part of what features are valid for: raise it when the way they are computed changes.
_FORMAT = 1
# Pictures on which another precision is tried
_TRIED = 16


def cached(
    config: DictConfig,
    chosen: Any,
    network: TransferNetwork,
    images: ImageDataModule,
    preprocessing: dict[str, Any],
    trainer: Trainer,
    optimizer: Any,
) -> SplitDataModule:
    """Give features in place of the pictures where the run can train on them, or the pictures; say which, and why.

    With features, the network takes them in place of images from now on.

    Raises:
        ConfigError: they are asked for and cannot be had.
    """
    full_batch = isinstance(optimizer, FullBatch)
    found = _frozen_part(config, network, preprocessing["size"], trainer, full_batch)
    if isinstance(found, FrozenPart):
        found = _room(config, found, images, preprocessing) or found
    if isinstance(found, str):
        if config.features.mode == "cache" or full_batch:
            asked = "features=cache" if config.features.mode == "cache" else "optimizer=lbfgs"
            raise ConfigError(f"{asked} needs features that are computed once, and they are not: {found}")
        _say(f"features: on the fly, because {found}")
        return images
    rows = _rows(config, chosen, found, images, preprocessing, trainer)
    network.start_after(found)
    return FeatureDataModule(images, rows, full_batch)


def _frozen_part(
    config: DictConfig, network: TransferNetwork, size: int, trainer: Trainer, full_batch: bool
) -> FrozenPart | str:
    """Give the part of the body that can never change in this run, or why its output is not kept."""
    transforms, mode = config.transforms, config.features.mode
    if mode == "off":
        return "features=off"
    if config.trainer.fast_dev_run and mode == "auto":
        return "trainer.fast_dev_run takes single batches"
    if transforms.mixup_alpha or transforms.cutmix_alpha:
        return "transforms.mixup_alpha and cutmix_alpha mix pictures"
    if transforms.train and config.features.views is None:
        return "transforms.train is random (features.views=4 would keep four views of each picture)"
    if full_batch and config.features.views is not None:
        raise ConfigError("optimizer=lbfgs fits one view of each picture: choose transforms=none")
    try:
        part = network.frozen_part(size, names(config.finetune.later_stages))
    except NotDivisibleError as error:
        return str(error)
    if part.rest is not None and isinstance(trainer.strategy, DataParallelStrategy):
        return "trainer=dp copies whole networks"
    return part


def _room(config: DictConfig, part: FrozenPart, images: ImageDataModule, preprocessing: dict[str, Any]) -> str | None:
    """Tell why the features are too many, if they are."""
    row_bytes = (2 if config.features.precision == "bf16" else 4) * math.prod(part.shape)
    versions = 1 if part.rest is None else max(1, len(preprocessing["average"]))
    count = sum(len(dataset) for dataset in images.datasets.values())
    count += len(images.datasets["train"]) * ((config.features.views or 1) - 1)
    gigabytes = row_bytes * versions * count / 1e9
    if gigabytes <= config.features.limit_gb:
        return None
    return f"they would take {gigabytes:.1f} GB, more than features.limit_gb={config.features.limit_gb:g}"


def _rows(
    config: DictConfig,
    chosen: Any,
    part: FrozenPart,
    images: ImageDataModule,
    preprocessing: dict[str, Any],
    trainer: Trainer,
) -> dict[str, list[Rows]]:
    """Read or compute the features of each split, those of train once for each view."""
    device, root = trainer.strategy.root_device, cache(config) / "features"
    groups = _groups(config, images)
    items = [item for _, group in groups for item, _ in group]
    keys = [_key(path, version) for _, group in groups for (path, _), version in group]
    recipe = _recipe(config, chosen, part, preprocessing, device)
    spaces = {kind: Space(root, {**recipe, "precision": kind}) for kind in precision.DTYPES}
    reader = Reader(decoder(config), images.transforms["val"], images.transforms["train"])
    make = partial(Extractor, part.module, reader, device=device, average=part.rest is None)
    complete = spaces["bf16"].find(keys)[0] is not None
    kind = "bf16" if complete and _wants_bf16(config, device) else _precision(config, device, make, items)
    stop = config.features.on_write_error == "stop"
    rows = compute(spaces[kind], items, keys, partial(make, dtype=precision.DTYPES[kind]), stop)
    prune(root, config.features.limit_gb * 1e9)
    _say(f"features: of {part.name}, computed once ({len(keys):,} x {list(rows.shape[1:])}, {kind})")
    found: dict[str, list[Rows]] = {}
    start = 0
    for split, group in groups:
        found.setdefault(split, []).append(rows.chosen(torch.arange(start, start + len(group))))
        start += len(group)
    return found


def _key(path: Path, version: str) -> bytes:
    try:
        return picture_key(path, version)
    except OSError as error:
        raise BadImageError(path, f"cannot be read ({error.strerror})") from error


def _groups(config: DictConfig, images: ImageDataModule) -> list[tuple[str, list[tuple[Item, str]]]]:
    """List the pictures of each split, and of each view of train, with what is drawn for them."""
    root, groups = images.pictures.root, []
    steps = OmegaConf.to_container(config.transforms.train, resolve=True)
    drawn = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
    for split, dataset in images.datasets.items():
        views = config.features.views if split == "train" else None
        for view in range(views or 1):
            group: list[tuple[Item, str]] = []
            for path in dataset.paths:
                draw = None if views is None else draw_seed(0, view, path)
                group.append(((root / path, draw), "" if draw is None else f"{drawn}/{draw}"))
            groups.append((split, group))
    return groups


def _wants_bf16(config: DictConfig, device: torch.device) -> bool:
    asked = config.features.precision
    return asked == "bf16" or (asked == "auto" and precision.has_bf16(device))


def _precision(config: DictConfig, device: torch.device, make: Callable[..., Extractor], items: list[Item]) -> str:
    """Choose fp32, or bf16 if it is wanted and changes no features; ConfigError where it is asked for and does."""
    if not _wants_bf16(config, device):
        return "fp32"
    some = items[:: max(1, len(items) // _TRIED)][:_TRIED]
    exact, close = (torch.cat(list(make(dtype=dtype)(some))) for dtype in (torch.float32, torch.bfloat16))
    similarity = precision.similarity(exact, close)
    if config.features.precision == "bf16":
        precision.check_similarity(similarity)
    return "bf16" if precision.is_similar(similarity) else "fp32"


def _recipe(
    config: DictConfig,
    chosen: Any,
    part: FrozenPart,
    preprocessing: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Describe all that features depend on, but for the precision, the single picture and what is drawn for it."""
    return {
        "format": _FORMAT,
        "backbone": {**chosen.architecture(), "replace": config.head.replace, "part": part.name},
        "weights": fingerprint(part.module.state_dict()),
        "preprocessing": preprocessing,
        "decoder": vars(decoder(config)) | {"alpha_background": list(config.data.alpha_background)},
        "device": device.type,
        "versions": {library.__name__: library.__version__ for library in (torch, torchvision, PIL)},
    }


def _say(message: str) -> None:
    if is_main_process():
        print(message, flush=True)
