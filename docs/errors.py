"""Write docs/errors.md, every message of an error by exit status, from the source: python docs/errors.py."""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_suffix(".md")
PACKAGE = PAGE.parent.parent / "tlearn"
# What helps beyond the message, by status
REMEDIES = {
    1: "report the trace that is printed; where code of your own failed, the last line names it",
    2: "correct the argument; `--help` lists all keys, `python -m tlearn.check` tries a training out",
    3: "correct the folder, table or image; `data.on_bad_image=skip` leaves out images that cannot be read",
    4: "restore the file from a copy, or make room, or take another folder",
    5: "try again, or put the file by hand where the message says",
    6: "lower `optimizer.lr`; `nan_batch.json` names the images of the batch",
    7: "see `results.csv`, and start the same command again: trials that are done are not repeated",
    8: "lower `data.batch_size` or `transforms.size`",
    129: "`resume=RUN_FOLDER` goes on; in a sweep or a prediction, the same command does",
    130: "`resume=RUN_FOLDER` goes on; in a sweep or a prediction, the same command does",
    141: "what read the output has ended",
    143: "`resume=RUN_FOLDER` goes on; in a sweep or a prediction, the same command does",
}
# Reasons that become part of an error's message, by what is raised within
REASONS = {"_Failed": "DownloadError", "RefusedError": "BadImageError", "LayoutError": "DataError"}
# How what is to be done begins, after what is wrong
_VERBS = (
    "add|choose|convert|correct|delete|did you mean|end|expected|free|get|give|go on|install|leave|let|lower|make|name"
    "|pip|put|raise|remove|restore|save|say|see|set|start|take|time|train|try|use|wait|write"
)
_REMEDY = re.compile(rf"(.*?)[;:,] ((?:or )?(?:{_VERBS})\b.*)")


class Message(NamedTuple):
    """One message: its status, the part of the package, the file, the class and the text, `...` for what varies."""

    status: int
    part: str
    file: str
    kind: str
    text: str


class Kind(NamedTuple):
    """One class of errors."""

    status: int
    meaning: str


def kinds(trees: dict[str, ast.Module]) -> dict[str, Kind]:
    """Return the classes of errors below TlearnError, wherever they are defined, by name."""
    found = {"TlearnError": Kind(1, "")}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while True:
        new = [
            node for node in classes if node.name not in found and {_name(base) for base in node.bases} & found.keys()
        ]
        if not new:
            return found
        for node in new:
            base = next(found[name] for name in map(_name, node.bases) if name in found)
            given = [
                one.value for one in node.body if isinstance(one, ast.Assign) and _name(one.targets[0]) == "exit_status"
            ]
            status = ast.literal_eval(given[0]) if given else base.status
            found[node.name] = Kind(status, (ast.get_docstring(node) or "").splitlines()[0])


def messages(trees: dict[str, ast.Module]) -> list[Message]:
    """Return all messages, without those that have no word of their own."""
    known = kinds(trees)
    # Functions that return an error are as its class, unless that only says that it is one.
    makers = {
        node.name: _name(node.returns)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and known.get(_name(node.returns), known["TlearnError"]).meaning
    }
    named = {name: name for name in known} | makers | REASONS
    found = set()
    for file, tree in trees.items():
        part = file.partition("/")[0] if "/" in file else "programs and what all stand on"
        for kind, status, text in _told(tree, known, named):
            if re.search(r"[a-z]{3}", text):
                found.add(Message(status, part, file, kind, re.sub(r"(\.\.\.){2,}", "...", " ".join(text.split()))))
    return sorted(found)


def _told(tree: ast.Module, known: dict[str, Kind], named: dict[str, str]) -> Iterator[tuple[str, int, str]]:
    """Yield class, status and text of what is raised, returned with a status, or kept for one."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=args) if name in named:
                for text in {_text(arg) for arg in args}:
                    yield named[name], known[named[name]].status, text
            case ast.ClassDef(name=name) if name in known:
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                        yield name, known[name].status, _text(call.args[0])
            case ast.Return(value=ast.Tuple(elts=[ast.Attribute(value=ast.Name(name), attr="exit_status"), told])) if (
                name in known
            ):
                yield name, known[name].status, _text(told)
            case ast.Return(value=ast.Tuple(elts=[ast.Constant(int(status)), told])):
                yield "", status, _text(told)
            case ast.Assign(targets=[ast.Name("STOPPED")], value=ast.Dict() as stopped):
                for status, text in ast.literal_eval(stopped).items():
                    yield "", status, text


def _name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _text(node: ast.expr) -> str:
    """Return what an expression writes, `...` for what varies; empty for one that writes no text."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(one) or "..." for one in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_text(left) or "...") + (_text(right) or "...")
        case ast.IfExp(body=body, orelse=orelse):
            return " / ".join(filter(None, (_text(body), _text(orelse))))
    return ""


def page() -> str:
    """Return the whole page."""
    trees = {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    meanings: dict[int, list[str]] = {0: ["Everything was done."]}
    for name, kind in kinds(trees).items():
        if kind.meaning and name.endswith("Error") and not name.startswith("_"):
            meanings.setdefault(kind.status, []).append(f"`{name}`: {kind.meaning}")
    found = messages(trees)
    lines = [
        "# Errors",
        "",
        "Made from the source by `python docs/errors.py`. The exit status says of what kind an error is, its line what",
        "is wrong, where, and what to do; in Python it is an exception of `tlearn.errors` with the same text. `...`",
        "stands for names, values and reasons.",
        "",
        "| status | meaning | remedy |",
        "|---|---|---|",
    ]
    stopped = {one.status: [f"{one.text.capitalize()}."] for one in found if not one.kind}
    for status, told in sorted(({1: ["A fault of tlearn, or of code of your own."]} | meanings | stopped).items()):
        lines.append(f"| {status} | {' '.join(told)} | {REMEDIES.get(status, '')} |")
    for status, group in groupby((one for one in found if one.kind), lambda one: one.status):
        lines += ["", f"## {status}"]
        for part, told in groupby(group, lambda one: one.part):
            lines += ["", f"### {part}", "", "| what is wrong | what to do | error | raised in |", "|---|---|---|---|"]
            lines += [_row(one) for one in told]
    return "\n".join(lines) + "\n"


def _row(one: Message) -> str:
    split = _REMEDY.fullmatch(one.text)
    what, remedy = split.groups() if split else (one.text, "")
    return "| " + " | ".join([*map(_escaped, (what, remedy)), f"`{one.kind}`", f"`{one.file}`"]) + " |"


def _escaped(text: str) -> str:
    return re.sub(r"([|*<`\[])|(?<!\w)(_)", r"\\\1\2", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
