"""Trials of a sweep that differ in their heads alone: trained together, then finished one after another."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn

from tlearn.config import build, seats
from tlearn.config.finish import Finish, Shared
from tlearn.config.prepared import Prepared
from tlearn.config.tree import Settings
from tlearn.console import say, session
from tlearn.errors import counted
from tlearn.features.choose import choose_features
from tlearn.features.datamodule import FeatureDataModule
from tlearn.models.device import float32
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import RunFolder
from tlearn.sweeps.groups import Group, Member, dissolve, group_of
from tlearn.sweeps.heads import Batch, Heads, Recipe
from tlearn.training.module import TransferModule
from tlearn.training.prepare_head import PrepareHead, StandardisedLinear, most_images, prepare, standardise

# What heads that train as one may each have for itself
_OWN = ("lr", "weight_decay")
# Numbers that the heads of one pass have in memory, 512 MiB
_MOST_NUMBERS = 2**27


# For what trains and is recorded, as in a run alone; heads train together on CPUs, which have no TF32.
@float32()
def finished_with_others(
    run: RunFolder, seed: int, quiet: bool, prepare: Callable[[], Prepared]
) -> dict[str, float] | None:
    """Finish the trial of a run folder that trains in a group, and return its metrics; None for one that does not.

    The first of a group trains all. What does not succeed there runs by itself, and so says in the usual words why.

    Args:
        run: its folder.
        seed: of all trials of its group.
        quiet: prints nothing but errors.
        prepare: builds the parts of the training.
    """
    group = group_of(run.path)
    if group is None:
        return None
    if group.trained is None:
        with session(quiet=quiet):
            try:
                seed_everything(seed, workers=True, verbose=False)
                group.trained = _trained(prepare(), run.path, group)
            except Exception as error:
                _tell(len(group.members), error)
                dissolve(group)
                return None
    finish = group.trained.pop(run.path, None)
    return None if finish is None else finish(run)


def _tell(count: int, error: Exception) -> None:
    say(f"{counted(count, 'trial')} not trained together: {str(error).partition(chr(10))[0] or type(error).__name__}")


def _trained(parts: Prepared, folder: Path, group: Group) -> dict[Path, Finish]:
    """Train the heads of a group, and return how each trial is finished that did not fail."""
    if parts.trainer.strategy.root_device.type != "cpu":
        raise RuntimeError("heads train together on the CPU alone")
    data = choose_features(
        build.feature_options(parts.settings, parts.backbone), parts.module, parts.images, parts.trainer
    )
    if not isinstance(data, FeatureDataModule):
        raise RuntimeError("only heads on kept features train together")
    parts.network.eval()
    shared = Shared(folder, parts, data, {})
    for split in ("val", "test"):
        if split in data.datasets:
            loader = data.val_dataloader() if split == "val" else data.test_dataloader()
            shared.batches[split] = list(shared.inputs(loader))
    found: dict[Path, Finish] = {}
    for folders in _stacks(group):
        try:
            found |= _stack(shared, {folder: group.members[folder] for folder in folders})
        # A wrong value of theirs
        except Exception as error:
            _tell(len(folders), error)
    say(f"{counted(len(found), 'head')} of {len(group.members)} trained together")
    return found


def _stacks(group: Group) -> list[list[Path]]:
    """Divide the trials of a group into those whose heads are alike but for learning rate and weight decay."""
    stacks: dict[str, list[Path]] = {}
    for folder, member in group.members.items():
        optimizer = {name: one for name, one in member.nodes["optimizer"].items() if name not in _OWN}
        stacks.setdefault(repr([{**member.nodes, "optimizer": optimizer}, member.balance]), []).append(folder)
    return list(stacks.values())


def _stack(shared: Shared, members: Mapping[Path, Member]) -> dict[Path, Finish]:
    """Train heads that are alike, as many at once as memory holds."""
    parts, started = shared.parts, time.monotonic()
    first, example = next(iter(members.items()))
    settings = shared.settings(example, first)
    width = shared.batches["val"][0][0].shape[1]
    finished: dict[Path, Finish] = {}
    folders = list(members)
    while folders:
        # As a run alone: the seed decides the first weights, and then what drops out.
        torch.manual_seed(settings["seed"])
        classes = parts.images.image_set.classes
        head = seats.head(settings["head"]["build"], width, len(classes))
        network = TransferNetwork(parts.network.body, head)
        module = build.module(settings, network, parts.images)
        _prepare(shared, network, module)
        seen = sum(len(parts.images.datasets[split]) for split in ("train", "val"))
        numbers = 6 * sum(one.numel() for one in network.head.parameters()) + 4 * seen * len(classes)
        now, folders = folders[: (most := max(1, _MOST_NUMBERS // numbers))], folders[most:]
        own = [{name: members[folder].nodes["optimizer"].get(name, 0.0) for name in _OWN} for folder in now]
        steps, val = shared.data.count_train_batches(1), shared.batches["val"]
        heads = Heads(network.head, own, _recipe(settings, module), shared.train, val, steps)
        for folder, course in zip(now, heads.fit(), strict=True):
            if not course.failed:
                finished[folder] = Finish(shared, members[folder], network.head, module, course)
    seconds = (time.monotonic() - started) / len(members)
    for one in finished.values():
        one.seconds = seconds
    return finished


def _prepare(shared: Shared, network: TransferNetwork, module: TransferModule) -> None:
    """Make a head ready as `callbacks.prepare_head` does, if the run has it."""
    callbacks = shared.parts.trainer.callbacks  # type: ignore[attr-defined]
    prepares = next((one for one in callbacks if isinstance(one, PrepareHead)), None)
    if prepares is None:
        return
    standardise(network)
    layer = network.head[0] if isinstance(network.head, nn.Sequential) else network.head
    assert isinstance(layer, StandardisedLinear)
    most = most_images(layer)
    val = _first(shared.batches["val"], most) if layer is network.head and prepares.weight_decays else None
    say(prepare(layer, module.loss, _first(shared.train(0), most), val, prepares.weight_decays))


def _first(batches: Any, most: int) -> Batch:
    parts: list[Batch] = []
    for batch in batches:
        parts.append(batch)
        if sum(len(targets) for _, targets in parts) >= most:
            break
    features, targets = (torch.cat(values)[:most] for values in zip(*parts, strict=True))
    return features, targets


def _recipe(settings: Settings, module: TransferModule) -> Recipe:
    node, trainer, schedule = settings["callbacks"].get("early_stopping"), settings["trainer"], module.schedule
    assert schedule is not None
    stopping: dict[str, Any] = seats.parts({"early_stopping": node}, Callback, "callbacks")
    schedule.train_to_the_end(stopping.values())
    return Recipe(
        module.loss,
        module.optimizer,
        schedule,
        stopping.get("early_stopping"),
        trainer["max_epochs"],
        module.monitor,
        settings["monitor"]["mode"],
        trainer["log_every_n_steps"],
        {split: module.metrics[f"{split}/"] for split in ("train", "val")},  # type: ignore[misc]
    )
