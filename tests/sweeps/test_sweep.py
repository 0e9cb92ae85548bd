"""A sweep as a user starts it, under several launchers: its rows, its table, its exit status."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from tests.config.test_command import SMALL, start  # noqa: F401 - a fixture
from tests.conftest import COLOURS, draw_classes
from tests.forks import server
from tests.small_runs import overrides, program, write_weights
from tlearn.errors import DataError

# A program whose trials do what their settings say, in whatever process they run
PROGRAM = """
import os, signal, time
from tlearn.config.command import program
from tlearn.errors import DataError

def task(config):
    open(f"started_{config.topk}", "w").close()
    if config.topk == 2:
        raise DataError("a.jpg: cut short")
    if config.topk == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.topk >= 6:
        time.sleep(60)
    return {"val/top1": config.topk / 10}

main, script = program("predict", task)

if __name__ == "__main__":
    script()
"""


def sweep_rows(folder: Path = Path("multirun")) -> list[dict[str, str]]:
    [table] = folder.rglob("results.csv")
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcomes(folder: Path = Path("multirun")) -> list[str]:
    return [row["status"] for row in sweep_rows(folder)]


class Returned(Callback):
    """Note what a sweeper is given of each trial."""

    values: list[Any] = []  # noqa: RUF012 - of the whole process, as Hydra makes the object
    whole: list[Any] = []  # noqa: RUF012

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        self.values.append(job_return.return_value)
        assert job_return.cfg is not None
        self.whole.append(job_return)


@pytest.fixture
def returned():
    Returned.values.clear()
    Returned.whole.clear()
    return Returned.values


BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
NOTED = "+hydra.callbacks.noted._target_=tests.sweeps.test_sweep.Returned"


def test_trials_that_fail_stop_no_others_and_all_are_in_the_table(start):  # noqa: F811
    def task(config):
        if config.topk == 2:
            raise DataError("a.jpg: cut short\nand more")
        if config.topk == 3:
            raise ZeroDivisionError("a fault")
        return {"val/top1": config.topk / 10, "val/loss": 1.0, "other": 5}

    ended = start("-m", *SMALL, "topk=1,2,3,-4,5", name="predict", task=task)
    assert ended.status == 7
    assert [config.topk for config in ended.configs] == [1, 2, 3, 5]
    rows = sweep_rows()
    assert [row["overrides"] for row in rows] == [f"{' '.join(SMALL)} topk={k}" for k in (1, 2, 3, -4, 5)]
    assert [row["status"] for row in rows] == ["done", "failed (3)", "failed (1)", "failed (2)", "done"]
    assert [row["val/top1"] for row in rows] == ["0.1", "", "", "", "0.5"]
    assert [row["other"] for row in rows] == ["5", "", "", "", "5"]
    assert rows[1]["error"] == "a.jpg: cut short"
    assert rows[3]["error"].startswith("topk=-4: expected a whole number")
    assert all(Path(row["folder"]).is_dir() for row in rows)
    assert len({row["folder"] for row in rows}) == 5
    assert "tlearn: trial 1 failed: a.jpg: cut short" in ended.err
    assert ended.err.count("Traceback") == 1
    assert ended.err.splitlines()[-1].startswith("tlearn: error: 3 of 5 trials failed (see ")


def test_what_hydra_keeps_of_a_trial_is_small(start, returned):  # noqa: F811
    assert start("-m", *SMALL, "topk=1,2,3", NOTED, name="predict").status == 0
    assert [(one.cfg, one.hydra_cfg) for one in Returned.whole[:-1]] == [(None, None)] * 2
    assert [one.overrides[-1] for one in Returned.whole] == ["topk=1", "topk=2", "topk=3"]


def test_a_sweep_without_failures_ends_well(start):  # noqa: F811
    ended = start("-m", *SMALL, "device=cpu,auto", "topk=3", name="predict")
    assert ended.status == 0
    assert ended.err == ""
    assert [(config.device, config.topk) for config in ended.configs] == [("cpu", 3), ("auto", 3)]
    assert outcomes() == ["done", "done"]
    # What all trials share tells nothing.
    assert "PICTURES" not in ended.out
    assert ended.out.splitlines()[-1].endswith("results.csv")


def test_a_quiet_sweep_prints_where_its_table_is(start):  # noqa: F811
    def task(config):
        if config.topk == 3:
            raise KeyboardInterrupt
        return {}

    ended = start("-m", *SMALL, "topk=1,2", "quiet=true", name="predict", task=task)
    assert ended.out == f"{Path.cwd() / next(Path('multirun').rglob('results.csv'))}\n"
    ended = start("-m", *SMALL, "topk=3", "quiet=true", "hydra.sweep.dir=stopped", name="predict", task=task)
    assert ended.out == f"{Path.cwd() / 'stopped' / 'results.csv'}\n"


def test_one_trial_is_a_sweep_too(start):  # noqa: F811
    ended = start("-m", *SMALL, name="predict")
    assert (ended.status, outcomes()) == (0, ["done"])


def test_a_run_of_its_own_is_no_trial(start):  # noqa: F811
    ended = start(*SMALL, "hydra.run.dir=run", name="predict")
    assert ended.status == 0
    assert [path.name for path in Path("run").iterdir()] == [".hydra"]


def test_the_table_is_there_after_every_trial_and_an_interruption_ends_the_sweep(start):  # noqa: F811
    def task(config):
        if config.topk == 2:
            assert outcomes() == ["done"]
            [row] = Path("multirun").rglob("trial_1.json")
            assert json.loads(row.read_text())["status"] == "running"
            raise KeyboardInterrupt
        return {}

    ended = start("-m", *SMALL, "topk=1,2,3,4", name="predict", task=task)
    assert ended.status == 130
    assert len(ended.configs) == 2
    assert outcomes() == ["done", "failed (130)", "missing", "missing"]
    assert "trials 2-3 missing: never started" in ended.out


def test_a_closed_output_ends_the_sweep(start):  # noqa: F811
    def task(config):
        raise BrokenPipeError

    ended = start("-m", *SMALL, "topk=1,2", name="predict", task=task)
    assert (ended.status, len(ended.configs)) == (141, 1)


def test_a_mistake_in_any_trial_is_told_before_the_first_starts(start):  # noqa: F811
    ended = start("-m", "backbone=resnet18,resnet19")
    assert ended.status == 2
    assert "unknown option backbone=resnet19" in ended.err
    assert ended.configs == []


@pytest.mark.parametrize(
    ("place", "folders"),
    [
        ("hydra.sweep.subdir='${hydra.job.override_dirname}'", 2),
        ("hydra.sweep.subdir='a/${hydra.job.num}/b'", 2),
        # The trials of this task do not mind; a training refuses a folder that is taken.
        ("hydra.sweep.subdir=same", 1),
        ("hydra.sweep.subdir=.", 1),
    ],
)
def test_rows_are_found_wherever_trials_lie_below_the_sweep(start, place, folders):  # noqa: F811
    ended = start("-m", *SMALL, "topk=1,2", place, "hydra.sweep.dir=sweep", name="predict")
    assert ended.status == 0
    rows = sweep_rows(Path("sweep"))
    assert [row["status"] for row in rows] == ["done", "done"]
    assert len({row["folder"] for row in rows}) == folders


@pytest.mark.parametrize("place", ["../elsewhere", "a/../../elsewhere"])
def test_a_trial_outside_of_the_sweep_would_be_lost_and_is_refused(start, place):  # noqa: F811
    ended = start("-m", *SMALL, "topk=1,2", f"hydra.sweep.subdir={place}", name="predict")
    assert ended.status == 2
    assert f"hydra.sweep.subdir={place}: expected a folder below hydra.sweep.dir=" in ended.err
    assert ended.configs == []


def test_a_relative_sweep_is_where_the_program_was_started(start):  # noqa: F811
    ended = start("-m", *SMALL, "topk=1,2", "hydra.sweep.dir=sweep", "hydra.job.chdir=true", name="predict")
    assert ended.status == 0
    here = Path.cwd()
    assert [row["folder"] for row in sweep_rows(here)] == [str(here / "sweep" / str(number)) for number in (0, 1)]


def test_a_sweeper_is_given_the_metric_in_full_and_the_worst_value_for_a_failure(start, returned):  # noqa: F811
    values = {1: {"val/top1": 1 / 3, "val/loss": 0.1}, 2: {"val/top1": math.nan, "val/loss": math.nan}}

    def task(config):
        if config.seed == 3:
            raise DataError("no")
        return values[config.seed]

    start("-m", "seed=1,2,3", NOTED, task=task)
    # Optuna ends a whole search at NaN.
    assert returned == [1 / 3, -math.inf, -math.inf]
    returned.clear()
    start("-m", "seed=1,2,3", "optimized_metric=val/loss", NOTED, task=task)
    assert returned == [0.1, math.inf, math.inf]


def test_a_metric_that_no_trial_has_fails_them_and_keeps_what_they_have(start, returned):  # noqa: F811
    ended = start("-m", "seed=1,2", "optimized_metric=time/nothing", NOTED)
    assert ended.status == 7
    rows = sweep_rows()
    assert [row["status"] for row in rows] == ["failed (2)"] * 2
    assert [row["val/top1"] for row in rows] == ["0.5"] * 2
    assert rows[0]["error"] == "optimized_metric=time/nothing: no such metric; there are val/top1"
    assert returned == [math.inf] * 2


def test_a_metric_that_no_trial_will_have_fails_them_before_they_train(start, returned):  # noqa: F811
    ended = start("-m", "seed=1,2", "optimized_metric=val/f1", NOTED)
    assert ended.status == 7
    rows = sweep_rows()
    assert not any(row.get("val/top1") for row in rows)
    assert "optimized_metric=val/f1: no such metric; there are val/loss" in rows[0]["error"]
    assert start("seed=1", "optimized_metric=val/f1").status == 2
    # brier is best at its minimum, as its class says, whatever its name
    brier = "+metrics.distance._target_=tlearn.training.metrics.BrierScore"
    start("-m", "seed=1,2", brier, "optimized_metric=val/distance", NOTED)
    assert returned[-2:] == [math.inf] * 2


def test_a_launcher_that_breaks_leaves_the_table_of_what_was_done(start, monkeypatch):  # noqa: F811
    # Loads the class that Hydra will use
    launcher = type(Plugins.instance()._instantiate(OmegaConf.create({"_target_": BASIC_LAUNCHER})))
    launch = launcher.launch

    def breaking(self, job_overrides, initial_job_idx):
        launch(self, job_overrides[:2], initial_job_idx)
        raise RuntimeError("a worker was killed")

    monkeypatch.setattr(launcher, "launch", breaking)
    ended = start("-m", *SMALL, "topk=1,2,3", name="predict")
    assert ended.status == 7
    assert outcomes() == ["done", "done", "missing"]
    assert "the sweep stopped: RuntimeError: a worker was killed" in ended.err
    assert ended.err.splitlines()[-1].startswith("tlearn: error: 1 of 3 trials missing (see ")


def test_a_grid_given_to_the_sweeper_itself_is_counted_too(start):  # noqa: F811
    def task(config):
        raise KeyboardInterrupt

    grid = Path("own/hydra/sweeper/grid.yaml")
    grid.parent.mkdir(parents=True)
    grid.write_text("defaults: [basic]\nparams: {topk: 'range(1,4)', device: 'cpu,auto'}\n", encoding="utf-8")
    chosen = ["--config-dir", "own", "hydra/sweeper=grid", "device=cpu"]
    start("-m", *chosen, *SMALL, name="predict", task=task)
    assert outcomes() == ["failed (130)", "missing", "missing"]


@pytest.fixture
def written_program(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(PROGRAM, encoding="utf-8")
    return tmp_path


def command(*arguments: str) -> list[str]:
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    return [sys.executable, "own.py", "-m", *joblib, *SMALL, *arguments]


@pytest.mark.slow
def test_rows_of_other_processes_are_kept_and_one_that_is_killed_is_missing(written_program):
    run = {"cwd": written_program, "capture_output": True, "text": True, "timeout": 120, "check": False}
    done = subprocess.run(command("topk=1,2,3,4"), **run)
    assert done.returncode == 7
    assert outcomes(written_program) == ["done", "failed (3)", "done", "done"]
    assert "best" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("tlearn: error: 1 of 4 trials failed (see ")
    killed = subprocess.run(command("topk=1,5", "hydra.sweep.dir=killed"), **run)
    assert killed.returncode == 7
    assert outcomes(written_program / "killed")[1] == "missing"
    assert "TerminatedWorkerError" in killed.stderr


def interruptible():
    """Take Ctrl-C, which a shell's background jobs, and what they start, ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_an_interruption_ends_trials_in_other_processes_too(written_program):
    started = subprocess.Popen(
        command("topk=1,6,7,8"), cwd=written_program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    # The first trial runs beside the second one, and may write its row after that one has started.
    while not [*written_program.rglob("results.csv")] or outcomes(written_program)[0] != "done":
        assert started.poll() is None
        time.sleep(0.05)
    while not (written_program / "started_6").exists():
        assert started.poll() is None
        time.sleep(0.05)
    # As Ctrl-C does: to all processes of the terminal
    os.killpg(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "interrupted" in err.splitlines()[-1]
    # The launcher may kill its processes before they can say that they were interrupted.
    first, *others = outcomes(written_program)
    assert first == "done"
    assert len(others) == 3
    assert set(others) <= {"failed (130)", "missing"}


@pytest.fixture(scope="module")
def basic(tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    """Give the folder of a sweep of four trainings one after another, of which one fails, and their rows."""
    folder = tmp_path_factory.mktemp("launchers")
    for split, count, first in (("train", 8, 0), ("val", 4, 100)):
        draw_classes(folder / "pictures" / split, count, tuple(COLOURS), first)
    write_weights(folder / "w.pth")
    assert swept(folder, "basic").returncode == 7
    return folder, sweep_rows(folder / "basic")


def swept(folder: Path, launcher: str) -> subprocess.CompletedProcess[str]:
    """Sweep under a launcher."""
    rates = ["optimized_metric=val/loss", "optimizer.lr=0.01,0.02,-1,0.03"]
    typed = [*overrides(folder / "pictures", folder / "w.pth", *rates), f"hydra.sweep.dir='{folder / launcher}'"]
    return program("train", "-m", f"hydra/launcher={launcher}", *typed, cwd=folder)


def _written(rows: list[dict[str, str]]) -> dict[str, list[int]]:
    """Return when the files of each trial's end were written."""
    return {row["trial"]: [path.stat().st_mtime_ns for path in Path(row["folder"]).glob("*.json")] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package"),
    [
        ("batched", ""),
        ("joblib", "hydra_joblib_launcher"),
        ("submitit_local", "hydra_submitit_launcher"),
        ("ray", "hydra_ray_launcher"),
    ],
)
def test_a_sweep_under_any_launcher_ends_as_under_the_basic_one(basic, launcher, package, monkeypatch):
    if package:
        pytest.importorskip(f"hydra_plugins.{package}", reason=f"needs the package {package.replace('_', '-')}")
    if launcher == "joblib":
        # Its processes have imported torch; those of other tests are fresh ones.
        monkeypatch.setattr("joblib.externals.loky.process_executor.get_context", lambda *_, **__: server())
    folder, expected = basic
    done = swept(folder, launcher)
    assert done.returncode == 7, done.stderr
    assert done.stderr.splitlines()[-1].startswith("tlearn: error: 1 of 4 trials failed (see ")
    rows = sweep_rows(folder / launcher)
    assert [row["status"] for row in rows] == ["done", "done", "failed (2)", "done"]
    for row, wanted in zip(rows, expected, strict=True):
        assert all(row[name] == wanted[name] for name in ("trial", "status", "overrides", "error"))
        for name in ("val/top1", "val/loss", "epoch/best"):
            # Heads that train together are those alone to this.
            assert float(row[name] or -1) == pytest.approx(float(wanted[name] or -1), abs=1e-5), name
    # Ray repeats what its processes print, late.
    lines = [line for line in done.stdout.splitlines() if "(_run_job pid=" not in line]
    assert "trial 2 (lr=-1) failed (2): optimizer.lr=-1: expected a number > 0" in lines
    best = min((row for row in expected if row["val/loss"]), key=lambda row: float(row["val/loss"]))
    assert lines[-1] == str(folder / launcher / "results.csv")
    assert lines[-2].startswith("repeat it: python -m tlearn.train data=folder ")
    assert lines[-2].endswith(f"optimizer.lr={best['overrides'].rpartition('=')[2]}")
    assert lines[-3] == f"best trial: {best['trial']}, in {launcher}/{best['trial']}"
    # The same command runs what failed, and nothing that is done.
    before = _written(rows)
    again = swept(folder, launcher)
    assert again.returncode == 7
    assert f"{folder / launcher} goes on: 3 trials are done" in again.stdout.splitlines()
    rows = sweep_rows(folder / launcher)
    assert [row["status"] for row in rows] == ["done", "done", "failed (2)", "done"]
    assert {number for number, when in _written(rows).items() if when != before[number]} == {"2"}
