"""The wheel, installed into an empty folder, works from an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.small_runs import overrides, write_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it, without what it depends on, into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("*.whl")
    target = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    return target


def _run(command: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "explore", "compare", "bench"])
def test_every_console_script_gives_help(installed, tmp_path, name):
    done = _run([sys.executable, str(installed / "bin" / f"tlearn-{name}"), "--help"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m tlearn.{name} ")


def test_the_wheel_lists_its_programs(installed, tmp_path):
    done = _run([sys.executable, "-m", "tlearn"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python -m tlearn.train " in done.stdout


def test_the_wheel_trains_with_its_own_configuration(installed, tmp_path, folder_data):
    where = _run(
        [sys.executable, "-c", "from tlearn.config.tree import CONF_DIR; print(CONF_DIR)"], installed, tmp_path
    )
    assert Path(where.stdout.strip()) == installed / "tlearn" / "conf"
    arguments = overrides(folder_data, write_weights(tmp_path / "w.pth"), f"hydra.run.dir={tmp_path / 'run'}")
    done = _run([sys.executable, str(installed / "bin" / "tlearn-train"), *arguments], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
