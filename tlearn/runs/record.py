"""The record of a run: its splits and environment at the start, its model and metrics at the end."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlearn.data.datamodule import ImageDataModule
from tlearn.data.manifest import check_manifest, read_manifest, write_manifest
from tlearn.data.prepare import ImageSet
from tlearn.errors import DataError
from tlearn.files import linked, write_bytes
from tlearn.machine import environment
from tlearn.models.backbones.base import Backbone, described_name
from tlearn.models.network import TransferNetwork
from tlearn.runs.architecture import described_backbone, described_head
from tlearn.runs.dotted_keys import flat
from tlearn.runs.folder import ENVIRONMENT, TUNED, RunFolder
from tlearn.runs.model import MANIFEST, save_model

# Configuration groups that determine training; the others are paths and reporting.
TRAINING_GROUPS = (
    *("seed", "backbone", "head", "finetune", "features", "loss", "module", "optimizer", "scheduler", "transforms"),
)
# Paths among the settings of the data
_PLACES = ("root", "download_root", "cache", "csv", "source")


@dataclass(frozen=True)
class RunRecord:
    """The run folder with the run's settings.

    Args:
        folder: the run folder.
        settings: the whole configuration, resolved.
        overrides: overrides of the command line.
    """

    folder: RunFolder
    settings: dict[str, Any]
    overrides: list[str]

    @property
    def backbone(self) -> str:
        """What the backbone is called."""
        return described_name(self.settings["backbone"])

    @property
    def parameters(self) -> dict[str, Any]:
        """What a logger keeps as parameters: the training settings by dotted keys, and the run folder."""
        groups = {group: self.settings[group] for group in TRAINING_GROUPS} | {"data": self._data}
        return {
            "run": str(self.folder.path),
            **flat(groups),
            "trainer.max_epochs": self.settings["trainer"].get("max_epochs"),
        }

    @property
    def _data(self) -> dict[str, Any]:
        """The settings of the data, without paths."""
        return {key: value for key, value in self.settings["data"].items() if key not in _PLACES}

    def start(self, image_set: ImageSet, resumed: bool) -> None:
        """Write splits.csv and environment.json before training.

        Raises:
            DataError: a resumed run finds other images than those it was started with.
        """
        path = self.folder.path / MANIFEST
        if resumed:
            self.check_images(image_set)
        digest = write_manifest(path, image_set.files, image_set.splits)
        data = {"root": str(image_set.root), "classes": image_set.classes, "fingerprint": digest}
        self.folder.write_json(ENVIRONMENT, {**environment(), "data": data})

    def check_images(self, image_set: ImageSet) -> None:
        """Refuse other images than those that the run was started with; raise DataError."""
        path = self.folder.path / MANIFEST
        manifest = read_manifest(path)
        if manifest.splits != image_set.splits:
            raise DataError(f"the images are not those of {path}: files were added, removed or renamed since")
        check_manifest(manifest, image_set.files)

    def start_like(self, other: Path) -> bool:
        """Start as another run of the same images in this process has; return whether its files could be shared."""
        return all(linked(self.folder.path / name, other / name) for name in (MANIFEST, ENVIRONMENT))

    def tuned(self) -> dict[str, float]:
        """Read the settings that were found before training, by dotted keys; none without `tune`."""
        file = self.folder.path / TUNED
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def adopt(self, found: Mapping[str, float]) -> None:
        """Put settings that were found before training in the place of those of the configuration, and keep them."""
        for key, value in found.items():
            group, _, name = key.partition(".")
            self.settings[group][name] = value
        self.folder.write_json(TUNED, dict(found))

    def finish(
        self,
        network: TransferNetwork,
        backbone: Backbone,
        data: ImageDataModule,
        metrics: dict[str, float],
        directions: Mapping[str, str],
        trained_on: str,
        body: Path | None = None,
    ) -> None:
        """Write the model folder and metrics.json.

        Args:
            network: the best network, as evaluated.
            backbone: of its body.
            data: the images with transform and decoder.
            metrics: content of metrics.json.
            directions: min or max, the best end of each metric that says so, by its name without the split.
            trained_on: train, or train+val.
            body: as `save_model` takes it; with it, the manifest is a hard link, too.
        """
        settings, monitor, model = dict(self.settings), self.settings["monitor"], self.folder.path / "model"
        description = {
            "classes": data.image_set.classes,
            "preprocessing": data.transforms["val"].preprocessing,
            "decoding": asdict(data.decoder),
            "architecture": described_backbone(backbone),
            "replace": settings["head"]["replace"],
            "head": described_head(settings["head"]["build"]),
            "trained_on": trained_on,
            "data_root": str(data.image_set.root.absolute()),
            "temperature": metrics["temperature"],
            "figures": metrics,
            "directions": {monitor["metric"].rpartition("/")[2]: monitor["mode"], **directions},
            "config": settings,
        }
        # The manifest written at the start: files may have changed since, and reading their sizes again would hide it.
        if body is None or not linked(model / MANIFEST, self.folder.path / MANIFEST):
            write_bytes(model / MANIFEST, (self.folder.path / MANIFEST).read_bytes(), durable=True)
        save_model(model, network, description, self._training_settings(metrics), body)
        self.folder.write_json("metrics.json", metrics)

    def _training_settings(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return the training settings, without paths."""
        return {
            **{group: self.settings[group] for group in TRAINING_GROUPS},
            "data": self._data,
            "epochs": self.settings["trainer"].get("max_epochs"),
            "figures": {name: value for name, value in metrics.items() if not name.startswith("time/")},
        }
