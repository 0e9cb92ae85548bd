"""A run that was interrupted anywhere and resumed is the run that was not."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer

from tests.conftest import COLOURS, draw_classes
from tests.small_runs import overrides, program, write_weights
from tlearn.files import writing
from tlearn.models.device import Arriving
from tlearn.models.digests import sealing_zip
from tlearn.training import last_checkpoint, signals
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.last_checkpoint import LastCheckpoint
from tlearn.training.module import TransferModule

# 24 training images: 6 batches an epoch
AVERAGE = "+callbacks.average._target_=lightning.pytorch.callbacks.EMAWeightAveraging"
# Each has several kinds of state that do not touch each other: what a run draws, counts and schedules.
KINDS = {
    "images": [
        *("features=off", "transforms=light", "transforms.mixup_alpha=0.4", "data.num_workers=2", "head=mlp"),
        *("finetune=gradual", "finetune.later_stages=[stage4.3]", "finetune.unfreeze_epoch=1"),
    ],
    "steps": [
        *("head=mlp", "head.dropout=0.5", "trainer.accumulate_grad_batches=2"),
        *("trainer.val_check_interval=2", "scheduler=onecycle"),
    ],
    "views": [
        *("transforms=light", "features.views=2"),
        *("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=10"),
    ],
    "average": [AVERAGE, "scheduler=plateau", "scheduler.build.patience=0", "monitor.metric=val/top1"],
    "full batch": ["module=full_batch"],
}


class Died(BaseException):
    """As a kill, seen from inside."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        draw_classes(root / split, count, tuple(COLOURS), first=100 * count)
    return root


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def computed_once(own_caches, monkeypatch, features):
    """Let all runs of this file have the features of the first."""
    monkeypatch.setenv("TLEARN_CACHE", str(features))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, pictures, weights):
    """Return the folder of a run without interruption; each is trained once."""
    folders: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("straight") / "run"
            done = train(folders[kind], pictures, weights, kind)
            assert done.returncode == 0, done.stderr
        return folders[kind]

    return run


def train(folder: Path, pictures: Path, weights: Path, kind: str) -> Any:
    arguments = overrides(pictures, weights, "data.batch_size=4", "trainer.max_epochs=3", *KINDS[kind])
    return program("train", *arguments, f"hydra.run.dir={folder}", cwd=folder.parent)


def result(folder: Path) -> dict[str, Any]:
    """Return all that a run has computed."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "metrics.csv").open(newline="") as lines:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = dict(state["state_dict"])
    for optimizer in state["optimizer_states"]:
        tensors |= {f"{index}.{name}": one for index, held in optimizer["state"].items() for name, one in held.items()}
    return {
        "metrics": {name: value for name, value in metrics.items() if not name.startswith("time/")},
        "rows": rows,
        "tensors": {
            name: value.numpy().tobytes() for name, value in tensors.items() if isinstance(value, torch.Tensor)
        },
        "files": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


# The method of the module, and which of its calls is the last; states are saved before each batch, or between epochs
WITHIN, BETWEEN, AT_THE_END = ("training_step", 9, 0), ("on_validation_epoch_end", 2, 300), ("test_step", 1, 300)
CASES = [
    *((kind, WITHIN) for kind in ("images", "steps", "average")),
    *((kind, BETWEEN) for kind in ("views", "full batch")),
    *((kind, AT_THE_END) for kind in ("images", "views")),
    # Before the first validation
    ("steps", ("training_step", 2, 0)),
]


@pytest.mark.parametrize(("kind", "death"), CASES, ids=str)
def test_a_resumed_run_is_the_run_without_interruption(kind, death, straight, pictures, weights, tmp_path, monkeypatch):
    method, calls, seconds = death
    left, original = [calls], getattr(TransferModule, method)

    def dies(self, *args):
        left[0] -= 1
        if left[0] == 0:
            raise Died
        return original(self, *args)

    folder = tmp_path / "run"
    monkeypatch.setitem(KINDS, kind, [*KINDS[kind], f"callbacks.last.every_seconds={seconds}"])
    with monkeypatch.context() as patch:
        patch.setattr(TransferModule, method, dies)
        assert train(folder, pictures, weights, kind).returncode == 1
    moved = shutil.move(folder, tmp_path / "moved")
    # What names code is given again.
    resumed = program("train", f"resume={moved}", *{AVERAGE}.intersection(KINDS[kind]), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    # An epoch takes no longer than since the start.
    assert not re.search(r"epoch .* min\b", resumed.stdout), resumed.stdout
    assert result(Path(moved)) == result(straight(kind))


def test_a_best_checkpoint_that_a_killed_run_could_not_remove_is_gone_once_it_goes_on(
    straight, pictures, weights, tmp_path, monkeypatch
):
    folder = tmp_path / "run"

    def dies(self):
        if self._superseded:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointIO, "remove_superseded", dies)
        assert train(folder, pictures, weights, "images").returncode == 1
    assert len(list(folder.glob("checkpoints/epoch*.ckpt"))) == 2
    assert program("train", f"resume={folder}", cwd=tmp_path).returncode == 0
    assert result(folder) == result(straight("images"))


def save(state: dict[str, Any], path: Path) -> None:
    with writing(path) as file, sealing_zip(file) as sealed:
        torch.save(state, sealed)


@pytest.mark.parametrize("more", [(), ("trainer.max_epochs=4", "callbacks.early_stopping=null")])
def test_the_time_of_all_processes_that_trained_counts(straight, tmp_path, more):
    folder = shutil.copytree(straight("full batch"), tmp_path / "run")
    path = folder / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    assert state["progress"]["seconds"] > 0
    state["progress"]["seconds"] = 1000.0
    save(state, path)
    assert program("train", f"resume={folder}", *more, cwd=tmp_path).returncode == 0
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["time/total_s"] > metrics["time/fit_s"] > 1000


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["epoch"], [1]),
        (["progress"], {}),
        (["state_dict", "network.head.bias"], True),
        (["optimizer_states"], None),
        (["loops", "fit_loop", "epoch_loop.batch_progress"], {"total": 1}),
        (["callbacks", "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}", "best_score"], None),
    ],
    ids=str,
)
def test_a_checkpoint_whose_content_is_not_a_state_of_the_run_is_named(
    straight, pictures, weights, tmp_path, keys, value
):
    folder = shutil.copytree(straight("views"), tmp_path / "run")
    path = folder / "checkpoints" / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    place = whole
    for key in keys[:-1]:
        place = place[key]
    assert keys[-1] in place
    place[keys[-1]] = value
    save(whole, path)
    done = program("train", f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path)
    assert done.returncode == 4
    assert str(path) in done.stderr
    assert done.stderr.count("\n") == 1


class _Late(Arriving):
    """A copy from a device, which is busy."""

    is_late = True
    waited = 0

    def get(self) -> torch.Tensor:
        _Late.waited += 1
        return super().get()


@pytest.mark.parametrize("kind", [Arriving, _Late])
def test_a_batch_waits_for_no_device_to_hear_what_another_process_asks_for(tmp_path, monkeypatch, kind):
    def all_reduce(shared, operation):
        shared[0] = 15 if batch == 2 else 0

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(last_checkpoint, "Arriving", kind)
    monkeypatch.setattr(_Late, "waited", 0)
    callback, saved = LastCheckpoint(tmp_path), []
    monkeypatch.setattr(callback, "_save", lambda trainer: saved.append(batch))
    place = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=2, accumulate_grad_batches=1, strategy=place)
    last = 3 if kind is _Late else 2
    for batch in range(last):
        callback.on_train_batch_start(trainer, None, None, batch)
        # Not for what was asked just now
        assert _Late.waited == (max(0, batch - 1) if kind is _Late else 0)
    batch = last
    with pytest.raises(signals.Stopped, match="15"):
        callback.on_train_batch_start(trainer, None, None, last)
    assert saved == [last]


def test_no_batch_asks_other_processes_for_a_signal_that_lightning_does_not_see(monkeypatch):
    def broadcast(*_: Any, **__: Any) -> None:
        # Lightning catches every Exception.
        raise BaseException("asked")

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    signals.keep_signals(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
