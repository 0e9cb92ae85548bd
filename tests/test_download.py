"""Downloads from a server on this machine that misbehaves on request, and archives that do."""

import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlearn import download
from tlearn.download import extract, fetch, fetch_archive
from tlearn.errors import ConfigError, DataError, DownloadError, OutputError, TlearnError

BODY = bytes(range(256)) * 40
DIGEST = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head><body>Too many users.</body></html>"


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = self.server.answers[self.path]
        self.server.requests.append(self.path)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer.before()
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.length != -1:
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []

    def url(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
    monkeypatch.delenv("TLEARN_OFFLINE", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the name of every host that is looked up."""
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def recorded(host: str, *args: object, **kwargs: object) -> object:
        asked.append(host)
        if host not in ("127.0.0.1", "localhost"):
            raise OSError("no such host here")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", recorded)
    return asked


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


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


PICTURES = {"pets/cats/a.jpg": b"cat" * 100, "pets/dogs/b.jpg": b"dog" * 100, "pets/empty.txt": b""}
PICTURE_NAMES = ["cats/a.jpg", "dogs/b.jpg", "empty.txt"]


# fetch


@pytest.mark.parametrize("sha256", [None, DIGEST, DIGEST[:8], DIGEST.upper()])
def test_a_good_download_is_complete_and_alone(server, tmp_path, sha256):
    path = tmp_path / "new" / "weights.pth"
    url = server.url("/w", Answer(BODY))
    assert fetch(url, path, sha256=sha256) == path
    assert path.read_bytes() == BODY
    assert fetch(url, path, sha256=sha256) == path, "what came is accepted when it is there"
    assert everything(tmp_path) == ["new/weights.pth"]


def test_a_download_has_the_permissions_of_any_new_file(server, tmp_path):
    (tmp_path / "plain").touch()
    path = fetch(server.url("/w", Answer(BODY)), tmp_path / "w")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_file_is_not_fetched_again(server, tmp_path):
    url = server.url("/w", Answer(BODY))
    for _ in range(3):
        fetch(url, tmp_path / "w", sha256=DIGEST)
    assert server.requests == ["/w"]


def test_an_existing_file_with_another_digest_is_named_and_kept(server, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(BODY[:-1])
    with pytest.raises(DownloadError) as caught:
        fetch(server.url("/w", Answer(BODY)), path, sha256=DIGEST)
    for part in (str(path), DIGEST, hashlib.sha256(BODY[:-1]).hexdigest(), f"{len(BODY) - 1} bytes", "delete it"):
        assert part in str(caught.value)
    assert path.read_bytes() == BODY[:-1]
    assert server.requests == []


def test_a_wrong_digest_leaves_nothing_and_says_all_one_needs(server, tmp_path):
    url, wrong = server.url("/w", Answer(BODY)), "0" * 64
    with pytest.raises(DownloadError) as caught:
        fetch(url, tmp_path / "w", sha256=wrong, what="weights of resnet18")
    message = str(caught.value)
    by_hand = f"put the file by hand at {tmp_path / 'w'} (sha256 {wrong})"
    for part in ("weights of resnet18", url, DIGEST, f"{len(BODY)} bytes", by_hand):
        assert part in message
    assert everything(tmp_path) == []
    assert server.requests == ["/w"], "the same bytes would come again"


@pytest.mark.parametrize("sha256", ["", "f37072f", "not hex digits", "0" * 65])
def test_a_malformed_digest_is_refused_instead_of_skipped(server, tmp_path, sha256):
    (tmp_path / "w").write_bytes(BODY)
    with pytest.raises(ConfigError, match="8 to 64 hex digits"):
        fetch(server.url("/w", Answer(BODY)), tmp_path / "w", sha256=sha256)


@pytest.mark.parametrize("cut", [0, 1, 255, 5000, len(BODY) - 1])
def test_a_cut_body_is_tried_again_and_then_reported_with_its_size(server, tmp_path, cut):
    with pytest.raises(DownloadError, match=rf"ended after {cut} of {len(BODY)} bytes"):
        fetch(server.url("/w", Answer(BODY[:cut], length=len(BODY))), tmp_path / "w")
    assert everything(tmp_path) == []
    assert len(server.requests) == 3


def test_a_cut_body_is_not_joined_with_the_next_try(server, tmp_path):
    url = server.url("/w", Answer(BODY[:5000], length=len(BODY)), Answer(BODY))
    assert fetch(url, tmp_path / "w").read_bytes() == BODY


def test_a_body_of_undeclared_length_is_accepted_unless_empty(server, tmp_path):
    assert fetch(server.url("/w", Answer(BODY, length=-1)), tmp_path / "w").read_bytes() == BODY
    with pytest.raises(DownloadError, match="ended after 0 of unknown bytes"):
        fetch(server.url("/v", Answer(b"", length=-1)), tmp_path / "v")


def test_a_missing_page_is_reported_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="the server answered 404"):
        fetch(server.url("/w", Answer(PAGE, status=404)), tmp_path / "w")
    assert server.requests == ["/w"]
    assert everything(tmp_path) == []


def test_a_busy_server_gets_three_tries(server, tmp_path):
    busy = Answer(status=503)
    assert fetch(server.url("/w", busy, busy, Answer(BODY)), tmp_path / "w").read_bytes() == BODY
    with pytest.raises(DownloadError, match="the server answered 503"):
        fetch(server.url("/v", busy, busy, busy, Answer(BODY)), tmp_path / "v")
    assert everything(tmp_path) == ["w"]


def test_the_waits_between_tries_grow(server, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr(download.time, "sleep", waits.append)
    with pytest.raises(DownloadError):
        fetch(server.url("/w", Answer(status=503)), tmp_path / "w")
    assert waits == [1.0, 2.0]


def test_no_server_is_reported_with_the_place_for_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{closed_port()}/w"
    with pytest.raises(DownloadError) as caught:
        fetch(url, Path("w"), sha256=DIGEST[:8])
    message = str(caught.value)
    assert "refused" in message
    assert f"put the file by hand at {tmp_path / 'w'} (sha256 {DIGEST[:8]})" in message
    assert "Traceback" not in message
    assert "\n" not in message


def test_offline_opens_no_socket_and_still_uses_what_is_there(server, hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("TLEARN_OFFLINE", "1")
    url = server.url("/w", Answer(BODY))
    with pytest.raises(DownloadError, match=r"TLEARN_OFFLINE.*put the file by hand at"):
        fetch(url, tmp_path / "new" / "w")
    assert hosts == []
    assert not (tmp_path / "new").exists()
    (tmp_path / "w").write_bytes(BODY)
    assert fetch(url, tmp_path / "w", sha256=DIGEST) == tmp_path / "w"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/w",
        "http://127.0.0.1@example.org/w",
        "http://127.0.0.1.example.org/w",
        "ftp://127.0.0.1/w",
        "file:///etc/hostname",
        "//127.0.0.1/w",
        "http://[broken/w",
        "w",
    ],
)
def test_only_https_is_used_beyond_this_machine(hosts, tmp_path, url):
    with pytest.raises(DownloadError, match="put the file by hand at"):
        fetch(url, tmp_path / "w")
    assert hosts == []


@pytest.mark.parametrize("rest", [":port/w", ":99999999/w", ":9/w\u00e4", ":9/a b", ":9/a\nb", ":9/w\0", ":9/w%00"])
def test_a_malformed_address_is_reported(tmp_path, rest):
    with pytest.raises(DownloadError, match="put the file by hand at"):
        fetch(f"http://127.0.0.1{rest}", tmp_path / "w")
    with pytest.raises(DownloadError, match="put the file by hand at"):
        fetch_archive(f"http://127.0.0.1{rest}", tmp_path / "data", what="data")
    assert everything(tmp_path) == []


@pytest.mark.parametrize("goal", ["http://example.org/w", "ftp://example.org/w", "file:///etc/hostname"])
def test_a_redirect_may_not_leave_https(server, hosts, tmp_path, goal):
    url = server.url("/w", Answer(status=302, headers={"Location": goal}))
    with pytest.raises(DownloadError, match="put the file by hand at"):
        fetch(url, tmp_path / "w")
    assert set(hosts) <= {"127.0.0.1"}
    assert server.requests == ["/w"]


def test_a_redirect_within_the_rule_is_followed(server, tmp_path):
    goal = server.url("/goal", Answer(BODY))
    assert fetch(server.url("/w", Answer(status=302, headers={"Location": goal})), tmp_path / "w").read_bytes() == BODY


def test_a_redirect_from_https_down_to_this_machine_is_refused():
    request = urllib.request.Request("https://example.org/w")
    with pytest.raises(Exception, match="from https to"):
        download._SafeRedirects().redirect_request(request, None, 302, "Found", {}, "http://127.0.0.1/w")


def test_an_endless_redirect_ends(server, tmp_path):
    url = server.url("/w", Answer(status=302, headers={"Location": "/w"}))
    with pytest.raises(DownloadError, match="infinite loop"):
        fetch(url, tmp_path / "w")


def test_a_proxy_for_http_is_not_asked_for_this_machine(server, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "")
    assert fetch(server.url("/w", Answer(BODY)), tmp_path / "w").read_bytes() == BODY


def test_a_folder_that_cannot_be_made_is_an_output_error(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        fetch(server.url("/w", Answer(BODY)), tmp_path / "file" / "w")
    assert server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_may_not_be_written_is_an_output_error(server, tmp_path, mode):
    closed = tmp_path / "closed"
    closed.mkdir(mode=mode)
    with pytest.raises(OutputError, match=str(closed)):
        fetch(server.url("/w", Answer(BODY)), closed / "w")
    with pytest.raises(OutputError, match=str(closed)):
        fetch_archive(server.url("/a", Answer(BODY)), closed / "data", what="data")
    with pytest.raises(OutputError, match=str(closed)):
        extract(zipped(tmp_path / "archive", PICTURES), closed / "data")
    assert server.requests == []


def test_a_full_disk_is_an_output_error_and_leaves_nothing(server, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device"):
        fetch(server.url("/w", Answer(BODY)), tmp_path / "w")
    assert everything(tmp_path) == []
    assert server.requests == ["/w"]


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url("/w", Answer(BODY)), tmp_path / "w")
    assert everything(tmp_path) == []


def test_downloads_at_once_each_write_their_own_file_and_rename_it(server, tmp_path, monkeypatch):
    path, all_written = tmp_path / "w", threading.Barrier(4, timeout=60)
    written: list[int] = []

    def meet(descriptor: int) -> None:
        assert not path.exists()
        written.append(os.fstat(descriptor).st_ino)
        all_written.wait()

    monkeypatch.setattr(os, "fsync", meet)
    url = server.url("/w", Answer(BODY))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch(url, path), range(4))) == [path] * 4
    assert len(set(written)) == 4
    assert path.stat().st_ino in written
    assert path.read_bytes() == BODY
    assert everything(tmp_path) == ["w"]


# extract


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
    monkeypatch.setattr(download, "CHUNK", 1000)
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
    monkeypatch.setattr(download, "MAX_MEMBERS", 5)
    members = {f"{number}.jpg": b"x" for number in range(6)}
    archive = tmp_path / "archive"
    zipped(archive, members) if kind == "zip" else tarred(archive, list(members.items()))
    with pytest.raises(DataError, match=r"'5\.jpg' is one more than 5"):
        extract(archive, tmp_path / "folder")


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
            assert list(tmp_path.glob("*.part/pets/cats/a.jpg")), "the first file was written"
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


# fetch_archive


@pytest.fixture
def archive_answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return Answer(zipped(tmp_path_factory.mktemp("served") / "pets.zip", PICTURES).read_bytes())


def test_a_fetched_archive_becomes_its_top_folder_and_goes(server, tmp_path, archive_answer):
    url, folder = server.url("/files/pets.zip", archive_answer), tmp_path / "data" / "animals"
    for _ in range(2):
        assert fetch_archive(url, folder, top="pets", what="pets") == folder
    assert everything(tmp_path) == [f"data/animals/{name}" for name in PICTURE_NAMES]
    assert server.requests == ["/files/pets.zip"]


def test_an_archive_put_by_hand_is_used_offline_and_kept(server, hosts, tmp_path, monkeypatch, archive_answer):
    monkeypatch.setenv("TLEARN_OFFLINE", "1")
    (tmp_path / "pets.zip").write_bytes(archive_answer.body)
    url = server.url("/files/pets.zip?download=1", archive_answer)
    digest = hashlib.sha256(archive_answer.body).hexdigest()
    assert everything(fetch_archive(url, tmp_path / "animals", sha256=digest, what="pets")) == sorted(PICTURES)
    assert (tmp_path / "pets.zip").read_bytes() == archive_answer.body
    assert hosts == []


def test_a_failed_archive_names_both_places_for_it(tmp_path):
    url = f"http://127.0.0.1:{closed_port()}/pets.zip"
    with pytest.raises(DownloadError) as caught:
        fetch_archive(url, tmp_path / "animals", sha256=DIGEST, top="pets", what="the pets data")
    message = str(caught.value)
    archive = f"put the file by hand at {tmp_path / 'pets.zip'} (sha256 {DIGEST})"
    for part in ("the pets data", url, archive, f'its folder "pets" at {tmp_path / "animals"}'):
        assert part in message


def test_a_page_instead_of_an_archive_is_shown_and_not_kept(server, tmp_path, archive_answer):
    url = server.url("/pets.zip", Answer(PAGE), archive_answer)
    with pytest.raises(DownloadError) as caught:
        fetch_archive(url, tmp_path / "animals", top="pets", what="the pets data")
    by_hand = f"put the file by hand at {tmp_path / 'pets.zip'}"
    for part in ("the pets data", url, repr(PAGE[:80]), by_hand, str(tmp_path / "animals")):
        assert part in str(caught.value)
    assert everything(tmp_path) == []
    assert everything(fetch_archive(url, tmp_path / "animals", top="pets", what="pets")) == PICTURE_NAMES


def test_a_dangerous_archive_is_refused_with_its_address_and_not_kept(server, tmp_path):
    evil = zipped(tmp_path / "evil", {"../evil": b"x"})
    url = server.url("/pets.zip", Answer(evil.read_bytes()))
    with pytest.raises(DataError, match=rf"{url}.*'\.\./evil'"):
        fetch_archive(url, tmp_path / "data" / "animals", what="pets")
    assert everything(tmp_path) == ["evil"]


def test_a_bad_archive_put_by_hand_is_kept_and_to_be_deleted(server, tmp_path, archive_answer):
    (tmp_path / "pets.zip").write_bytes(archive_answer.body[:-10])
    with pytest.raises(DownloadError, match=rf"{tmp_path / 'pets.zip'} .*delete it"):
        fetch_archive(server.url("/pets.zip", archive_answer), tmp_path / "animals", what="pets")
    assert everything(tmp_path) == ["pets.zip"]


def test_an_archive_named_like_its_folder_does_not_block_it(server, tmp_path, archive_answer):
    url = server.url("/zip/main", archive_answer)
    assert everything(fetch_archive(url, tmp_path / "main", top="pets", what="pets")) == PICTURE_NAMES


def test_the_work_of_a_faster_process_is_used(server, tmp_path, archive_answer):
    def finish_first() -> None:
        (tmp_path / "animals").mkdir()
        (tmp_path / "animals" / "theirs").touch()

    url = server.url("/pets.zip", Answer(archive_answer.body, before=finish_first))
    assert everything(fetch_archive(url, tmp_path / "animals", what="pets")) == ["theirs"]
    assert everything(tmp_path) == ["animals/theirs"]
