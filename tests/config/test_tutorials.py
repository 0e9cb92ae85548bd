"""The guide to the tutorials: its commands are valid, and its files are ones that are written."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.config.test_compose import composed
from tests.conftest import REPOSITORY
from tlearn.config import rules
from tlearn.config.declared import known_keys

GUIDE = (REPOSITORY / "docs" / "tutorials.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`tlearn\.([a-z]+) ([^`-][^`]*|-m [^`]*)`", GUIDE)))
FILES = sorted(set(re.findall(r"`([\w/]+)\.(png|csv)`", GUIDE)))


def _single(arguments: str) -> tuple[str, ...]:
    """Return the overrides of the first trial."""
    overrides = OverridesParser.create().parse_overrides([one for one in arguments.split() if one != "-m"])
    return tuple(
        f"{one.key_or_group}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else one.input_line
        for one in overrides
    )


@pytest.mark.parametrize(("program", "arguments"), COMMANDS, ids=lambda part: part[:40])
def test_every_command_is_a_valid_one(program, arguments):
    rules.check(composed(_single(arguments), program), known_keys(program))


def test_every_tutorial_has_its_commands():
    assert len(COMMANDS) > 20
    experiments = {path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml")}
    of_tlearn_itself = {"pretrain_tiny", "shapes_random_body", "shapes_scratch"}
    assert {name for name in experiments if f"experiment={name}" in GUIDE} == experiments - of_tlearn_itself


def test_every_file_is_one_that_is_written():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tlearn").rglob("*.py"))
    assert len(FILES) > 10
    for stem, ending in FILES:
        # The split's name stands before what is shown of it.
        name = re.sub("^(test|val)_", "", stem.rpartition("/")[2])
        assert re.search(rf'["_/}}]{name}(\.{ending})?"', source), f"{stem}.{ending}"
