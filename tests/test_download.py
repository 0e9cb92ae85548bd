"""Downloads from a server on this machine that misbehaves on request."""

import hashlib
import os
import socket
import stat
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.test_archive import PAGE, PICTURE_NAMES, PICTURES, everything, zipped
from tlearn import download
from tlearn.archive import extract
from tlearn.download import fetch, fetch_archive
from tlearn.errors import ConfigError, DataError, DownloadError, OutputError

BODY = bytes(range(256)) * 40
DIGEST = hashlib.sha256(BODY).hexdigest()


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


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a port of this machine that nothing listens on and, while it is bound, nothing else can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


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


def test_no_server_is_reported_with_the_place_for_the_file(tmp_path, monkeypatch, closed_port):
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{closed_port}/w"
    with pytest.raises(DownloadError) as caught:
        fetch(url, Path("w"), sha256=DIGEST[:8])
    message = str(caught.value)
    assert "refused" in message
    assert f"put the file by hand at {tmp_path / 'w'} (sha256 {DIGEST[:8]})" in message
    assert "Traceback" not in message
    assert "\n" not in message


def test_offline_opens_no_socket_and_still_uses_what_is_there(server, hosts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLEARN_OFFLINE", "1")
    url = server.url("/w", Answer(BODY))
    with pytest.raises(DownloadError, match=r"TLEARN_OFFLINE.*put the file by hand at"):
        fetch(url, tmp_path / "new" / "w")
    assert hosts == []
    assert "downloading" not in "".join(capsys.readouterr())
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


def test_a_proxy_for_http_is_not_asked_for_this_machine(server, tmp_path, monkeypatch, closed_port):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", "")
    assert fetch(server.url("/w", Answer(BODY)), tmp_path / "w").read_bytes() == BODY


def test_a_folder_that_cannot_be_made_is_an_output_error(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        fetch(server.url("/w", Answer(BODY)), tmp_path / "file" / "w")
    assert server.requests == []


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_may_not_be_written_is_an_output_error(server, tmp_path, obedient, mode):
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
        # The folder, once a file has its name
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return
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


def test_a_failed_archive_names_both_places_for_it(tmp_path, closed_port):
    url = f"http://127.0.0.1:{closed_port}/pets.zip"
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


@pytest.mark.parametrize("page", [PAGE, b"\n <HTML><body>log in</body></html>"])
def test_a_web_page_in_place_of_a_file_never_stays(server, tmp_path, page):
    with pytest.raises(DownloadError, match="answered with a web page"):
        fetch(server.url("/w.pth", Answer(page)), tmp_path / "w.pth")
    assert everything(tmp_path) == []
    assert len(server.requests) == 1


def test_a_server_that_trickles_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.2)
    ended = threading.Event()

    def do_get(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for byte in BODY:
            handler.wfile.write(bytes([byte]))
            if ended.wait(0.02):
                return

    monkeypatch.setattr(Handler, "do_GET", do_get)
    try:
        with pytest.raises(DownloadError, match=r"the server sent \d+ bytes in 0 s"):
            fetch(server.url("/w"), tmp_path / "w")
    finally:
        ended.set()
    assert everything(tmp_path) == []
