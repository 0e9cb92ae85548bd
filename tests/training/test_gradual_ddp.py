"""Unfreezing in several processes: the same weights in each, those of one process, also where a run is resumed."""

import functools
import os
import signal
from pathlib import Path

import pytest
import torch
import torchvision

import tlearn.training.best
from tests.conftest import COLOURS, draw_classes
from tests.forks import run_ranks
from tests.small_runs import overrides, program
from tlearn.training.module import TransferModule

pytestmark = pytest.mark.slow

# Six batches an epoch in each of two processes, and three steps; without the dropout behind `features`
STEPS = ("data.batch_size=2", "trainer.accumulate_grad_batches=2", "optimizer=sgd", "optimizer.lr=0.01")
UNFREEZES = ("finetune.unfreeze_epoch=1", "finetune.later_stages=[features]", "finetune.body_lr_scale=0.3")
GRADUAL = ("backbone=squeezenet1_1", "finetune=gradual", *UNFREEZES, *STEPS, "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with images and weights."""
    folder = tmp_path_factory.mktemp("gradual")
    for split, count in (("train", 8), ("val", 3)):
        draw_classes(folder / "pictures" / split, count, tuple(COLOURS))
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "weights.pth")
    return folder


def command(place: Path, folder: Path, *more: str) -> list[str]:
    return [*overrides(place / "pictures", place / "weights.pth", *GRADUAL, *more), f"hydra.run.dir={folder}"]


def keep_weights(folder: Path) -> None:
    """Save the weights that each process has at the end of its training."""
    evaluate = tlearn.training.best.evaluate_best

    def noted(trainer, module, *rest):
        torch.save(module.network.state_dict(), folder / f"{trainer.global_rank}.pt")
        return evaluate(trainer, module, *rest)

    tlearn.training.best.evaluate_best = noted


def die(epoch: int, batch: int) -> None:
    """Have the process killed at a training step."""
    step = TransferModule.training_step

    def dies(self, given, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, given, batch_idx)

    TransferModule.training_step = dies


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{rank}.pt", weights_only=True)


def train_in_two(place: Path, folder: Path, *arguments: str) -> None:
    folder.mkdir(exist_ok=True)
    assert run_ranks("train", *arguments, cwd=place, prepare=functools.partial(keep_weights, folder)) == [0, 0]


@pytest.fixture(scope="module")
def straight(place) -> Path:
    """Return where the weights of a run in two processes without interruption are."""
    train_in_two(place, place / "straight", *command(place, place / "two", "trainer=ddp_cpu"))
    return place / "straight"


def test_two_processes_that_unfreeze_have_the_weights_of_one(place, straight, tmp_path, monkeypatch):
    monkeypatch.setattr(tlearn.training.best, "evaluate_best", tlearn.training.best.evaluate_best)
    keep_weights(tmp_path)
    done = program("train", *command(place, tmp_path / "one", "data.batch_size=4"), cwd=place)
    assert done.returncode == 0, done.stderr
    one, first, second = weights(tmp_path), weights(straight), weights(straight, 1)
    started = torch.load(place / "weights.pth", weights_only=True)
    moved = 0.0
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, rtol=0, atol=1e-5), (name, (first[name] - value).abs().max())
        if name.startswith("body."):
            moved = max(moved, float((value - started[name.removeprefix("body.")]).abs().max()))
    # The body has moved by far more
    assert moved > 1e-3


# Where the state before it is that of the epoch's start, within the epoch, and within the one after it
@pytest.mark.parametrize("at", [(1, 0), (1, 3), (2, 3)], ids=str)
def test_a_killed_run_in_two_processes_goes_on_to_the_same_weights(place, straight, tmp_path, at):
    arguments = command(place, tmp_path / "run", "trainer=ddp_cpu", "callbacks.last.every_seconds=0")
    killed = run_ranks("train", *arguments, cwd=place, prepare=functools.partial(die, *at))
    assert killed == [-signal.SIGKILL] * 2
    train_in_two(place, tmp_path / "kept", f"resume={tmp_path / 'run'}")
    for rank in range(2):
        ended = weights(tmp_path / "kept", rank)
        assert all(torch.equal(ended[name], value) for name, value in weights(straight).items())
