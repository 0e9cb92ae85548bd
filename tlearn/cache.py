"""List and prune the cache: python -m tlearn.cache list|prune|clear."""

import argparse
import os
import shutil
import sys
import time
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from tlearn import __version__
from tlearn.console import answer, complain
from tlearn.errors import OutputError, counted
from tlearn.features.prune import folder_size, kept, prune

_GIGABYTE = 1e9
_DAY = 24 * 3600
_FEATURES = "features"
# The other folders that tlearn creates there; users may have added their own.
_OTHERS = ("pixels", "shapes", "verified")
_COMMANDS = {
    "list": "list cached features, least recently used first, and the other folders",
    "prune": "remove the least recently used features",
    "clear": "remove everything",
}


def main() -> None:
    """Run the program."""
    arguments = _parser().parse_args()
    folder = Path(os.path.expanduser(arguments.cache))
    try:
        sys.exit({"list": _list, "prune": _prune, "clear": _clear}[arguments.command](folder, arguments))
    except OSError as error:
        complain(f"tlearn: {error}")
        sys.exit(OutputError.exit_status)


class _Parser(argparse.ArgumentParser):
    """Name the command that a mistyped word or a flag was meant to be; it is never taken for one."""

    def error(self, message: str) -> NoReturn:
        first = " ".join(sys.argv[1:2])
        close = [] if first in _COMMANDS else get_close_matches(first.lstrip("-"), _COMMANDS, n=1)
        super().error(message + "".join(f"; did you mean {self.prog} {one}?" for one in close))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tlearn.cache",
        description="List and prune the cache. Everything in it can be computed or downloaded again.",
    )
    parser.add_argument("--version", action="version", version=f"tlearn {__version__}")
    where = os.environ.get("TLEARN_CACHE") or "~/.cache/tlearn"
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--cache", type=_folder, default=where, metavar="FOLDER", help="default: TLEARN_CACHE, or ~/.cache/tlearn"
        )
        if name == "clear":
            command.add_argument("--yes", action="store_true", help="without the question that a terminal is asked")
        if name == "prune":
            command.add_argument("--gb", type=_positive, help="until all features together take at most GB")
            command.add_argument("--days", type=_positive, help="features unused for DAYS")
    return parser


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty, and would mean the current folder")
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number >= 0")
    return value


def _list(folder: Path, arguments: argparse.Namespace) -> int:
    spaces = kept(folder / _FEATURES)
    for space in spaces:
        parts = [space.recipe.get(key) for key in ("backbone", "preprocessing")]
        backbone, size = (part if isinstance(part, dict) else {} for part in parts)
        unused = (time.time() - space.used) / _DAY
        answer(
            f"{space.folder.name}  {space.size / _GIGABYTE:8.3f} GB  {unused:6.1f} days unused  "
            f"{backbone.get('name')}, {size.get('size')} pixels, {space.recipe.get('precision')}"
        )
    others = [folder / name for name in _OTHERS if (folder / name).is_dir()]
    for path in others:
        answer(f"{path.name:<32}  {folder_size(path) / _GIGABYTE:8.3f} GB")
    answer(f"{(sum(space.size for space in spaces) + sum(map(folder_size, others))) / _GIGABYTE:.3f} GB in {folder}")
    return 0


def _prune(folder: Path, arguments: argparse.Namespace) -> int:
    if arguments.gb is None and arguments.days is None:
        complain("tlearn: prune needs --gb or --days")
        return 2
    limit = float("inf") if arguments.gb is None else arguments.gb * _GIGABYTE
    since = None if arguments.days is None else time.time() - arguments.days * _DAY
    removed = prune(folder / _FEATURES, limit, since)
    freed = sum(space.size for space in removed) / _GIGABYTE
    answer(f"removed {counted(len(removed), 'set')} of features, {freed:.3f} GB")
    return 0


def _clear(folder: Path, arguments: argparse.Namespace) -> int:
    size = _ours(folder)
    if size and sys.stdin.isatty() and not arguments.yes:
        answer(f"Remove {size / _GIGABYTE:.3f} GB from {folder}? y/N")
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            answer("removed nothing")
            return 0
    # Spaces with locks first: features that a run is writing stay.
    prune(folder / _FEATURES, -1)
    for name in _OTHERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    left = _ours(folder)
    answer(f"removed {(size - left) / _GIGABYTE:.3f} GB" + (f", {left / _GIGABYTE:.3f} GB are in use" if left else ""))
    return 0


def _ours(folder: Path) -> int:
    return sum(folder_size(folder / name) for name in (_FEATURES, *_OTHERS))


if __name__ == "__main__":
    main()
