"""Processes that a launcher has started: one run folder, which rank 0 names."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.small_runs import overrides, program, write_weights
from tlearn.config.ranks import restarted_arguments, shared_place, world_size
from tlearn.errors import ConfigError, OutputError


@pytest.fixture
def ranks(monkeypatch):
    """Give a function that sets what a launcher tells a process."""

    def started(rank: int, restarts: int = 0) -> None:
        told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1, "LOCAL_RANK": rank}
        for name, value in {**told, "TORCHELASTIC_RESTART_COUNT": restarts}.items():
            monkeypatch.setenv(name, str(value))

    return started


def torchrun(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_process_of_its_own_is_told_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    # As tlearn's own further processes have them
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_size() == 1
    assert shared_place([], Path("here")) == []


def test_a_given_folder_is_not_asked_for(ranks):
    ranks(0)
    assert shared_place(["hydra.run.dir=here"], Path("here")) == []
    ranks(1)
    assert shared_place(["hydra.run.dir=here"], Path("here")) == ["hydra.output_subdir=null"]


def test_a_launcher_that_does_not_answer_is_named(ranks, monkeypatch):
    ranks(1)
    monkeypatch.setattr("tlearn.config.ranks._PATIENCE", timedelta(seconds=1))
    with pytest.raises(OutputError, match=r"rank 0 has not named its run folder by 127\.0\.0\.1:1: "):
        shared_place([], Path("here"))


def test_a_restart_goes_on_where_its_folder_has_a_checkpoint(ranks, tmp_path, monkeypatch):
    given = ["seed=3", f"hydra.run.dir={tmp_path}"]
    ranks(1, restarts=1)
    assert restarted_arguments(given) == given
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert restarted_arguments(given) == ["seed=3", f"resume='{tmp_path}'"]
    assert restarted_arguments(["seed=3"]) == ["seed=3"]
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert restarted_arguments([f"hydra.run.dir=~/{tmp_path.name}"]) == [f"resume='{tmp_path}'"]
    ranks(1)
    assert restarted_arguments(given) == given


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("predict", ["run=x", "images=x"], "2 processes were started, and predict works in one"),
        ("explore", [], "and explore works in one"),
        ("train", ["-m", "seed=1,2"], "a sweep starts those of each trial by itself"),
    ],
)
def test_what_works_in_one_process_is_refused_in_several(ranks, tmp_path, name, arguments, message):
    ranks(0)
    done = program(name, *arguments, cwd=tmp_path)
    assert done.returncode == ConfigError.exit_status
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_ranks_have_the_folder_of_the_first(tmp_path, folder_data):
    command = overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu", "logger=csv")
    script = tmp_path / "programs.py"
    script.write_text(
        "import tlearn, tlearn.evaluate, tlearn.train\n"
        f"first = tlearn.fit({command}).folder\n"
        "measured = tlearn.evaluate.main([f'run={first}', 'trainer=ddp_cpu', 'report.write=false'])\n"
        "refused = tlearn.train.main([f'resume={first}', 'trainer.devices=3'])\n"
        "assert (measured, refused) == (0, 2), (measured, refused)\n",
        encoding="utf-8",
    )
    done = torchrun(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 processes were started, and the trainer has 3" in done.stderr
    assert len(list(tmp_path.glob("outputs/train/*/*/metrics.json"))) == 1
    assert len(list(tmp_path.glob("outputs/evaluate/*/*"))) == 1
