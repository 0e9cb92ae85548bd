"""Facts about the machine: CPUs and memory within a container's limits, precision, versions, revisions."""

import json
import os
import platform
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tlearn import machine
from tlearn.machine import available_cpus, available_memory, environment, has_bf16, peak_memory


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_containers_share_of_the_cpus_is_respected(tmp_path, monkeypatch, quota, cpus):
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    free = available_cpus()
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cpus() == (cpus or free)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("MemTotal: 9 kB\nMemAvailable:    3 kB\n", 3072), ("MemTotal: 9 kB\n", None), (None, None)],
)
def test_available_memory_is_known_where_the_system_says(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert available_memory() == expected


@pytest.mark.parametrize(("limit", "expected"), [("5000\n", 4200), ("500\n", 0), ("1000000\n", 9216), ("max\n", 9216)])
def test_a_containers_share_of_the_memory_is_respected(tmp_path, monkeypatch, limit, expected):
    files = {
        "_MEMORY": "MemAvailable: 9 kB\n",
        "_LIMIT": limit,
        "_USED": "1000\n",
        "_USES": "anon 700\ninactive_file 200\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, name, tmp_path / name)
    assert available_memory() == expected


@pytest.mark.parametrize(("text", "expected"), [("VmRSS: 2 kB\nVmHWM:\t 3 kB\n", 3072), ("x\n", None), (None, None)])
def test_the_most_memory_is_known_where_the_system_says(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "status")
    if text is not None:
        (tmp_path / "status").write_text(text)
    assert peak_memory(torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: bf16\nflags\t\t: fpu avx512_bf16 sse\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512_bf16x sse\n", False),
        (None, False),
    ],
)
def test_a_cpu_computes_in_bfloat16_if_it_has_the_instructions(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert has_bf16(torch.device("cpu")) is expected


@pytest.mark.parametrize("current", [0, 1])
def test_each_gpu_is_asked_for_bf16_and_not_the_current_one(monkeypatch, current):
    capabilities = [(9, 0), (7, 5)]
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda one: SimpleNamespace(major=capabilities[one][0]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    assert [has_bf16(torch.device("cuda", index)) for index in (0, 1)] == [True, False]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert has_bf16(torch.device("cuda", 1))


def test_the_environment_names_versions_hardware_and_command():
    found = json.loads(json.dumps(environment()))
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"tlearn", "torchvision", "lightning", "hydra-core", "numpy"} <= found["packages"].keys()
    assert found["cpus"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["command"] == sys.argv


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_environment_names_the_git_revision_and_says_where_files_have_changed(tmp_path, monkeypatch):
    # Set where the tests run from a git hook
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert environment()["git"]["here"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-c", "core.hooksPath="]
    (tmp_path / "file").write_text("one", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert environment()["git"]["here"] == revision
    (tmp_path / "file").write_text("two", encoding="utf-8")
    assert environment()["git"]["here"] == revision + "+"
