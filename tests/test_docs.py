"""The documentation holds: every block on the Python interface runs, and the list of errors is that of the code."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from tests.conftest import REPOSITORY
from tests.forks import Running
from tlearn.config.compose import compose
from tlearn.config.tree import compose_unchecked

BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8"), re.M | re.S
)


@pytest.mark.slow
def test_every_block_runs(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLEARN_CACHE", str(drawn))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 10
    for number, block in enumerate(BLOCKS):
        capsys.readouterr()
        # Small images do for the one training of a whole body.
        smaller = block.replace('"finetune=full",', '"finetune=full", "transforms.size=32",')
        exec(compile(smaller, f"block {number}", "exec"), names)
        # What a comment promises of a printed line
        promised = re.findall(r"print\(error\)  # (.*)", block)
        printed = capsys.readouterr().out
        assert all(line in printed.splitlines() for line in promised)
    assert names["run"].report.is_file()
    assert len(names["runs"]) == len(names["table"]) == 4
    assert names["best"].metrics["val/top1"] > 0.5
    assert names["outputs"].classes == names["model"].classes
    assert len(names["wrong"]) == int((~names["outputs"].correct()).sum())
    assert names["matrix"].sum() == len(names["outputs"]) == 500
    assert names["features"].shape == (100, 512)
    assert names["tuned"].folder != names["best"].folder
    assert names["config"].backbone.name == "resnet18"
    assert all(run.folder.is_relative_to(tmp_path) for run in names["runs"])


def test_the_list_of_errors_is_that_of_the_code():
    made = runpy.run_path(str(REPOSITORY / "docs" / "errors.py"))["page"]()
    assert made == (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8"), "write it: python docs/errors.py"
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", made, re.M)} == {*range(9), 129, 130, 141, 143}
    assert "choose data.balance=weights | `ConfigError` | `config/build.py` |" in made


SCALE = re.findall(r"^```bash\n(.*?)^```", (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8"), re.M | re.S)
# Notes what it was to start, as the shell has put it.
SRUN = '#!/bin/bash\nprintf "%s\\0" "$@" > typed\n'
# What srun tells tasks on one machine
TASKS = {"NTASKS": "2", "STEP_ID": "0", "STEP_NUM_NODES": "1", "STEP_TASKS_PER_NODE": "2"}


@pytest.mark.parametrize(
    "line", [line for block in SCALE for line in block.splitlines() if " -m tlearn.train " in line]
)
def test_every_line_of_the_page_on_scale_is_understood(line):
    typed = shlex.split(line.partition(" -m tlearn.train ")[2])
    if typed[0] != "-m":
        config = compose([one for one in typed if not one.startswith("hydra.")])
        assert config.trainer.strategy._target_ == "tlearn.training.ddp.DDPStrategy"
        return
    Plugins.instance()
    for group, option in re.findall(r"hydra/(launcher)=(\w+)", line):
        if f"{option}.yaml" not in ConfigStore.instance().repo["hydra"][group]:
            pytest.skip(f"needs the package of hydra/{group}={option}")
    if "sweep=head" in line:
        pytest.importorskip("optuna", reason="needs the extra sweep")
    assert compose_unchecked([re.sub(",.*", "", one) for one in typed[1:]]).hydra.launcher


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun --standalone", "srun"])
def test_lines_of_the_page_on_scale_run_on_one_machine(drawn, tmp_path, launcher):
    [script] = [block for block in SCALE if launcher in block]
    lines = script.splitlines()
    [line] = [one for one in lines if one.startswith(launcher)]
    line = line.replace("=4", "=2").replace("trainer=ddp", "trainer=ddp_cpu trainer.max_epochs=1 report=off")
    (stand_in := tmp_path / "srun").write_text(SRUN, encoding="utf-8")
    stand_in.chmod(0o755)
    paths = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": paths, "PYTHONPATH": str(REPOSITORY), "TLEARN_CACHE": str(drawn), "OMP_NUM_THREADS": "1"}
    job = {"SLURM_JOB_ID": "4712", "SLURM_JOB_NAME": "night", "SLURM_NODELIST": "localhost", "SLURM_NODEID": "0"}
    variables = {**os.environ, **own, **(job if launcher == "srun" else {})}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    if launcher == "srun":
        python, flag, program, *typed = (tmp_path / "typed").read_text(encoding="utf-8").split("\0")[:-1]
        assert (python, flag, program) == ("python", "-m", "tlearn.train")
        told = {**own, **job, **{f"SLURM_{name}": value for name, value in TASKS.items()}}
        ranks = [{f"SLURM_{name}": str(rank) for name in ("PROCID", "LOCALID")} for rank in range(2)]
        both = [Running("train", *typed, cwd=tmp_path, **told, **rank) for rank in ranks]
        assert [one.end() for one in both] == [0, 0], both[0].said()
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    if launcher == "srun":
        assert (tmp_path / "runs" / "4712" / "metrics.json").is_file()
