"""The page of what was measured, from the JSON files of the program."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reliability_parts import PARTS

HEAD = """# Reliability

What becomes of runs, files and results when something fails. Made by `python benchmarks/reliability.py --page FILE ...`
from what that program has measured; every case is drawn from a seed, and each row's command tries it again. The plain
program is `benchmarks/plain_program.py`: Lightning, Hydra and ImageFolder in 77 lines; a dash stands where it has
nothing to be tried. A number is that of faults, so that 0 is what is wanted; R13 is a share of time, of which 2 % cold
and 5 % warm are allowed.

| | faults | tlearn | plain program |
|---|---|---|---|
"""


def write_page(path: Path, results: Sequence[Path]) -> None:
    """Write the table of all rows and what was done for each.

    Of a row that is in several files the last counts, but for one that tried the plain program alone.
    """
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        content = json.loads(result.read_text(encoding="utf-8"))
        for row in content["rows"]:
            if row["tlearn"] == "-" and row["row"] in rows:
                rows[row["row"]] |= {name: row[name] for name in ("plain", "plain_faults")}
                continue
            rows[row["row"]] = {**row, "date": content["date"], "machine": content["machine"]}
    ordered = [rows[name] for name in (*PARTS, "guards") if name in rows]
    table = "".join(f"| {row['row']} | {row['figure']} | {row['tlearn']} | {row['plain']} |\n" for row in ordered)
    path.write_text(HEAD + table + "\n" + "\n".join(map(section, ordered)), encoding="utf-8")


def section(row: dict[str, Any]) -> str:
    """Return what was done for a row, where and when, and its cells."""
    machine = row["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB"
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    lines = [f"## {row['row']}: {row['figure']}", "", row["method"], ""]
    if len(row["cells"]) > 1:
        lines += ["| | faults | cases |", "|---|---|---|"]
        lines += [f"| {name} | {faults:,} | {cases:,} |" for name, (faults, cases) in row["cells"].items()]
        lines += [""]
    for title, faults in (("tlearn", [one["fault"] for one in row["faults"]]), ("Plain program", row["plain_faults"])):
        if faults:
            lines += [f"{title}: {'; '.join(sorted(set(faults)))}.", ""]
    lines += [f"{row['date']}, {where}; {libraries}; {row['seconds']:,.0f} s.", "", f"    {row['command']}", ""]
    return "\n".join(lines)
