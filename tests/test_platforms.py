"""What other systems have not: POSIX's locks, and processes that start as copies."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.data.test_datamodule import datamodule, epoch_of
from tests.forks import server
from tlearn.data.decode import Decoder
from tlearn.data.prepare import prepare
from tlearn.data.sources.folder import FolderSource

COUNTS = ["data.counts.train=2", "data.counts.val=2", "data.counts.test=2"]
TINY = ["backbone=tiny", *COUNTS, "trainer.max_epochs=1", "report=off"]


def _run(code: str, folder, *lines: str) -> str:
    """Run code in a new interpreter in a folder, after lines of set-up."""
    program = "\n".join(("import sys", *lines, textwrap.dedent(code)))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TLEARN_CACHE": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_programs_run_without_posix_locks(tmp_path):
    code = f"""
        from tlearn import cache, compare, evaluate, explore, predict, train
        for program in (train, evaluate, predict, explore, compare):
            assert program.main(["--help"]) == 0
        assert train.main({[*TINY, "hydra.run.dir=run"]}) == 0
        assert train.main({[*TINY, "hydra.run.dir=run"]}) == 4
    """
    _run(code, tmp_path, "sys.modules['fcntl'] = None")
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_workers_that_start_anew_draw_the_same_batches(folder_data):
    pictures = prepare(FolderSource(folder_data), Decoder(), (0.5, 0.25, 0.25), 0.2, 0)
    alone, anew = (datamodule(pictures, num_workers=number, seed=3).train_dataloader() for number in (0, 1))
    # As spawn, from a process that has imported torch
    anew.multiprocessing_context = server()
    for one, other in zip(epoch_of(alone, 1), epoch_of(anew, 1), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
