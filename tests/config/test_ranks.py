"""Processes that a launcher has started: one run folder, which rank 0 names."""

import itertools
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tlearn
from tests.conftest import REPOSITORY
from tests.forks import run_ranks
from tests.small_runs import overrides, program, write_weights
from tlearn import evaluate
from tlearn.config.compose import compose
from tlearn.config.messages import explain
from tlearn.config.ranks import restarted_arguments, shared_place
from tlearn.config.trainer import _check_launch, measuring_trainer
from tlearn.config.tree import settings_of
from tlearn.console import is_main_process
from tlearn.errors import ConfigError, OutputError
from tlearn.launch import Launch, launch
from tlearn.training.ddp import DDPStrategy


@pytest.fixture
def ranks(monkeypatch):
    """Give a function that sets what a launcher tells a process."""

    def started(rank: int, restarts: int = 0) -> None:
        told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1, "LOCAL_RANK": rank}
        for name, value in {**told, "TORCHELASTIC_MAX_RESTARTS": restarts}.items():
            monkeypatch.setenv(name, str(value))

    return started


def agent(options: list[str], *command: str, cwd: Path) -> subprocess.Popen[str]:
    """Start an agent of torchrun, as a machine would."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", *options]
    return subprocess.Popen(
        [*launcher, *command], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_process_of_its_own_is_told_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    # As tlearn's own further processes have them
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch() is None
    assert is_main_process()
    assert shared_place([], Path("here")) == []


def test_a_given_folder_is_not_asked_for(ranks):
    ranks(0)
    assert shared_place(["hydra.run.dir=here"], Path("here")) == []
    ranks(1)
    assert shared_place(["hydra.run.dir=here"], Path("here")) == ["hydra.output_subdir=null"]


def test_agents_that_count_other_restarts_share_a_folder(ranks, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    monkeypatch.setattr("tlearn.config.ranks._PATIENCE", timedelta(seconds=5))
    monkeypatch.setattr("tlearn.config.ranks._stores", [])
    for rank, restarts in ((0, "1"), (1, "0")):
        ranks(rank)
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        # Each is another process.
        monkeypatch.setattr("tlearn.config.ranks._runs", itertools.count())
        assert shared_place([], Path(f"folder of {rank}"))[0] == "hydra.run.dir='folder of 0'"


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
    # Of what command it is, is not known.
    assert restarted_arguments(given) == given
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[seed=3]")
    (tmp_path / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {cwd: /, config_sources: []}}")
    assert restarted_arguments(given) == ["seed=3", f"resume='{tmp_path}'"]
    assert restarted_arguments(["seed=3"]) == ["seed=3"]
    quiet = "hydra/job_logging=none"
    assert restarted_arguments([*given, quiet]) == ["seed=3", quiet, f"resume='{tmp_path}'"]
    another = ["seed=4", f"hydra.run.dir={tmp_path}"]
    assert restarted_arguments(another) == another
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert restarted_arguments(["seed=3", f"hydra.run.dir=~/{tmp_path.name}"]) == ["seed=3", f"resume='{tmp_path}'"]
    ranks(1)
    assert restarted_arguments(given) == given
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert restarted_arguments(given) == ["seed=3", f"resume='{tmp_path}'"]


# What srun tells the third of four tasks on two nodes
SRUN = {"JOB_NAME": "night", "NTASKS": "4", "STEP_ID": "0", "STEP_NUM_NODES": "2", "PROCID": "2"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"STEP_TASKS_PER_NODE": "2(x2)"}, Launch(2, 4, 2, 2)),
        ({"NTASKS_PER_NODE": "2"}, Launch(2, 4, 2, 2)),
        ({}, Launch(2, 4, 2, 2)),
        # What srun has, and not what the job has
        ({"STEP_TASKS_PER_NODE": "2(x2)", "NTASKS_PER_NODE": "8", "NNODES": "4"}, Launch(2, 4, 2, 2)),
        ({"STEP_TASKS_PER_NODE": "3,1"}, Launch(2, 4, 2, None)),
        # The script of a job, a job of one task, and a shell that somebody types in
        ({"STEP_ID": None}, None),
        ({"NTASKS": "1"}, None),
        ({"JOB_NAME": "interactive"}, None),
    ],
    ids=str,
)
def test_what_slurm_tells_its_tasks(monkeypatch, given, expected):
    for name, value in {**SRUN, **given}.items():
        if value is not None:
            monkeypatch.setenv(f"SLURM_{name}", value)
    assert launch() == expected
    assert is_main_process() == (expected is None)
    several = expected is not None and expected.devices is not None
    trainer = compose(["trainer=ddp_cpu"]).trainer
    assert (trainer.devices, trainer.num_nodes) == (2, 2 if expected else 1)
    assert compose(["trainer=ddp"]).trainer.devices == (2 if several else "auto")
    # Further processes of a task inherit the rest.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_main_process()


def test_what_torchrun_tells(ranks, monkeypatch):
    ranks(1)
    assert launch() == Launch(1, 2, None, None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert launch() == Launch(1, 2, 2, 1)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    trainer = compose(["trainer=ddp"]).trainer
    assert (trainer.devices, trainer.num_nodes) == (1, 2)
    # What is typed holds, and is checked.
    assert compose(["trainer=ddp", "trainer.devices=3"]).trainer.devices == 3


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (
            ["trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=1"],
            {},
            "2 processes were started, and trainer.devices=2 trainer.num_nodes=1 are others: leave both out, or give "
            "trainer.devices=1 trainer.num_nodes=2",
        ),
        (["trainer=cpu"], {}, "2 processes were started, which need trainer=ddp, or trainer=ddp_cpu without GPUs"),
        (
            ["trainer=ddp_cpu"],
            {"SLURM_STEP_TASKS_PER_NODE": "2,1"},
            "on 2 nodes, and each needs as many: give SLURM --ntasks",
        ),
        (["trainer=ddp_cpu"], {"SLURM_STEP_ID": None}, "has 3 tasks, and srun starts them: give srun python ..."),
    ],
)
def test_processes_that_contradict_what_was_started_are_refused(
    ranks, tmp_path, folder_data, monkeypatch, arguments, variables, message
):
    if variables:
        for name, value in {**SRUN, "NTASKS": "3", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        for name, value in variables.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    else:
        ranks(0)
        for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, "1")
    typed = [
        *overrides(folder_data, write_weights(tmp_path / "w.pth")),
        *arguments,
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = program("train", *typed, cwd=tmp_path)
    assert done.returncode == ConfigError.exit_status, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("started", [Launch(0, 4, 2, 3), Launch(3, 4, 2, 1), Launch(0, 5, 2, 2), Launch(0, 3, 2, None)])
def test_nodes_with_different_numbers_of_processes_are_refused(started):
    built: Any = SimpleNamespace(num_devices=started.devices or 2, num_nodes=2, strategy=DDPStrategy())
    with pytest.raises(ConfigError, match=f"{started.processes} processes .* on 2 nodes, and each needs as many"):
        _check_launch(started, built)


def test_machines_that_nothing_starts_are_refused_and_not_waited_for(tmp_path, folder_data):
    typed = overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu", "trainer.num_nodes=2")
    with pytest.raises(ConfigError, match="num_nodes=2: nothing has started processes on other machines"):
        measuring_trainer(settings_of(compose(typed)), tmp_path)


def test_a_job_of_one_task_starts_further_processes_itself(tmp_path, folder_data, monkeypatch):
    for name, value in {**SRUN, "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    settings = settings_of(compose(overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu")))
    built = measuring_trainer(settings, tmp_path)
    assert (built.world_size, type(built.strategy.launcher).__name__) == (2, "_Launcher")


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


def fit_and_evaluate(command: list[str]) -> None:
    """Run two programs one after another, as a script that torchrun starts, and leave a third to be run."""
    folder = tlearn.fit(command).folder
    assert evaluate.main([f"run={folder}", "trainer=ddp_cpu", "report.write=false"]) == 0
    sys.argv += [f"resume={folder}", "trainer.devices=3"]


@pytest.mark.slow
def test_all_ranks_have_the_folder_of_the_first_and_two_agents_train_as_one(tmp_path, folder_data, capsys):
    command = overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu", "logger=csv")
    (place := tmp_path / "processes").mkdir()
    assert run_ranks("train", cwd=place, prepare=partial(fit_and_evaluate, command)) == [2, 2]
    assert "2 processes were started, and trainer.devices=3 trainer.num_nodes=1 are others" in capsys.readouterr().out
    [of_one] = place.glob("outputs/train/*/*/metrics.json")
    assert len(list(place.glob("outputs/evaluate/*/*"))) == 1

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", meeting]
    (others := tmp_path / "agents").mkdir()
    agents = [agent(options, "-m", "tlearn.train", *command, cwd=others) for _ in range(2)]
    ended = [one.communicate(timeout=240) for one in agents]
    assert [one.returncode for one in agents] == [0, 0], ended
    [of_two] = others.glob("outputs/train/*/*/metrics.json")
    one, together = (
        {name: value for name, value in json.loads(file.read_text()).items() if "/loss" in name}
        for file in (of_one, of_two)
    )
    assert len(one) > 1
    assert together == one


@pytest.mark.parametrize(("said", "status"), [("[/torch/gloo/transport/tcp/pair.cc:553] ", 4), ("", 1)])
def test_a_process_that_ended_is_told_from_other_connections(said, status):
    error = RuntimeError(f"{said}Connection closed by peer [127.0.0.1]:1234")
    assert explain(error) == (status, "another process of this run has ended, or was killed" if said else None)
