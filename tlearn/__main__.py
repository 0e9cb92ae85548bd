"""List the programs of tlearn: python -m tlearn."""

import sys
from difflib import get_close_matches

from tlearn import __version__
from tlearn.config.programs import PROGRAMS
from tlearn.console import complain, say


def main() -> int:
    """Print each program with its purpose, and return the exit status; arguments are refused, with what was meant."""
    programs = (f"  python -m tlearn.{name:<9} {purpose}" for name, purpose in PROGRAMS.items())
    say(
        f"tlearn {__version__}\n",
        *programs,
        "\npython -m tlearn.train --help lists its options, and likewise for the others.",
    )
    if close := get_close_matches(" ".join(sys.argv[1:2]), PROGRAMS, n=1):
        complain(f"tlearn: did you mean python -m tlearn.{close[0]}?")
    return 0 if {"-h", "--help", "--version"}.issuperset(sys.argv[1:]) else 2


if __name__ == "__main__":
    sys.exit(main())
