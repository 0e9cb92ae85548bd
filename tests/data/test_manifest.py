"""The manifest reads back as it was written, and names what is not as it says."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults import temporaries
from tlearn.data.file_table import FileTable
from tlearn.data.manifest import check_manifest, read_manifest, write_manifest
from tlearn.data.sources.base import Sample, Splits
from tlearn.errors import DataError, OutputError


def table(root: Path, splits: Splits, digests: Mapping[str, str] | None = None) -> FileTable:
    files = FileTable(root, [sample.path for samples in splits.values() for sample in samples])
    for path, digest in (digests or {}).items():
        files.keep_digest(path, digest)
    return files


def check(path: Path, root: Path, digests: Mapping[str, str] | None = None) -> None:
    manifest = read_manifest(path)
    check_manifest(manifest, table(root, manifest.splits, digests))


@pytest.fixture
def written(tmp_path):
    """Give a root with files of different sizes, their splits and the manifest's path."""
    root = tmp_path / "root"
    splits = {
        "train": [Sample("a/1.jpg", "a", "train"), Sample('b/"2", ü\r\n.jpg', "b, or\nnot b", "train")],
        "test": [Sample("=HYPERLINK(1).jpg", "+ve", "test"), Sample("-1", "'=a", "test")],
        "val": [Sample("a/\udcff.jpg", "a", "val"), Sample(str(tmp_path / "elsewhere.jpg"), "a", "val")],
    }
    for number, sample in enumerate(splits["train"] + splits["val"] + splits["test"]):
        (root / sample.path).parent.mkdir(parents=True, exist_ok=True)
        (root / sample.path).write_bytes(b"x" * number)
    write_manifest(tmp_path / "splits.csv", table(root, splits, {"a/1.jpg": "cd" * 32}), splits)
    return root, splits, tmp_path / "splits.csv"


class TestManifest:
    def test_it_reads_back_as_it_was_written(self, written):
        root, splits, path = written
        manifest = read_manifest(path)
        assert manifest.splits.keys() == splits.keys()
        assert all(manifest.splits[name] == sorted(splits[name]) for name in splits)
        assert sorted(manifest.sizes.values()) == [0, 1, 2, 3, 4, 5]
        check(path, root)
        assert temporaries(path.parent) == []

    def test_it_is_readable_text(self, tmp_path):
        (tmp_path / "1.jpg").write_bytes(b"12345")
        splits = {"train": [Sample("1.jpg", "Kätzchen")]}
        write_manifest(tmp_path / "splits.csv", table(tmp_path, splits, {"1.jpg": "ab" * 32}), splits)
        text = (tmp_path / "splits.csv").read_text(encoding="utf-8")
        assert text.splitlines() == ["path,label,split,bytes,sha256", f"1.jpg,Kätzchen,train,5,{'ab' * 32}"]

    def test_lost_files_and_other_sizes_are_named(self, written):
        root, _, path = written
        (root / "a/1.jpg").unlink()
        (path.parent / "elsewhere.jpg").write_bytes(b"longer than before")
        with pytest.raises(DataError) as caught:
            check(path, root)
        assert "2 of 6 images" in str(caught.value)
        assert "missing: a/1.jpg" in str(caught.value)
        assert f"18 instead of 3 bytes: {path.parent}/elsewhere.jpg" in str(caught.value)

    def test_other_content_of_the_same_size_is_named_where_it_is_known(self, written):
        root, _, path = written
        assert read_manifest(path).digests == {"a/1.jpg": "cd" * 32}
        check(path, root, {"a/1.jpg": "cd" * 32, "a/\udcff.jpg": "1" * 64})
        with pytest.raises(DataError, match=r"1 of 6 images .*\nother content: a/1\.jpg"):
            check(path, root, {"a/1.jpg": "1" * 64})

    def test_a_digest_that_is_none_is_refused(self, tmp_path):
        (tmp_path / "splits.csv").write_text("path,label,split,bytes,sha256\n1.jpg,a,train,1,abc\n", encoding="utf-8")
        with pytest.raises(DataError, match="line 2 is not path,label,split,bytes,sha256"):
            read_manifest(tmp_path / "splits.csv")

    def test_many_lost_files_are_capped(self, written, tmp_path):
        _, _, path = written
        lines = [f"no{number}.jpg,a,train,1" for number in range(50)]
        path.write_text("\n".join(["path,label,split,bytes", *lines]), encoding="utf-8")
        with pytest.raises(DataError, match=r"(?s)50 of 50 .*missing: no19\.jpg\n\.\.\. and 30 more$"):
            check(path, tmp_path)

    @pytest.mark.parametrize(
        "line",
        [
            "1.jpg,a,train",
            "1.jpg,a,train,1,2",
            "1.jpg,a,dev,1",
            "1.jpg,a,train,-1",
            "1.jpg,a,train,x",
            f"1.jpg,a,train,{'9' * 5000}",
            "1.jpg,,train,1",
            ",a,train,1",
            "0.jpg,a,val,1",
            '"1.jpg',
            "\x00\x01\x02",
        ],
    )
    def test_a_line_that_is_none_is_refused(self, tmp_path, line):
        path = tmp_path / "splits.csv"
        path.write_text(f"path,label,split,bytes\n0.jpg,a,train,1\n{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"splits\.csv"):
            read_manifest(path)

    @pytest.mark.parametrize(
        "content", [b"", b"path,label\n1.jpg,a\n", b"path,label,split,bytes\n", b"\x89PNG\r\n\x1a\n\xff"]
    )
    def test_another_file_is_refused(self, tmp_path, content):
        (tmp_path / "splits.csv").write_bytes(content)
        with pytest.raises(DataError, match="is not a split manifest"):
            read_manifest(tmp_path / "splits.csv")

    def test_a_missing_manifest_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"cannot read the split manifest .*splits\.csv"):
            read_manifest(tmp_path / "splits.csv")

    def test_a_name_that_no_file_can_have_is_missing(self, tmp_path):
        (tmp_path / "splits.csv").write_text("path,label,split,bytes\nlo\0st.jpg,a,train,1\n", encoding="utf-8")
        with pytest.raises(DataError):
            check(tmp_path / "splits.csv", tmp_path)

    def test_it_is_not_written_for_lost_files_or_to_a_place_that_is_none(self, written, tmp_path):
        root, splits, _ = written
        (tmp_path / "none").write_bytes(b"a file")
        with pytest.raises(OutputError, match=r"cannot write .*/none/splits\.csv"):
            write_manifest(tmp_path / "none/splits.csv", table(root, splits), splits)
        (root / "a/1.jpg").unlink()
        with pytest.raises(DataError, match=r"1 image missing in .*: a/1\.jpg"):
            write_manifest(tmp_path / "other.csv", table(root, splits), splits)
        assert not (tmp_path / "other.csv").exists()


class TestFingerprint:
    @pytest.fixture
    def digest(self, tmp_path):
        """Return a function that writes the splits of a root and returns their fingerprint."""
        return lambda root, splits: write_manifest(tmp_path / "again.csv", table(root, splits), splits)

    def test_it_does_not_depend_on_order_or_on_the_place_of_the_root(self, written, digest):
        root, splits, path = written
        before = digest(root, splits)
        assert len(before) == 64
        assert digest(root, dict(reversed([(name, chosen[::-1]) for name, chosen in splits.items()]))) == before
        assert digest(root, read_manifest(path).splits) == before
        moved = root.rename(root.with_name("moved"))
        assert digest(moved, splits) == before

    def test_it_changes_with_path_label_split_and_size(self, written, digest):
        root, splits, _ = written
        first, *rest = splits["train"]
        (root / "a/2.jpg").write_bytes(b"")
        variants = [
            splits,
            {**splits, "train": [first._replace(path="a/2.jpg"), *rest]},
            {**splits, "train": [first._replace(label="b"), *rest]},
            {"train": rest, "val": [*splits["val"], first]},
            {**splits, "train": rest},
        ]
        found = [digest(root, variant) for variant in variants]
        (root / first.path).write_bytes(b"longer")
        found.append(digest(root, splits))
        assert len(set(found)) == len(found)
