"""What own code must be, said in one line before anything is trained."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from tlearn.config import seats
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.data.sources.base import Listing, Sample, listing_of
from tlearn.errors import ConfigError, DataError
from tlearn.models.backbones.base import Body

HERE = __name__


class Net:
    """The whole contract; `changed` is what a test makes wrong."""

    changed: ClassVar[dict[str, Any]] = {}

    def __init__(self, width: Any = 4) -> None:
        self.width = width

    @classmethod
    def from_architecture(cls, architecture):
        return cls(**architecture)

    def architecture(self):
        return self.changed.get("architecture", {"width": self.width})

    def preprocessing(self):
        return self.changed.get("preprocessing", dict.fromkeys(("resize", "size", "interpolation", "mean", "std"), 8))

    def build(self, replace):
        module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
        return self.changed.get("body", Body(module, 4))


class Weighted(Net):
    """A net that knows weights, and takes them as an argument."""

    def __init__(self, weights: str | None = "mine") -> None:
        super().__init__()
        self.weights = weights

    def architecture(self):
        return {}


class NoNet:
    def build(self, replace):
        """Return nothing."""


class Head(nn.Module):
    def __init__(self, in_features: int, num_classes: int, **how: Any) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(in_features, num_classes), how
        self.register_buffer("seen", torch.tensor(0), persistent=False)

    def forward(self, features: Tensor) -> Any:
        if "add" in self.how:
            return features + self.layer(features)
        self.seen += self.training
        logits = self.layer(features)
        wrong = {
            "pair": (logits, logits),
            "cut": logits[:, :1],
            "trained_pair": (logits, logits) if self.training else logits,
            "whole": logits.long(),
            "nan": logits / 0 * 0,
            "detached": logits.detach(),
        }
        return next((wrong[name] for name in self.how), logits)


class LearntLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(logits, targets)


def weighted(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.cross_entropy(logits, targets, weight=weight)


def plain_number(logits: Tensor, targets: Tensor) -> float:
    return 0.0


def no_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.detach().sum()


class Images:
    """A source; `listed` is what a test makes it return."""

    listed: Any = None

    def prepare(self) -> None:
        """Do nothing."""

    def listing(self) -> Any:
        return self.listed


def head(**arguments: Any) -> nn.Module:
    return seats.head({"_target_": f"{HERE}.Head", "_partial_": True, **arguments}, 5, 3)


def loss(target: str, weight: list[float] | None = None, mixed: bool = False, **arguments: Any) -> Any:
    target = target if "." in target else f"{HERE}.{target}"
    return seats.loss({"_target_": target, **arguments}, 3, weight, mixed)


@pytest.fixture
def changed(monkeypatch):
    """Give a function that makes something of the net wrong."""
    return lambda **values: monkeypatch.setattr(Net, "changed", values)


def test_a_backbone_needs_four_methods_and_nothing_else():
    chosen = seats.backbone({"_target_": f"{HERE}.Net"}, pretrained=False)
    assert seats.body(chosen, "classifier", pretrained=False).num_features == 4
    with pytest.raises(ConfigError, match=r"NoNet lacks preprocessing\(\), architecture\(\), from_architecture\(\)"):
        seats.backbone({"_target_": f"{HERE}.NoNet"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"preprocessing": {"size": 8}}, r"must have resize, interpolation, mean, std, too"),
        ({"architecture": {"width": {1, 2}}}, "must return plain data"),
        ({"architecture": {3: 4}}, "must return plain data"),
        (
            {"architecture": {"depth": 3}},
            r"cannot read what its architecture\(\) returned: TypeError",
        ),
    ],
)
def test_a_backbone_that_no_model_folder_could_hold_is_refused_before_it_is_built(changed, values, reason):
    changed(**values)
    with pytest.raises(ConfigError, match=reason):
        seats.backbone({"_target_": f"{HERE}.Net"})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (nn.Linear(2, 2), "must return tlearn.models.backbones.base.Body, and not torch.nn.modules.linear.Linear"),
        (Body(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), 4), "says num_features=4, and it has 7"),
        (Body(nn.Conv2d(3, 4, 1), 4), "instead of features"),
    ],
    ids=["no body", "width", "maps"],
)
def test_what_build_returns_is_checked(changed, body, reason):
    changed(body=body)
    with pytest.raises(ConfigError, match=reason):
        seats.body(seats.backbone({"_target_": f"{HERE}.Net"}), "classifier", pretrained=True)


def test_weights_are_left_out_where_they_are_an_argument_and_refused_where_they_come_all_the_same(changed):
    assert seats.backbone({"_target_": f"{HERE}.Weighted"}, pretrained=False).weights is None
    assert seats.backbone({"_target_": f"{HERE}.Weighted"}).weights == "mine"
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    changed(body=Body(module, 4, digest="of a file"))
    with pytest.raises(ConfigError, match=r"finetune\.pretrained=false: .* loads weights, and has no argument"):
        seats.body(seats.backbone({"_target_": f"{HERE}.Net"}, False), "classifier", pretrained=False)


def test_a_head_is_as_it_was_before_its_check():
    torch.manual_seed(0)
    built = head()
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(nn.Linear(5, 3).weight, built.layer.weight)
    assert torch.rand(()) == after
    assert built.training
    assert built.seen == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"cut": 1}, r"turns features \[2, 5\] into \[2, 1\], and not into \[2, 3\]"),
        ({"pair": 1}, r"into builtins\.tuple"),
        ({"trained_pair": 1}, r"into builtins\.tuple, and not into \[2, 3\], in train mode"),
        ({"whole": 1}, r"makes torch\.int64 of features"),
        ({"nan": 1}, "makes values that are not finite of features"),
        ({"detached": 1}, "its logits no gradient"),
        ({"add": 1}, r"called with 5, 3 \(in_features, num_classes\): RuntimeError"),
        ({"in_features": 3}, "TypeError"),
        ({"_args_": [1]}, "give arguments by name"),
    ],
)
def test_what_a_head_computes_is_checked(arguments, reason):
    with pytest.raises(ConfigError, match=rf"^head\.build.*{reason}"):
        head(**arguments)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("os.system", "damaged or hostile"), (f"{HERE}.Net", "not a subclass"), ("mine.Head", "cannot be imported")],
)
def test_what_no_model_folder_could_open_is_no_head(target, reason):
    with pytest.raises(ConfigError, match=rf"^head\.build: .*{reason}"):
        seats.head({"_target_": target}, 5, 3)


@pytest.mark.parametrize("partial", [{}, {"_partial_": True}, {"_partial_": False}])
@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("torch.nn.CrossEntropyLoss", {"label_smoothing": 0.1}),
        ("torch.nn.functional.cross_entropy", {"label_smoothing": 0.1}),
        ("tlearn.models.losses.cross_entropy", {"label_smoothing": 0.1}),
    ],
)
def test_every_form_of_a_loss_is_the_same_loss(target, arguments, partial):
    logits, targets, weight = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), [1.0, 2.0, 3.0]
    built = loss(target, weight, **arguments, **partial)
    expected = F.cross_entropy(logits, targets, weight=torch.tensor(weight), label_smoothing=0.1)
    assert built(logits, targets) == pytest.approx(expected)


def test_a_weight_moves_with_the_module_and_is_given_only_where_one_is_taken():
    assert loss("weighted", [1.0, 2.0, 3.0]).to("meta").weight.is_meta
    assert loss("weighted")(torch.zeros(2, 3), torch.tensor([0, 1])) == pytest.approx(1.0986, abs=1e-3)
    with pytest.raises(ConfigError, match=r"LearntLoss takes no weight; choose data\.balance=sampler"):
        loss("LearntLoss", [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("target", "more", "reason"),
    [
        ("plain_number", {}, "one number with a gradient from logits and targets, and not builtins.float"),
        ("no_gradient", {}, "one number with a gradient"),
        ("torch.nn.functional.cross_entropy", {"reduction": "none"}, r"and not a tensor \[2\]"),
        ("LearntLoss", {}, "has parameters, which no optimizer gets"),
        ("torch.nn.CrossEntropyLoss", {"smoothing": 1}, "unexpected keyword argument"),
        ("torch.nn.MultiMarginLoss", {"mixed": True}, "loss: torch.nn.MultiMarginLoss: "),
    ],
)
def test_what_a_loss_computes_is_checked(target, more, reason):
    with pytest.raises(ConfigError, match=reason):
        loss(target, **more)


def test_a_source_needs_two_methods():
    assert seats.source({"_target_": f"{HERE}.Images"}).listing() is None
    with pytest.raises(ConfigError, match=r"^data\.source: .*NoNet lacks prepare\(\), listing\(\): see tlearn\.data"):
        seats.source({"_target_": f"{HERE}.NoNet"})


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (None, "must return tlearn.data.sources.base.Listing"),
        ([Sample("a.png", "a")], "must return tlearn.data.sources.base.Listing"),
        (Listing("here", []), "its root a pathlib.Path"),
        (Listing(Path(), [("a.png", "a", None)]), r"has \('a.png', 'a', None\), and not Sample"),
        (Listing(Path(), [Sample("a.png", "a", "validation")]), "split one of train, val, test or None"),
    ],
)
def test_what_a_source_lists_is_checked(monkeypatch, listed, reason):
    monkeypatch.setattr(Images, "listed", listed)
    with pytest.raises(ConfigError, match=reason):
        listing_of(Images())


def test_an_image_that_is_listed_twice_is_refused(monkeypatch):
    twice = [Sample("a.png", "a"), Sample("b.png", "b"), Sample("a.png", "b")]
    monkeypatch.setattr(Images, "listed", Listing(Path(), twice))
    with pytest.raises(DataError, match=r"data\.source: .*Images listed images twice in \.: a\.png$"):
        listing_of(Images())


def test_images_come_in_the_order_of_their_paths(monkeypatch):
    monkeypatch.setattr(Images, "listed", Listing(Path(), [Sample("b.png", "a"), Sample("a.png", "b")]))
    assert [sample.path for sample in listing_of(Images()).samples] == ["a.png", "b.png"]
    monkeypatch.setattr(Images, "listed", Listing(Path(), iter([Sample("b.png", "a"), Sample("a.png", "b")])))
    assert [sample.path for sample in listing_of(Images()).samples] == ["a.png", "b.png"]


class ForThree(Metric):
    """A metric with a number for each of three classes."""

    higher_is_better = True

    def __init__(self, num_classes: int, costs: list[float]) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), "sum")
        self.costs = torch.tensor(costs).reshape(num_classes)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.total += self.costs[targets].sum()

    def compute(self) -> Tensor:
        return self.total


def test_a_metric_may_want_the_number_of_classes_of_the_images():
    told = [f"+metrics.cost={{_target_: {HERE}.ForThree, costs: [1, 2, 3]}}", "monitor.metric=val/cost"]
    settings = settled(compose(told), IMAGENET)
    assert settings["monitor"]["mode"] == "max"
    assert list(seats.metrics({"cost": settings["metrics"]["cost"]}, 3)) == ["cost"]
    with pytest.raises(ConfigError, match=r"^metrics\.cost: .*ForThree, called with num_classes=4 .*RuntimeError"):
        seats.metrics({"cost": settings["metrics"]["cost"]}, 4)


@pytest.mark.parametrize("name", ["items", "update", "a/b", "loss"])
def test_a_metric_has_no_name_that_is_taken(name):
    with pytest.raises(ConfigError, match=f"^metrics.{name}: this name is taken or has a /"):
        seats.metrics({name: {"_target_": f"{HERE}.ForThree", "costs": [1, 2, 3]}}, 3)


def test_a_callback_must_be_one_of_lightning():
    node = {"mine": {"_target_": f"{HERE}.NoNet"}}
    with pytest.raises(ConfigError, match=r"^callbacks\.mine: .*NoNet must be a subclass of lightning"):
        seats.parts(node, Callback, "callbacks")
