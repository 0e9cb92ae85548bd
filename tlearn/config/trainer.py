"""Build the Trainer: devices and strategy, and for a training its callbacks and loggers."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger

from tlearn.config import seats
from tlearn.config.relaunch import child_command, resume_command
from tlearn.config.seats import build
from tlearn.console import say
from tlearn.errors import ConfigError
from tlearn.launch import Launch, launch, slurm_tasks, tell_lightning
from tlearn.machine import has_tf32
from tlearn.models.device import require_cuda
from tlearn.training.averaging import ExactAverage
from tlearn.training.callbacks import EpochProgress, Unfreeze
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.data_parallel import DataParallelStrategy
from tlearn.training.ddp import DDPStrategy, OwnProcesses
from tlearn.training.expected_warnings import ignore_expected_warnings
from tlearn.training.given_callbacks import check_callbacks
from tlearn.training.loggers import complete_loggers
from tlearn.training.signals import keep_signals
from tlearn.training.validation import check_limits

# Loggers whose libraries are extras of this package
_EXTRAS = ("mlflow", "wandb")


def training_trainer(settings: Mapping[str, Any], folder: Path) -> Trainer:
    """Build the Trainer of a training, with its callbacks and loggers."""
    callbacks = _callbacks(settings)
    parts = {
        "callbacks": callbacks,
        "logger": _loggers(settings.get("logger"), folder),
        "plugins": [CheckpointIO(folder)],
    }
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        # Lightning would add one of its own.
        parts["enable_progress_bar"] = False
    built = _trainer(settings, folder, **parts)
    _check_float32(built.strategy.root_device, settings["features"]["precision"])
    unfrozen, epochs = settings["finetune"]["unfreeze_epoch"], built.max_epochs or -1
    if unfrozen is not None and 0 < epochs <= unfrozen and not settings["trainer"].get("fast_dev_run"):
        say(f"finetune.unfreeze_epoch={unfrozen}: the epochs are 0 to {epochs - 1}, so nothing unfreezes in this run")
    return built


def measuring_trainer(settings: Mapping[str, Any], folder: Path) -> Trainer:
    """Build a Trainer that only measures."""
    return _trainer(settings, folder, callbacks=[EpochProgress()], logger=False, enable_checkpointing=False)


def _trainer(settings: Mapping[str, Any], folder: Path, **parts: Any) -> Trainer:
    """Build a Trainer with its strategy from its settings and further arguments."""
    ignore_expected_warnings()
    if slurm_tasks() and launch() is None:
        parts["plugins"] = [*parts.get("plugins", ()), OwnProcesses()]
    tell_lightning()
    for key in sorted(settings["trainer"].keys() & parts.keys()):
        own = f": give it as +{key}.NAME._target_=..." if key in ("callbacks", "logger") else ""
        raise ConfigError(f"trainer.{key} is what the run builds itself, and would be ignored{own}")
    _check_accelerator(settings["trainer"], resumes=settings.get("resume") is not None)
    built: Trainer = build("trainer", settings["trainer"], **parts)
    check_limits(built)
    keep_signals(built)
    _check_devices(built, settings["trainer"].get("devices"))
    if isinstance(built.strategy, DDPStrategy) and HydraConfig.initialized():
        command = child_command(folder, settings.get("resume") is not None)
        built.strategy.relaunch_with(command, partial(resume_command, folder))
    return built


def _callbacks(settings: Mapping[str, Any]) -> list[Callback]:
    """Build the callbacks that are configured, and those that belong to them or to finetune."""
    given = seats.parts(settings["callbacks"], Callback, "callbacks")
    check_callbacks(given)
    tuning, callbacks = settings["finetune"], list(given.values())
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        raise ConfigError(
            "callbacks has no checkpoint, and a run keeps its best one: an option of your own begins with "
            "defaults: [default, _self_]"
        )
    seats.schedule(settings["scheduler"]).train_to_the_end(callbacks)
    callbacks[:0] = [ExactAverage(callback) for callback in callbacks if isinstance(callback, WeightAveraging)]
    if tuning["unfreeze_epoch"] is not None:
        callbacks.append(Unfreeze(tuning["unfreeze_epoch"], tuning["later_stages"]))
    if settings["quiet"]:
        for bar in callbacks:
            if isinstance(bar, ProgressBar):
                bar.disable()
    return callbacks


def _loggers(nodes: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """Build the loggers that are configured, and the one for metrics.csv."""
    try:
        return complete_loggers(seats.parts(nodes, Logger, "logger"), folder)
    except InstantiationException as error:
        name = next((one for one in _EXTRAS if f"full_key: logger.{one}" in str(error)), None)
        if name is None:
            raise
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ConfigError(f"logger={name} needs the extra {name}: pip install 'tlearn[{name}]'") from error
        raise ConfigError(f"logger={name}: {str(error.__cause__).splitlines()[0]}") from error


def _check_accelerator(trainer: Mapping[str, Any], resumes: bool) -> None:
    """Refuse a GPU that is not there, and a precision that Lightning replaces on a CPU, or replaces layers for.

    A run that is resumed keeps its precision; what takes its place is said.
    """
    accelerator, precision = trainer.get("accelerator", "auto"), str(trainer.get("precision"))
    if precision.startswith("transformer-engine"):
        raise ConfigError(
            f"trainer.precision={precision} puts layers of its own in the place of the network's, which no model "
            "folder holds: choose bf16-mixed"
        )
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    # On the CPU, too: torch's optimizers ask GPUs that the driver counts.
    if cuda or accelerator == "cuda" or (accelerator == "gpu" and not mps):
        require_cuda(f"trainer.accelerator={accelerator}", "trainer=cpu")
    if precision in ("16", "16-mixed") and (accelerator == "cpu" or (accelerator == "auto" and not cuda | mps)):
        told = f"trainer.precision={precision} needs a GPU, and there is none in use"
        if not resumes:
            raise ConfigError(f"{told}: choose bf16-mixed")
        say(f"{told}: the run goes on in bf16-mixed")


def _check_float32(device: torch.device, asked: str) -> None:
    """Refuse TF32 where there is none; say where it is left unused."""
    if asked == "tf32" and not has_tf32(device):
        raise ConfigError(
            f"features.precision=tf32 needs an NVIDIA GPU since Ampere, and the device is {device}: choose fp32"
        )
    if asked != "tf32" and has_tf32(device):
        # In the place of Lightning's hint, whose remedy is not a setting of a run
        say(
            f"float32 is exact on this {torch.cuda.get_device_name(device)}; its tensor cores are faster with "
            "features.precision=tf32 (10 bits) or trainer.precision=bf16-mixed"
        )


def _check_devices(built: Trainer, devices: Any) -> None:
    """Refuse device settings that would give wrong results."""
    if (started := launch()) is not None:
        _check_launch(started, built)
    if isinstance(built.strategy, DataParallelStrategy) and devices != 1:
        raise ConfigError("trainer=dp takes its GPUs from trainer.strategy.devices, such as [0,1]")
    if built.world_size > 1 and not isinstance(built.strategy, DDPStrategy):
        raise ConfigError(f"trainer.devices={devices}: several processes need trainer=ddp or trainer=ddp_cpu")
    if started is None and built.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={built.num_nodes}: nothing has started processes on other machines, and this one would "
            "wait for them; start it by torchrun or srun, which tell it themselves (docs/scale.md), or leave it out"
        )
    if started is None and isinstance(built.strategy, DDPStrategy) and slurm_tasks() > 1:
        raise ConfigError(f"this job of SLURM has {slurm_tasks()} tasks, and srun starts them: give srun python ...")


def _check_launch(started: Launch, built: Trainer) -> None:
    """Refuse a Trainer of other processes than those that a launcher has started; say where GPUs are left unused."""
    count, devices, nodes = started.processes, built.num_devices, built.num_nodes
    if count > 1 and not isinstance(built.strategy, DDPStrategy):
        raise ConfigError(f"{count} processes were started, which need trainer=ddp, or trainer=ddp_cpu without GPUs")
    if started.nodes and started.nodes * (started.devices or 0) != count:
        raise ConfigError(
            f"{count} processes were started on {started.nodes} nodes, and each needs as many: give SLURM "
            "--ntasks-per-node=N, or every agent of torchrun the same --nproc-per-node=N"
        )
    told = (started.devices, started.nodes) if started.devices else (devices, count // devices)
    if count != devices * nodes or told != (devices, nodes):
        raise ConfigError(
            f"{count} processes were started, and trainer.devices={devices} trainer.num_nodes={nodes} are others: "
            f"leave both out, or give trainer.devices={told[0]} trainer.num_nodes={told[1]}"
        )
    there = torch.cuda.device_count() if built.strategy.root_device.type == "cuda" else 0
    if there > devices:
        say(f"{devices} of the {there} GPUs of each machine are used: a process for each is to be started")
