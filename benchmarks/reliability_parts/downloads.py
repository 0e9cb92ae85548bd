"""R7: downloads from a server that lies, hangs and stops. What is not the file never stays in its place."""

import hashlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from reliability_parts.mutations import HangsError, in_time
from reliability_parts.row import PLAIN, Options, Outcome, Row
from tlearn import download
from tlearn.errors import TlearnError

ROW = Row(
    "R7",
    "faults of downloads that leave bad bytes, or do not end",
    "A server sends a file of another digest, cuts it at 20 places, sends a web page, answers 503, sends "
    "nothing, sends a byte at a time, or breaks the connection, with and without a known digest; a process is killed "
    "while it downloads; eight download at once. The plain program is torch.hub's download.",
)
BODY = b"PK" + bytes(range(256)) * 1200
DIGEST = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Quota exceeded</body></html>"
CUTS = [len(BODY) * part // 20 for part in range(20)]
# What a handler sends
Send = Callable[[BaseHTTPRequestHandler], None]


def whole(body: bytes, length: int | None = None, status: int = 200, pause: float = 0) -> Send:
    """Send a body that claims a length, a byte at a time where there is a pause."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        for part in (body[place : place + 1] for place in range(len(body))) if pause else [body]:
            handler.wfile.write(part)
            time.sleep(pause)

    return send


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing for longer than anyone waits."""
    time.sleep(5)


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection within the body."""
    whole(BODY[:1000], len(BODY))(handler)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


# What is sent, and whether it is the file after all
FAULTS: dict[str, Send] = {
    "checksum": whole(BODY[:-1] + b"!"),
    **{f"cut at {cut}": whole(BODY[:cut], len(BODY)) for cut in CUTS},
    "longer than said": whole(BODY + b"more", len(BODY)),
    "empty": whole(b""),
    "web page": whole(PAGE),
    "web page with a blank": whole(b"\r\n  " + PAGE.lower()),
    "503": whole(b"busy", status=503),
    "404": whole(PAGE, status=404),
    "silence": silent,
    "trickle": whole(BODY, pause=0.05),
    "reset": reset,
}
# Only a digest tells these.
UNTELLABLE = ("checksum",)


class Server(ThreadingHTTPServer):
    """Answers each path as `sends` says."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.sends: dict[str, Send] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(OSError):
                    outer.sends[self.path](self)

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, send: Send) -> str:
        path = f"/{len(self.sends)}"
        self.sends[path] = send
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        pass


def run(options: Options) -> Iterator[Outcome]:
    """Try each fault."""
    # As patient as tlearn is, in a thirtieth of the time
    download.TIMEOUT_SECONDS, download.BACKOFF_SECONDS, download.PATIENCE_SECONDS = 1, 0.01, 1.0
    server = Server()
    kinds = list(FAULTS.items())[:: 4 if options.short else 1]
    for name, send in kinds:
        for digest in (None, DIGEST):
            case = f"{name}, {'with' if digest else 'without'} digest"
            if options.wants(case) and not (digest is None and name in UNTELLABLE):
                path = options.folder / case.replace(" ", "_") / "file"
                yield Outcome(case, fetched(server.url(send), path, digest), "faults")
        if options.wants(name) and name not in ("silence", "trickle", *UNTELLABLE):
            path = options.folder / f"plain_{name}" / "file"
            path.parent.mkdir()
            yield Outcome(name, plainly(server.url(send), path), "faults", PLAIN)
    slow = server.url(whole(BODY[:40], len(BODY), pause=0.05))
    for number in range(options.cases(20, 2)):
        case = f"killed {number}"
        if options.wants(case):
            path = options.folder / case / "file"
            yield Outcome(case, killed(slow, server, path, 0.1 + options.random(case).random()), "killed")
    download.TIMEOUT_SECONDS = 30
    for number in range(options.cases(5, 1)):
        case = f"eight at once {number}"
        if options.wants(case):
            yield Outcome(case, racing(server.url(whole(BODY)), options.folder / case / "file"), "eight at once")


def fetched(url: str, path: Path, digest: str | None) -> str:
    """Return what was wrong after a download that should fail, or be right in spite of all."""
    try:
        with in_time(60):
            download.fetch(url, path, sha256=digest)
    except TlearnError as error:
        if url not in str(error) or str(path) not in str(error):
            return f"unnamed: {error}"
    except HangsError:
        return "no end within 60 s"
    except Exception as error:
        return f"a trace, {type(error).__name__}: {error}"
    return left(path)


def left(path: Path) -> str:
    """Return what is wrong with what lies at a path and beside it."""
    if path.exists() and path.read_bytes() != BODY:
        return "bad bytes lie in the file's place"
    more = [one.name for one in path.parent.iterdir() if one != path] if path.parent.is_dir() else []
    return f"{more[0]} was left" if more else ""


def plainly(url: str, path: Path) -> str:
    """Download as a plain program does."""
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except Exception:
        return left(path)
    return left(path)


def _child(url: str, path: Path) -> None:
    download.fetch(url, path)


def killed(slow: str, server: Server, path: Path, seconds: float) -> str:
    """Kill a process that downloads, and download again."""
    child = multiprocessing.get_context("fork").Process(target=_child, args=(slow, path))
    child.start()
    time.sleep(seconds)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    if path.exists():
        return "a cut file lies in the file's place"
    download.fetch(server.url(whole(BODY)), path)
    return "" if path.read_bytes() == BODY else "the second download is not the file"


def racing(url: str, path: Path) -> str:
    """Download in eight processes at once."""
    children = [multiprocessing.get_context("fork").Process(target=_child, args=(url, path)) for _ in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    failed = sum(child.exitcode != 0 for child in children)
    return f"{failed} of 8 failed" if failed else "the file is not there" if not path.exists() else left(path)
