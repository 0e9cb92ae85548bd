"""What is kept between runs can be looked at and removed, and nothing beside it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tlearn.cache import main
from tlearn.features.segments import KEY
from tlearn.features.store import Space

RECIPE = {"backbone": {"name": "resnet18"}, "preprocessing": {"size": 224}, "precision": "fp32"}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for number in range(2):
        space = Space(tmp_path / "cache" / "features", {**RECIPE, "number": number})
        space.add(np.array([bytes(16)], KEY), torch.zeros(1, 250_000))
        os.utime(space.folder / "recipe.json", (1000 + number, 1000 + number))
    (tmp_path / "cache" / "verified").mkdir()
    (tmp_path / "cache" / "verified" / "a.json").write_text("{}")
    (tmp_path / "cache" / "mine").mkdir()
    (tmp_path / "cache" / "mine" / "thesis.txt").write_text("mine")
    return tmp_path / "cache"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tlearn.cache", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def spaces(cache: Path) -> int:
    return len(list(cache.glob("features/*/recipe.json")))


def test_list_shows_features_and_what_else_there_is(cache):
    done = run("list", "--cache", str(cache))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert sum("resnet18, 224 pixels, fp32" in line and "0.001 GB" in line for line in lines) == 2
    assert any(line.startswith("verified") for line in lines)
    assert "mine" not in done.stdout
    assert lines[-1] == f"0.002 GB in {cache}"
    assert spaces(cache) == 2


def test_list_of_an_empty_cache(tmp_path):
    done = run("list", "--cache", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (0, f"0.000 GB in {tmp_path}/none\n")


def test_features_whose_key_is_damaged_are_listed_and_pruned(cache):
    for number, content in enumerate(["[]", "{", '{"backbone": 5}', "[" * 100_000]):
        (cache / "features" / str(number)).mkdir()
        (cache / "features" / str(number) / "recipe.json").write_text(content)
    assert run("list", "--cache", str(cache)).stdout.count("None, None pixels, None") == 4
    assert run("prune", "--cache", str(cache), "--gb", "0").stdout.startswith("removed 6 sets")
    assert spaces(cache) == 0


def test_prune_to_a_size(cache):
    done = run("prune", "--cache", str(cache), "--gb", "0.0015")
    assert done.stdout == "removed 1 set of features, 0.001 GB\n"
    assert spaces(cache) == 1
    assert (cache / "verified" / "a.json").exists()


def test_prune_by_age(cache):
    recipe = next(cache.glob("features/*/recipe.json"))
    os.utime(recipe)
    run("prune", "--cache", str(cache), "--days", "30")
    assert recipe.exists()
    assert spaces(cache) == 1


@pytest.mark.parametrize("arguments", [(), ("--gb", "-1"), ("--gb", "nan"), ("--gb", "much")])
def test_prune_needs_a_limit(cache, arguments):
    done = run("prune", "--cache", str(cache), *arguments)
    assert done.returncode == 2
    assert "--gb" in done.stderr
    assert spaces(cache) == 2


@pytest.mark.parametrize(("said", "left"), [("\n", 2), ("no\n", 2), ("", 2), ("y\n", 0), ("YES\n", 0), (None, 0)])
def test_clear_asks_a_terminal_unless_it_was_told(cache, monkeypatch, capsys, said, left):
    terminal = io.StringIO(said or "")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("sys.argv", ["cache", "clear", "--cache", str(cache), *(["--yes"] if said is None else [])])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, spaces(cache)) == (0, left)
    assert ("y/N" in capsys.readouterr().out) == (said is not None)


def test_clear_removes_all_that_tlearn_has_made_and_nothing_else(cache):
    done = run("clear", "--cache", str(cache))
    assert done.stdout == "removed 0.002 GB\n"
    assert spaces(cache) == 0
    assert not (cache / "verified").exists()
    assert (cache / "mine" / "thesis.txt").read_text() == "mine"


def test_clear_leaves_what_is_being_written(cache):
    space = Space(cache / "features", {**RECIPE, "number": 0})
    with space.only_writer():
        done = run("clear", "--cache", str(cache))
    assert "in use" in done.stdout
    assert spaces(cache) == 1


def test_an_empty_name_is_not_the_current_folder(cache, monkeypatch):
    monkeypatch.chdir(cache)
    assert run("clear", "--cache", "").returncode == 2
    monkeypatch.setenv("TLEARN_CACHE", "")
    monkeypatch.setenv("HOME", str(cache / "home"))
    assert run("clear").stdout == "removed 0.000 GB\n"
    assert spaces(cache) == 2


def test_the_folder_comes_from_the_environment(cache, monkeypatch):
    monkeypatch.setenv("TLEARN_CACHE", str(cache))
    assert run("list").stdout.endswith(f"in {cache}\n")


@pytest.mark.parametrize("typed", ["--clear", "claer", "clean", "-clear"])
def test_a_mistyped_word_is_named_and_clears_nothing(cache, monkeypatch, capsys, typed):
    before = sorted(cache.rglob("*"))
    monkeypatch.setenv("TLEARN_CACHE", str(cache))
    monkeypatch.setattr(sys, "argv", ["cache", typed])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "did you mean python -m tlearn.cache clear?" in capsys.readouterr().err
    assert sorted(cache.rglob("*")) == before
