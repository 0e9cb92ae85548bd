"""Start-up: whole-process seconds of help and of a configuration error beside importing what training needs.

python benchmarks/startup.py [ROUNDS]
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "--help": ["-m", "tlearn.train", "--help"],
    "configuration error": ["-m", "tlearn.train", "learning_rate=0.1"],
    "import hydra": ["-c", "import hydra"],
    "import torch, torchvision, lightning": ["-c", "import torch, torchvision, lightning"],
}


def main(rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # Interleaved, so that what else the machine does falls on all alike
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - started)
    imports = statistics.median(seconds["import torch, torchvision, lightning"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:<40} {median:.2f} s ({min(values):.2f} to {max(values):.2f}), {median / imports:.2f} of the imports"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
