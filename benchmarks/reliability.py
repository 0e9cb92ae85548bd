"""What becomes of runs, files and results when something fails: killed processes, signals, storage, damaged input.

python benchmarks/reliability.py --rows R1,R2 [--seed N] [--count N] [--output FILE]
python benchmarks/reliability.py --short
python benchmarks/reliability.py --rows R1 --seed 0 --case NAME
python benchmarks/reliability.py --page FILE ...

Faults are real: processes are killed, files end early, bits flip, disks are full. Every case is drawn from the seed and
its name, and one that fails is printed as the command that replays it. `--page` writes RELIABILITY.md from what
`--output` has kept. `plain_program.py` is the program that some rows try too.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import choices, machine

# Before torch is imported: runs are small, and a thread would outlive no fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tlearn beside this file, whichever is installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reliability_parts import PARTS, part
from reliability_parts.page import write_page
from reliability_parts.row import PLAIN, TLEARN, Options, Outcome

# Rows whose programs are forks of this process
FORKING = ("R1", "R2", "R3", "R9", "R10", "R11")


def main(options: argparse.Namespace) -> int:
    if options.page:
        write_page(Path(__file__).parents[1] / "RELIABILITY.md", options.page)
        return 0
    about = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "seed": options.seed}
    rows: list[dict[str, Any]] = []
    # The short form is for machines that do other things too, where a share of seconds says nothing.
    names = options.rows or [row for row in PARTS if row != "R13" or not options.short]
    # Those that fork come first: what runs in this process starts threads, which a fork would lack.
    for name in sorted(names, key=lambda row: row not in FORKING):
        rows.append(measure(name, options))
        if options.output:
            options.output.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return int(any(row["faults"] for row in rows))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Try the cases of a row, print what fails, and return all that is kept of it."""
    started, found = time.perf_counter(), part(name)
    print(f"{name}: {found.ROW.figure}", flush=True)
    outcomes: list[Outcome] = []
    # Not TemporaryDirectory, which every fork of this process would remove at its end
    folder = Path(tempfile.mkdtemp(prefix=f"reliability_{name}_")).resolve()
    try:
        asked = Options(folder, options.seed, options.count, options.short, options.case)
        for outcome in found.run(asked):
            outcomes.append(outcome)
            if outcome.fault and outcome.program == TLEARN:
                replay = shlex.join(["--rows", name, "--seed", str(options.seed), "--case", outcome.case])
                print(f"  {outcome.fault}\n    python benchmarks/reliability.py {replay}", flush=True)
    except KeyboardInterrupt:
        # What was tried counts, and the page tells how many cases that is.
        print("  stopped", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - started
    of = {program: [one for one in outcomes if one.program == program] for program in (TLEARN, PLAIN)}
    said = {program: found.ROW.summarise(outcomes) for program, outcomes in of.items()}
    print(f"  tlearn {said[TLEARN]}; plain program {said[PLAIN]}; {seconds:.0f} s", flush=True)
    return {
        "row": name,
        "figure": found.ROW.figure,
        "method": found.ROW.method,
        **said,
        "cells": cells(of[TLEARN]),
        "faults": [vars(one) for one in outcomes if one.fault and one.program == TLEARN],
        "plain_faults": sorted({one.fault for one in of[PLAIN] if one.fault}),
        "seconds": round(seconds, 1),
        "command": shlex.join(["python", "benchmarks/reliability.py", *command(name, options)]),
    }


def command(name: str, options: argparse.Namespace) -> list[str]:
    """Return the arguments that measure one row again."""
    count = [] if options.count is None else ["--count", str(options.count)]
    return ["--rows", name, "--seed", str(options.seed), *count, *(["--short"] if options.short else [])]


def cells(outcomes: list[Outcome]) -> dict[str, list[int]]:
    """Return faults and cases of each cell."""
    counted: dict[str, list[int]] = {}
    for outcome in outcomes:
        cell = counted.setdefault(outcome.cell, [0, 0])
        cell[0] += bool(outcome.fault)
        cell[1] += 1
    return counted


def arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=choices(PARTS), default=[], help=f"some of {', '.join(PARTS)} (default all)")
    made.add_argument("--seed", type=int, default=0, help="what the cases are drawn from (default 0)")
    made.add_argument("--count", type=int, help="cases of tlearn in each row (default the full number)")
    made.add_argument("--short", action="store_true", help="a few cases of each row but R13, in some three minutes")
    made.add_argument("--case", action="append", default=[], help="replay this case alone")
    made.add_argument("--output", type=Path, help="write what was found to this JSON file, after each row")
    made.add_argument("--page", type=Path, nargs="+", help="write RELIABILITY.md from such files, and measure nothing")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main(arguments()))
