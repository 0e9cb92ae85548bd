"""Small real trainings for the tests: a tiny backbone with random weights in a file, on drawn pictures."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from omegaconf import DictConfig

from tlearn.config import build, seats
from tlearn.config.compose import compose
from tlearn.config.settle import settled
from tlearn.config.trainer import training_trainer
from tlearn.config.tree import settings_of
from tlearn.models.digests import with_digest
from tlearn.train import train

BACKBONE = "shufflenet_v2_x0_5"


@cache
def _weights(seed: int) -> bytes:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torchvision.models.get_model(BACKBONE, weights=None)
        network.train()(torch.rand(8, 3, 64, 64))
    torch.save(network.state_dict(), file := io.BytesIO())
    return file.getvalue()


def write_weights(path: Path, seed: int = 0) -> Path:
    """Write a state dict of the tests' backbone, with BatchNorm statistics that are not the initial ones."""
    path.write_bytes(_weights(seed))
    return path


def overrides(data: Path, weights: Path | str, *more: str) -> list[str]:
    """Give the command line of a run that takes a second; a report, which takes another, must be asked for."""
    shown = [] if any(one.startswith("report=") for one in more) else ["report=off"]
    return [
        "data=folder",
        f"data.root='{data}'",
        "data.batch_size=8",
        "data.num_workers=0",
        f"backbone={BACKBONE}",
        f"backbone.weights={weights}",
        "transforms.size=32",
        "trainer=cpu",
        "trainer.max_epochs=1",
        *shown,
        *more,
    ]


def run(folder: Path, data: Path, weights: Path | str, *more: str) -> dict[str, Any]:
    """Train in this process and give metrics.json."""
    train(compose(overrides(data, weights, *more), output_dir=folder))
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def build_without_images(config: DictConfig, folder: Path) -> None:
    """Build what a training can be built of before its images are looked at."""
    backbone = build.backbone(settings_of(config))
    settings = settled(config, backbone.preprocessing())
    training_trainer(settings, folder)
    build.transforms(settings)
    build.step_optimizer(settings)
    seats.loss(settings["loss"], 3, None, mixed=False)


def describe_anew(model: Path, **values: Any) -> None:
    """Change values in the description of a model folder, and its digest with them."""
    description = json.loads((model / "model.json").read_text(encoding="utf-8")) | values
    del description["digest"]
    (model / "model.json").write_text(json.dumps(with_digest(description)), encoding="utf-8")


@contextlib.contextmanager
def kept_hydra() -> Iterator[None]:
    """Leave Hydra's globals as they are: it keeps the configuration of a run there, where later tests would find it."""
    # The options of plugins are among them, and are there once only: when a plugin is first imported.
    Plugins.instance()
    state = Singleton.get_state()
    try:
        yield
    finally:
        Singleton.set_state(state)


def program(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program from another folder, in this process: one of its own would take seconds to import torch."""
    main = importlib.import_module(f"tlearn.{name}").main
    out, err = io.StringIO(), io.StringIO()
    with kept_hydra(), contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def process(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user would, from another folder."""
    command = [sys.executable, "-m", f"tlearn.{name}", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=240, check=False)
