"""R13: CPU seconds inside the protections, as a share of those of a whole training."""

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reliability_parts.row import Options, Outcome, Row
from reliability_parts.small_run import arguments, by_command, draw_classes
from tlearn.config import stored_code
from tlearn.data import file_state, verify
from tlearn.features import segments
from tlearn.models import digests
from tlearn.runs import trust
from tlearn.training import checkpoints, last_checkpoint, rng_state

# At most these percent of a run
ALLOWED = {"cold": 2.0, "warm": 5.0}


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the median share of each kind of run."""
    shares = {
        kind: statistics.median(one.figures["percent"] for one in outcomes if one.cell == kind)
        for kind in dict.fromkeys(one.cell for one in outcomes)
    }
    return ", ".join(f"{kind} {share:.1f} %" for kind, share in shares.items())


ROW = Row(
    "R13",
    "CPU seconds of the protections, of a run's",
    "Functions that make and check digests, states, claims, room and stored code are timed within trainings of real "
    "pictures of hymenoptera (drawn ones without TLEARN_SHARED), without and then with kept features; a run's seconds "
    "include the imports of torch, torchvision and Lightning, as its process pays for them. A run over 2 % cold or 5 % "
    "warm is a fault; the figure is of medians.",
    summary,
)
PROTECTIONS: list[tuple[Any, str]] = [
    *((digests, name) for name in ("check_zip", "check_claims", "seal_safetensors", "check_safetensors")),
    *((digests, name) for name in ("with_digest", "check_json")),
    *((file_state, name) for name in ("content_digest",)),
    *((verify, name) for name in ("_digest_now",)),
    *((checkpoints, name) for name in ("check_room",)),
    *((rng_state, name) for name in ("rng_state", "restore_rng_state")),
    *((trust, name) for name in ("check_trust",)),
    *((stored_code, name) for name in ("check_stored_code",)),
    (segments, "_digests"),
    (segments.Segment, "check"),
    (digests._Hashed, "write"),
    (last_checkpoint.LastCheckpoint, "_save"),
]


class Stopwatch:
    """CPU seconds within the protections, each counted once however they call each other."""

    def __init__(self) -> None:
        self.seconds, self._within = 0.0, False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, timed."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return function(*args, **kwargs)
            self._within, started = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - started
                self._within = False

        return call

    def install(self) -> None:
        """Time all protections, under whatever name modules have them."""
        modules = [module for name, module in sys.modules.items() if name.startswith("tlearn")]
        for home, name in PROTECTIONS:
            plain = getattr(home, name)
            timed = self.timed(plain)
            setattr(home, name, timed)
            for module in modules:
                for other, value in list(vars(module).items()):
                    if value is plain:
                        setattr(module, other, timed)


def run(options: Options) -> Iterator[Outcome]:
    """Train twice in each pair: without and with kept features."""
    watch = Stopwatch()
    given = command(options.folder)
    # What is imported late, and the first use of everything
    by_command(*given, f"paths.cache={options.folder / 'first'}", f"hydra.run.dir={options.folder / 'first_run'}")
    watch.install()
    imports = import_seconds()
    for number in range(options.cases(3, 1)):
        for kind, allowed in ALLOWED.items():
            place = options.folder / f"{kind}_{number}"
            watch.seconds, started = 0.0, time.process_time()
            status, said = by_command(*given, f"paths.cache={options.folder / str(number)}", f"hydra.run.dir={place}")
            whole = imports + time.process_time() - started
            percent = 100 * watch.seconds / whole
            fault = said if status else f"{percent:.1f} % of {whole:.1f} s" if percent > allowed else ""
            figures = {"percent": percent, "cpu_seconds": whole, "protections_seconds": watch.seconds}
            yield Outcome(f"{kind} {number}", fault, kind, figures=figures)


def import_seconds() -> float:
    """Return the CPU seconds that a process takes to import what every training needs."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", "import torch, torchvision, lightning"], check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    return statistics.median(seconds)


def command(folder: Path) -> list[str]:
    """Return the training: of real pictures where there are any."""
    shared = Path(os.environ.get("TLEARN_SHARED", Path(__file__).parents[3] / "shared"))
    pictures, weights = shared / "data" / "hymenoptera", shared / "weights" / "mobilenet_v2.pth"
    if not (pictures.is_dir() and weights.is_file()):
        return arguments(draw_classes(folder / "data", 60))
    return [
        *("data=folder", f"data.root={pictures}", "backbone=mobilenet_v2", f"backbone.weights={weights}", "report=off"),
        *("trainer=cpu", "trainer.max_epochs=10", "data.num_workers=0", "quiet=true"),
    ]
