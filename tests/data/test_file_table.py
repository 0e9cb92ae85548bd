"""The state of each file of a run is asked for once, and what is kept of it takes few bytes."""

import gc
import os
import tracemalloc
from collections import Counter
from pathlib import Path

from tests import small_runs as runs
from tests.conftest import draw_classes
from tlearn.data import prepare as preparing
from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest, file_state
from tlearn.data.file_table import FileTable
from tlearn.data.prepare import prepare
from tlearn.data.sources.base import Listing, Sample


def test_a_file_is_known_by_its_path_and_as_it_is_opened(tmp_path):
    (tmp_path / "a").mkdir()
    outside = tmp_path / "outside.jpg"
    for number, file in enumerate((tmp_path / "a/1.jpg", outside, tmp_path / "2.jpg")):
        file.write_bytes(b"x" * (number + 1))
    root = tmp_path / "a"
    paths = ["./1.jpg", str(outside), str(root / "../2.jpg"), "lost.jpg"]
    files = FileTable(root, [*paths, paths[0]])
    for number, path in enumerate(paths[:3]):
        digest = f"{number + 1:064x}"
        files.keep_digest(path, digest)
        assert (files.digest(path), files.size(path)) == (digest, number + 1)
        for name in (str(root / path), os.path.join(root, path)):
            assert files.opened_digest(name) == digest
            assert files.opened_state(name) == file_state(root / path)
    lost = str(root / "lost.jpg")
    assert (files.size("lost.jpg"), files.opened_state(lost), files.digest("lost.jpg")) == (None, None, None)
    assert files.digest("unknown.jpg") is None


def test_a_folder_with_the_name_of_its_relative_root_is_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, paths = Path("pets"), ["cat/1.jpg", "pets/cat/1.jpg"]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(b"x" * (number + 1))
    files = FileTable(root, paths)
    assert [files.size(path) for path in paths] == [1, 2]
    assert [files.opened_state(str(root / path)).size for path in paths] == [1, 2]


def test_a_run_asks_for_the_state_of_each_file_once(tmp_path, monkeypatch):
    data, weights = draw_classes(tmp_path / "data", 6), runs.write_weights(tmp_path / "weights.pth")
    runs.run(tmp_path / "cold", data, weights)
    asked, stat = Counter[str](), os.stat

    def counting(path, *arguments, **options):
        asked[str(path)] += 1
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", counting)
    runs.run(tmp_path / "warm", data, weights)
    files = list(data.rglob("*.jpg"))
    assert len(files) == 12
    assert {str(file): asked[str(file)] for file in files} == {str(file): 1 for file in files}


def test_files_of_one_content_are_found_in_groups(tmp_path):
    contents = {"a": b"1", "sub/b": b"1", "c": b"2", "d": b"3", "e": b"2", "f": b"1", "unknown": b"1", "other": b"4"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    table = FileTable(tmp_path, [*contents, "./a"])
    assert table.copies() == []
    for name in contents:
        if name != "unknown":
            table.keep_digest(name, content_digest(tmp_path / name))
    assert sorted(map(sorted, table.copies())) == [["a", "f", "sub/b"], ["c", "e"]]


def test_an_image_takes_less_than_400_bytes(tmp_path, monkeypatch):
    names = [f"class {number % 10}/{number:07d}.jpg" for number in range(5_000)]

    class Source:
        def prepare(self) -> None: ...

        def listing(self) -> Listing:
            return Listing(tmp_path, [Sample(name, "class " + name[6]) for name in names])

    def known(files: FileTable, paths: list[str], *_) -> tuple[dict[str, str], set[int]]:
        for path in paths:
            files.keep_digest(path, "ab" * 32)
        return {}, {0}

    monkeypatch.setattr(preparing, "check_images", known)
    gc.collect()
    tracemalloc.start()
    try:
        found = prepare(Source(), Decoder(), (0.6, 0.2, 0.2), 0.2, 0)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert found.files.opened_digest(str(Path(tmp_path) / names[0])) == "ab" * 32
    assert kept / len(names) < 400
