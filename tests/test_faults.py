"""Whatever fails at any write, sync or replacement of a run or a prediction: files are whole or absent."""

import csv
import errno
import json
import os
import re
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, open_dict
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import draw
from tests.faults import Disk, Killed, temporaries
from tests.forks import Running
from tests.small_runs import program
from tlearn.config.compose import compose
from tlearn.errors import OutputError
from tlearn.files import read_table
from tlearn.predict import predict
from tlearn.train import train

ERRORS = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "broken": OSError(errno.EIO, "Input/output error"),
    "killed": Killed(),
}
# What is written in another way: event files and the log only grow, and nobody reads a lock.
OTHERS = ("tensorboard", "train.log", ".lock", ".readers")
RUN = {
    *("splits.csv", "environment.json", "metrics.csv", "checkpoints/last.ckpt", "metrics.json"),
    *("model/model.safetensors", "model/model.json", "model/splits.csv"),
}
REPORT = {"report.html", "report/first_batch.png", "report/curves.png", "report/test_classes.csv"}


def arguments(data: Path) -> list[str]:
    return [
        *("data=folder", f"data.root='{data}'", "data.batch_size=8", "data.num_workers=0", "backbone=tiny"),
        *("trainer=cpu", "trainer.max_epochs=3"),
    ]


def copied(config: DictConfig, folder: Path, **values: Any) -> DictConfig:
    """Compose once for many runs, which change what they are given."""
    config = config.copy()
    with open_dict(config):
        config.paths.output_dir, config.paths.cache = str(folder / "run"), str(folder / "cache")
        config.update(values)
    return config


def check_whole(path: Path) -> None:
    """Fail for a file that is not what its ending says, from its first byte to its last."""
    content = path.read_bytes()
    match path.suffix:
        case ".json":
            json.loads(content)
        case ".csv":
            rows = list(csv.reader(content.decode("utf-8").splitlines(keepends=True)))
            assert content.endswith(b"\n"), path
            assert {len(row) for row in rows} == {len(rows[0])}, path
        case ".ckpt":
            assert torch.load(path, weights_only=True)["state_dict"], path
        case ".safetensors":
            assert load_file(path), path
        case ".png":
            with Image.open(path) as image:
                image.load()
        case ".html":
            assert content.rstrip().endswith(b"</html>"), path
        case _:
            pytest.fail(f"{path} is of an unknown kind")


def written(folder: Path) -> dict[str, Path]:
    """Find what a run or a prediction has written, by path."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and not {*path.relative_to(folder).parts} & {*OTHERS, ".hydra"}
    }


def metrics(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "run" / "metrics.json").read_bytes())
    return {name: value for name, value in found.items() if not name.startswith("time/")}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "val", "test")):
        for name, colour in (("blue", (30, 30, 220)), ("red", (220, 30, 30))):
            for image in range(6 if split == "train" else 2):
                draw(root / split / name / f"{image}.png", colour, seed=10 * number + image)
    return root


@pytest.fixture(scope="module")
def config(data) -> DictConfig:
    return compose([*arguments(data), "report=off", "logger=csv"])


@pytest.fixture(scope="module")
def clean(config, tmp_path_factory) -> tuple[Path, Disk]:
    """Train without a fault."""
    folder = tmp_path_factory.mktemp("clean")
    with Disk().installed() as disk:
        train(copied(config, folder))
    return folder, disk


def test_every_file_of_a_run_with_its_report_goes_through_the_door(data, tmp_path):
    config = compose([*arguments(data), "data.cache=disk", "features=off"])
    with Disk().installed() as disk:
        train(copied(config, tmp_path))
    found = written(tmp_path)
    assert {f"run/{name}" for name in RUN | REPORT} <= found.keys()
    assert {Path(name).suffix for name in found if name.startswith("cache/")} == {".json", ".pixels"}
    assert found.keys() == {path.relative_to(tmp_path).as_posix() for path in disk.targets if path.exists()}


def test_every_file_of_a_run_on_kept_features_goes_through_the_door(clean):
    folder, disk = clean
    found = written(folder)
    assert {Path(name).suffix for name in found if name.startswith("cache/features")} == {".json", ".safetensors"}
    assert found.keys() == {path.relative_to(folder).as_posix() for path in disk.targets if path.exists()}
    for path in found.values():
        check_whole(path)


def _steps(targets: list[Path], error: str) -> list[int]:
    """Return the steps, from 1, that fail: of every kind of file the first with a full disk, the last with a kill."""
    numbered = list(enumerate(targets, 1))
    # Of two steps with one key, the later is kept.
    order = numbered if error == "killed" else reversed(numbered)
    return sorted({(path.parent, re.sub(r"[0-9a-f]{16,}|[0-9]+", "", path.name)): at for at, path in order}.values())


@pytest.mark.slow
# The sync stands between the two. What is killed at a write has a test of its own below.
@pytest.mark.parametrize(("step", "error"), [("write", "full"), ("replace", "full"), ("replace", "killed")])
def test_a_run_that_fails_at_any_file_leaves_whole_files_and_nothing_else(config, clean, tmp_path, step, error):
    steps = _steps(clean[1].taken[step], error)
    assert len(steps) > 10
    for at in steps:
        folder = tmp_path / str(at)
        with Disk(step, at, ERRORS[error]).installed() as disk:
            try:
                train(copied(config, folder))
                failure = None
            except (OutputError, Killed) as raised:
                failure = raised
        assert disk.failed
        assert temporaries(folder) == []
        for path in written(folder).values():
            check_whole(path)
        place = disk.failed.relative_to(folder).parts[0]
        # What is only kept for later runs is done without.
        expected = Killed if error == "killed" else OutputError if place == "run" else type(None)
        assert isinstance(failure, expected), (disk.failed, failure)
        if failure is None:
            assert metrics(folder) == metrics(clean[0])
        elif place == "run":
            assert not (folder / "run" / "metrics.json").exists() or disk.failed.name in ("run", "metrics.json")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_prediction_that_fails_at_any_step_leaves_the_old_table_and_page(data, clean, tmp_path, step, error):
    place, page = tmp_path / "table.csv", tmp_path / "page.html"
    chosen = [f"run='{clean[0] / 'run'}'", f"images='{data}'", f"output='{place}'", f"page='{page}'", "topk=2"]
    config = compose([*chosen, "num_workers=0", "device=cpu"], "predict", output_dir=tmp_path)
    with Disk().installed() as disk:
        predict(config)
    assert disk.targets == {place, page}
    whole = {path: path.read_bytes() for path in (place, page)}
    old = {place: b"old\n", page: b"old</html>\n"}
    for at in range(1, len(disk.taken[step]) + 1):
        for path, content in old.items():
            path.write_bytes(content)
        with Disk(step, at, ERRORS[error]).installed() as failing, pytest.raises((OutputError, Killed)) as caught:
            predict(config)
        assert isinstance(caught.value, Killed) == (error == "killed")
        assert failing.failed in whole
        assert failing.failed.read_bytes() == old[failing.failed]
        # The table is not lost with its page.
        assert place.read_bytes() == (old if failing.failed == place else whole)[place]
        # Its answers, from which the next goes on, are kept once there are some.
        kept = {tmp_path / "table.csv.partial"}
        assert {page, place} <= {*tmp_path.iterdir()} <= {page, place} | kept


# What is not referred to any more ends.
_HELD = ExitStack()


def _fail(step: str, at: int, ending: str) -> None:
    """Let this process be killed at a step."""
    _HELD.enter_context(Disk(step, at, lambda: os.kill(os.getpid(), signal.SIGKILL), ending).installed())


def kill_at(step: str, at: int, name: str, *given: str, cwd: Path, ending: str = "") -> None:
    """Run a program that is killed at a step of files whose path ends so."""
    assert Running(name, *given, cwd=cwd, prepare=partial(_fail, step, at, ending)).end() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "target", "skip"),
    [
        ("write", "checkpoints/last.ckpt", 12),
        ("write", "metrics.csv", 5),
        ("replace", "model/model.json", 0),
    ],
)
def test_a_killed_run_has_whole_files_and_goes_on_to_the_same_metrics(
    data, clean, tmp_path, monkeypatch, step, target, skip
):
    folder = tmp_path / "run"
    given = [*arguments(data), "report=off", "logger=csv", f"hydra.run.dir='{folder}'"]
    kill_at(step, skip + 1, "train", *given, cwd=tmp_path, ending=f"/{target}")
    left = written(tmp_path)
    assert [name for name in left if name.endswith(".tmp") or ".tmp/" in name] or target == "metrics.csv"
    for name, path in left.items():
        # Of a table that grows, the last row may be cut off.
        if ".tmp" not in name and path.name != "metrics.csv":
            check_whole(path)
    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / "cache"))
    resumed = program("train", f"resume={folder}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert temporaries(tmp_path) == []
    for path in written(tmp_path).values():
        check_whole(path)
    assert metrics(tmp_path) == metrics(clean[0])
    rows = {row["step"] for row in read_table(folder / "metrics.csv") if row["val/loss"]}
    assert rows == {row["step"] for row in read_table(clean[0] / "run" / "metrics.csv") if row["val/loss"]}


@pytest.mark.slow
def test_what_a_killed_prediction_left_is_removed_by_the_next_one(data, clean, tmp_path):
    (tmp_path / "table.csv").write_bytes(b"old")
    given = [f"run='{clean[0] / 'run'}'", f"images='{data}'", "output=table.csv", "num_workers=0", "device=cpu"]
    kill_at("replace", 1, "predict", *given, cwd=tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == b"old"
    assert len(temporaries(tmp_path)) == 1
    done = program("predict", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert temporaries(tmp_path) == []
    assert len(read_table(tmp_path / "table.csv")) == 20
