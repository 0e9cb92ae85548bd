"""Choose between cached features and images, and compute the features of the frozen part where they are cached."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.strategies import Strategy

from tlearn.console import say
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.errors import BadImageError, ConfigError
from tlearn.features import precision
from tlearn.features.compute import compute
from tlearn.features.datamodule import FeatureDataModule
from tlearn.features.extract import Extractor, Items, Reader
from tlearn.features.feature_key import feature_key
from tlearn.features.own_code import UnknownCodeError, code_digests
from tlearn.features.prune import prune
from tlearn.features.rows import FeatureRows
from tlearn.features.segments import KEY
from tlearn.features.store import Space, image_key
from tlearn.machine import has_bf16
from tlearn.models.device import float32
from tlearn.models.graph.divide import FrozenPart, NotDivisibleError
from tlearn.training.data_parallel import DataParallelStrategy
from tlearn.training.module import TransferModule

# Images on which bf16 is compared with fp32
_TRIED = 16


@dataclass(frozen=True)
class FeatureOptions:
    """Feature settings, and what features depend on beside the network and the images.

    Args:
        mode: "auto", "off", or "cache", which refuses a run whose features cannot be cached.
        views: augmented views of each training image; None: no augmentation.
        precision: of the frozen body: "fp32", "tf32", "bf16", or "auto" for bf16 where features stay the same.
        on_write_error: when features cannot be written: "continue" in memory, or "stop".
        limit_gb: disk space of all cached features together.
        folder: where cached features lie.
        body: description of the backbone and its cut in plain data, for the key.
        parts: settings of the backbone, the source and the augmentation of train, for the key.
    """

    mode: str
    views: int | None
    precision: str
    on_write_error: str
    limit_gb: float
    folder: Path
    body: Mapping[str, Any]
    parts: Mapping[str, Any]


class _NotCachedError(Exception):
    """The reason why a run trains on images."""


def choose_features(
    options: FeatureOptions, module: TransferModule, images: ImageDataModule, trainer: Trainer
) -> SplitDataModule:
    """Return cached features where the run can train on them, else the images; print which, and why.

    Afterwards the network takes the batches of the returned data module.

    Args:
        options: feature settings.
        module: its network contains the frozen part.
        images: data module of the images.
        trainer: features are computed on its devices.

    Raises:
        ConfigError: cached features are required and not possible.
    """
    found = cacheable_part(options, module, images, trainer)
    if found is None:
        return images
    part, code = found
    # Whatever the caller computes in: features kept under a precision must have it.
    with float32(tf32=options.precision == "tf32"):
        rows = _Features(options, part, images, _devices(trainer.strategy), code).rows()
    module.network.start_after(part)
    return FeatureDataModule(images, rows, module.full_batch)


def cacheable_part(
    options: FeatureOptions, module: TransferModule, images: ImageDataModule, trainer: Trainer
) -> tuple[FrozenPart, dict[str, str]] | None:
    """Return the part of the body whose output is cached, and the digests of own code; None, and say why, for none.

    Raises ConfigError as `choose_features`, which takes the same arguments.
    """
    if module.full_batch and (options.views is not None or trainer.world_size > 1):
        raise ConfigError("module=full_batch fits one view of all images in one process: transforms=none, one device")
    try:
        part = _frozen_part(options, module, images, trainer)
        # The whole body: what computes the part may be a forward pass of the layer that holds it.
        return part, code_digests(module.network.body, options.parts)
    except (_NotCachedError, NotDivisibleError, UnknownCodeError) as reason:
        if options.mode == "cache" or module.full_batch:
            asked = "features=cache" if options.mode == "cache" else "module=full_batch"
            raise ConfigError(f"{asked} needs cached features, and they are not possible: {reason}") from reason
        say(f"features: on the fly, because {reason}")
        return None


def _frozen_part(
    options: FeatureOptions, module: TransferModule, images: ImageDataModule, trainer: Trainer
) -> FrozenPart:
    """Return the part of the body that cannot change in this run and whose output can be cached.

    Raises:
        NotDivisibleError, _NotCachedError: there is none.
    """
    if options.mode == "off":
        raise _NotCachedError("features=off")
    if trainer.fast_dev_run and options.mode == "auto":  # type: ignore[attr-defined]
        raise _NotCachedError("trainer.fast_dev_run takes single batches")
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise _NotCachedError("trainer.overfit_batches takes single batches")
    part = module.network.frozen_part(images.transforms["train"].size, module.later_stages)
    if module.mix is not None:
        raise _NotCachedError("transforms.mixup_alpha and cutmix_alpha mix images")
    if images.transforms["train"].is_random and options.views is None:
        raise _NotCachedError("transforms.train is random (features.views=4 would cache four views of each image)")
    if part.rest is not None and isinstance(trainer.strategy, DataParallelStrategy):
        raise _NotCachedError("trainer=dp copies whole networks")
    gigabytes = _gigabytes(options, part, images)
    if gigabytes > options.limit_gb:
        raise _NotCachedError(f"they would take {gigabytes:.1f} GB, more than features.limit_gb={options.limit_gb:g}")
    return part


def _gigabytes(options: FeatureOptions, part: FrozenPart, images: ImageDataModule) -> float:
    """Compute the size of all features of a run."""
    row_bytes = (2 if options.precision == "bf16" else 4) * math.prod(part.shape)
    versions = 1 if part.rest is None else max(1, len(images.transforms["val"].preprocessing.get("average", ())))
    count = sum(len(dataset) for dataset in images.datasets.values())
    count += len(images.datasets["train"]) * ((options.views or 1) - 1)
    return row_bytes * versions * count / 1e9


class _Features:
    """The features of one run: of all images without augmentation, and of augmented views of the training images.

    Each kind has its own space, and so its own batches: a transform may return several versions of plain images, and
    floats for augmented ones.
    """

    def __init__(
        self,
        options: FeatureOptions,
        part: FrozenPart,
        images: ImageDataModule,
        devices: Sequence[torch.device],
        code: Mapping[str, str],
    ) -> None:
        self._options, self._part, self._images, self._device = options, part, images, devices[0]
        self._key = feature_key(options.body, part, images, self._device)
        if code:
            # A backbone of the user's own may depend on more than it describes.
            self._key |= {"code": code, "settings": options.parts["backbone"]}
        reader = Reader(images.decode, images.transforms["val"], images.transforms["train"])
        average = part.rest is None
        self._make = partial(
            Extractor, part.module, reader, devices=devices, average=average, workers=images.num_workers
        )

    def rows(self) -> dict[str, list[FeatureRows]]:
        """Load or compute the features of each split, those of train once per view."""
        views, datasets = self._options.views, self._images.datasets
        fixed = [split for split in datasets if split != "train" or views is None]
        paths = [path for split in fixed for path in datasets[split].paths]
        found = self._obtain(Items(self._images.image_set.root, paths), self._key)
        counts = [len(datasets[split]) for split in fixed]
        rows = {split: [part] for split, part in zip(fixed, _parts(found, counts), strict=True)}
        if views is not None:
            paths = datasets["train"].paths
            drawn = Items(self._images.image_set.root, paths, views)
            key = {**self._key, "random": self._options.parts["augmentation"]}
            rows["train"] = _parts(self._obtain(drawn, key), [len(paths)] * views)
        return rows

    def _image_key(self, file: str | Path, draw: int | None) -> bytes:
        state = self._images.image_set.files.opened_state(os.fspath(file))
        if state is None:
            raise BadImageError(file, "no such file")
        return image_key(state, "" if draw is None else str(draw))

    def _obtain(self, items: Items, key: dict[str, Any]) -> FeatureRows:
        keys = np.fromiter((self._image_key(*item) for item in items), KEY, len(items))
        kind, limit = self._precision(items, keys, key), self._options.limit_gb * 1e9
        space = Space(self._options.folder, {**key, "precision": kind})
        dtype = precision.DTYPES[kind]
        rows, missing = space.find(keys)
        if rows is None:
            # Make space before it is needed, but not of what a stopped run has computed already.
            needed = dtype.itemsize * math.prod(self._part.shape) * len(missing)
            prune(self._options.folder, limit - needed, spared=space.folder)
            rows = compute(space, items, keys, partial(self._make, dtype), self._options.on_write_error == "stop")
        if space.size() > limit:
            space.drop_others(keys)
        say(f"features: of {self._part.name}, computed once ({len(keys):,} x {list(rows.shape[1:])}, {kind})")
        return rows

    def _precision(self, items: Items, keys: np.ndarray, key: dict[str, Any]) -> str:
        """Choose fp32, or bf16 where features stay the same; raise ConfigError where a required bf16 changes them."""
        asked = self._options.precision
        if asked in ("fp32", "tf32") or (asked == "auto" and not has_bf16(self._device)):
            return "fp32" if asked == "auto" else asked
        if Space(self._options.folder, {**key, "precision": "bf16"}).find(keys)[0] is not None:
            return "bf16"
        if not has_bf16(self._device):
            known = f"this {self._device.type} is not known to compute so, and may take ten times as long as with fp32"
            say(f"features.precision=bf16: {known} (auto decides)")
        some = [items[place] for place in range(0, len(items), max(1, len(items) // _TRIED))][:_TRIED]
        exact, close = (
            # They are read before a worker would have started.
            torch.cat(list(self._make(precision.DTYPES[kind], workers=0)(some)))
            for kind in ("fp32", "bf16")
        )
        similarity = precision.similarity(exact, close)
        if asked == "bf16":
            precision.check_similarity(similarity)
        return "bf16" if precision.is_similar(similarity) else "fp32"


def _devices(strategy: Strategy) -> list[torch.device]:
    """Return the devices that compute features: of a run on several GPUs all of this machine's that are of one kind."""
    root = strategy.root_device
    if root.type != "cuda":
        return [root]
    name = torch.cuda.get_device_name(root)
    every = dict.fromkeys([root, *getattr(strategy, "parallel_devices", [])])
    return [device for device in every if torch.cuda.get_device_name(device) == name]


def _parts(rows: FeatureRows, counts: list[int]) -> list[FeatureRows]:
    """Split rows into consecutive parts."""
    return [rows.chosen(indices) for indices in torch.arange(len(rows)).split(counts)]
