"""Open a model, and evaluate it on the images and views of a configuration."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torchmetrics import Metric

from tlearn.analysis.calibration import calibration_metrics
from tlearn.analysis.outputs import Outputs, view_metrics
from tlearn.config import seats
from tlearn.config.build import cache_folder
from tlearn.config.declared import option_keys
from tlearn.config.trainer import measuring_trainer
from tlearn.config.valid_values import DECODING
from tlearn.console import say
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.manifest import check_manifest
from tlearn.data.prepare import ImageSet, count_lines, readable
from tlearn.data.transforms import Transform
from tlearn.features.own_code import UnknownCodeError, code_digests
from tlearn.machine import package_versions
from tlearn.models.network import tensor_digest
from tlearn.runs.dotted_keys import flat
from tlearn.runs.evaluated import evaluated_samples
from tlearn.runs.model import Model, load_model
from tlearn.runs.pretrained import pretrained_model
from tlearn.training.measure import measure_split
from tlearn.training.test_time_augmentation import preprocessing_for


def opened_model(settings: Mapping[str, Any]) -> Model:
    """Open the model of `run`, or a pretrained backbone with its own classes, with the given options of decoding."""
    if settings.get("backbone") is None:
        model = load_model(settings["run"], settings["trust"])
    else:
        model = pretrained_model(seats.backbone(settings["backbone"]), settings["classes"])
    # null stands for the options of the run.
    given = {name: settings["data"][name] for name in DECODING}
    return model.decoding(**{name: value for name, value in given.items() if value is not None})


def prediction_key(settings: Mapping[str, Any], model: Model) -> dict[str, Any] | None:
    """Return what the answers of a prediction depend on beside the images; None where that cannot be known."""
    told = ("config", "data_root", "decoding", "figures")
    described = {name: value for name, value in model.description.items() if name not in told}
    try:
        code = code_digests(model.network, [described["architecture"], described.get("head")])
    except UnknownCodeError:
        return None
    device = next(model.network.parameters()).device
    model_digest = sha256(json.dumps([described, tensor_digest(model.network.state_dict())], default=str).encode())
    return {
        "model": model_digest.hexdigest(),
        "code": code,
        "data": model.decoder.key(),
        **{name: settings[name] for name in ("topk", "calibrated", "batch_size")},
        "device": device.type,
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "versions": package_versions(),
    }


def measure(
    settings: Mapping[str, Any], model: Model, features: bool = False
) -> tuple[dict[str, float], Outputs | None, dict[str, str]]:
    """Return the metrics and outputs of a model on the images of an evaluation, and unreadable images by path.

    Further processes have neither outputs nor the metrics that are computed from them. `features` also keeps the head's
    inputs.
    """
    data, split, tta = settings["data"], settings["split"], settings["tta"]
    wanted = _metrics(settings, model)
    trainer = measuring_trainer(settings, Path(settings["paths"]["output_dir"]))
    source = None if _is_of_the_run(data) else seats.source(data["source"])
    files, chosen, manifest = evaluated_samples(model, split, source)
    transform = Transform(preprocessing_for(tta, model.description["preprocessing"]))
    verified = cache_folder(settings) / "verified"
    unreadable, samples, notes = readable(files, chosen, model.decoder, data["on_bad_image"], verified)
    if manifest is not None:
        check_manifest(manifest, files)
    say(*notes)
    if unreadable:
        say(f"left out {len(unreadable)} unreadable images: {', '.join(list(unreadable)[:20])}")
    say(*count_lines({split: samples}, model.classes))
    loading = {name: data[name] for name in ("batch_size", "num_workers")}
    image_set = ImageSet(files.root, {"test": samples}, model.classes, files=files)
    images = ImageDataModule(image_set, model.decoder, transform, transform, **loading)
    metrics, outputs, views = measure_split(trainer, model.network, images, split, tta, features, wanted)
    if outputs is None:
        return metrics, None, unreadable
    metrics |= calibration_metrics(outputs, model.temperature)
    if views is not None:
        metrics |= view_metrics(outputs, views)
    return metrics, outputs, unreadable


def _is_of_the_run(data: Mapping[str, Any]) -> bool:
    """Return whether nothing is said of other images: data=folder without a folder, and otherwise as it is shipped."""
    given, shipped = flat(data), option_keys("data", "folder") or {}
    told = {key: value for key, value in shipped.items() if not isinstance(value, dict) and "$" not in str(value)}
    return data["root"] is None and all(given.get(key) == value for key, value in told.items() if key != "root")


def _metrics(settings: Mapping[str, Any], model: Model) -> dict[str, Metric] | None:
    """Build the metrics of the configuration, or else of the run; None for a model that has no record of any."""
    count = len(model.classes)
    if settings.get("metrics") is not None:
        return seats.metrics(settings["metrics"], count)
    nodes = (model.description["config"] or {}).get("metrics")
    return None if nodes is None else seats.metrics(nodes, count, settings["trust"])
