"""tlearn from Python: train as the command line does, open finished runs, and use their models."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tlearn.analysis.outputs import Outputs
from tlearn.config.command import run_program
from tlearn.config.compose import compose, override_list
from tlearn.config.evaluation import measure
from tlearn.config.interpreter import borrowed_interpreter
from tlearn.config.tree import settings_of
from tlearn.console import measured, say, session
from tlearn.errors import CheckpointError, ConfigError, quoted
from tlearn.ranges import require
from tlearn.runs import model as model_folder
from tlearn.runs.classifier import Classifier
from tlearn.runs.evaluated import trained_on_note
from tlearn.runs.folder import folder_around
from tlearn.runs.model import Model
from tlearn.runs.predictions import device_of
from tlearn.runs.trust import check_installed, own_packages
from tlearn.train import train


def fit(overrides: Iterable[str] = (), config_dir: str | Path | None = None) -> "Run":
    """Train as `python -m tlearn.train` does, with its checks, messages and files, and return the finished run.

    Runs of several threads take turns. Random numbers, arguments and folder of the process stay as they were.

    Args:
        overrides: what would stand on the command line, such as `["backbone=resnet18", "data.batch_size=16"]`.
        config_dir: a folder with option files of your own.

    Raises:
        TlearnError: what the command line would say, with its message; see `tlearn.errors`.
    """
    search = [] if config_dir is None else ["--config-dir", str(config_dir)]
    folder = run_program("train", train, [*search, *override_list(overrides)])
    # What the overrides named has just run in this process.
    return Run(folder, trust=own_packages(model_folder.read_description(folder)[1]) if _has_model(folder) else ())


def _has_model(folder: Path) -> bool:
    """Return whether a run has kept one, as a try-out (trainer.fast_dev_run) has not."""
    return (folder / "model").is_dir()


def load_model(path: str | Path, trust: Sequence[str] = (), device: str | torch.device = "auto") -> Classifier:
    """Load the model of a run folder, or of a copied model folder.

    Args:
        path: the folder, or a file of it; of checkpoints, that of the best epoch, which the model is of.
        trust: your packages whose code it may name, such as `["mylab"]`.
        device: auto (a GPU if there is one), cpu or cuda.

    Raises:
        CheckpointError: there is none, it is damaged, or it names code that is not trusted.
        ConfigError: there is no GPU, path is not a path, or trust is not a list of packages.
    """
    require("trust", trust)
    check_installed(trust)
    chosen = device_of(device)
    model = Classifier(**vars(_trusted(_folder(path), trust)))
    model.network.to(chosen)
    return model


def _folder(path: str | Path) -> str | Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ConfigError(f'{path!r} is not a folder: expected that of a run or a model, such as "outputs/train/..."')
    return path


def _trusted(path: str | Path, trust: Sequence[str]) -> Model:
    """Load a model, and write what it lacks in trust as Python has it."""
    try:
        return model_folder.load_model(path, trust)
    except CheckpointError as error:
        said, found, names = str(error).partition("add trust=[")
        if not found:
            raise
        raise CheckpointError(f"{said}give trust={json.dumps(names.rstrip(']').split(','))}") from None


class Run:
    """A finished run: its `folder`, and its `metrics` (`val/top1`, `val/loss`, `test/top1`, ...) as in metrics.json.

    Args:
        folder: where it lies, or a file of it.
        trust: your packages whose code its model may name; that of `fit` trusts what it was made with.

    Raises:
        CheckpointError: the folder holds none.
    """

    def __init__(self, folder: str | Path, trust: Sequence[str] = ()) -> None:
        require("trust", trust)
        given = Path(os.path.expanduser(_folder(folder)))
        found = folder_around(given, lambda path: (path / "metrics.json").is_file())
        self.folder, self.trust = found.absolute(), list(trust)
        if found != given:
            say(f"{given} is of {found}")
        try:
            content = (self.folder / "metrics.json").read_text(encoding="utf-8")
            self.metrics: dict[str, float] = json.loads(content)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder} holds no finished run (metrics.json): {error}") from error

    def __repr__(self) -> str:
        keys = [key for key in ("val/top1", "test/top1") if key in self.metrics]
        told = [f"{key.split('/')[0]} {measured('top1', self.metrics[key])}" for key in keys]
        return f"Run({', '.join([str(self.folder), *told])})"

    @property
    def report(self) -> Path | None:
        """The file of the report; None where none was written."""
        file = self.folder / "report.html"
        return file if file.is_file() else None

    def model(self, device: str | torch.device = "auto") -> Classifier:
        """Load the model; see `load_model`."""
        return load_model(self.folder, self.trust, device)

    def outputs(self, split: str = "test", *, features: bool = False) -> Outputs:
        """Measure the model again on the images of train, val or test, without augmentation; say if it trained on them.

        Args:
            split: train, val or test.
            features: also keep the features, as `outputs.features`.

        Raises:
            DataError: the run has no such split, or its images have changed.
        """
        chosen = [f"run={quoted(self.folder)}", f"split={split}", f"trust=[{','.join(self.trust)}]"]
        settings = settings_of(compose(chosen, "evaluate", output_dir=self.folder))
        model = _trusted(self.folder, self.trust)
        with borrowed_interpreter(None), session(quiet=True):
            outputs = measure(settings, model, features)[1]
        # None in further processes, and this is the only one
        assert outputs is not None
        if note := trained_on_note(model, outputs):
            say(note)
        return outputs
