"""Kept features are whole or absent, found again by what they depend on, and removed in the order of their use."""

import hashlib
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.faults import STEPS, fault
from tlearn.data.file_state import file_state
from tlearn.errors import OutputError
from tlearn.features import prune as room
from tlearn.features import segments, store
from tlearn.features.prune import kept, prune
from tlearn.features.segments import KEY
from tlearn.features.store import Space, image_key
from tlearn.files import temporary_beside


class Usage(NamedTuple):
    free: int


RECIPE = {"format": 1, "weights": "abc"}


def keys(*numbers: int) -> np.ndarray:
    # The last byte is zero, which a text would lose.
    return np.array([number.to_bytes(15, "big") + b"\0" for number in numbers], KEY)


def features(*numbers: int) -> torch.Tensor:
    return torch.tensor([[number, number + 0.5] for number in numbers])


def forked(do: Callable[[], None]) -> int:
    """Do something in a fork of this process; return its exit status, negative for a signal."""
    process = multiprocessing.get_context("fork").Process(target=do)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def filled(root: Path, recipe: dict | None = None, count: int = 3) -> Space:
    space = Space(root, recipe or RECIPE)
    with space.only_writer():
        space.add(keys(*range(count)), features(*range(count)))
    return space


def test_what_was_added_is_found_in_the_order_asked_for(tmp_path):
    filled(tmp_path)
    rows, missing = Space(tmp_path, RECIPE).find(keys(2, 0))
    assert missing.tolist() == []
    assert rows[torch.tensor([0, 1])].tolist() == features(2, 0).tolist()


def test_missing_ones_are_named_by_their_place(tmp_path):
    rows, missing = filled(tmp_path).find(keys(1, 7, 2, 8))
    assert rows is None
    assert missing.tolist() == [1, 3]


def test_several_segments_are_one_table(tmp_path):
    space = filled(tmp_path)
    space.add(keys(10, 11), features(10, 11))
    rows, _ = Space(tmp_path, RECIPE).find(keys(11, 0, 10, 2))
    assert rows.shape == (4, 2)
    assert rows[torch.tensor([3, 0, 1, 2, 2])].tolist() == features(2, 11, 0, 10, 10).tolist()
    assert rows.chosen(torch.tensor([2, 0]))[torch.tensor([0, 1])].tolist() == features(10, 11).tolist()


def test_half_precision_is_kept_exactly_and_read_as_single(tmp_path):
    space, values = Space(tmp_path, RECIPE), torch.randn(3, 5).bfloat16()
    space.add(keys(0, 1, 2), values)
    rows, _ = space.find(keys(0, 1, 2))
    read = rows[torch.arange(3)]
    assert read.dtype == torch.float32
    assert torch.equal(read, values.float())
    assert rows.row_bytes == 10


def test_features_are_mapped_and_not_read(tmp_path):
    space = Space(tmp_path, RECIPE)
    names = keys(*range(1000))
    space.add(names, torch.zeros(1000, 25_000))

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def look() -> None:
        before = peak()
        rows, _ = Space(tmp_path, RECIPE).find(names)
        rows[torch.arange(5)]
        # kilobytes, of 100 megabytes
        assert peak() - before < 25_000

    # The peak of a fork begins anew.
    assert forked(look) == 0


def test_a_disk_is_not_filled_to_its_last_byte(tmp_path, monkeypatch):
    space = filled(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: Usage(2**30 + 10))
    with pytest.raises(OutputError, match="less than 1 GiB would be left"):
        space.add(keys(9), torch.zeros(1, 100))
    space.add(keys(9), torch.zeros(1, 2))


def test_another_recipe_finds_nothing(tmp_path):
    filled(tmp_path)
    assert Space(tmp_path, {**RECIPE, "weights": "abd"}).find(keys(0))[1].tolist() == [0]


def key(path: str | Path, version: str = "") -> bytes:
    state = file_state(path)
    assert state is not None
    return image_key(state, version)


def test_a_picture_is_known_by_path_size_time_and_draw(tmp_path, monkeypatch):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"1")
    os.utime(picture, ns=(5, 5))
    known = {key(picture), key(picture, "draw")}
    monkeypatch.chdir(tmp_path)
    assert key("a.jpg") in known
    other = tmp_path / "b.jpg"
    other.write_bytes(b"1")
    os.utime(other, ns=(5, 5))
    known.add(key(other))
    os.utime(picture, ns=(6, 6))
    known.add(key(picture))
    picture.write_bytes(b"12")
    os.utime(picture, ns=(5, 5))
    known.add(key(picture))
    assert len(known) == 5
    picture.write_bytes(b"1")
    os.utime(picture, ns=(5, 5))
    assert key(picture) in known


def test_the_key_of_a_picture_stays_the_same_for_ever(tmp_path):
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"123")
    os.utime(picture, ns=(5, 7))
    # Features that were computed by an earlier version are found by it.
    text = os.fsencode(picture) + b"\x003\x007\x00draw"
    assert key(picture, "draw") == hashlib.blake2b(text, digest_size=16).digest()


# The last of the keys, and of the features before them
@pytest.mark.parametrize("byte", [-1, -3 * 16 - 1])
def test_a_damaged_segment_that_cannot_be_removed_is_missing(tmp_path, monkeypatch, capsys, byte):
    [path] = filled(tmp_path).folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    space = Space(tmp_path, RECIPE)
    assert space.find(keys(0, 1, 2))[1].tolist() == [0, 1, 2]
    assert space.find(keys(0))[1].tolist() == [0]
    assert capsys.readouterr().err.count("is damaged") == 1


def test_a_damaged_segment_is_removed_and_missing(tmp_path, capsys):
    space = filled(tmp_path)
    [segment] = space.folder.glob("*.safetensors")
    whole = segment.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        segment.write_bytes(whole[:length])
        assert Space(tmp_path, RECIPE).find(keys(0, 1))[1].tolist() == [0, 1]
        assert not segment.exists()
        assert "damaged" in capsys.readouterr().err


def test_what_a_killed_writer_left_is_neither_read_nor_kept(tmp_path):
    space = filled(tmp_path)
    [segment] = space.folder.glob("*.safetensors")
    left = temporary_beside(segment) / segment.name
    left.parent.mkdir()
    left.write_bytes(segment.read_bytes()[:50])
    assert Space(tmp_path, RECIPE).find(keys(0))[1].tolist() == []
    with space.only_writer():
        assert not left.parent.exists()


def test_what_a_writer_left_that_was_killed_at_its_end_is_removed_once_nobody_writes(tmp_path):
    space = filled(tmp_path)
    left = temporary_beside(space.folder / "one.safetensors")
    left.mkdir()
    with space.only_writer():
        left.mkdir(exist_ok=True)
        assert Space(tmp_path, RECIPE).find(keys(0, 1, 2))[0] is not None
        assert left.exists()
    assert Space(tmp_path, RECIPE).find(keys(0, 1, 2))[0] is not None
    assert not left.exists()


def test_a_folder_that_cannot_be_written_to_is_an_output_error(tmp_path):
    (tmp_path / "features").write_text("a file")
    space = Space(tmp_path / "features", RECIPE)
    with pytest.raises(OutputError, match="cannot keep features"), space.only_writer():
        pass
    with pytest.raises(OutputError, match="cannot keep features"):
        space.add(keys(0), features(0))


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_leaves_no_segment(tmp_path, step):
    space = filled(tmp_path)
    before = sorted(space.folder.iterdir())
    with fault(step, OSError(28, "No space left on device")), pytest.raises(OutputError, match="No space left"):
        space.add(keys(9), features(9))
    assert sorted(space.folder.iterdir()) == before
    assert Space(tmp_path, RECIPE).find(keys(9))[1].tolist() == [0]


def test_held_features_are_this_processs_own(tmp_path):
    space = filled(tmp_path)
    space.hold(keys(9), features(9))
    assert space.find(keys(9, 0))[0][torch.arange(2)].tolist() == features(9, 0).tolist()
    assert Space(tmp_path, RECIPE).find(keys(9))[1].tolist() == [0]


def test_a_second_writer_waits(tmp_path, capsys):
    first, second = Space(tmp_path, RECIPE), Space(tmp_path, RECIPE)
    order = []

    def write() -> None:
        with second.only_writer():
            order.append("second")

    with first.only_writer():
        thread = threading.Thread(target=write)
        thread.start()
        while "waiting" not in capsys.readouterr().out:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    def hold() -> None:
        with Space(tmp_path, RECIPE).only_writer():
            (tmp_path / "held").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(hold) == -signal.SIGKILL
    assert (tmp_path / "held").exists()
    with Space(tmp_path, RECIPE).only_writer():
        pass


def test_pruning_removes_the_least_recently_used(tmp_path):
    spaces = [filled(tmp_path, {"number": number}, count=100) for number in range(3)]
    for age, space in enumerate(spaces):
        os.utime(space.folder / "recipe.json", (1000 + age, 1000 + age))
    # Used again, and no longer
    spaces[0].find(keys(0))
    assert [one.folder for one in kept(tmp_path)] == [space.folder for space in (*spaces[1:], spaces[0])]
    size = kept(tmp_path)[0].size
    assert [one.folder for one in prune(tmp_path, 2 * size)] == [spaces[1].folder]
    assert [one.folder for one in prune(tmp_path, size)] == [spaces[2].folder]
    assert [one.folder for one in kept(tmp_path)] == [spaces[0].folder]
    assert [one.folder for one in prune(tmp_path, size - 1)] == [spaces[0].folder]


def test_pruning_by_age_and_not_what_is_being_written(tmp_path):
    old, new = filled(tmp_path), filled(tmp_path, {"new": True})
    os.utime(old.folder / "recipe.json", (1000, 1000))
    with old.only_writer():
        assert prune(tmp_path, float("inf"), unused_since=2000) == []
    assert [one.folder for one in prune(tmp_path, float("inf"), unused_since=2000)] == [old.folder]
    assert new.find(keys(0))[1].tolist() == []


def test_rows_in_use_are_not_pruned(tmp_path):
    rows, _ = filled(tmp_path).find(keys(0, 1))
    part = rows.chosen(torch.tensor([1]))
    del rows
    assert prune(tmp_path, 0) == []
    assert part[torch.tensor([0])].tolist() == features(1).tolist()
    del part
    assert len(prune(tmp_path, 0)) == 1


def test_what_cannot_be_pruned_stays_and_stops_nothing(tmp_path, monkeypatch):
    space = filled(tmp_path)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "rmtree", refused)
        assert prune(tmp_path, 0) == []
    assert space.find(keys(0))[1].tolist() == []


def test_segments_that_nobody_needs_are_dropped(tmp_path):
    space = filled(tmp_path)
    space.add(keys(10, 11), features(10, 11))
    size = space.size()
    space.find(keys(10))
    space.drop_others(keys(11))
    assert 0 < space.size() < size
    assert Space(tmp_path, RECIPE).find(keys(0, 10, 11))[1].tolist() == [0]


def test_a_segment_that_cannot_be_mapped_now_is_kept(tmp_path, monkeypatch):
    space = filled(tmp_path)

    def busy(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "safe_open", busy)
        assert Space(tmp_path, RECIPE).find(keys(0))[1].tolist() == [0]
    assert Space(tmp_path, RECIPE).find(keys(0))[1].tolist() == []
    assert len(list(space.folder.glob("*.safetensors"))) == 1


def test_segments_can_be_shared_as_the_folder_is(tmp_path):
    space = filled(tmp_path)
    [segment] = space.folder.glob("*.safetensors")
    assert segment.stat().st_mode & 0o777 == (space.folder / "recipe.json").stat().st_mode & 0o777


@pytest.mark.parametrize("length", [0, 5_000, 150_000])
def test_a_file_that_is_shortened_while_it_is_mapped_ends_no_process(tmp_path, length):
    space = filled(tmp_path)
    space.add(keys(*range(100, 200)), torch.zeros(100, 500))
    rows, _ = space.find(keys(*range(100, 200)))
    assert rows is not None
    chosen = rows.chosen(torch.arange(50, 100))
    largest = max(space.folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    os.truncate(largest, length)
    for one in (rows, chosen):
        with pytest.raises(OutputError, match=r"\.safetensors was shortened while its features were in use"):
            one[torch.arange(len(one))]


def test_a_file_that_is_removed_while_it_is_mapped_is_still_read(tmp_path):
    space = Space(tmp_path, RECIPE)
    space.add(keys(0, 1), torch.ones(2, 3))
    rows, _ = space.find(keys(0, 1))
    assert rows is not None
    for file in space.folder.glob("*.safetensors"):
        file.unlink()
    assert torch.equal(rows[torch.arange(2)], torch.ones(2, 3))


def test_the_last_of_several_rows_of_a_key_is_found_and_only_whole_keys_are(tmp_path):
    space = filled(tmp_path)
    space.find(keys(0))
    space.hold(keys(1, 300), features(7, 8))
    assert space.find(keys(300, 1, 0))[0][torch.arange(3)].tolist() == features(8, 7, 0).tolist()
    # The same characters with one more, one less and another one at the end
    others = np.array([b"\0" * 14 + b"\1\1", b"\0" * 13 + b"\1", b"\0" * 14 + b"\2"], KEY)
    assert space.find(others)[1].tolist() == [0, 1]
    assert space.find(keys())[0] is None
    assert Space(tmp_path, {"other": 1}).find(keys(1, 2))[1].tolist() == [0, 1]


def test_many_keys_are_found_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_RESERVE", 0)
    space, generator = Space(tmp_path, RECIPE), np.random.default_rng(0)
    numbers = generator.permutation(3000)
    for part in np.array_split(numbers[:2500], 7):
        space.add(keys(*part.tolist()), torch.from_numpy(part[:, None].astype(np.float32)))
    asked = generator.permutation(3000)
    rows, missing = space.find(keys(*asked.tolist()))
    assert rows is None
    assert set(asked[missing].tolist()) == set(numbers[2500:].tolist())
    there = np.setdiff1d(asked, numbers[2500:])
    rows, missing = space.find(keys(*there.tolist()))
    assert rows[torch.arange(len(there))][:, 0].tolist() == there.tolist()
    assert not len(missing)
