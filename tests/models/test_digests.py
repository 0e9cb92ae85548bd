"""A flipped bit anywhere is found by whatever reads the file, and a digest cannot be left out."""

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import draw
from tlearn.data import pixel_cache
from tlearn.data.decode import Decoder
from tlearn.errors import CheckpointError
from tlearn.features import segments, store
from tlearn.features.segments import KEY
from tlearn.features.store import Space
from tlearn.models.backbones.weights import read_state_dict
from tlearn.models.digests import (
    PLACEHOLDER,
    check_json,
    check_safetensors,
    check_zip,
    seal_safetensors,
    sealing_zip,
    with_digest,
)
from tlearn.training.checkpoints import CheckpointIO

CHECKPOINT = {"state_dict": {"a": torch.arange(300.0)}, "pytorch-lightning_version": "2", "epoch": 1}
DESCRIPTION = {"format": 2, "classes": ["grün", "a\udcff"], "temperature": 1.5, "figures": {1: 0.1}}


def flips(path: Path, count: int):
    """Flip one bit of a file after another, at random places."""
    whole, draw = path.read_bytes(), random.Random(0)
    for place in (draw.randrange(8 * len(whole)) for _ in range(count)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        yield place
    path.write_bytes(whole)


def test_no_flipped_bit_of_a_checkpoint_is_accepted(tmp_path):
    path, files = tmp_path / "last.ckpt", CheckpointIO(tmp_path)
    files.save_checkpoint(CHECKPOINT, path)
    for place in flips(path, 300):
        with pytest.raises(CheckpointError, match=r"last\.ckpt (is damaged|carries no digest)"):
            pytest.fail(f"bit {place}: {files.load_checkpoint(path)}")
    assert files.load_checkpoint(path)["epoch"] == 1


def sealed(path: Path, **metadata: str) -> Path:
    save_file({"a": torch.arange(300.0)}, path, metadata={"tlearn": "2", "digest": PLACEHOLDER, **metadata})
    seal_safetensors(path)
    return path


def test_no_flipped_bit_of_weights_is_accepted(tmp_path):
    # A digest within another text is that text's own.
    path = sealed(tmp_path / "w.safetensors", recipe=json.dumps({"digest": "1" * 64}))
    for place in flips(path, 300):
        with pytest.raises(CheckpointError, match=r"w\.safetensors"):
            pytest.fail(f"bit {place}: {read_state_dict(path)}")
    assert torch.equal(read_state_dict(path)["a"], torch.arange(300.0))
    assert torch.equal(load_file(path)["a"], torch.arange(300.0))


def test_no_flipped_bit_of_json_changes_what_is_read(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(with_digest(DESCRIPTION), indent=1))
    written = json.loads(path.read_text())
    for place in flips(path, 300):
        try:
            found = json.loads(path.read_text())
            check_json(found, path)
        except (CheckpointError, ValueError, LookupError):
            continue
        assert found == written, place


def test_a_digest_cannot_be_left_out(tmp_path):
    CheckpointIO(tmp_path).save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    torch.save(torch.load(tmp_path / "last.ckpt", weights_only=True), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="carries no digest"):
        CheckpointIO(tmp_path).load_checkpoint(tmp_path / "last.ckpt")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"tlearn": "2"})
    with pytest.raises(CheckpointError, match="carries no digest"):
        check_safetensors(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        check_json(DESCRIPTION, tmp_path / "model.json")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"tlearn": "1"}, {"tlearn": "?"}], ids=str)
def test_weights_without_a_digest_are_read_unless_one_is_required(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    check_safetensors(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="carries no digest"):
        check_safetensors(tmp_path / "w.safetensors", required=True)
    check_json({"format": 1}, tmp_path / "model.json")


def test_a_sealed_archive_is_an_archive_still():
    file = io.BytesIO()
    with sealing_zip(file) as writer:
        torch.save({"a": torch.ones(1)}, writer)
    check_zip(file, Path("x.ckpt"))
    assert torch.load(file, weights_only=True) == {"a": torch.ones(1)}


def test_no_flipped_bit_of_kept_features_changes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_BLOCK", 64)
    monkeypatch.setattr(store, "_RESERVE", 0)
    recipe, keys, features = (
        {"format": 1},
        np.array([bytes([number] * 16) for number in range(20)], KEY),
        torch.rand(20, 5).bfloat16(),
    )
    space = Space(tmp_path, recipe)
    space.add(keys, features)
    [segment] = space.folder.glob("*.safetensors")
    for place in flips(segment, 400):
        rows, missing = Space(tmp_path, recipe).find(keys)
        if rows is None:
            assert missing.tolist() == list(range(20))
            assert not segment.exists()
        else:
            assert torch.equal(rows[torch.arange(20)], features.float()), place


def test_only_blocks_that_are_asked_for_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_BLOCK", 8)
    monkeypatch.setattr(store, "_RESERVE", 0)
    keys, features = np.array([bytes([number] * 16) for number in range(4)], KEY), torch.arange(8.0).view(4, 2)
    space = Space(tmp_path, {})
    space.add(keys, features)
    [segment] = space.folder.glob("*.safetensors")
    content = segment.read_bytes()
    segment.write_bytes(content.replace(features[3].numpy().tobytes(), b"\1" * 8))
    again = Space(tmp_path, {})
    assert again.find(keys[:3])[0][torch.arange(3)].tolist() == features[:3].tolist()
    assert again.find(keys)[1].tolist() == [0, 1, 2, 3]


def test_no_flipped_bit_of_kept_pixels_changes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_RESERVE", 0)
    picture = draw(tmp_path / "a.png", (99, 150, 40), (12, 9), 0)
    cache = pixel_cache.DiskPixels(pixel_cache.Shrink(Decoder(), 24), tmp_path / "kept")
    expected = cache(picture).clone()
    [kept] = (tmp_path / "kept").rglob("*.pixels")
    for place in flips(kept, 400):
        with pytest.warns(UserWarning, match="damaged: its image is decoded again"):
            assert torch.equal(cache(picture), expected), place


def huge() -> torch.Tensor:
    return torch.zeros(1).expand(10**12)


@pytest.mark.parametrize("content", [{"state_dict": {"a": huge()}}, {"state_dict": {}, "more": [({"b": huge()},)]}])
def test_a_checkpoint_that_claims_more_numbers_than_it_holds_is_refused(tmp_path, content):
    path = tmp_path / "last.ckpt"
    CheckpointIO(tmp_path).save_checkpoint({"pytorch-lightning_version": "2", **content}, path)
    assert path.stat().st_size < 3000
    with pytest.raises(CheckpointError, match="claims more numbers than it holds"):
        CheckpointIO(tmp_path).load_checkpoint(path)


def test_a_checkpoint_of_few_bytes_that_stands_for_many_lists_is_read_at_once(tmp_path):
    lists: list = [0]
    for _ in range(60):
        lists = [lists] * 10
    content = {"pytorch-lightning_version": "2", "state_dict": {}, "more": lists}
    CheckpointIO(tmp_path).save_checkpoint(content, tmp_path / "last.ckpt")
    assert CheckpointIO(tmp_path).load_checkpoint(tmp_path / "last.ckpt")["state_dict"] == {}


def test_weights_that_claim_more_numbers_than_they_hold_are_refused(tmp_path):
    torch.save({"a": huge()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="a are not plain tensors"):
        read_state_dict(tmp_path / "w.pth")
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state_dict(tmp_path / "w.safetensors")


def test_an_archive_of_tensors_that_unpacks_to_more_is_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert (tmp_path / "w.pth").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"w\.pth claims more than its"):
        read_state_dict(tmp_path / "w.pth")
