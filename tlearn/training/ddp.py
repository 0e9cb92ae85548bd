"""DistributedDataParallel with exact metrics: every process evaluates its part, of any size, without padding."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import Trainer, strategies
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.nn.parallel import DistributedDataParallel

from tlearn.console import is_main_process, warn
from tlearn.errors import ConfigError
from tlearn.launch import launch
from tlearn.machine import LIBRARIES
from tlearn.training.signals import PARENT, stopping_signal

# Every process ends at about the same time.
_PATIENCE_SECONDS = 30
# What a watcher needs to say what it has seen
_JOIN_SECONDS = 5
# Since torch 2.14 by another name, and warned of by the first
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
_BUFFERS = next(name for name in _NAMES if name in signature(DistributedDataParallel.__init__).parameters)
# What Lightning tells further processes
_RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class OwnProcesses(LightningEnvironment):
    """The one task of a job of SLURM, which starts its further processes itself; Lightning queues the job again."""

    auto_requeue = True


class DDPStrategy(strategies.DDPStrategy):
    """DistributedDataParallel with a given command for its processes, and evaluation on parts of unequal size.

    Buffers go from rank 0 to the others before each validation (`share_buffers`), not at each step, which would send
    those of a frozen body, too: 3 ms for DenseNet-121, where a step of a head on its features takes 1 ms. Layers that
    are not a library's may train with theirs: where one has some, or `broadcast_buffers` says so, each step sends all.
    """

    def __init__(self, *args: Any, broadcast_buffers: bool | None = None, **more: Any) -> None:
        super().__init__(*args, **more | {_BUFFERS: bool(broadcast_buffers)})
        self._sends_buffers = broadcast_buffers

    def configure_ddp(self) -> None:
        """Wrap the module, and decide whether each step sends its buffers."""
        super().configure_ddp()
        if self._sends_buffers is None and isinstance(self.model, DistributedDataParallel):
            layers = [one for one in self.model.modules() if next(one.buffers(recurse=False), None) is not None]
            own = any(type(one).__module__.partition(".")[0] not in LIBRARIES for one in layers)
            setattr(self.model, _BUFFERS, own)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        # Processes started by torchrun or SLURM launch no others.
        if isinstance(self._launcher, _SubprocessScriptLauncher):
            assert self.cluster_environment is not None
            self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def relaunch_with(self, command: list[str], resuming: Callable[[], str | None]) -> None:
        """Set the command of the further processes, before any of them is started.

        Args:
            command: arguments of Python.
            resuming: returns what to type for the run to go on, if it can.
        """
        if isinstance(self._launcher, _Launcher):
            self._launcher.command, self._launcher.resuming = command, resuming

    def wrap_again(self) -> None:
        """Share the gradients of all that trains now: a wrapper shares those of what trained when it was made."""
        if isinstance(self.model, DistributedDataParallel):
            self.model = self.model.module
            self.configure_ddp()

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate without DDP's wrapper, which would wait for other processes at every batch."""
        with self.precision_plugin.val_step_context():
            assert self.lightning_module is not None
            return self.lightning_module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate without DDP's wrapper, which would wait for other processes at every batch."""
        with self.precision_plugin.test_step_context():
            assert self.lightning_module is not None
            return self.lightning_module.test_step(*args, **kwargs)


class _Launcher(_SubprocessScriptLauncher):
    """Start the further processes with one given command.

    Lightning's launcher repeats sys.argv, which would start the whole sweep in each process, or the user's script, and
    so does not suit a notebook.
    """

    command: Sequence[str] = ()
    resuming: Callable[[], str | None] = staticmethod(lambda: None)
    watchers: Sequence[threading.Thread] = ()
    # Killed by this process
    ended: Sequence[subprocess.Popen] = ()

    @property
    def is_interactive_compatible(self) -> bool:
        """Whether it works in a notebook: it does."""
        return True

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        if not self.command:
            raise ConfigError("several processes are started by the command line or tlearn.fit alone: take one of them")
        os.environ["MASTER_ADDR"] = self.cluster_environment.main_address
        os.environ["MASTER_PORT"] = str(self.cluster_environment.main_port)
        os.environ["NODE_RANK"] = str(self.cluster_environment.node_rank())
        os.environ["LOCAL_RANK"] = str(self.cluster_environment.local_rank())
        os.environ["WORLD_SIZE"] = str(self.num_processes * self.num_nodes)
        for rank in range(1, self.num_processes):
            # What a script beside its own modules, or a notebook, can import
            imports = os.pathsep.join(sys.path)
            environment = {**os.environ, "LOCAL_RANK": str(rank), PARENT: str(os.getpid()), "PYTHONPATH": imports}
            self.procs.append(subprocess.Popen([sys.executable, *self.command], env=environment))
        self.watchers = [
            threading.Thread(target=self._watch, args=(rank, process), daemon=True)
            for rank, process in enumerate(self.procs, 1)
        ]
        for watcher in self.watchers:
            watcher.start()

    def _watch(self, rank: int, process: subprocess.Popen) -> None:
        """Say that a process was killed; Lightning, which looks every five seconds, kills all others without a word."""
        status = process.wait()
        # Those of a run that is interrupted or has failed are killed here.
        if status < 0 and process not in self.ended and not stopping_signal():
            go_on = f"go on with: {command}" if (command := self.resuming()) else "start it again"
            memory = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
            warn(f"tlearn: process {rank} of the run was killed (signal {-status}){memory}: all end; {go_on}")


def share_buffers(module: torch.nn.Module) -> None:
    """Broadcast the buffers of rank 0: BatchNorm statistics of the processes diverge during training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


@contextmanager
def further_processes(trainer: Trainer) -> Iterator[None]:
    """End the processes started in the block, at once on failure: the next trial of a sweep starts its own.

    Each leaves the group first, which on NCCL waits for the others to do so.
    """
    try:
        yield
    except BaseException:
        _end_processes(trainer, patience=0)
        _leave_group(failed=True)
        raise
    _leave_group(failed=False)
    _end_processes(trainer, _PATIENCE_SECONDS)


def _leave_group(failed: bool) -> None:
    """Destroy the process group, unless it goes on with the next run of a launcher's processes; abort what failed."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    group: Any = torch.distributed.group.WORLD
    # Of a rank that still waits for the others, destroying would wait, too; torch 2.6 has no such method.
    if failed and hasattr(group, "abort"):
        group.abort()
    if failed or launch() is None:
        torch.distributed.destroy_process_group()


def wait_for_record() -> None:
    """Wait until the main process, too, has come here, where a launcher such as torchrun has started all of them."""
    if launch() is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _end_processes(trainer: Trainer, patience: float) -> None:
    launcher = trainer.strategy.launcher
    # A launcher's own processes end with their program, and their group goes on with its next run.
    if not isinstance(launcher, _Launcher) or launch() is not None:
        return
    # Lightning's watcher looks at this list, and kills this process too if one in it was killed.
    processes, launcher.procs[:] = list(launcher.procs), []
    for process in processes:
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            launcher.ended = [*launcher.ended, process]
            process.kill()
            process.wait()
    for watcher in launcher.watchers:
        watcher.join(_JOIN_SECONDS)
    # A further process keeps them to its end: without, it would take itself for the main one and write, too.
    if is_main_process():
        for name in _RANK_VARIABLES:
            os.environ.pop(name, None)
