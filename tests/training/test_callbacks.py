"""What a fit says: a line for each epoch, counted from 1, a bar meanwhile, and why it ended."""

import csv
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from tests.small_runs import run, write_weights
from tlearn.config.relaunch import resume_command
from tlearn.console import percent, short
from tlearn.files import write_text
from tlearn.training import callbacks
from tlearn.training.best import ending
from tlearn.training.module import TransferModule


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights.pth")


@pytest.fixture
def bars(monkeypatch) -> list[tuple[str, float, int]]:
    """Return label, total and progress of every bar that was shown."""
    shown = []

    class Bar:
        def __init__(self) -> None:
            self.now: tuple[str, float, int] | None = None

        def start(self, label: str, total: float, done: int = 0) -> None:
            self.stop()
            self.now = label, total, done

        def advance(self, count: int = 1, note=str) -> None:
            label, total, done = self.now
            assert note() == "" or note().startswith("loss ")
            self.now = label, total, done + count

        def stop(self) -> None:
            if self.now:
                shown.append(self.now)
            self.now = None

    monkeypatch.setattr(callbacks, "Bar", Bar)
    return shown


def _said(capsys) -> list[str]:
    """Return the lines about epochs."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("epoch", "best", "stopped"))]


def _metrics(folder: Path) -> list[dict[str, float]]:
    """Return what metrics.csv holds of each epoch."""
    epochs: dict[int, dict[str, float]] = defaultdict(dict)
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["epoch"]:
                epochs[int(row["epoch"])] |= {name: float(value) for name, value in row.items() if value}
    return [epochs[number] for number in sorted(epochs)]


def test_every_epoch_has_a_line_and_the_best_until_then_a_mark(tmp_path, folder_data, weights, capsys, bars):
    more = ("trainer.max_epochs=10", "callbacks.early_stopping=null", "optimizer.lr=0.3")
    figures = run(tmp_path / "run", folder_data, weights, *more)
    *lines, ending = _said(capsys)
    best = float("inf")
    for number, (line, found) in enumerate(zip(lines, _metrics(tmp_path / "run"), strict=True), 1):
        words = [
            f"epoch {number:>2}/10",
            f"loss {short(found['train/loss'])}",
            f"val loss {short(found['val/loss'])}",
            f"top-1 {percent(found['val/top1'])}",
        ]
        assert line.startswith("  ".join([*words, ""]))
        assert line.endswith(" s *" if found["val/loss"] < best else " s")
        best = min(best, found["val/loss"])
    assert ending == f"best epoch {figures['epoch/best'] + 1} of 10 by val/loss"
    assert 0 < sum(line.endswith("*") for line in lines) < 10
    # 24 training images in batches of 8; after the last epoch, val and test are measured.
    assert [bar for bar in bars if bar[0] == "epoch  3/10"] == [("epoch  3/10", 3, 3)] * 2
    assert ("epoch 10/10 val", 1, 1) in bars
    assert bars[-2:] == [("evaluation", 1, 1)] * 2


def test_lines_of_long_trainings_fit_80_columns(tmp_path, draw_split, weights, capsys, monkeypatch):
    classes = draw_split(tmp_path / "seven", 8, tuple("abcdefg"))
    monkeypatch.setattr(callbacks, "duration", lambda seconds: "12.3 s")
    more = ("trainer.max_epochs=100", "+trainer.max_steps=4", "data.split.fractions=[0.5,0.25,0.25]")
    run(tmp_path / "run", classes, weights, *more)
    lines = [line for line in _said(capsys) if line.startswith("epoch")]
    assert all("top-5" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_validation_within_an_epoch_has_a_line_of_its_own(tmp_path, folder_data, weights, capsys, bars):
    more = ("trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=null", "trainer.max_epochs=2")
    run(tmp_path / "run", folder_data, weights, *more, "callbacks.prepare_head=null")
    lines = [re.sub(r"\d+\.\d+", "#", line) for line in _said(capsys)]
    # 3 batches make an epoch: validated after 2, 4 and 6
    assert lines == [
        "epoch 1/2 batch 2/3  val loss #  top-1 # %",
        "epoch 1/2  loss #  # s *",
        "epoch 2/2 batch 1/3  val loss #  top-1 # %",
        "epoch 2/2  loss #  val loss #  top-1 # %  # s",
        "best epoch 1 of 2 by val/loss",
    ]
    assert ("epoch 1/2", 3, 3) in bars


def test_an_early_end_is_explained(tmp_path, folder_data, weights, capsys):
    early = ("callbacks.early_stopping.min_delta=100", "callbacks.early_stopping.patience=2", "trainer.max_epochs=9")
    figures = run(tmp_path / "run", folder_data, weights, *early)
    assert figures["epoch/last"] == 2
    best = figures["epoch/best"] + 1
    reason = "val/loss has not improved for 2 epochs"
    assert _said(capsys)[-1] == f"stopped after epoch 3: {reason}; best epoch {best}"


def test_an_early_end_in_the_first_epoch_is_explained():
    stopping = EarlyStopping("val/loss", patience=1)
    stopping.wait_count = 1
    seen = SimpleNamespace(early_stopping_callbacks=[stopping], val_check_interval=2, check_val_every_n_epoch=None)
    reason = "val/loss has not improved for 1 validation"
    assert ending(seen, 0) == f"stopped after epoch 1: {reason}; best epoch 1"


def test_an_interrupted_run_shows_its_epochs_and_names_what_goes_on(
    tmp_path, folder_data, weights, capsys, monkeypatch, bars
):
    step = TransferModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TransferModule, "training_step", interrupted)
    folder = tmp_path / "a run"
    assert resume_command(folder) is None
    # As Hydra leaves them: what was typed, and where
    for name, text in {
        "overrides": "[]",
        "hydra": f"hydra: {{runtime: {{cwd: '{tmp_path}', config_sources: []}}}}",
    }.items():
        write_text(folder / ".hydra" / f"{name}.yaml", text)
    with pytest.raises(SystemExit):
        run(folder, folder_data, weights, "trainer.max_epochs=3")
    [line] = _said(capsys)
    assert line.startswith("epoch 1/3  loss ")
    assert line.endswith(" *")
    assert bars[-1] == ("epoch 2/3", 3, 0)
    assert resume_command(folder) == f"python -m tlearn.train 'resume={folder}'"
    text = (folder / "train.log").read_text(encoding="utf-8")
    assert "ERROR   ended by SystemExit" in text
    assert "KeyboardInterrupt" in text
