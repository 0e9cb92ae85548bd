"""Kinds of faults, one a file; each is imported when its row is asked for."""

from importlib import import_module
from typing import cast

from reliability_parts.row import Part

# Row -> module of this package
PARTS = {
    "R1": "kill_points",
    "R2": "kills_while_saving",
    "R3": "signals",
    "R4": "malformed_inputs",
    "R7": "downloads",
    "R8": "hostile_files",
    "R9": "storage",
    "R10": "sweep",
    "R11": "leftovers",
    "R12": "mutated_arguments",
    "R13": "cost",
    "flips": "flips",
}


def part(row: str) -> Part:
    """Import what measures a row."""
    return cast(Part, import_module(f"reliability_parts.{PARTS[row]}"))
