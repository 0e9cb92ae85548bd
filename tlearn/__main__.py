"""List the programs of tlearn: python -m tlearn."""

import sys

from tlearn import __version__
from tlearn.config.help import PROGRAMS
from tlearn.console import say


def main() -> int:
    """Print each program with its purpose, and return the exit status; arguments are refused."""
    programs = (f"  python -m tlearn.{name:<9} {purpose}" for name, purpose in PROGRAMS.items())
    say(
        f"tlearn {__version__}\n",
        *programs,
        "\npython -m tlearn.train --help lists its options, and likewise for the others.",
    )
    return 0 if {"-h", "--help", "--version"}.issuperset(sys.argv[1:]) else 2


if __name__ == "__main__":
    sys.exit(main())
