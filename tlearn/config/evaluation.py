"""Evaluate a model on the images and views of a configuration."""

from pathlib import Path

from omegaconf import DictConfig
from torchmetrics import Metric

from tlearn.analysis.calibration import calibration_metrics
from tlearn.analysis.outputs import Outputs, view_metrics
from tlearn.config import build, seats
from tlearn.console import say
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.prepare import ImageSet, class_counts, readable
from tlearn.data.transforms import Transform
from tlearn.runs.evaluated import evaluated_samples
from tlearn.runs.model import Model
from tlearn.training.measure import measure_split
from tlearn.training.test_time_augmentation import preprocessing_for


def measure(
    config: DictConfig, model: Model, features: bool = False
) -> tuple[dict[str, float], Outputs, dict[str, str]]:
    """Return the metrics and outputs of a model on the images of an evaluation, and unreadable images by path.

    `features` also keeps the head's inputs.
    """
    wanted = _metrics(config, model)
    trainer = build.trainer(config, Path(config.paths.output_dir))
    own = config.data.root is None and config.data.name == "folder"
    root, chosen = evaluated_samples(model, config.split, None if own else seats.source(config.data.source))
    transform = Transform(preprocessing_for(config.tta, model.description["preprocessing"]))
    verified = Path(config.paths.cache).expanduser() / "verified"
    unreadable, samples, notes = readable(root, chosen, model.decoder, config.data.on_bad_image, verified)
    say(*notes)
    if unreadable:
        say(f"left out {len(unreadable)} unreadable images: {', '.join(list(unreadable)[:20])}")
    say(*class_counts({config.split: samples}, model.classes))
    loading = {"batch_size": config.data.batch_size, "num_workers": config.data.num_workers}
    image_set = ImageSet(root, {"test": samples}, model.classes)
    data = ImageDataModule(image_set, model.decoder, transform, transform, **loading)
    metrics, outputs, views = measure_split(trainer, model.network, data, config.split, config.tta, features, wanted)
    metrics |= calibration_metrics(outputs, model.temperature)
    if views is not None:
        metrics |= view_metrics(outputs, views)
    return metrics, outputs, unreadable


def _metrics(config: DictConfig, model: Model) -> dict[str, Metric] | None:
    """Build the metrics of the configuration, or else of the run; None for a model that has no record of any."""
    count = len(model.classes)
    if config.get("metrics") is not None:
        return seats.metrics(config.metrics, count)
    nodes = (model.description["config"] or {}).get("metrics")
    return None if nodes is None else seats.metrics(nodes, count, list(config.trust))
