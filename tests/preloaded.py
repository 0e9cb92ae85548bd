"""What the process has done once that `tests.forks` forks: imported tlearn, composed a run, looked at its backbone."""

from contextlib import ExitStack
from pathlib import Path

import tests.forks  # noqa: F401 - for what it imports
from tests.merged_once import merged_once
from tests.small_runs import overrides
from tlearn.config import build
from tlearn.config.compose import compose
from tlearn.config.tree import settings_of

# What is not referred to any more ends.
_ONCE = ExitStack()
_ONCE.enter_context(merged_once())
# Each fork would take two seconds for it.
build.backbone(settings_of(compose(overrides(Path("pictures"), "null")))).skeleton()
