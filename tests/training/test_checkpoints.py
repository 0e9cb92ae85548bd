"""Checkpoint files: plain data or refused, whole or absent."""

import os
import pickle
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import fault
from tlearn.errors import CheckpointError, OutputError
from tlearn.files import writing
from tlearn.models.digests import sealing_zip
from tlearn.training.checkpoints import CheckpointIO, restore_frozen, strip_frozen


class _Attack:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def _save_sealed(thing, path):
    # Whoever can write a file can write its digest.
    with writing(path) as file, sealing_zip(file) as sealed:
        torch.save(thing, sealed)


@pytest.mark.parametrize("save", [_save_sealed, torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    save({"state_dict": {}, "hyper_parameters": _Attack(tmp_path / "canary")}, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)
    assert not (tmp_path / "canary").exists()


def test_damaged_and_missing_checkpoints_are_named(tmp_path):
    whole = tmp_path / "whole.ckpt"
    CheckpointIO(tmp_path).save_checkpoint({"state_dict": {"a": torch.rand(100)}}, whole)
    data = whole.read_bytes()
    for length in (0, 1, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.ckpt").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
            CheckpointIO(tmp_path).load_checkpoint(tmp_path / "cut.ckpt")
    CheckpointIO(tmp_path).save_checkpoint({"something": 1}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of a run"):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "none.ckpt")


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read: Is a directory"):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("at", [1, 2])
def test_a_checkpoint_that_cannot_be_written_is_an_error_and_leaves_the_old_one(tmp_path, at):
    path = tmp_path / "last.ckpt"
    whole = {"state_dict": {}, "pytorch-lightning_version": "2", "step": 1}
    CheckpointIO(tmp_path).save_checkpoint(whole, path)

    large = {"state_dict": {"a": torch.zeros(10_000)}}
    with (
        fault("write", OSError(28, "No space left on device"), at),
        pytest.raises(OutputError, match=r"last\.ckpt: No space left on device"),
    ):
        CheckpointIO(tmp_path).save_checkpoint(large, path)
    with fault("write", KeyboardInterrupt(), at), pytest.raises(KeyboardInterrupt):
        CheckpointIO(tmp_path).save_checkpoint(large, path)
    assert CheckpointIO(tmp_path).load_checkpoint(path) == whole
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        CheckpointIO(tmp_path).save_checkpoint({}, tmp_path / "file" / "below.ckpt")


def test_frozen_tensors_come_back_from_the_network_and_only_if_they_are_the_same():
    frozen = {"network.body.weight": torch.ones(2)}
    checkpoint = {"state_dict": {**frozen, "network.head.weight": torch.zeros(2)}}
    strip_frozen(checkpoint, frozen, "mark")
    assert set(checkpoint["state_dict"]) == {"network.head.weight"}
    with pytest.raises(CheckpointError, match="frozen weights"):
        restore_frozen(checkpoint, frozen, "another mark")
    restore_frozen(checkpoint, frozen, "mark")
    assert set(checkpoint["state_dict"]) == {"network.body.weight", "network.head.weight"}
    with pytest.raises(CheckpointError, match="not written by"):
        restore_frozen({"state_dict": {}}, frozen, "mark")


@pytest.mark.parametrize("field", ["best_k_models", "best_model_path", "last_model_path", "dirpath"])
@pytest.mark.parametrize(
    "named", ["../mine.ckpt", "/etc/passwd", "checkpoints/../../mine.ckpt", "link/mine.ckpt", "far"]
)
def test_a_checkpoint_that_names_a_file_outside_its_run_is_refused(tmp_path, field, named):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "mine.ckpt").touch()
    (run / "link").symlink_to(tmp_path)
    (run / "far").symlink_to(tmp_path / "mine.ckpt")
    state = {"best_k_models": {}} | {field: {named: 1.0} if field == "best_k_models" else named}
    whole = {"state_dict": {}, "pytorch-lightning_version": "2", "callbacks": {"ModelCheckpoint": state}}
    with writing(run / "last.ckpt") as file, sealing_zip(file) as sealed:
        torch.save(whole, sealed)
    with pytest.raises(CheckpointError, match="outside its run folder"):
        CheckpointIO(run).load_checkpoint(run / "last.ckpt")


@given(st.text(st.sampled_from("ab./\\~ C:\0\n\ud800"), max_size=12) | st.integers() | st.none())
@settings(deadline=None, max_examples=200)
def test_whatever_a_checkpoint_names_lies_in_its_run_or_is_refused(named):
    run = Path("/runs/mine")
    state = {"best_k_models": {}, "best_model_path": named}
    content = {"state_dict": {}, "pytorch-lightning_version": "2", "callbacks": {"ModelCheckpoint": state}}
    with mock.patch("tlearn.training.checkpoints.read_checkpoint", return_value=content):
        try:
            found = CheckpointIO(run).load_checkpoint("last.ckpt")["callbacks"]["ModelCheckpoint"]["best_model_path"]
        except CheckpointError:
            return
    assert not named or (Path(found) == Path(os.path.normpath(found)) and Path(found).is_relative_to(run))


def test_paths_of_a_run_that_is_reached_by_a_link_are_its_own(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    state = {"best_k_models": {str(tmp_path / "link" / "a.ckpt"): 1.0}, "dirpath": str(tmp_path / "link")}
    whole = {"state_dict": {}, "pytorch-lightning_version": "2", "callbacks": {"ModelCheckpoint": state}}
    CheckpointIO(tmp_path / "link").save_checkpoint(whole, tmp_path / "run" / "last.ckpt")
    read = CheckpointIO(tmp_path / "run").load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert read["callbacks"]["ModelCheckpoint"]["best_k_models"] == {str(tmp_path / "run" / "a.ckpt"): 1.0}
