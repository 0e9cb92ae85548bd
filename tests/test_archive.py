"""Archives of every kind: whole, cut, damaged, and made to do harm."""

import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlearn import archive as archive_module
from tlearn.archive import extract
from tlearn.errors import DataError, DownloadError, OutputError, TlearnError

PAGE = b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head><body>Too many users.</body></html>"
PICTURES = {"pets/cats/a.jpg": b"cat" * 100, "pets/dogs/b.jpg": b"dog" * 100, "pets/empty.txt": b""}
PICTURE_NAMES = ["cats/a.jpg", "dogs/b.jpg", "empty.txt"]


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            info, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_unpacked_whole_and_kept(tmp_path, kind):
    # No file name ending: what the file holds decides.
    archive = tmp_path / "archive"
    if kind == "zip":
        zipped(archive, {**PICTURES, "__MACOSX/pets/._a.jpg": b"junk"})
    else:
        tarred(archive, [*PICTURES.items(), ("__MACOSX/pets/._a.jpg", b"junk")], kind)
    folder = tmp_path / "deep" / "folder"
    assert extract(archive, folder) == folder
    assert {f"{name}": (folder / name).read_bytes() for name in everything(folder)} == PICTURES
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder"]
    assert archive.exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../evil", "good/../../evil", "/evil", "C:/evil", "C:evil", "..\\evil", "\\evil", "//host/share/evil"]
)
def test_a_member_that_leaves_the_folder_refuses_the_whole_archive(tmp_path, kind, name):
    members = {"good.jpg": b"good", name: b"evil", "later.jpg": b"good"}
    archive = tmp_path / "archive"
    zipped(archive, members) if kind == "zip" else tarred(archive, list(members.items()))
    with pytest.raises(DataError) as caught:
        extract(archive, tmp_path / "one" / "two" / "folder")
    assert repr(name) in str(caught.value)
    assert str(archive) in str(caught.value)
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize(
    "member",
    [
        special("evil", tarfile.SYMTYPE, "/etc/passwd"),
        special("evil", tarfile.SYMTYPE, "../../outside"),
        special("evil", tarfile.LNKTYPE, "../outside"),
        special("evil", tarfile.LNKTYPE, "nowhere"),
        special("evil", tarfile.LNKTYPE, "/good.jpg"),
        special("evil", tarfile.SYMTYPE, "evil"),
        special("evil", tarfile.SYMTYPE, "."),
        special("evil", tarfile.FIFOTYPE),
        special("evil", tarfile.CHRTYPE),
        special("evil", tarfile.BLKTYPE),
    ],
    ids=lambda member: f"{member.type}{member.linkname}",
)
def test_links_that_leave_and_devices_are_refused(tmp_path, member):
    (tmp_path / "outside").write_bytes(b"secret")
    archive = tarred(tmp_path / "archive", [("good.jpg", b"good"), member])
    with pytest.raises(DataError, match="'evil'"):
        extract(archive, tmp_path / "folder")
    assert everything(tmp_path) == ["archive", "outside"]


def test_an_absolute_link_is_not_read_as_a_relative_one(tmp_path):
    members = [("a/etc/x", b"picture"), special("a/evil", tarfile.SYMTYPE, "/etc/x")]
    with pytest.raises(DataError, match="'a/evil' is a link to '/etc/x'"):
        extract(tarred(tmp_path / "archive", members), tmp_path / "folder")


def test_a_link_inside_an_archive_becomes_a_copy(tmp_path):
    links = [special("b/soft.jpg", tarfile.SYMTYPE, "../a/x.jpg"), special("hard.jpg", tarfile.LNKTYPE, "a/x.jpg")]
    folder = extract(tarred(tmp_path / "archive", [("a/x.jpg", b"picture"), *links]), tmp_path / "folder")
    for name in ("b/soft.jpg", "hard.jpg"):
        assert (folder / name).read_bytes() == b"picture"
        assert not (folder / name).is_symlink()
        assert (folder / name).stat().st_nlink == 1


def test_nothing_is_written_through_a_link(tmp_path):
    chain = [("a/x", b""), special("a/up", tarfile.SYMTYPE, "."), ("a/up/evil", b"evil")]
    with pytest.raises(DataError, match="link"):
        extract(tarred(tmp_path / "archive", chain), tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("evil")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("good.jpg", b"good")
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="'evil' is a link or a device"):
        extract(tmp_path / "archive", tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_stopped_while_it_unpacks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archive_module, "CHUNK", 1000)
    members = {"first.jpg": b"x" * 600, "bomb": bytes(10**6)}
    archive = tmp_path / "archive"
    zipped(archive, members) if kind == "zip" else tarred(archive, list(members.items()))
    with pytest.raises(DataError, match="'bomb' goes beyond 2000 bytes"):
        extract(archive, tmp_path / "folder", max_bytes=2000)
    assert everything(tmp_path) == ["archive"]


def test_the_copies_that_links_become_count_as_written(tmp_path):
    links = [special(f"link{number}", tarfile.LNKTYPE, "a") for number in range(3)]
    with pytest.raises(DataError, match="'link1' goes beyond 2000 bytes"):
        extract(tarred(tmp_path / "archive", [("a", b"x" * 900), *links]), tmp_path / "folder", max_bytes=2000)


def test_an_archive_of_exactly_the_limit_is_unpacked(tmp_path):
    archive = zipped(tmp_path / "archive", {"a": b"x" * 600, "b": b"x" * 400})
    assert everything(extract(archive, tmp_path / "folder", max_bytes=1000)) == ["a", "b"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 5)
    members = {f"{number}.jpg": b"x" for number in range(6)}
    archive = tmp_path / "archive"
    zipped(archive, members) if kind == "zip" else tarred(archive, list(members.items()))
    with pytest.raises(DataError, match=r"'5\.jpg' is one more than 5"):
        extract(archive, tmp_path / "folder")


def test_a_member_whose_size_was_lost_is_not_taken_for_an_empty_file(tmp_path):
    content = bytearray(zipped(tmp_path / "archive", PICTURES).read_bytes())
    # In the directory at the end, where the size of a member stands 24 bytes after its mark
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = bytes(4)
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DownloadError, match=r"the size of pets/cats/a\.jpg is damaged"):
        extract(tmp_path / "archive", tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]


def test_a_member_that_claims_to_hold_nothing_compressed_is_not_taken_for_an_empty_file(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cats/a.jpg", b"x" * 1024)
    content = bytearray(path.read_bytes())
    # In the directory at the end, checksum and compressed size stand 16 and 20 bytes after its mark.
    place = content.index(b"PK\1\2") + 16
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"cats/a\.jpg"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [PAGE, b"", b"PNG" * 1000], ids=["page", "empty", "other"])
def test_what_is_no_archive_is_shown(tmp_path, content):
    (tmp_path / "data.zip").write_bytes(content)
    with pytest.raises(DownloadError) as caught:
        extract(tmp_path / "data.zip", tmp_path / "folder")
    assert repr(content[:80]) in str(caught.value)
    assert str(tmp_path / "data.zip") in str(caught.value)
    assert everything(tmp_path) == ["data.zip"]


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz"])
def test_a_cut_archive_is_never_taken_for_a_whole_one(tmp_path, kind):
    noise = {f"{number}.jpg": hashlib.sha512(str(number).encode()).digest() * 20 for number in range(6)}
    whole = tmp_path / "whole"
    zipped(whole, noise) if kind == "zip" else tarred(whole, list(noise.items()), kind)
    content, cut = whole.read_bytes(), tmp_path / "cut"
    # The zeros that fill up a tar after its end mark are no content.
    end = len(content.rstrip(b"\0")) if kind == "w" else len(content)
    for size in [*range(0, end, 97), *range(0, end, 512), end - 1]:
        cut.write_bytes(content[:size])
        with pytest.raises(DownloadError):
            extract(cut, tmp_path / "folder")
    assert everything(tmp_path) == ["cut", "whole"]


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:bz2", "w:xz"])
def test_a_damaged_archive_is_whole_or_refused(tmp_path, kind):
    whole = tmp_path / "whole"
    zipped(whole, PICTURES) if kind == "zip" else tarred(whole, list(PICTURES.items()), kind)
    content, damaged = whole.read_bytes(), tmp_path / "damaged"
    for place in range(0, len(content), 3):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            extract(damaged, tmp_path / str(place))
        except TlearnError:
            assert not (tmp_path / str(place)).exists()
        else:
            contents = [(tmp_path / str(place) / name).read_bytes() for name in everything(tmp_path / str(place))]
            # Names are not covered by a zip's checksums; what is in the files is.
            assert sorted(contents) == sorted(PICTURES.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(st.sampled_from("ab./\\:~ C\n\u00e9"), min_size=1, max_size=12), min_size=1, max_size=4),
    kind=st.sampled_from(["zip", "tar"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_no_name_ever_leaves_the_folder(tmp_path_factory, names, kind):
    root = tmp_path_factory.mktemp("names")
    archive = root / "archive"
    if kind == "tar":
        tarred(archive, [(name, b"content") for name in names])
    else:
        with zipfile.ZipFile(archive, "w") as opened:
            for name in names:
                opened.writestr(name, b"content")
    try:
        extract(archive, root / "one" / "two" / "folder")
    except TlearnError:
        assert everything(root) == ["archive"]
    else:
        assert all(name == "archive" or name.startswith("one/two/folder/") for name in everything(root))


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    archive = zipped(tmp_path / "archive", {"a": b"file", "a/b": b"inside"})
    with pytest.raises(DataError, match="'a/b' is a file in one place and a folder in another"):
        extract(archive, tmp_path / "folder")


def test_folders_named_with_backslashes_are_folders(tmp_path):
    archive = zipped(tmp_path / "archive", {"a\\": b"", "a\\b.jpg": b"x"})
    assert everything(extract(archive, tmp_path / "folder")) == ["a/b.jpg"]


def test_an_encrypted_zip_is_reported(tmp_path):
    archive = zipped(tmp_path / "archive", {"a": b"x"})
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="encrypted"):
        extract(archive, tmp_path / "folder")


def test_an_archive_without_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="should hold files"):
        extract(tarred(tmp_path / "archive", []), tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]


def test_an_existing_folder_is_left_alone(tmp_path):
    archive = zipped(tmp_path / "archive", PICTURES)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=str(tmp_path / "folder")):
        extract(archive, tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_extraction_leaves_no_folder(tmp_path, monkeypatch, error):
    archive = zipped(tmp_path / "archive", PICTURES)
    open_file = Path.open

    def interrupted(path: Path, *args: object) -> object:
        if path.name == "b.jpg":
            assert list(tmp_path.glob(".*.tmp/pets/cats/a.jpg")), "the first file was written"
            raise error
        return open_file(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", interrupted)
        with pytest.raises((KeyboardInterrupt, OutputError)):
            extract(archive, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]
    assert everything(extract(archive, tmp_path / "folder", top="pets")) == PICTURE_NAMES


@pytest.mark.parametrize("members", [{"other/a": b"x"}, {"pets/a": b"x", "more": b"y"}, {"pets": b"x"}])
def test_a_top_folder_that_is_not_the_only_content_is_refused(tmp_path, members):
    with pytest.raises(DataError, match='one folder "pets"'):
        extract(zipped(tmp_path / "archive", members), tmp_path / "folder", top="pets")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_grows_a_hundredfold_is_refused_once_that_is_much(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archive_module, "ANY_RATIO", 10_000)
    members = {"blank.bmp": bytes(10**6)}
    make = zipped if kind == "zip" else lambda path, content: tarred(path, list(content.items()))
    archive = make(tmp_path / "archive", members)
    with pytest.raises(DataError, match=r"'blank\.bmp' goes beyond \d+ bytes"):
        extract(archive, tmp_path / "folder")
    assert everything(tmp_path) == ["archive"]
    monkeypatch.setattr(archive_module, "ANY_RATIO", 10**6)
    assert everything(extract(archive, tmp_path / "folder")) == ["blank.bmp"]


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30 + 500))
    with pytest.raises(OutputError, match="less than 1 GiB would be left"):
        extract(zipped(tmp_path / "archive", {"a": b"x" * 600}), tmp_path / "folder")
    assert everything(extract(zipped(tmp_path / "small", {"a": b"x" * 400}), tmp_path / "other")) == ["a"]
