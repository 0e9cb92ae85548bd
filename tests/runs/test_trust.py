"""What a stored name may import, and what it may be: only what is trusted, of its kind, and defined where it says."""

import sys

import pytest
from torch import nn

from tlearn.config import seats
from tlearn.errors import CheckpointError
from tlearn.runs.trust import Seat, check_trust, own_packages, stored_builder, trusted

METRIC = seats._METRIC
HEAD = Seat("head", nn.Module, ("tlearn.models.heads", "torch.nn"))
TRICKY = """
import os, subprocess, torch.hub
from functools import partial
from torch import nn
from otherlab import Elsewhere

class Head(nn.Module):
    def __init__(self, in_features, num_classes): super().__init__()
    @classmethod
    def made(cls, in_features, num_classes) -> nn.Module: return cls(in_features, num_classes)
    class Inner(nn.Module): pass

class NoModule: pass

def build(in_features, num_classes) -> nn.Module: return Head(in_features, num_classes)
def perhaps(in_features, num_classes) -> "nn.Module | None": return None
def unannotated(in_features, num_classes): os.system("false")
def other(in_features, num_classes) -> int: return 3
def unresolved(in_features, num_classes) -> "nowhere.Module": return 3
bound = partial(build, num_classes=3)
instance = Head(1, 2)
"""


@pytest.fixture
def labs(tmp_path, monkeypatch):
    """Give a folder with two packages that can be imported."""
    for name, code in (("mylab", TRICKY), ("otherlab", "from torch import nn\nclass Elsewhere(nn.Module): pass\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code, encoding="utf-8")
    (tmp_path / "mylab" / "heads.py").write_text("from mylab import Head\n", encoding="utf-8")
    (tmp_path / "mylab" / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mylab", "mylab.heads", "mylab.broken", "otherlab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("mylab", "mylab.heads", "mylab.broken", "otherlab"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Head", "Head.Inner", "heads.Head", "build", "perhaps", "nn.Linear"])
def test_classes_of_the_kind_and_functions_that_say_they_return_one_are_found(labs, name):
    assert callable(trusted(f"mylab.{name}", ["mylab"], HEAD))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NoModule", "not a subclass of torch.nn.modules.module.Module"),
        ("unannotated", "must be annotated to return what it builds"),
        ("other", "must be annotated"),
        ("unresolved", "must be annotated"),
        ("bound", "neither a class nor a function"),
        ("instance", "neither a class nor a function"),
        ("Head.made", "neither a class nor a function"),
        ("os.system", "neither a class nor a function"),
        ("subprocess.run", "must be annotated"),
        ("subprocess.Popen", "not a subclass"),
        ("torch.hub.load", "must be annotated"),
        ("__loader__", "neither a class nor a function"),
        ("build.__globals__", "neither a class nor a function"),
        ("os", "neither a class nor a function"),
        ("nowhere.Head", "cannot be imported"),
        ("broken.Head", "cannot be imported (ZeroDivisionError"),
        ("", "cannot be imported"),
        (".heads.Head", "cannot be imported"),
        ("Elsewhere", "trust=[mylab,otherlab]"),
    ],
)
def test_nothing_else_in_a_trusted_package_is_called(labs, name, reason):
    with pytest.raises(CheckpointError) as caught:
        trusted(f"mylab.{name}", ["mylab"], HEAD)
    assert reason in str(caught.value)


def test_what_is_not_trusted_is_not_even_imported(labs):
    (labs / "mylab" / "__init__.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"add trust=\[yourlab,mylab\]"):
        trusted("mylab.Head", ["yourlab"], HEAD)
    with pytest.raises(CheckpointError, match=r"of libraries, only tlearn\.models\.heads, torch\.nn can"):
        trusted("torch.utils.bottleneck.__main__.main", [], HEAD)
    assert "torch.utils.bottleneck.__main__" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.run", "posix.system"])
@pytest.mark.parametrize("trust", [[], ["os", "builtins", "subprocess", "posix"]])
def test_no_trust_opens_the_standard_library(name, trust):
    with pytest.raises(CheckpointError, match="damaged or hostile"):
        trusted(name, trust, HEAD)


def test_every_name_anywhere_in_plain_data_counts():
    node = {"a": [{"_target_": "one.x"}, {"b": {"_target_": "torch.nn.ReLU", "c": {"_target_": "two.y.z"}}}], "d": 3}
    assert own_packages(node) == ["one", "two"]
    check_trust(node, ["two", "one"], "it")
    with pytest.raises(CheckpointError, match=r"^it names code that is not tlearn's \(two.y.z\).*trust=\[one,two\]$"):
        check_trust(node, ["one"], "it")


def test_a_stored_node_is_built_with_the_layers_in_its_arguments(labs):
    (labs / "mylab" / "heads.py").write_text(
        "from torch import nn\nclass Deep(nn.Module):\n"
        "    def __init__(self, n, c, layers, make): super().__init__(); self.layers, self.make = layers, make\n",
        encoding="utf-8",
    )
    layer = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    node = {"_target_": "mylab.heads.Deep", "layers": [layer, 5], "make": {**layer, "_partial_": True}}
    built = stored_builder(node, ["mylab"], HEAD)(2, 3)
    assert isinstance(built.layers[0], nn.Linear)
    assert built.layers[1] == 5
    assert built.make().out_features == 3


@pytest.mark.parametrize(
    "argument",
    [
        {"_target_": "os.system", "command": "false"},
        {"deep": [{"_target_": "torch.hub.load", "repo_or_dir": "x"}]},
        {"_target_": "torch.nn.Linear", "in_features": {"_target_": "os.system"}},
        {"_target_": "torch.nn.Linear", "_args_": [1, 2]},
    ],
)
def test_nothing_hides_in_an_argument(argument):
    with pytest.raises(CheckpointError):
        stored_builder({"_target_": "torch.nn.Bilinear", "bias": argument}, [], HEAD)


def test_a_reference_in_a_stored_text_stays_a_text():
    hidden = "${oc.create:'{_target_: torch.hub.load, repo_or_dir: x}'}"
    assert stored_builder({"_target_": "torch.nn.Linear", "bias": hidden}, [], HEAD).keywords == {"bias": hidden}


@pytest.mark.parametrize("name", ["torchmetrics.Accuracy", "torchmetrics.classification.MulticlassAUROC"])
def test_metrics_of_classification_need_no_trust(name):
    assert trusted(name, [], METRIC)


@pytest.mark.parametrize(
    "name", ["torchmetrics.text.bert.BERTScore", "torchmetrics.image.fid.FrechetInceptionDistance"]
)
def test_metrics_that_load_models_are_refused(name):
    with pytest.raises(CheckpointError, match="cannot be a metric"):
        trusted(name, [], METRIC)
