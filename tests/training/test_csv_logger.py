"""metrics.csv only grows: row by row, with new columns, after a kill, and when the disk is full."""

import csv
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.faults import fault
from tlearn.errors import OutputError
from tlearn.files import read_table
from tlearn.training.csv_logger import CSVLogger


def log(folder: Path, step: int, **metrics: float) -> None:
    """Log one row as a program that starts, or starts again, would."""
    logger = CSVLogger(folder)
    logger.log_metrics(metrics, step)
    logger.finalize("success")


def table(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if value} for row in read_table(folder / "metrics.csv")]


def test_tensors_and_numbers_are_one_row_each_in_one_order_of_columns(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"val/loss": torch.tensor(0.5), "epoch": 0}, 3)
    logger.log_metrics({"epoch": 1, "val/loss": 0.25}, 6)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["epoch", "step", "val/loss"], ["0", "3", "0.5"], ["1", "6", "0.25"]]


def test_a_log_goes_on_with_the_rows_that_are_there(tmp_path):
    for step in range(3):
        log(tmp_path, step, loss=step / 2)
    assert table(tmp_path) == [{"loss": str(step / 2), "step": str(step)} for step in range(3)]


@pytest.mark.parametrize("later", [{"accuracy": 0.5}, {"accuracy": 0.5, "loss": 0.25}], ids=["other", "more"])
def test_a_log_keeps_its_rows_when_columns_are_added(tmp_path, later):
    log(tmp_path, 0, loss=0.5)
    log(tmp_path, 1, **later)
    log(tmp_path, 2, loss=0.125)
    assert table(tmp_path) == [
        {"loss": "0.5", "step": "0"},
        {name: str(value) for name, value in later.items()} | {"step": "1"},
        {"loss": "0.125", "step": "2"},
    ]


def test_a_log_whose_last_row_was_cut_off_keeps_the_others(tmp_path):
    log(tmp_path, 0, loss=0.5)
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8", newline="") as file:
        file.write("0.37")
    log(tmp_path, 2, loss=0.125)
    assert table(tmp_path) == [{"loss": "0.5", "step": "0"}, {"loss": "0.125", "step": "2"}]


@pytest.mark.parametrize("left", ["", "lo"], ids=["nothing", "half a header"])
def test_a_log_whose_header_was_cut_off_starts_again(tmp_path, left):
    (tmp_path / "metrics.csv").write_text(left, encoding="utf-8")
    log(tmp_path, 1, loss=0.5)
    log(tmp_path, 2, loss=0.125)
    assert table(tmp_path) == [{"loss": "0.5", "step": "1"}, {"loss": "0.125", "step": "2"}]


def test_a_logger_that_writes_nothing_leaves_the_rows(tmp_path):
    log(tmp_path, 0, loss=0.5)
    CSVLogger(tmp_path).finalize("success")
    assert table(tmp_path) == [{"loss": "0.5", "step": "0"}]


def test_at_no_moment_is_the_table_absent_or_shorter(tmp_path):
    for step in range(3):
        log(tmp_path, step, loss=step / 2)
    sizes = []

    def watch(frame: object, event: str, argument: object) -> object:
        found = os.path.exists(tmp_path / "metrics.csv")
        sizes.append(os.path.getsize(tmp_path / "metrics.csv") if found else -1)
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        # Goes on, has a new column, and goes on with that
        log(tmp_path, 3, loss=0.5)
        log(tmp_path, 4, accuracy=0.5)
        log(tmp_path, 5, accuracy=0.75)
    finally:
        sys.settrace(before)
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("later", [{"loss": 0.25}, {"accuracy": 0.5}], ids=["same columns", "new column"])
def test_a_row_that_cannot_be_written_whole_leaves_the_table_as_it_was(tmp_path, later):
    log(tmp_path, 0, loss=0.5)
    before = (tmp_path / "metrics.csv").read_bytes()
    with fault("write", OSError(28, "No space left")), pytest.raises(OutputError, match=r"metrics\.csv: No space left"):
        log(tmp_path, 1, **later)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    log(tmp_path, 1, **later)
    assert len(table(tmp_path)) == 2
