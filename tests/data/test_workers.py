"""What processes beside the main one need."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

IN_A_PROCESS = """
import multiprocessing.util, os, sys
from tlearn.data.workers import temporary_folder
print(temporary_folder(), flush=True)
assert multiprocessing.util.get_temp_dir() == str(temporary_folder())
if os.fork() == 0:
    # A fork that ends leaves the folder to the process.
    sys.exit()
os.wait()
sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """Start a process that keeps its temporary folder until its input ends."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", IN_A_PROCESS]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "TMPDIR": str(folder)})


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_temporary_files_go_with_their_process_and_those_of_a_killed_one_with_the_next(tmp_path):
    (tmp_path / "tlearn-of-a-user").mkdir()
    killed, running = start(tmp_path), start(tmp_path)
    with killed, running:
        left, kept = Path(killed.stdout.readline().strip()), Path(running.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        with start(tmp_path) as following:
            own = Path(following.stdout.readline().strip())
            assert {path.name for path in tmp_path.iterdir()} == {own.name, kept.name, "tlearn-of-a-user"}
            following.communicate("")
        assert not own.exists()
        running.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["tlearn-of-a-user"]
