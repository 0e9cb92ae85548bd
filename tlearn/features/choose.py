"""Decide whether the frozen part's features are computed once, and if so, let the run train on them."""

import math
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from tlearn.config.build import cache, decoder, names
from tlearn.console import is_main_process
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.sampling import draw_seed
from tlearn.errors import BadImageError, ConfigError
from tlearn.features import precision
from tlearn.features.compute import compute
from tlearn.features.datamodule import FeatureDataModule
from tlearn.features.extract import Extractor, Item, Reader
from tlearn.features.prune import prune
from tlearn.features.store import Rows, Space, picture_key
from tlearn.models.graph.divide import FrozenPart, NotDivisibleError
from tlearn.models.network import TransferNetwork, fingerprint
from tlearn.training.ddp import DataParallelStrategy

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
    full_batch: bool,
) -> SplitDataModule:
    """Give features in place of the pictures where the run can train on them, or the pictures; say which, and why.

    With features, the network takes them in place of images from now on.

    Args:
        config: the run's.
        chosen: the backbone.
        network: whose frozen part computes them.
        images: the pictures.
        preprocessing: the completed transforms.
        trainer: on whose device they are computed.
        full_batch: the run needs all features at once.

    Raises:
        ConfigError: they are asked for and cannot be had.
    """
    part = _frozen_part(config, network, preprocessing["size"], trainer)
    if isinstance(part, FrozenPart):
        part = _room(config, part, images, preprocessing) or part
    if full_batch and (config.features.views is not None or trainer.world_size > 1):
        raise ConfigError("optimizer=lbfgs fits one view of all pictures in one process: transforms=none, one device")
    if isinstance(part, str):
        if config.features.mode == "cache" or full_batch:
            asked = "features=cache" if config.features.mode == "cache" else "optimizer=lbfgs"
            raise ConfigError(f"{asked} needs features that are computed once, and they are not: {part}")
        _say(f"features: on the fly, because {part}")
        return images
    rows = _Features(config, chosen, part, images, preprocessing, trainer.strategy.root_device).rows()
    network.start_after(part)
    return FeatureDataModule(images, rows, full_batch)


def _frozen_part(config: DictConfig, network: TransferNetwork, size: int, trainer: Trainer) -> FrozenPart | str:
    """Give the part of the body that can never change in this run, or why its output is not kept."""
    transforms, mode = config.transforms, config.features.mode
    if mode == "off":
        return "features=off"
    if config.trainer.fast_dev_run and mode == "auto":
        return "trainer.fast_dev_run takes single batches"
    if config.trainer.get("overfit_batches"):
        return "trainer.overfit_batches takes single batches"
    try:
        part = network.frozen_part(size, names(config.finetune.later_stages))
    except NotDivisibleError as error:
        return str(error)
    if transforms.mixup_alpha or transforms.cutmix_alpha:
        return "transforms.mixup_alpha and cutmix_alpha mix pictures"
    if transforms.train and config.features.views is None:
        return "transforms.train is random (features.views=4 would keep four views of each picture)"
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


class _Features:
    """The features that one run needs: of all pictures as they are, and of drawn views of the training pictures.

    Both have a space of their own, and so never share a batch: a transform may give several versions of the former, and
    floats for the latter.
    """

    def __init__(
        self,
        config: DictConfig,
        chosen: Any,
        part: FrozenPart,
        images: ImageDataModule,
        preprocessing: dict[str, Any],
        device: torch.device,
    ) -> None:
        self._config, self._part, self._images, self._device = config.features, part, images, device
        self._root = cache(config) / "features"
        self._recipe = _recipe(config, chosen, part, preprocessing, device)
        self._steps = OmegaConf.to_container(config.transforms.train, resolve=True)
        reader = Reader(decoder(config), images.transforms["val"], images.transforms["train"])
        average = part.rest is None
        self._make = partial(Extractor, part.module, reader, device=device, average=average, workers=images.num_workers)

    def rows(self) -> dict[str, list[Rows]]:
        """Read or compute the features of each split, those of train once for each view."""
        views, datasets = self._config.views, self._images.datasets
        fixed = [split for split in datasets if split != "train" or views is None]
        items: list[Item] = [(self._path(path), None) for split in fixed for path in datasets[split].paths]
        found = self._obtain(items, self._recipe)
        counts = [len(datasets[split]) for split in fixed]
        rows = {split: [part] for split, part in zip(fixed, _parts(found, counts), strict=True)}
        if views is not None:
            paths = datasets["train"].paths
            drawn: list[Item] = [
                (self._path(path), draw_seed(0, view, path)) for view in range(views) for path in paths
            ]
            rows["train"] = _parts(self._obtain(drawn, {**self._recipe, "random": self._steps}), [len(paths)] * views)
        return rows

    def _path(self, path: str) -> Path:
        return self._images.pictures.root / path

    def _obtain(self, items: list[Item], recipe: dict[str, Any]) -> Rows:
        keys = [_key(path, "" if draw is None else str(draw)) for path, draw in items]
        kind, limit = self._precision(items, keys, recipe), self._config.limit_gb * 1e9
        space = Space(self._root, {**recipe, "precision": kind})
        dtype = precision.DTYPES[kind]
        rows, _ = space.find(keys)
        if rows is None:
            # Room is made before it is needed.
            prune(self._root, limit - dtype.itemsize * math.prod(self._part.shape) * len(keys))
            rows = compute(space, items, keys, partial(self._make, dtype), self._config.on_write_error == "stop")
        if space.size() > limit:
            space.drop_others(keys)
        _say(f"features: of {self._part.name}, computed once ({len(keys):,} x {list(rows.shape[1:])}, {kind})")
        return rows

    def _precision(self, items: list[Item], keys: list[bytes], recipe: dict[str, Any]) -> str:
        """Choose fp32, or bf16 if it is wanted and changes no features; ConfigError where it is asked for and does."""
        asked = self._config.precision
        if asked == "fp32" or (asked == "auto" and not precision.has_bf16(self._device)):
            return "fp32"
        if Space(self._root, {**recipe, "precision": "bf16"}).find(keys)[0] is not None:
            return "bf16"
        some = items[:: max(1, len(items) // _TRIED)][:_TRIED]
        exact, close = (torch.cat(list(self._make(precision.DTYPES[kind])(some))) for kind in ("fp32", "bf16"))
        similarity = precision.similarity(exact, close)
        if asked == "bf16":
            precision.check_similarity(similarity)
        return "bf16" if precision.is_similar(similarity) else "fp32"


def _parts(rows: Rows, counts: list[int]) -> list[Rows]:
    """Cut rows into consecutive parts."""
    return [rows.chosen(indices) for indices in torch.arange(len(rows)).split(counts)]


def _key(path: Path, version: str) -> bytes:
    try:
        return picture_key(path, version)
    except OSError as error:
        raise BadImageError(path, f"cannot be read ({error.strerror})") from error


def _recipe(
    config: DictConfig,
    chosen: Any,
    part: FrozenPart,
    preprocessing: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Describe all that features depend on, but for the precision, the single picture and what is drawn for it."""
    backbone = {**chosen.architecture(), "replace": config.head.replace, "part": part.name}
    # What timm computes can change with its version, as torchvision's can.
    libraries = ["torch", "torchvision", "pillow", *(["timm"] if backbone["library"] == "timm" else [])]
    return {
        "format": _FORMAT,
        "backbone": backbone,
        "weights": fingerprint(part.module.state_dict()),
        "preprocessing": preprocessing,
        "decoder": vars(decoder(config)) | {"alpha_background": list(config.data.alpha_background)},
        "device": device.type,
        "versions": {name: version(name) for name in libraries},
    }


def _say(message: str) -> None:
    if is_main_process():
        print(message, flush=True)
