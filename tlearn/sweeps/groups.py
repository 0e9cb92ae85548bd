"""Which trials of a sweep can train together: those that differ in what a head on cached features can differ in."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlearn.console import say
from tlearn.errors import capped
from tlearn.machine import has_gpu
from tlearn.runs.trial import read_trials
from tlearn.training.resume import last_path

# Numbers of trials in a line
_MOST_NUMBERS = 8
# The parts of a configuration in which the trials of a group may differ, but for the cut of the body
HEADS = ("head", "loss", "optimizer", "scheduler")
# What is known to train in a group as it does alone; all else runs by itself.
_TARGETS = {
    "head.build": ("tlearn.models.heads.linear", "tlearn.models.heads.mlp"),
    "loss": ("tlearn.models.losses.cross_entropy",),
    "optimizer": ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"),
    "scheduler": ("tlearn.training.schedule.Schedule",),
    "scheduler.build": tuple(
        f"torch.optim.lr_scheduler.{name}"
        for name in ("CosineAnnealingLR", "OneCycleLR", "ReduceLROnPlateau", "StepLR")
    ),
    "trainer": ("lightning.pytorch.Trainer",),
    "callbacks.prepare_head": ("tlearn.training.prepare_head.PrepareHead",),
    "callbacks.early_stopping": ("lightning.pytorch.callbacks.EarlyStopping",),
    "logger.tensorboard": ("lightning.pytorch.loggers.TensorBoardLogger",),
}
_MAY_BE_NULL = ("scheduler.build", "callbacks.prepare_head", "callbacks.early_stopping", "logger.tensorboard")
_MONITOR = {"monitor": "${monitor.metric}", "mode": "${direction:${monitor.metric},${monitor.mode}}"}
_FOLDER = "${paths.output_dir}/checkpoints"
# Values that must be as they are shipped, and no other keys beside them and the free ones
_AS_SHIPPED: dict[str, dict[str, Any]] = {
    "module": {"_target_": "tlearn.training.module.TransferModule", "_partial_": True},
    "finetune": {"stages": [], "later_stages": [], "unfreeze_epoch": None},
    "trainer": {
        **{"devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true", "accumulate_grad_batches": 1},
        **{"check_val_every_n_epoch": 1, "val_check_interval": 1.0, "gradient_clip_val": None},
        **{"num_sanity_val_steps": 0, "fast_dev_run": False, "use_distributed_sampler": False},
    },
    "callbacks.checkpoint": {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        **{"dirpath": _FOLDER, "filename": "epoch{epoch:03d}-step{step:06d}", "auto_insert_metric_name": False},
        **{**_MONITOR, "save_top_k": 1, "save_on_train_epoch_end": None, "enable_version_counter": False},
    },
    "callbacks.early_stopping": dict(_MONITOR),
    "callbacks.last": {"_target_": "tlearn.training.last_checkpoint.LastCheckpoint", "dirpath": _FOLDER},
    "callbacks.learning_rate": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"},
    "callbacks.progress": {"_target_": "tlearn.training.callbacks.EpochProgress"},
}
_FREE: dict[str, tuple[str, ...]] = {
    "finetune": ("pretrained", "body_lr_scale"),
    "trainer": (
        *("_target_", "accelerator", "max_epochs", "log_every_n_steps", "enable_model_summary", "default_root_dir"),
    ),
    "callbacks.early_stopping": ("_target_", "patience", "min_delta"),
    "callbacks.last": ("every_seconds",),
}
_CALLBACKS = ("prepare_head", "last", "checkpoint", "early_stopping", "learning_rate", "progress")


@dataclass(frozen=True)
class Planned:
    """A trial as it will be started.

    Args:
        number: as Hydra counts.
        folder: of its run.
        program: its name.
        overrides: its part of the command line.
        settings: its configuration, unresolved.
        resolved: name of a node of it -> the node's content, resolved.
    """

    number: int
    folder: str
    program: str
    overrides: list[str]
    settings: dict[str, Any]
    resolved: Callable[[str], Any]


@dataclass(frozen=True)
class Member:
    """A trial of a group: the nodes of `HEADS`, resolved, and what it has of `data.balance` and `quiet`."""

    number: int
    nodes: dict[str, Any]
    balance: str
    quiet: bool


@dataclass
class Group:
    """Trials that train together.

    Args:
        members: by their folders.
        trained: what training has left of each until its turn.
        content: the configuration of the first one that was checked, resolved.
    """

    members: dict[Path, Member] = field(default_factory=dict)
    trained: dict[Path, Any] | None = None
    content: dict[str, Any] | None = None

    def content_of(self, folder: Path) -> dict[str, Any] | None:
        """Return the resolved configuration of a trial, but for the paths in its folder, once one has been checked."""
        if self.content is None:
            return None
        member = self.members[folder]
        return {**self.content, **member.nodes, "data": {**self.content["data"], "balance": member.balance}}


# Of the sweep that runs in this process, by the folders of their trials
_groups: dict[Path, Group] = {}


@contextmanager
def grouped(trials: Iterable[Planned]) -> Iterator[list[Group]]:
    """Plan the groups of the trials that are not done yet, and say so, for the block that runs them."""
    found: dict[str, Group] = {}
    for trial in trials:
        # A wrong value fails with its own trial, in the usual words.
        with suppress(Exception):
            key = None if _is_begun(trial) else _key(trial)
            if key is not None:
                nodes = {name: trial.resolved(name) for name in HEADS}
                member = Member(trial.number, nodes, trial.settings["data"]["balance"], trial.settings["quiet"])
                found.setdefault(key, Group()).members[Path(trial.folder)] = member
    groups = [group for group in found.values() if len(group.members) > 1]
    _groups.update({folder: group for group in groups for folder in group.members})
    say(*(_told(group) for group in groups if not all(member.quiet for member in group.members.values())))
    try:
        yield groups
    finally:
        _groups.clear()


def group_of(folder: Path) -> Group | None:
    """Return the group of the trial that runs in a folder, if it has one."""
    return _groups.get(folder)


def is_trained(folder: Path) -> bool:
    """Return whether the trial of a folder has been trained with its group, and is to be finished."""
    group = group_of(folder)
    return group is not None and folder in (group.trained or {})


def dissolve(group: Group) -> None:
    """Let all trials of a group that have not had their turn run by themselves."""
    for folder in group.members:
        _groups.pop(folder, None)


def _told(group: Group) -> str:
    numbers = sorted(member.number for member in group.members.values())
    which = (
        f"{numbers[0]} to {numbers[-1]}"
        if numbers[-1] - numbers[0] == len(numbers) - 1
        else capped(map(str, numbers), _MOST_NUMBERS)
    )
    return (
        f"trials {which} train together, without checkpoints and reports of their own "
        "(hydra/launcher=basic: one after another; report=default: with reports)"
    )


def _is_begun(trial: Planned) -> bool:
    """Return whether a trial is done, or was stopped in a training of its own, which goes on."""
    folder = Path(trial.folder)
    rows = [row for row in read_trials(folder) if row.number == trial.number]
    return any(row.status == "done" for row in rows) or last_path(folder).is_file()


def _key(trial: Planned) -> str | None:
    """Return what all trials of a group share, as text; None for a trial that runs by itself."""
    settings = trial.settings
    if trial.program != "train" or settings["resume"] or settings.get("tune") or settings["features"]["mode"] == "off":
        return None
    if settings["report"]["write"] and any(re.match(r"[+]*report[.=]", text) for text in trial.overrides):
        return None
    if not all(_is_known(settings, place) for place in _TARGETS) or settings["scheduler"]["warmup_steps"]:
        return None
    if not all(_is_as_shipped(settings, place) for place in _AS_SHIPPED):
        return None
    optimizer = settings["optimizer"]
    if not (0 < optimizer["lr"] < math.inf and 0 <= optimizer.get("weight_decay", 0) < math.inf):
        return None
    if settings["trainer"]["accelerator"] not in ("auto", "cpu") or settings["trainer"]["max_epochs"] in (None, -1):
        return None
    if settings["trainer"]["accelerator"] == "auto" and has_gpu():
        return None
    # Under which names its rows would stand is Lightning's.
    if _node(settings, "logger.tensorboard.prefix"):
        return None
    if not {*settings["callbacks"]} <= {*_CALLBACKS} or not {*(settings["logger"] or {})} <= {"tensorboard"}:
        return None
    shared = {name: node for name, node in settings.items() if name not in HEADS}
    # Weights of classes are part of the loss.
    balance = settings["data"]["balance"]
    if "${" in balance:
        return None
    shared["data"] = {**settings["data"], "balance": "none" if balance == "weights" else balance}
    text = json.dumps([settings["head"]["replace"], shared], sort_keys=True, default=str)
    refers = re.sub(re.escape(json.dumps("${hydra:runtime.output_dir}")), "", text)
    # What follows from a head, or from the number of the trial, is not shared.
    return None if re.search(rf"\$\{{(hydra:|({'|'.join(HEADS)})[.}}])", refers) else text


def _node(settings: Mapping[str, Any], place: str) -> Any:
    found: Any = settings
    for name in place.split("."):
        found = (found or {}).get(name)
    return found


def _is_known(settings: Mapping[str, Any], place: str) -> bool:
    node = _node(settings, place)
    return place in _MAY_BE_NULL if node is None else (node.get("_target_") in _TARGETS[place] and "_args_" not in node)


def _is_as_shipped(settings: Mapping[str, Any], place: str) -> bool:
    node, wanted = _node(settings, place), _AS_SHIPPED[place]
    if node is None:
        return place in _MAY_BE_NULL
    given = {name: value for name, value in node.items() if name not in _FREE.get(place, ())}
    return given == wanted
