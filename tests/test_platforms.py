"""What other systems have not: POSIX's locks, and processes that start as copies."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY

TINY = ["data.counts.train=2", "data.counts.val=2", "data.counts.test=2", "trainer.max_epochs=1", "report=off"]


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


@pytest.mark.slow
def test_workers_that_start_anew_draw_the_same_batches(tmp_path):
    code = f"""
        import multiprocessing
        from tlearn.train import main
        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            more = ["features=off", "transforms=light", "hydra.run.dir=spawned"]
            assert main([*{TINY}, *more, "data.num_workers=1"]) == 0
            assert main([*{TINY}, *more[:-1], "hydra.run.dir=alone", "data.num_workers=0"]) == 0
            from pathlib import Path
            from tlearn.files import read_table
            spawned, alone = (read_table(Path(name, "metrics.csv")) for name in ("spawned", "alone"))
            assert [row["train/loss"] for row in spawned] == [row["train/loss"] for row in alone]
    """
    _run(code, tmp_path)
