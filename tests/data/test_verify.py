"""Bad files are all found at once, and a second look at unchanged files decodes nothing."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from tests.faults import fault
from tlearn.data import verified, verify
from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest
from tlearn.data.file_table import FileTable
from tlearn.data.verified import Verified
from tlearn.data.verify import Unchanged, check_images
from tlearn.errors import BadImageError
from tlearn.files import temporary_beside

GOOD = ["cats/a.png", "cats/b.png", "dogs/c.png", "dogs/d.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder of four good pictures, with a name beyond ASCII."""
    folder = tmp_path / "pictures é"
    for number, name in enumerate(GOOD):
        write(folder / name, number)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "verified"


def write(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def find_bad_images(root: Path, paths: list[str], *arguments: object, **options: object) -> dict[str, str]:
    return check_images(FileTable(root, paths), paths, *arguments, **options)[0]


def only_file(folder: Path) -> Path:
    """Return the cache, which has its lock beside it and nothing else."""
    (file,) = (file for file in folder.iterdir() if file.suffix != ".lock")
    return file


def test_good_pictures_give_nothing(root, cache):
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=2) == {}


def test_all_bad_files_are_found_with_reasons_in_the_order_given(root, cache):
    truncate(root / "dogs/c.png")
    (root / "cats/empty.jpg").write_bytes(b"")
    (root / "cats/page.jpg").write_text("<!DOCTYPE html>", encoding="utf-8")
    paths = ["missing.jpg", "dogs/c.png", *GOOD[:2], "cats/page.jpg", "dogs/d.png", "cats/empty.jpg"]
    for _ in ("cold", "warm"):
        bad = find_bad_images(root, paths, Decoder(), cache, threads=2)
        assert list(bad) == ["missing.jpg", "dogs/c.png", "cats/page.jpg", "cats/empty.jpg"]
        assert bad["missing.jpg"] == "no such file"
        assert bad["dogs/c.png"].startswith("truncated or corrupt")
        assert bad["cats/page.jpg"].startswith("a web page saved in place of the picture")
        assert bad["cats/empty.jpg"] == "empty file (0 bytes)"


def test_how_many_bits_images_need_is_remembered(tmp_path, cache, decoded):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "deep.png")
    write(tmp_path / "plain.png", 0)
    decoder = Decoder(high_bit_depth="scale")
    for count in (2, 2):
        paths = ["deep.png", "plain.png"]
        assert check_images(FileTable(tmp_path, paths), paths, decoder, cache, threads=1) == ({}, {12, 0})
        assert len(decoded) == count


def test_many_files_keep_their_own_reasons(tmp_path, cache):
    paths = [f"{number}.png" for number in range(150)]
    for number, path in enumerate(paths):
        write(tmp_path / path, number)
    for path in paths[::7]:
        (tmp_path / path).write_text(f"no_picture_{path}", encoding="utf-8")
    bad = find_bad_images(tmp_path, paths, Decoder(), cache, threads=3)
    assert bad == {path: f"not an image (starts with '{f'no_picture_{path}'[:16]}')" for path in paths[::7]}


def test_unchanged_files_are_not_decoded_again(root, cache, decoded):
    truncate(root / "dogs/c.png")
    first = find_bad_images(root, GOOD, Decoder(), cache, threads=2)
    assert sorted(decoded) == ["a.png", "b.png", "c.png", "d.png"]
    decoded.clear()
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=2) == first
    assert decoded == []


def test_what_a_process_left_that_was_killed_while_it_wrote_is_removed(root, cache):
    find_bad_images(root, GOOD, Decoder(), cache, threads=2)
    written = only_file(cache)
    temporary_beside(written).write_text("{")
    written.unlink()
    find_bad_images(root, GOOD, Decoder(), cache, threads=2)
    assert only_file(cache) == written


def test_without_a_cache_folder_every_file_is_decoded_each_time(root, decoded):
    for _ in range(2):
        find_bad_images(root, GOOD, Decoder(), None, threads=1)
    assert len(decoded) == 2 * len(GOOD)


def test_a_touched_file_is_decoded_again(root, cache, decoded):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    time = (root / "cats/b.png").stat().st_mtime_ns
    os.utime(root / "cats/b.png", ns=(time, time + 1))
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=1) == {}
    assert decoded == ["b.png"]


def test_a_file_of_another_size_is_decoded_again_though_its_time_is_the_same(root, cache, decoded):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    file = root / "cats/b.png"
    time = file.stat().st_mtime_ns
    truncate(file)
    os.utime(file, ns=(time, time))
    assert list(find_bad_images(root, GOOD, Decoder(), cache, threads=1)) == ["cats/b.png"]
    assert decoded == ["b.png"]


def test_a_repaired_file_is_good_again(root, cache):
    truncate(root / "cats/b.png")
    assert list(find_bad_images(root, GOOD, Decoder(), cache, threads=1)) == ["cats/b.png"]
    write(root / "cats/b.png", seed=1)
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=1) == {}


@pytest.mark.parametrize(
    "changed", [Decoder(max_pixels=1000), Decoder(alpha_background=(0, 0, 0)), Decoder(high_bit_depth="scale")]
)
def test_another_option_decodes_all_again(root, cache, decoded, changed):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    find_bad_images(root, GOOD, changed, cache, threads=1)
    assert len(decoded) == len(GOOD)


def test_another_pillow_decodes_all_again(root, cache, decoded, monkeypatch):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    monkeypatch.setattr(PIL, "__version__", "0.1")
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    assert len(decoded) == len(GOOD)


def test_an_option_that_accepts_more_is_heard(root, cache):
    assert len(find_bad_images(root, GOOD, Decoder(max_pixels=63), cache, threads=1)) == len(GOOD)
    assert find_bad_images(root, GOOD, Decoder(max_pixels=64), cache, threads=1) == {}


def test_parts_of_a_folder_share_one_cache(root, cache, decoded):
    find_bad_images(root, GOOD[:2], Decoder(), cache, threads=1)
    find_bad_images(root, GOOD[2:], Decoder(), cache, threads=1)
    decoded.clear()
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    assert decoded == []
    assert only_file(cache)


def test_folders_with_equal_names_inside_do_not_share_outcomes(root, tmp_path, cache):
    other = tmp_path / "other"
    other.mkdir()
    (root / "x.jpg").write_bytes(b"bad")
    write(other / "x.png", seed=0)
    (other / "x.png").rename(other / "x.jpg")
    assert list(find_bad_images(root, ["x.jpg"], Decoder(), cache, threads=1)) == ["x.jpg"]
    assert find_bad_images(other, ["x.jpg"], Decoder(), cache, threads=1) == {}
    assert len(list(cache.glob("*.json"))) == 2


def test_one_folder_by_two_ways_is_one_folder(root, tmp_path, cache, decoded):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    (tmp_path / "link").symlink_to(root)
    find_bad_images(tmp_path / "link", GOOD, Decoder(), cache, threads=1)
    assert decoded == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\x00\xff" * 50,
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "pictures": None}),
        lambda text: json.dumps({**json.loads(text), "pictures": {"cats/a.png": 3}}),
        lambda text: json.dumps({**json.loads(text), "pictures": {"cats/a.png": [1, 2]}}),
    ],
    ids=["empty", "cut", "binary", "deep", "list", "no key", "no pictures", "number", "short"],
)
def test_a_damaged_cache_is_ignored_and_made_anew(root, cache, decoded, damage: Callable[[str], str]):
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    file = only_file(cache)
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="latin-1")
    decoded.clear()
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=1) == {}
    assert len(decoded) == len(GOOD)
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    assert len(decoded) == len(GOOD)


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path, decoded):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way", encoding="utf-8")
    for _ in range(2):
        assert find_bad_images(root, GOOD, Decoder(), blocked / "cache", threads=1) == {}
    assert len(decoded) == 2 * len(GOOD)
    assert blocked.read_text(encoding="utf-8") == "in the way"


def test_a_write_that_fails_leaves_the_old_cache_and_no_temporary_file(root, cache):
    find_bad_images(root, GOOD[:2], Decoder(), cache, threads=1)
    before = only_file(cache).read_bytes()
    # The second decoder's entries take the place of the first one's.
    for decoder, step in ((Decoder(), "write"), (Decoder(max_pixels=1000), "replace")):
        with fault(step, OSError(28, "No space left on device")):
            assert find_bad_images(root, GOOD, decoder, cache, threads=1) == {}
        assert only_file(cache).read_bytes() == before


class Killed(BaseException):
    """Ends a check in its midst."""


@pytest.mark.parametrize("limit", ["_BLOCK", "_BLOCK_SECONDS"])
def test_a_check_that_is_killed_goes_on_from_its_last_block(root, cache, decoded, monkeypatch, limit):
    paths = [f"{number}.png" for number in range(100)]
    for number, path in enumerate(paths):
        write(root / path, number)
    monkeypatch.setattr(verify, "_BATCH", 1)
    monkeypatch.setattr(verified, limit, {"_BLOCK": 10, "_BLOCK_SECONDS": 0.0}[limit])
    at_once, original, has_block = Verified.close, Decoder.read, threading.Event()

    def noted(self: Verified) -> None:
        at_once(self)
        has_block.set()

    monkeypatch.setattr(Verified, "close", noted)

    def killed(self: Decoder, path: str | Path) -> object:
        if Path(path).name == "55.png":
            # However far the thread that writes is behind the one that reads
            assert has_block.wait(60)
            # A kill writes nothing more.
            monkeypatch.setattr(Verified, "close", lambda _: None)
            raise Killed
        return original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", killed)
        with pytest.raises(Killed):
            find_bad_images(root, paths, Decoder(), cache, threads=1)
    monkeypatch.setattr(Verified, "close", at_once)
    decoded.clear()
    assert find_bad_images(root, paths, Decoder(), cache, threads=1) == {}
    assert 45 <= len(decoded) < 100
    decoded.clear()
    assert find_bad_images(root, paths, Decoder(), cache, threads=1) == {}
    assert decoded == []


def test_a_check_that_is_interrupted_keeps_what_it_has_done(root, cache, decoded, monkeypatch):
    monkeypatch.setattr(verify, "_BATCH", 1)
    original = Decoder.read

    def interrupted(self: Decoder, path: str | Path) -> object:
        if Path(path).name == "d.png":
            raise KeyboardInterrupt
        return original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    decoded.clear()
    find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    assert decoded == ["d.png"]


def test_a_line_that_was_cut_costs_only_its_block(root, cache, decoded):
    for path in GOOD[:3]:
        find_bad_images(root, [path], Decoder(), cache, threads=1)
    file = only_file(cache)
    file.write_bytes(file.read_bytes()[:-30])
    decoded.clear()
    for _ in range(2):
        assert find_bad_images(root, GOOD, Decoder(), cache, threads=1) == {}
    assert decoded == ["c.png", "d.png"]


def test_entries_that_no_longer_count_do_not_pile_up(root, cache):
    for number in range(20):
        for path in GOOD:
            os.utime(root / path, ns=(number, number))
        find_bad_images(root, GOOD, Decoder(), cache, threads=1)
    content = only_file(cache).read_text(encoding="utf-8")
    assert content.count("a.png") <= 2


def test_what_the_machine_failed_at_is_tried_again(root, cache, monkeypatch):
    original = Decoder.read
    causes = {"a.png": PermissionError(13, "Permission denied"), "b.png": MemoryError()}

    def failing(self: Decoder, path: str | Path) -> object:
        if Path(path).name in causes:
            raise BadImageError(path, "cannot be read") from causes[Path(path).name]
        return original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", failing)
        assert list(find_bad_images(root, GOOD, Decoder(), cache, threads=1)) == GOOD[:2]
    assert find_bad_images(root, GOOD, Decoder(), cache, threads=1) == {}


def test_a_file_that_appears_after_its_state_was_asked_for_is_not_remembered(root, cache, decoded, monkeypatch):
    original = Decoder.read

    def appearing(self: Decoder, path: str | Path) -> object:
        write(root / "late.png", seed=9)
        return original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", appearing)
        assert find_bad_images(root, [*GOOD, "late.png"], Decoder(), cache, threads=1) == {}
    decoded.clear()
    assert find_bad_images(root, [*GOOD, "late.png"], Decoder(), cache, threads=1) == {}
    assert decoded == ["late.png"]


def test_a_fault_of_the_program_is_not_taken_for_a_bad_picture(root, cache, monkeypatch):
    def broken(self: Decoder, path: str | Path) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(Decoder, "read", broken)
    with pytest.raises(ZeroDivisionError):
        find_bad_images(root, GOOD, Decoder(), cache, threads=1)


def test_runs_side_by_side_never_leave_a_broken_cache(root, cache):
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait(timeout=60)
        for step in range(15):
            assert find_bad_images(root, GOOD, Decoder(max_pixels=64 + (number + step) % 2), cache, threads=1) == {}
            for line in only_json(cache).read_text(encoding="utf-8").splitlines():
                assert set(json.loads(line)["pictures"]) == set(GOOD)

    def only_json(folder: Path) -> Path:
        (file,) = folder.glob("*.json")
        return file

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert only_file(cache).suffix == ".json"


def test_of_runs_that_begin_together_one_decodes_and_the_others_wait(root, cache, decoded, capsys):
    start = threading.Barrier(4)

    def run(_: int) -> dict[str, str]:
        start.wait(timeout=60)
        return find_bad_images(root, [*GOOD, "dogs/bad.png"], Decoder(), cache, threads=2)

    write(root / "dogs/bad.png", 5)
    truncate(root / "dogs/bad.png")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    assert all(list(bad) == ["dogs/bad.png"] for bad in found)
    assert sorted(decoded) == sorted(Path(name).name for name in [*GOOD, "dogs/bad.png"])
    assert set(capsys.readouterr().out.splitlines()) <= {"another process checks these images: waiting for it"}


def test_a_check_does_without_a_lock_where_there_can_be_none(root, cache, decoded):
    cache.mkdir(parents=True)
    cache.joinpath(verify._cache_name(root)).with_suffix(".lock").mkdir()
    for _ in range(2):
        assert find_bad_images(root, GOOD, Decoder(), cache, threads=2) == {}
    assert sorted(decoded) == sorted(Path(name).name for name in GOOD)


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX only")
def test_names_that_are_no_text_are_remembered_too(root, cache, decoded):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (root / "cats/a.png").rename(root / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):
        assert find_bad_images(root, [name], Decoder(), cache, threads=1) == {}
    assert len(decoded) == 1


def test_the_data_folder_is_left_as_it_was(root, cache):
    truncate(root / "dogs/c.png")
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in root.rglob("*") if file.is_file()}
    find_bad_images(root, GOOD, Decoder(), cache, threads=2)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in root.rglob("*") if file.is_file()} == before


@pytest.mark.shared
def test_real_photographs_are_all_good(shared, cache):
    root = shared / "data" / "hymenoptera"
    paths = sorted(str(file.relative_to(root)) for file in root.glob("val/*/*.jpg"))
    assert len(paths) == 153
    assert find_bad_images(root, paths, Decoder(), cache, threads=2) == {}


def test_digests_are_of_the_content_and_remembered(root, cache, decoded):
    expected = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in GOOD}
    for _ in range(2):
        files = FileTable(root, GOOD)
        check_images(files, GOOD, Decoder(), cache, threads=2)
        assert {path: files.digest(path) for path in GOOD} == expected
    assert len(decoded) == len(GOOD)


def test_a_picture_that_is_replaced_by_one_of_its_size_and_time_is_found_where_it_is_read(root):
    file = root / GOOD[0]
    decode = Unchanged(Decoder(), {str(file): content_digest(file)}.get)
    assert torch.equal(decode(file), Decoder()(file))
    assert torch.equal(decode(root / GOOD[1]), Decoder()(root / GOOD[1]))
    content, state = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(BadImageError, match="not the image that the run began with"):
        decode(str(file))
    file.unlink()
    with pytest.raises(BadImageError, match="cannot be read"):
        decode(file)
