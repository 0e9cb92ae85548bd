"""Whole processes side by side: wall seconds, peak memory and figures, each shown and kept as soon as it is there."""

import argparse
import csv
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

BASELINES, LIMITS = (Path(__file__).with_name(name) for name in ("baselines.py", "limits.py"))
IMPORTS = ["-c", "import torch, torchvision, lightning"]
# What the precision of features can be; `default` leaves the choice to tlearn
PRECISIONS = {
    "fp32": ["features.precision=fp32"],
    "bf16": ["features.precision=bf16"],
    "default": [],
}
# From a pair's number, which is the seed, to figures
Job = Callable[[int], dict[str, Any]]
_LIBRARIES = ("torch", "torchvision", "lightning", "pillow", "numpy", "fastai")


class FailedError(Exception):
    """A measured process failed; what it printed last is in the message."""


@dataclass(frozen=True)
class Finished:
    """A process that ended: seconds of wall clock and CPU, peak MiB of its largest process, its output.

    `anonymous_mib` is of all its processes together, if they were watched, without files that they map.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    anonymous_mib: float | None
    output: str


def run(
    arguments: Sequence[str | Path],
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    watch: bool = False,
    check: bool = True,
) -> Finished:
    """Run Python as its own process, timed from the outside.

    With `watch`, the anonymous memory of the process and all below it is added up five times a second: memory that they
    share counts more than once.
    """
    command = [python, *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
    )
    assert process.stdout is not None
    peak: list[float] = []
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    if watch:
        watcher.start()
    try:
        output = process.stdout.read()
        # Not wait(): the resources used are those of this process and of what it waited for, and of no other.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - started
    if check and process.returncode != 0:
        last = "\n".join(output.splitlines()[-15:])
        raise FailedError(f"exit status {process.returncode} of {shlex.join(command)}\n{last}")
    # Kilobytes on Linux, bytes on macOS
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Finished(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / unit, max(peak, default=None), output)


def _watch(process: subprocess.Popen, peak: list[float]) -> None:
    while process.returncode is None:
        peak.append(sum(map(_anonymous_mib, _family(process.pid))))
        time.sleep(0.2)


def _family(pid: int) -> Iterable[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _anonymous_mib(pid: int) -> float:
    # A process that has just ended has no memory, or is gone.
    with suppress(OSError, TypeError):
        return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 2**10
    return 0.0


def tlearn(
    overrides: Sequence[str], folder: Path, cache: Path, python: str = sys.executable, watch: bool = False
) -> dict[str, Any]:
    """Train with tlearn's command line and give seconds, peak memory and what it left in metrics.json."""
    arguments = ["-m", "tlearn.train", "report=off", *overrides, f"hydra.run.dir='{folder}'"]
    done = run(arguments, python, variables(cache), watch)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    measured = {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds, "peak_mib": done.peak_mib}
    measured |= {**accuracies(folder, metrics), "metrics": metrics}
    return measured if done.anonymous_mib is None else measured | {"anonymous_mib": done.anonymous_mib}


def variables(cache: Path) -> dict[str, str]:
    """Give the environment of a tlearn process: its own cache folder, and no network."""
    return {"TLEARN_CACHE": str(cache), "TLEARN_OFFLINE": "1"}


def accuracies(folder: Path, metrics: dict[str, float]) -> dict[str, float]:
    """Give top-1 on the pictures that other trainers report on too: test, or val where there is none.

    Without test pictures, it is that of the last epoch: the best one's was chosen on the pictures it is measured on.
    """
    if "test/top1" in metrics:
        return {"accuracy": metrics["test/top1"]}
    with suppress(OSError, IndexError):
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            scores = [float(row["val/top1"]) for row in csv.DictReader(file) if row.get("val/top1")]
        return {"accuracy": scores[-1], "best": max(scores)}
    return {"accuracy": metrics["val/top1"]}


def baseline(name: str, options: Sequence[str | Path], python: str = sys.executable) -> dict[str, Any]:
    """Run a loop of baselines.py and give its seconds and the figures it printed, `accuracy` being the last one."""
    done = run([BASELINES, name, *options], python)
    figures = json.loads(done.output.splitlines()[-1])
    score = {"accuracy": figures["final"]} if "final" in figures else {}
    return {"seconds": done.seconds, "peak_mib": done.peak_mib, **score, **figures}


def limit(arguments: Sequence[str | Path], pair: int) -> dict[str, Any]:
    """Run a part of limits.py and give its seconds and the figures it printed."""
    done = run([LIMITS, *arguments])
    return {"seconds": done.seconds, **json.loads(done.output.splitlines()[-1])}


class Record:
    """What was measured so far, by name: printed as it comes, and written to `output` each time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.output: Path | None = options.output
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.summary: list[str] = []
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        self._about = {"program": Path(sys.argv[0]).name, "options": plain, "machine": machine()}
        self.gpus: list[str] = self._about["machine"]["gpus"]
        print(json.dumps(self._about["machine"]), flush=True)

    def add(self, name: str, **figures: Any) -> None:
        """Keep one measurement and show it."""
        self.rows.setdefault(name, []).append(figures)
        shown = [
            f"{key} {value:.4g}" for key, value in figures.items() if key != "pair" and isinstance(value, int | float)
        ]
        print(f"  {name} [{len(self.rows[name])}]: {', '.join(shown)}", flush=True)
        self._write()

    def values(self, name: str, key: str = "seconds") -> list[float]:
        """Give one figure of all measurements of this name."""
        return [row[key] for row in self.rows.get(name, []) if row.get(key) is not None]

    def say(self, text: str = "") -> None:
        """Print a line of the summary and keep it."""
        self.summary.append(text)
        print(text, flush=True)
        self._write()

    def spread(self, name: str, key: str = "seconds") -> str:
        """Write median, range and count of one figure."""
        return spread(self.values(name, key))

    def show(self, unit: str = "s", key: str = "seconds", names: Iterable[str] | None = None) -> None:
        """Say median and range of a figure, beside the mean and range of the accuracies, for each name."""
        for name in names or self.rows:
            if self.values(name, key):
                scores = [100 * value for value in self.values(name, "accuracy")]
                quality = f"; accuracy {_mean(scores)} %" if scores else ""
                self.say(f"{name:<40} {self.spread(name, key)} {unit}{quality}")

    def ratio(self, slow: str, fast: str, key: str = "seconds") -> None:
        """Say how many times `slow` is of `fast`, pair by pair."""
        slows, fasts = ({row["pair"]: row[key] for row in self.rows.get(name, [])} for name in (slow, fast))
        ratios = [slows[pair] / fasts[pair] for pair in slows if pair in fasts]
        if ratios:
            self.say(f"{slow} / {fast}: {spread(ratios)} times")

    def _write(self) -> None:
        if self.output is not None:
            text = json.dumps({**self._about, "measured": self.rows, "summary": self.summary}, indent=1)
            self.output.write_text(text + "\n", encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """Write median, range and count."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.4g} ({low:.4g} to {high:.4g}, n={len(values)})"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def interleave(record: Record, jobs: Mapping[str, Job], pairs: int) -> None:
    """Measure every job once per pair, so that what else the machine does falls on all alike; its number is the seed.

    A job that fails stops nothing: it is shown without figures. Every other pair runs backwards, so that no job always
    comes after the same one.
    """
    for pair in range(pairs):
        for name in list(jobs)[:: 1 if pair % 2 == 0 else -1]:
            print(f"pair {pair + 1} of {pairs}: {name} ...", flush=True)
            try:
                record.add(name, pair=pair, **jobs[name](pair))
            except FailedError as error:
                print(f"  {name} failed: {error}", flush=True)


def machine() -> dict[str, Any]:
    """Describe where this runs, without importing torch: what measures shall take no memory or cores."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load_before": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _cpu_name() -> str:
    with suppress(OSError, TypeError):
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    return platform.processor()


def _gpu_names() -> list[str]:
    with suppress(OSError):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
    return []


def read_once(folder: Path) -> int:
    """Read all files below, so that nobody's first run pays for the disk; give their number."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.read_bytes()
    return len(files)


def parser(about: str, pairs: int = 5) -> argparse.ArgumentParser:
    """Make the options that all programs have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", type=int, default=pairs, help=f"rounds of everything (default {pairs})")
    made.add_argument("--output", type=Path, help="write all figures to this JSON file, after each one")
    return made


def add_override(made: argparse.ArgumentParser) -> None:
    """Add what is given to tlearn's command line."""
    made.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="for every tlearn run")


def add_pictures(made: argparse.ArgumentParser) -> None:
    """Add where pictures and weights are."""
    made.add_argument("--data", type=Path, required=True, help="folder that holds hymenoptera/ and cat_dog/")
    made.add_argument("--weights", type=Path, required=True, help="mobilenet_v2 weights, a state dict file")


def words(text: str) -> list[str]:
    """Split an option that lists several values by commas."""
    return [word for word in text.split(",") if word]


def choices(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Make an option's type: some of `known`, separated by commas."""
    known = list(known)

    def parse(text: str) -> list[str]:
        if unknown := [word for word in words(text) if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose among {', '.join(known)}")
        return words(text)

    return parse
