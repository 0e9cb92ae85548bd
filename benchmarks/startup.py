"""Start-up: whole-process seconds of help and of a configuration error beside importing what training needs.

python benchmarks/startup.py [--pairs 5]
"""

from functools import partial
from typing import Any

from measure import IMPORTS, Record, interleave, parser, run

COMMANDS = {
    "--help": ["-m", "tlearn.train", "--help"],
    "configuration error": ["-m", "tlearn.train", "learning_rate=0.1"],
    "import hydra": ["-c", "import hydra"],
    "import torch, torchvision, lightning": IMPORTS,
}


def main() -> None:
    options = parser(__doc__).parse_args()
    record = Record(options)
    interleave(record, {name: partial(timed, arguments) for name, arguments in COMMANDS.items()}, options.pairs)
    record.say()
    record.show()
    record.say()
    for name in list(COMMANDS)[:-1]:
        record.ratio(name, "import torch, torchvision, lightning")


def timed(arguments: list[str], pair: int) -> dict[str, Any]:
    return {"seconds": run(arguments, check=False).seconds}


if __name__ == "__main__":
    main()
