"""Take out one protection after another, in a copy of the source, and see that a test that names it fails without it.

python benchmarks/guards.py [--output FILE]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from measure import machine

REPOSITORY = Path(__file__).parents[1]


class Guard(NamedTuple):
    """A protection: where it stands, its source, what takes its place, and the test that asks for it."""

    name: str
    file: str
    source: str
    instead: str
    test: str


DIGESTS, ARCHIVE, RESUME = "models/test_digests.py::test_", "test_archive.py::test_", "config/test_resume.py::test_"
GUARDS = [
    Guard(
        "digest of checkpoints",
        "models/digests.py",
        "if tail != _tail(digest.hexdigest()):",
        "if False:",
        DIGESTS + "no_flipped_bit_of_a_checkpoint_is_accepted",
    ),
    Guard(
        "digest of weights",
        "models/digests.py",
        "elif found[1].decode() != _of_safetensors(file, header):",
        "elif False:",
        DIGESTS + "no_flipped_bit_of_weights_is_accepted",
    ),
    Guard(
        "numbers that are held",
        "models/backbones/weights.py",
        "return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()",
        "return True",
        DIGESTS + "a_checkpoint_that_claims_more_numbers_than_it_holds_is_refused",
    ),
    Guard(
        "plain data in checkpoints",
        "models/checkpoint_file.py",
        '"cpu", weights_only=True)',
        '"cpu", weights_only=False)',
        "training/test_checkpoints.py::test_code_in_a_checkpoint_is_refused_and_not_run",
    ),
    Guard(
        "paths in checkpoints",
        "training/checkpoints.py",
        "if not (inside and found.is_relative_to(self._run)):",
        "if False:",
        "training/test_checkpoints.py::test_a_checkpoint_that_names_a_file_outside_its_run_is_refused",
    ),
    Guard(
        "kind of a stored target",
        "runs/trust.py",
        "if reason := _unfit(found, seat.kind):",
        "if reason := '':",
        "runs/test_trust.py::test_nothing_else_in_a_trusted_package_is_called",
    ),
    Guard(
        "stored code",
        "config/stored_code.py",
        "[target for target in targets(config) if target not in known]",
        "[]",
        RESUME + "code_that_a_stored_run_hides_is_refused_unless_it_is_typed",
    ),
    Guard(
        "stored places",
        "config/relaunch.py",
        "if not set(of_code(merged)).issubset(given) or",
        "if",
        RESUME + "a_place_to_write_to_must_be_given_again",
    ),
    Guard(
        "inert cells",
        "files.py",
        """return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell""",
        "return cell",
        "test_files.py -k test_a_spreadsheet_runs_no_cell",
    ),
    Guard(
        "fsync",
        "files.py",
        "                    os.fsync(descriptor)\n",
        "                    pass\n",
        "test_files.py -k test_what_must_survive",
    ),
    Guard(
        "escapes",
        "console.py",
        'found[0].encode("unicode_escape").decode()',
        "found[0]",
        "test_console.py::test_control_characters_in_names_are_shown_and_not_obeyed",
    ),
    Guard(
        "web pages in place of files",
        "download.py",
        "if start.lstrip().lower().startswith(_PAGES):",
        "if False:",
        "test_download.py::test_a_web_page_in_place_of_a_file_never_stays",
    ),
    Guard(
        "length of downloads",
        "download.py",
        "if not received or expected not in (None, received):",
        "if not received:",
        "test_download.py::test_a_cut_body_is_tried_again_and_then_reported_with_its_size",
    ),
    Guard(
        "ratio of archives",
        "archive.py",
        "min(max_bytes, max(ANY_RATIO, MAX_RATIO * archive.stat().st_size))",
        "max_bytes",
        ARCHIVE + "an_archive_that_grows_a_hundredfold_is_refused_once_that_is_much",
    ),
    Guard(
        "room for archives",
        "archive.py",
        "if self.bytes > self.room:",
        "if False:",
        ARCHIVE + "an_archive_that_would_fill_the_disk_is_refused",
    ),
    Guard(
        "members that leave",
        "archive.py",
        'if path.anchor or ".." in path.parts or',
        "if",
        ARCHIVE + "a_member_that_leaves_the_folder_refuses_the_whole_archive",
    ),
    Guard(
        "content of images",
        "data/verify.py",
        "if expected is not None and _digest_now(path) != expected:",
        "if False:",
        "data/test_verify.py::test_a_picture_that_is_replaced_by_one_of_its_size_and_time_is_found_where_it_is_read",
    ),
    Guard(
        "JPEG without content",
        "data/decode.py",
        "        _check_content(stream, image)\n",
        "",
        "data/test_decode.py::test_a_jpeg_without_content_for_its_pixels_is_refused_before_it_fills_the_memory",
    ),
    Guard(
        "room for checkpoints",
        "training/checkpoints.py",
        "    if needed > free:",
        "    if False:",
        "test_check.py::test_what_a_training_is_refused_for_a_check_is_too",
    ),
    Guard(
        "generator states",
        "training/last_checkpoint.py",
        'restore_rng_state(own["random"], _gpus(trainer))',
        "pass",
        "training/test_last_checkpoint.py -k without_interruption and steps",
    ),
    Guard(
        "loaders that draw late",
        "data/loader.py",
        "    def __iter__(self) -> Any:\n",
        "    def __iter__(self) -> Any:\n        return super().__iter__()\n\n    def _late(self) -> Any:\n",
        "training/test_last_checkpoint.py -k without_interruption and images",
    ),
]


def main(options: argparse.Namespace) -> int:
    found, started = [], time.perf_counter()
    for guard in GUARDS:
        with TemporaryDirectory(prefix="guards_") as folder:
            red, told = is_red(guard, Path(folder))
        found.append({"guard": guard.name, "file": guard.file, "test": guard.test, "red": red, "told": told})
        print(f"{'red ' if red else 'GREEN'} {guard.name}: {guard.test}\n      {told}", flush=True)
    kept = {
        "row": "guards",
        "figure": "guards without which no test fails",
        "method": "Each guard is taken out of a copy of the source, and the test that asks for it must fail.",
        "tlearn": f"{sum(not one['red'] for one in found)} of {len(found)}",
        "plain": "-",
        "cells": {one["guard"]: [int(not one["red"]), 1] for one in found},
        "faults": [one for one in found if not one["red"]],
        "plain_faults": [],
        "guards": found,
        "seconds": round(time.perf_counter() - started, 1),
        "command": "python benchmarks/guards.py",
    }
    if options.output:
        about = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "seed": 0}
        options.output.write_text(json.dumps({**about, "rows": [kept]}, indent=1) + "\n", encoding="utf-8")
    return int(bool(kept["faults"]))


def is_red(guard: Guard, folder: Path) -> tuple[bool, str]:
    """Return whether the test fails without the guard, and what it says last."""
    for name in ("tlearn", "conf", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, folder)
    path = folder / "tlearn" / guard.file
    source = path.read_text(encoding="utf-8")
    if source.count(guard.source) != 1:
        return False, f"{guard.file} has no single {guard.source!r}"
    path.write_text(source.replace(guard.source, guard.instead), encoding="utf-8")
    test, _, chosen = guard.test.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", f"tests/{test}"]
    command += ["-k", chosen] if chosen else []
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "E  "))]
    # Status 1: tests failed; 2 to 5: none ran, or not as they should.
    return done.returncode == 1 and bool(lines), (lines or done.stdout.splitlines() or [""])[-1][:160]


if __name__ == "__main__":
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, help="write what was found to this JSON file")
    sys.exit(main(made.parse_args()))
