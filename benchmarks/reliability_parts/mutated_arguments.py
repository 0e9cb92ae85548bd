"""R12: arguments as nobody should type them. Whatever is wrong is a line of a known kind, and soon."""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reliability_parts.drawn import draw_classes
from reliability_parts.row import Options, Outcome, Row
from tests.small_runs import build_without_images
from tlearn.config.command import program
from tlearn.config.compose import compose
from tlearn.config.messages import explain
from tlearn.config.tree import plain
from tlearn.errors import TlearnError

ROW = Row(
    "R12",
    "traces, hangs and late errors of mutated arguments",
    "Values, keys and characters of arguments are changed at random, one argument a case: seven programs compose and "
    "check them in one process, `train` builds what needs no images, every 20th goes through the whole command line; "
    "200 are processes that train, where a refusal by the rules of the configuration must come within 2 s of CPU.",
)
SECONDS = 60
# CPU seconds to a refusal that needs no library: the interpreter, Hydra and the rules
LATE = 2.0
# What each program must be told besides
PROGRAMS = {
    "train": ["backbone=tiny", "trainer=cpu", "logger=csv"],
    "evaluate": ["run=r"],
    "predict": ["run=r", "images=i"],
    "explore": ["data=folder", "data.root=d"],
    "compare": ["runs=r"],
    "bench": ["backbone=tiny"],
}
VALUES = (
    *(
        "null",
        "true",
        "x",
        "''",
        "[]",
        "[1,2]",
        "[x]",
        "[[1]]",
        "[null]",
        "{}",
        "{a: 1}",
        "{a: {b: 1}}",
        "..",
        "../../x",
    ),
    *(
        "1e38",
        "1e300",
        "-1",
        "0",
        "1",
        "1.5",
        "-0.0",
        "4294967296",
        "99999999999999999999",
        "nan",
        "inf",
        "-inf",
        "'1'",
    ),
    *(
        "${seed}",
        "${nothing}",
        "${oc.env:HOME}",
        "${oc.env:NO_SUCH}",
        "???",
        "/",
        "~",
        "a b",
        "'a b'",
        "\\",
        "é",
        "\u202e",
    ),
    *("os.system", "torch.load", "builtins.eval", "no.such.Class", "{_target_: torch.nn.ReLU}", "{_target_: x}", "1,2"),
    *("range(3)", "choice(1,2)", "interval(0,1)", "glob(*)", "\x1b[31m", "\n", "off", "0x10", "1_000", "2024-01-01"),
)
CHARACTERS = "=+~@:,.{}[]()'\"\\$%#&*!?<>|;/- \t\n\x00\x1b0aZé\u202e\U0001f600"


class _LateError(BaseException):
    """It hangs."""


def run(options: Options) -> Iterator[Outcome]:
    """Try arguments in this process, then in processes of their own."""
    known = {name: leaves(plain(compose(given, name))) for name, given in PROGRAMS.items()}
    for number in range(options.cases(10_000, 60)):
        case = f"argument {number}"
        if options.wants(case):
            name, argument = drawn(options.random(case), known)
            fault = in_process(name, argument, options.folder / "run", whole=number % 20 == 0)
            yield Outcome(case, fault and f"{name} {argument!r}: {fault}", "one process")
    data = draw_classes(options.folder / "data")
    for number in range(200 if options.count is None and not options.short else 2):
        case = f"process {number}"
        if options.wants(case):
            _, argument = drawn(options.random(case), {"train": known["train"]})
            fault, seconds = as_process(argument, data, options.folder / "train")
            yield Outcome(case, fault and f"{argument!r}: {fault}", "processes", figures={"cpu_seconds": seconds})


def leaves(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List keys and nodes of a configuration."""
    found = []
    for name, value in node.items():
        found.append(f"{prefix}{name}")
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{name}.")
    return found


def drawn(draw: random.Random, known: Mapping[str, list[str]]) -> tuple[str, str]:
    """Draw a program and an argument."""
    name = draw.choice(list(known))
    key, value = draw.choice(known[name]), draw.choice(VALUES)
    whole = draw.choice([f"{key}={value}", f"{key}={value}", f"~{key}", f"+{key}.more={value}", f"++{key}={value}"])
    if draw.random() < 0.5:
        return name, whole
    characters = list(whole)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(characters) + 1)
        characters[place : place + draw.randrange(2)] = draw.choice((draw.choice(CHARACTERS), ""))
    return name, "".join(characters)


def in_process(name: str, argument: str, folder: Path, whole: bool) -> str:
    """Return what was wrong with the answer to an argument."""

    def late(*_: object) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return _by_command_line(name, argument, folder) if whole else _by_compose(name, argument, folder)
    except _LateError:
        return f"no answer within {SECONDS} s"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(folder, ignore_errors=True)


def _by_compose(name: str, argument: str, folder: Path) -> str:
    try:
        config = compose([*PROGRAMS[name], argument], name, output_dir=folder)
        if name == "train":
            build_without_images(config, folder)
    except TlearnError as error:
        return "" if str(error).strip() else "an empty message"
    except Exception as error:
        status, message = explain(error)
        return "" if message and status != 1 else f"a trace, {type(error).__name__}: {str(error).splitlines()[:1]}"
    return ""


def _by_command_line(name: str, argument: str, folder: Path) -> str:
    main, _ = program(name, lambda config: {})
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*PROGRAMS[name], argument, f"hydra.run.dir={folder}"])
    return _judged(status, out.getvalue() + err.getvalue())


def _judged(status: int, said: str) -> str:
    if "Traceback (most recent call last)" in said or status not in (0, 2, 3, 4, 6):
        return f"status {status}: {' '.join(said.split())[-200:]}"
    return "" if status == 0 or "tlearn: error: " in said else f"status {status} without a line"


def as_process(argument: str, data: Path, folder: Path) -> tuple[str, float]:
    """Train with an argument in a process; return what was wrong, and its CPU seconds."""
    given = [
        "data=folder",
        f"data.root={data}",
        "data.num_workers=0",
        "trainer.max_epochs=1",
        "report=off",
        "quiet=true",
    ]
    command = [sys.executable, "-m", "tlearn.train", *PROGRAMS["train"], *given, f"hydra.run.dir={folder}"]
    if "\0" in argument:
        # No process can be given one.
        argument = argument.replace("\0", "")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, argument],
            cwd=data.parent,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=3 * SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {3 * SECONDS} s", 0.0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    fault = _judged(done.returncode, done.stdout + done.stderr)
    if not fault and done.returncode == 2 and seconds > LATE and _by_rules(argument):
        fault = f"the error took {seconds:.1f} s of CPU"
    return fault, seconds


def _by_rules(argument: str) -> bool:
    """Return whether the configuration alone tells that an argument is wrong, before a library is needed."""
    try:
        compose([*PROGRAMS["train"], argument], "train")
    except TlearnError:
        return True
    return False
