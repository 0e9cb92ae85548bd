"""Fixtures shared by all tests: no network, small drawn pictures, the optional folder of real pictures."""

import ctypes
import gc
import itertools
import os
import signal
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.merged_once import merged_once
from tlearn.machine import available_cpus

REPOSITORY = Path(__file__).resolve().parent.parent
_CACHES = itertools.count()

# Workers of a parallel run share the CPUs: torch reads this when first imported, here and in the programs started.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start a worker for each CPU; none for tests that are named, or whose output is to be seen as it comes."""
    named = all("::" in argument for argument in config.args)
    return 0 if named or config.option.capture == "no" else available_cpus()


@pytest.fixture(autouse=True, scope="session")
def first_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the caches of fixtures that outlive a test out of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLEARN_CACHE", str(folder := tmp_path_factory.mktemp("caches")))
        yield folder


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> None:
    """Hear what nohup, or a shell, lets be ignored: in the tests, and in the programs that they start."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def short_goodbyes() -> Iterator[None]:
    """Wait one second, not five, for each loader worker of an epoch that an error has ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 1.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def options_merged_once() -> Iterator[None]:
    """Parse and merge the same options once in a process: a run merges them four times, at 90 ms."""
    with merged_once():
        yield


@pytest.fixture(autouse=True, scope="session")
def imported_once() -> None:
    """Leave what the test modules have imported out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    # About as seldom as programs look: a run leaves little garbage, and the search takes a twentieth of its time.
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let the workers of a parallel run report on file names that are not text, which they could not send."""

    def sendable(node: Any) -> Any:
        if isinstance(node, dict):
            return {sendable(key): sendable(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(sendable, node))
        return node.encode("utf-8", "replace").decode() if isinstance(node, str) else node

    return sendable((yield))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sockets reach this machine only, so that a test can never depend on the network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the tests have no network, and something asked for {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_caches(monkeypatch: pytest.MonkeyPatch, first_cache: Path) -> None:
    """Keep every cache of a test in its own folder."""
    # Not mktemp, which lists the folders of all tests before
    (folder := first_cache / f"test{next(_CACHES)}").mkdir()
    monkeypatch.setenv("TLEARN_CACHE", str(folder))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of built-in images, drawn and computed once for all workers of a parallel run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "drawn"


@pytest.fixture
def obedient() -> Iterator[None]:
    """Take from this thread, where it is root's, the capabilities that override the modes of files and folders."""
    if os.geteuid() != 0:
        yield
        return
    # Version 3 of the header, and 0 for this thread
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; what stays permitted can be made effective again
    sets[0] &= ~(1 << 1 | 1 << 2)
    assert libc.capset(header, sets) == 0
    yield
    sets[0] = effective
    assert libc.capset(header, sets) == 0


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real pictures and weights, or skip."""
    folder = Path(os.environ.get("TLEARN_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "weights" / "mobilenet_v2.pth").is_file():
        pytest.skip(f"no real pictures and weights in {folder} (set TLEARN_SHARED)")
    return folder


def draw(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 32), seed: int = 0) -> Path:
    """Write one noisy picture of a colour; the format follows the file's ending."""
    noise = np.random.default_rng(seed).integers(-40, 41, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def fill(root: Path, *paths: str) -> Path:
    """Make files that nothing here needs to decode."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"never opened")
    return root


def tree(root: Path) -> list[str]:
    """Name everything below a folder."""
    return sorted(str(path) for path in root.rglob("*"))


COLOURS = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}


def draw_classes(folder: Path, count: int = 4, classes: tuple[str, ...] = ("blue", "red"), first: int = 0) -> Path:
    """Fill a folder with `count` pictures for each class."""
    for name in classes:
        for number in range(first, first + count):
            draw(folder / name / f"{name}_{number}.jpg", COLOURS.get(name, (128, 128, 128)), seed=number)
    return folder


@pytest.fixture
def draw_split():
    """Return `draw_classes`."""
    return draw_classes


@pytest.fixture
def folder_data(tmp_path: Path, draw_split) -> Path:
    """Give a data set in the train/val/test layout: 3 classes, 8 + 4 + 4 pictures each."""
    root = tmp_path / "pictures"
    for split, count, first in (("train", 8, 0), ("val", 4, 100), ("test", 4, 200)):
        draw_split(root / split, count, tuple(COLOURS), first)
    return root
