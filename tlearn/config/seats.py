"""Build what a user's own code may fill, and check it against its contract before anything is trained."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from tlearn.analysis.direction import MEASURED
from tlearn.config.contracts import (
    called_in_both_modes,
    check_hooks,
    class_name,
    needs_logits,
    parameters_of,
    require_methods,
)
from tlearn.config.valid_values import PREPROCESSING
from tlearn.data.sources.base import Source
from tlearn.errors import CheckpointError, ConfigError, TlearnError
from tlearn.models.backbones.base import Backbone, Body
from tlearn.models.graph.cut import count_features
from tlearn.models.losses import FunctionLoss
from tlearn.runs.architecture import described_backbone, described_head
from tlearn.runs.trust import Seat, named_packages, stored_builder
from tlearn.training.metrics import shifted
from tlearn.training.module import TransferModule
from tlearn.training.schedule import Schedule

# Others of torchmetrics load models by name, which a stored run must not choose.
_METRIC = Seat("metric", Metric, ("tlearn.training.metrics", "torchmetrics.classification", "torchmetrics.wrappers"))


class MetricError(ConfigError):
    """A metric that does not work for a number of classes."""


def build(key: str, node: Any, **more: Any) -> Any:
    """Instantiate what plain values describe; errors name it by its key.

    The arguments stay plain: OmegaConf's containers would end up in optimizers and checkpoints, which could then not be
    read as plain data.
    """
    return instantiate(OmegaConf.create({key: node})[key], _convert_="all", **more)


def backbone(node: Mapping[str, Any], pretrained: bool = True) -> Backbone:
    """Build a backbone, which loads no weights yet; without `pretrained`, one that will not."""
    without = not pretrained and "weights" in parameters_of(node)
    chosen: Backbone = build("backbone", node, **({"weights": None} if without else {}))
    contract = {"build": ("replace",), "preprocessing": (), "architecture": (), "from_architecture": ("architecture",)}
    require_methods(chosen, contract, f"backbone: {class_name(chosen)}", "tlearn.models.backbones.base.Backbone")
    preprocessing = chosen.preprocessing()
    if not isinstance(preprocessing, Mapping):
        raise ConfigError(f"backbone: preprocessing() of {class_name(chosen)} must return a dictionary")
    if missing := [key for key in PREPROCESSING if key not in preprocessing]:
        raise ConfigError(f"backbone: preprocessing() of {class_name(chosen)} must have {', '.join(missing)}, too")
    try:
        # What a model folder could not hold is refused now and not after training.
        described_backbone(chosen)
    except CheckpointError as error:
        raise ConfigError(f"backbone: {error}") from error
    return chosen


def body(chosen: Backbone, replace: str, pretrained: bool) -> Body:
    """Build the body of a backbone and load its weights."""
    built, name = chosen.build(replace), f"build() of {class_name(chosen)}"
    if not isinstance(built, Body):
        raise ConfigError(
            f"backbone: {name} must return tlearn.models.backbones.base.Body, and not {class_name(built)}"
        )
    if not pretrained and built.digest is not None:
        raise ConfigError(f"finetune.pretrained=false: {name} loads weights, and has no argument weights to leave out")
    if not class_name(chosen).startswith("tlearn."):
        size = chosen.preprocessing()["size"]
        try:
            width = count_features(built.module, size)
        except RuntimeError as error:
            raise ConfigError(f"backbone: what {name} made cannot take [1, 3, {size}, {size}]: {error}") from error
        if width != built.num_features:
            raise ConfigError(f"backbone: {name} says num_features={built.num_features}, and it has {width}")
    return built


def source(node: Mapping[str, Any]) -> Source:
    """Build a source of images, which reads nothing yet."""
    built: Source = build("data.source", node)
    require_methods(
        built, {"prepare": (), "listing": ()}, f"data.source: {class_name(built)}", "tlearn.data.sources.base.Source"
    )
    return built


def head(node: Mapping[str, Any], in_features: int, num_classes: int) -> nn.Module:
    """Build a head, and check that it turns features [N, in_features] into logits [N, num_classes]."""
    name = f"head.build: {node['_target_']}"
    try:
        # What a model folder could not hold is refused now and not after training.
        described_head(node)
        built = build("head.build", node, _partial_=True)(in_features, num_classes)
        if not isinstance(built, nn.Module):
            raise ConfigError(f"{name} must build a torch.nn.Module, and not {class_name(built)}")
        passes = called_in_both_modes(built, torch.Size((2, in_features)))
    except CheckpointError as error:
        raise ConfigError(f"head.build: {error}") from error
    except TlearnError:
        raise
    except Exception as error:
        called = f"called with {in_features}, {num_classes} (in_features, num_classes)"
        raise ConfigError(f"{name}, {called}: {type(error).__name__}: {error}") from error
    for mode, logits in passes.items():
        if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
            found = list(logits.shape) if isinstance(logits, Tensor) else class_name(logits)
            wanted = f"turns features [2, {in_features}] into {found}, and not into [2, {num_classes}]"
            raise ConfigError(f"{name} {wanted}, in {mode} mode")
        if not logits.is_floating_point() or not logits.isfinite().all():
            found = f"{logits.dtype}" if not logits.is_floating_point() else "values that are not finite"
            raise ConfigError(f"{name} makes {found} of features between 0 and 1, in {mode} mode")
    if any(parameter.requires_grad for parameter in built.parameters()) and not passes["train"].requires_grad:
        raise ConfigError(f"{name} has parameters, and its logits no gradient: nothing of it could train")
    return built.train()


def loss(node: Mapping[str, Any], num_classes: int, weight: Sequence[float] | None, mixed: bool) -> Any:
    """Build a loss: (logits [N, num_classes], targets) -> scalar.

    The target is a class, a function that builds a loss, or a function that is one: which takes two arguments more than
    the node has.

    Args:
        node: the node of the configuration, with `_partial_` or without.
        num_classes: C.
        weight: of each class, if any.
        mixed: targets are probabilities [N, C], and not indices [N].
    """
    name, made = f"loss: {node['_target_']}", build("loss", node, _partial_=True)
    arguments = dict(made.keywords)
    if weight is not None:
        if "weight" not in parameters_of(node):
            raise ConfigError(f"data.balance=weights: {node['_target_']} takes no weight; choose data.balance=sampler")
        arguments["weight"] = torch.tensor(list(weight), dtype=torch.float32)
    logits = torch.zeros(2, num_classes, requires_grad=True)
    targets = torch.arange(2) % num_classes
    try:
        direct = not inspect.isclass(made.func) and needs_logits(made.func, arguments)
        built = FunctionLoss(made.func, **arguments) if direct else made.func(*made.args, **arguments)
        value = built(logits, nn.functional.one_hot(targets, num_classes).float() if mixed else targets)
    except TlearnError:
        raise
    except Exception as error:
        raise ConfigError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        found = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else class_name(value)
        raise ConfigError(f"{name} must compute one number with a gradient from logits and targets, and not {found}")
    if isinstance(built, nn.Module) and any(parameter.requires_grad for parameter in built.parameters()):
        raise ConfigError(f"{name} has parameters, which no optimizer gets: train them in a module of your own")
    return built


def schedule(node: Mapping[str, Any]) -> Schedule:
    """Build the schedule of the learning rate."""
    if isinstance(node.get("build"), str):
        meant = f'"+scheduler.build={{_target_: {node["build"]}, _partial_: true}}"'
        raise ConfigError(f"scheduler.build={node['build']}: expected what is built; did you mean {meant}?")
    built = build("scheduler", node)
    if not isinstance(built, Schedule):
        raise ConfigError(
            f"scheduler: {node['_target_']} goes into scheduler.build, below defaults: [none, _self_] of your option"
        )
    return built


def module(node: Mapping[str, Any], **given: Any) -> TransferModule:
    """Build the module that trains the network from keywords, which a subclass takes as `TransferModule` does."""
    name, made = f"module: {node['_target_']}", build("module", node, _partial_=True)
    wanted = f"{TransferModule.__module__}.{TransferModule.__qualname__}"
    if inspect.isclass(made.func) and not issubclass(made.func, TransferModule):
        raise ConfigError(f"{name} is not a subclass of {wanted}")
    called = f"it is called with {', '.join(given)}"
    if twice := made.keywords.keys() & given:
        raise ConfigError(f"{name}: {called}, so module.{min(twice)} cannot be given")
    try:
        inspect.signature(made.func).bind(**made.keywords, **given)
    except TypeError as error:
        raise ConfigError(f"{name}: {error} ({called})") from error
    try:
        built = made(**given)
    except TypeError as error:
        # A subclass hands on what it does not know.
        if any(f"'{key}'" in str(error) for key in made.keywords):
            raise ConfigError(f"{name}: {error}") from error
        raise
    if not isinstance(built, TransferModule):
        raise ConfigError(f"{name} makes a {class_name(built)}, which is not a subclass of {wanted}")
    if not hasattr(built, "network"):
        raise ConfigError(f"{name} must call super().__init__ with the keywords that it does not use itself")
    return built


def metrics(nodes: Mapping[str, Any], num_classes: int, trust: Sequence[str] | None = None) -> dict[str, Metric]:
    """Build metrics by name, without those that are null or do not exist for so few classes.

    Args:
        nodes: of the configuration, or of a stored run.
        num_classes: C.
        trust: packages whose classes may be used; None: all, as somebody has typed them.

    Raises:
        ConfigError: one cannot be built, or is not one number computed from logits [N, C] and targets [N].
        CheckpointError: a class is not trusted.
    """
    built = {name: _metric(name, node, num_classes, trust) for name, node in nodes.items() if node is not None}
    return {name: metric for name, metric in built.items() if metric is not None}


def _metric(name: str, node: Any, num_classes: int, trust: Sequence[str] | None) -> Metric | None:
    if name in (*MEASURED, "step_loss", "tta") or "/" in name or hasattr(MetricCollection({}), name):
        raise ConfigError(f"metrics.{name}: this name is taken or has a /: choose another")
    label = f"metrics.{name}: {node['_target_']}, called with num_classes={num_classes}"
    try:
        # Built as from a model folder: what that could not hold is refused now and not after training.
        builder = stored_builder(node, named_packages(node) if trust is None else trust, _METRIC)
        built = builder(num_classes=num_classes)
        if built is None:
            return None
        if not isinstance(built, Metric):
            raise ConfigError(f"metrics.{name}: {class_name(built)} must be a subclass of torchmetrics.Metric")
        # Most of what is wrong shows on two images.
        tried = built.clone()
        with warnings.catch_warnings(action="ignore"):
            tried.update(shifted(torch.eye(2, num_classes)), torch.tensor([0, num_classes - 1]))
            value = tried.compute()
    except CheckpointError as error:
        if trust is None:
            raise ConfigError(f"metrics.{name}: {error}") from error
        raise
    except TlearnError:
        raise
    except Exception as error:
        told = (str(error).strip() or "no reason given").splitlines()[0]
        given = f"logits [2, {num_classes}] and targets [2]"
        raise MetricError(f"{label} and updated with {given}: {type(error).__name__}: {told}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else class_name(value)
        raise MetricError(f"{label}, must compute a tensor of one number, and not {found}")
    return built


def parts(nodes: Mapping[str, Any] | None, kind: type, key: str) -> dict[str, Any]:
    """Build the callbacks or loggers of a configuration by their names, without those that are null."""
    built = {name: build(f"{key}.{name}", node) for name, node in (nodes or {}).items() if node is not None}
    for name, part in built.items():
        if not isinstance(part, kind):
            package = kind.__module__.rpartition(".")[0]
            raise ConfigError(f"{key}.{name}: {class_name(part)} must be a subclass of {package}.{kind.__name__}")
        check_hooks(part, kind, f"{key}.{name}")
    return built
