"""A check alone: it says what a training would be refused for, and trains nothing."""

import json
import shutil

import pytest

from tests.small_runs import overrides, program, write_weights


@pytest.fixture
def command(tmp_path, folder_data) -> list[str]:
    return [*overrides(folder_data, write_weights(tmp_path / "w.pth")), f"hydra.run.dir={tmp_path / 'run'}"]


def test_a_training_that_can_start_is_told_so_and_not_started(tmp_path, command, folder_data):
    done = program("check", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing is in the way" in done.stdout
    assert json.loads((tmp_path / "run" / "data_report.json").read_text())["unreadable"] == {}
    assert not (tmp_path / "run" / "checkpoints").exists()
    # The same folder is free for the training.
    assert program("train", *command, cwd=tmp_path).returncode == 0
    resumed = program("check", f"resume={tmp_path / 'run'}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "last.ckpt fits the network" in resumed.stdout
    next((folder_data / "test" / "red").iterdir()).unlink()
    changed = program("check", f"resume={tmp_path / 'run'}", cwd=tmp_path)
    assert changed.returncode == 3
    assert "files were added, removed or renamed since" in changed.stderr


def test_what_a_training_is_refused_for_a_check_is_too(tmp_path, command, folder_data, monkeypatch):
    assert program("check", *command, "trainer.check_val_every_n_epoch=3", cwd=tmp_path).returncode == 2
    for more in (("features=cache", "transforms=light"), ("tune=lr", "module=full_batch")):
        refused = [program(name, *command, *more, cwd=tmp_path) for name in ("check", "train")]
        assert [done.returncode for done in refused] == [2, 2]
        assert refused[0].stderr == refused[1].stderr
    few = program("check", *command, "trainer=ddp_cpu", "trainer.devices=20", cwd=tmp_path)
    assert few.returncode == 3
    assert "too few for 20 processes: trainer.devices=" in few.stderr
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        for name in ("check", "train"):
            done = program(name, *command, cwd=tmp_path)
            assert done.returncode == 4
            assert "checkpoints and model may take" in done.stderr
    (folder_data / "train" / "red" / "bad.jpg").write_bytes(b"<!DOCTYPE html>")
    done = program("check", *command, cwd=tmp_path)
    assert done.returncode == 3
    assert "bad.jpg" in done.stderr
    assert "bad.jpg" in (tmp_path / "run" / "data_report.json").read_text()
