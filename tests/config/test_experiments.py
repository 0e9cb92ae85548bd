"""The tutorials' set-ups as experiments: network, optimizer, data, transforms and schedule, as they are built."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torchvision.transforms import v2

from tests.small_runs import run, write_weights
from tlearn.config import build, rules
from tlearn.config.compose import compose
from tlearn.config.settle import settled
from tlearn.config.trainer import training_trainer
from tlearn.config.tree import CONF_DIR, plain
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.base import Sample
from tlearn.data.sources.folder import FolderSource
from tlearn.errors import ConfigError
from tlearn.files import read_table
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.network import TransferNetwork, count_parameters
from tlearn.predict import predict
from tlearn.train import train
from tlearn.training.module import TransferModule

# The classes of each data set in the tutorial
CLASSES = {
    "caltech101_vgg16": 100,
    "cat_dog_densenet121": 2,
    "cat_dog_resnet": 2,
    "hymenoptera_alexnet": 2,
    "hymenoptera_resnet18": 2,
    "hymenoptera_scratch": 2,
    "flowers102_vgg16": 102,
}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Recipe:
    """What an experiment becomes, with a body that has no weights."""

    config: dict[str, Any]
    network: TransferNetwork
    optimizer: Optimizer
    steps: list[Callable[[Tensor], Tensor]]
    preprocessing: dict[str, Any]
    data: ImageDataModule
    trainer: Trainer


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Give a function that builds an experiment as a training would, without memory for its body."""
    monkeypatch.setattr(TorchvisionBackbone, "build", TorchvisionBackbone.skeleton)

    def built(name: str, *overrides: str) -> Recipe:
        config = compose([f"experiment={name}", "trainer=cpu", "logger=csv", *overrides], output_dir=tmp_path)
        backbone = build.backbone(plain(config))
        settings = settled(config, backbone.preprocessing())
        network = build.network(settings, backbone, CLASSES[name], settings["transforms"]["size"])
        module = TransferModule(
            network,
            CLASSES[name],
            optimizer=build.build("optimizer", settings["optimizer"]),
            body_lr_scale=settings["finetune"]["body_lr_scale"],
        )
        samples = [Sample("a.jpg", "a"), Sample("b.jpg", "b")]
        images = build.datamodule(settings, ImageSet(tmp_path, {"train": samples, "val": samples}, ["a", "b"]))
        return Recipe(
            settings,
            network,
            module.configure_optimizers(),
            build.build("transforms.train", settings["transforms"]["train"]),
            images.transforms["val"].preprocessing,
            images,
            training_trainer(settings, tmp_path),
        )

    return built


def layers(module: nn.Module) -> list[tuple[Any, ...]]:
    """Describe the layers without children in order: widths of a Linear, probability of a Dropout."""
    described = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            described.append(("Linear", layer.in_features, layer.out_features))
        elif isinstance(layer, nn.Dropout):
            described.append(("Dropout", layer.p))
        elif not list(layer.children()):
            described.append((type(layer).__name__,))
    return described


def trains(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def check_optimizer(recipe: Recipe, kind: type[Optimizer], lr: float) -> None:
    """Check that every argument but the learning rate is torch's own default, and that exactly what trains is in it."""
    assert type(recipe.optimizer) is kind
    assert recipe.optimizer.defaults.items() >= {**kind([nn.Parameter(torch.zeros(1))]).defaults, "lr": lr}.items()
    groups = recipe.optimizer.param_groups
    assert {group["lr"] for group in groups} == {lr}
    stepped = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = [id(parameter) for parameter in recipe.network.parameters() if parameter.requires_grad]
    assert sorted(stepped) == sorted(wanted)


def check_evaluation(recipe: Recipe, resize: int, levels: tuple[list[float], list[float]] = IMAGENET) -> None:
    """Check what is done with pictures of val and test."""
    right = {"resize": resize, "size": 224, "interpolation": "bilinear", "mean": levels[0], "std": levels[1]}
    assert recipe.preprocessing == {**right, "fit": "crop", "average": []}
    assert not recipe.data.transforms["val"].is_random
    assert recipe.data.transforms["train"].is_random


def check_steps(recipe: Recipe, *expected: tuple[type[nn.Module], dict[str, Any]]) -> None:
    """Check the random steps of training in their order, and that they leave pictures of the network's size."""
    assert [type(step) for step in recipe.steps] == [kind for kind, _ in expected]
    for step, (kind, arguments) in zip(recipe.steps, expected, strict=True):
        found = {name: getattr(step, name) for name in arguments}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        assert found == arguments, kind
    image = torch.randint(0, 256, (3, 300, 200), dtype=torch.uint8)
    assert recipe.data.transforms["train"](image).shape == (3, 224, 224)


def check_course(recipe: Recipe, epochs: int, monitor: str, patience: int | None) -> None:
    """Check how long it trains, what chooses the best epoch, and when it stops early."""
    assert recipe.trainer.max_epochs == epochs
    mode = "min" if monitor.endswith("loss") else "max"
    [best] = [one for one in recipe.trainer.checkpoint_callbacks if one.monitor is not None]
    assert isinstance(best, ModelCheckpoint)
    assert (best.monitor, best.mode, best.save_top_k) == (monitor, mode, 1)
    stops = [
        (one.monitor, one.mode, one.patience) for one in recipe.trainer.callbacks if isinstance(one, EarlyStopping)
    ]
    assert stops == ([] if patience is None else [(monitor, mode, patience)])


def validates(recipe: Recipe) -> tuple[Any, Any]:
    return recipe.trainer.val_check_interval, recipe.trainer.check_val_every_n_epoch


EVERY_EPOCH = (1.0, 1)


def test_caltech101_vgg16_replaces_the_last_layer_alone(recipe):
    built = recipe("caltech101_vgg16")
    kept = [("Linear", 25088, 4096), ("ReLU",), ("Dropout", 0.5), ("Linear", 4096, 4096), ("ReLU",), ("Dropout", 0.5)]
    assert layers(built.network.body.classifier) == [*kept, ("Identity",)]
    assert layers(built.network.head) == [("Linear", 4096, 256), ("ReLU",), ("Dropout", 0.4), ("Linear", 256, 100)]
    assert trains(built.network) == ["head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias"]
    assert count_parameters(built.network) == (135_335_076, 1_074_532)
    check_optimizer(built, Adam, 0.001)


def test_caltech101_vgg16_trains_as_its_tutorial(recipe):
    built = recipe("caltech101_vgg16")
    assert built.data.batch_size == 128
    assert built.config["data"]["split"]["fractions"] == [0.5, 0.25, 0.25]
    assert built.config["data"]["source"]["dataset"] == "Caltech101"
    check_steps(
        built,
        (v2.RandomResizedCrop, {"size": [256, 256], "scale": [0.8, 1.0]}),
        (v2.RandomRotation, {"degrees": [-15.0, 15.0]}),
        (v2.ColorJitter, {"brightness": None, "contrast": None, "saturation": None, "hue": None}),
        (v2.RandomHorizontalFlip, {"p": 0.5}),
        (v2.CenterCrop, {"size": [224, 224]}),
    )
    check_evaluation(built, 256)
    assert validates(built) == EVERY_EPOCH
    check_course(built, 30, "val/loss", 5)


@pytest.mark.parametrize(
    ("name", "features", "body"), [("cat_dog_densenet121", 1024, 6_953_856), ("cat_dog_resnet", 2048, 23_508_032)]
)
def test_the_cat_dog_recipes_train_a_hidden_layer_on_a_frozen_body(recipe, name, features, body):
    built = recipe(name)
    assert layers(built.network.head) == [("Linear", features, 256), ("ReLU",), ("Dropout", 0.2), ("Linear", 256, 2)]
    assert not [layer for layer in layers(built.network.body) if layer[0] == "Linear"]
    assert trains(built.network) == ["head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias"]
    head = features * 256 + 256 + 256 * 2 + 2
    assert count_parameters(built.network) == (body + head, head)
    check_optimizer(built, Adam, 0.003)


def test_the_first_variant_of_cat_dog_has_500_hidden_units_and_drops_none(recipe):
    head = layers(recipe("cat_dog_densenet121", "head.hidden=[500]", "head.dropout=0").network.head)
    assert head == [("Linear", 1024, 500), ("ReLU",), ("Dropout", 0), ("Linear", 500, 2)]


@pytest.mark.parametrize("name", ["cat_dog_densenet121", "cat_dog_resnet"])
def test_the_cat_dog_recipes_validate_on_test_every_five_steps(recipe, name):
    built = recipe(name)
    assert built.data.batch_size == 64
    assert built.config["data"]["name"] == "cat_dog"
    assert built.config["data"]["split"]["test_as_val"] is True
    check_steps(
        built,
        (v2.RandomRotation, {"degrees": [-30.0, 30.0]}),
        (v2.RandomResizedCrop, {"size": [224, 224], "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}),
        (v2.RandomHorizontalFlip, {"p": 0.5}),
    )
    check_evaluation(built, 255)
    assert validates(built) == (5, None)
    check_course(built, 1, "val/loss", None)


def test_hymenoptera_alexnet_trains_all_with_one_learning_rate(recipe):
    built = recipe("hymenoptera_alexnet")
    kept = [("Dropout", 0.5), ("Linear", 9216, 4096), ("ReLU",), ("Dropout", 0.5), ("Linear", 4096, 4096), ("ReLU",)]
    assert layers(built.network.body.classifier) == [*kept, ("Identity",)]
    assert layers(built.network.head) == [("Linear", 4096, 2)]
    assert count_parameters(built.network) == (57_012_034, 57_012_034)
    check_optimizer(built, SGD, 0.0001)


def test_hymenoptera_alexnet_trains_as_its_tutorial(recipe):
    built = recipe("hymenoptera_alexnet")
    assert built.data.batch_size == 8
    check_steps(
        built,
        (v2.RandomResizedCrop, {"size": [224, 224], "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}),
        (v2.RandomHorizontalFlip, {"p": 0.5}),
    )
    check_evaluation(built, 256, ([0.490, 0.449, 0.411], [0.231, 0.221, 0.230]))
    assert validates(built) == EVERY_EPOCH
    check_course(built, 10, "val/top1", None)


@pytest.mark.parametrize("name", ["hymenoptera_resnet18", "hymenoptera_scratch"])
def test_the_resnet18_recipes_train_all_with_one_learning_rate(recipe, name):
    built = recipe(name)
    assert layers(built.network.head) == [("Linear", 512, 2)]
    assert not [layer for layer in layers(built.network.body) if layer[0] == "Linear"]
    assert count_parameters(built.network) == (11_177_538, 11_177_538)
    check_optimizer(built, Adam, 0.0001)
    assert built.data.batch_size == 4
    check_steps(
        built,
        (v2.RandomResizedCrop, {"size": [224, 224], "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}),
        (v2.RandomHorizontalFlip, {"p": 0.5}),
    )
    check_evaluation(built, 256)
    assert validates(built) == EVERY_EPOCH
    check_course(built, 20, "val/top1", None)


def test_scratch_is_resnet18_but_for_the_weights():
    trained, scratch = (
        plain(compose([f"experiment=hymenoptera_{name}"], output_dir="run")) for name in ("resnet18", "scratch")
    )
    assert trained["finetune"].pop("pretrained") is True
    assert scratch["finetune"].pop("pretrained") is False
    assert trained == scratch


def test_cat_dog_resnet_is_densenet121_but_for_the_backbone():
    dense, residual = (
        plain(compose([f"experiment=cat_dog_{name}"], output_dir="run")) for name in ("densenet121", "resnet")
    )
    assert (dense["backbone"].pop("name"), residual["backbone"].pop("name")) == ("densenet121", "resnet50")
    assert dense == residual


def test_flowers102_vgg16_replaces_the_whole_classifier(recipe):
    built = recipe("flowers102_vgg16")
    assert set(layers(built.network.body.classifier)) == {("Identity",)}
    assert layers(built.network.head) == [("Linear", 25088, 512), ("ReLU",), ("Dropout", 0.2), ("Linear", 512, 102)]
    assert trains(built.network) == ["head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias"]
    head = 25088 * 512 + 512 + 512 * 102 + 102
    assert count_parameters(built.network) == (14_714_688 + head, head)
    check_optimizer(built, Adam, 0.001)


def test_flowers102_vgg16_turns_moves_and_zooms(recipe):
    built = recipe("flowers102_vgg16")
    assert built.data.batch_size == 32
    check_steps(
        built,
        (v2.RandomAffine, {"degrees": [-30.0, 30.0], "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": None}),
        (v2.Resize, {"size": [256]}),
        (v2.CenterCrop, {"size": [224, 224]}),
    )
    check_evaluation(built, 256)
    assert validates(built) == EVERY_EPOCH
    check_course(built, 10, "val/loss", 5)


@pytest.mark.parametrize("name", CLASSES)
def test_every_recipe_minimises_the_negative_log_likelihood_of_log_softmax(name):
    loss = build.build("loss", plain(compose([f"experiment={name}"], output_dir="run"))["loss"])()
    torch.manual_seed(0)
    logits = 5 * torch.randn(7, 4, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    targets = torch.tensor([0, 1, 2, 3, 3, 0, 1])
    value, wanted = loss(ours, targets), F.nll_loss(nn.LogSoftmax(dim=1)(theirs), targets)
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    value.backward()
    wanted.backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_every_recipe_takes_another_backbone_and_other_pictures(recipe, name):
    others = ["backbone=mobilenet_v2", "backbone.weights=null", "data=folder", "data.root=pictures"]
    built = recipe(name, *others)
    rules.check(built.config, [])
    assert built.config["data"]["source"]["root"] == "pictures"
    [first, *_] = [layer for layer in layers(built.network.head) if layer[0] == "Linear"]
    assert first[1] == 1280


def test_every_sweep_in_a_comment_can_be_read():
    folder, found = CONF_DIR / "experiment", []
    for name in CLASSES:
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        for arguments in re.findall(r"python -m tlearn\.train -m((?: [\w.]+=[^\s()]+)+)", text):
            parsed = OverridesParser.create().parse_overrides(arguments.split())
            [trials] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
            for trial in trials:
                compose(trial)
            found.append(len(trials))
    assert found == [3]


def test_imagenet_vgg13_trains_nothing():
    config = plain(compose(["experiment=imagenet_vgg13", "images=pictures"], "predict", output_dir="run"))
    rules.check(config, [])
    assert (config["backbone"]["name"], config["topk"], config["run"]) == ("vgg13", 5, None)
    with pytest.raises(ConfigError, match=r"unknown key topk: predict has it, and train does not"):
        compose(["experiment=imagenet_vgg13"])


def _steps_validated(folder: Path) -> dict[int, float]:
    """Give val/top1 by the number of steps after which it was measured."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        # The log counts steps from 0.
        return {int(row["step"]) + 1: float(row["val/top1"]) for row in csv.DictReader(file) if row["val/top1"]}


def _splits(folder: Path) -> Counter[tuple[str, str]]:
    """Count pictures by the folder they lie in and the split they are in."""
    with (folder / "splits.csv").open(encoding="utf-8", newline="") as file:
        return Counter((row["path"].partition("/")[0], row["split"]) for row in csv.DictReader(file))


def test_cat_dog_validates_on_all_of_test_after_every_five_steps(tmp_path, draw_split, capsys):
    for split, count in (("train", 26), ("test", 6)):
        draw_split(tmp_path / "pictures" / split, count)
    weights = write_weights(tmp_path / "weights.pth")
    overrides = ("data.batch_size=4", "transforms.resize=36", "transforms.size=32", "head.hidden=[8]")
    found = run(
        tmp_path / "run", tmp_path / "pictures", weights, "experiment=cat_dog_densenet121", *overrides, "logger=csv"
    )
    validated = _steps_validated(tmp_path / "run")
    assert list(validated) == [5, 10]
    assert all((12 * value) == pytest.approx(round(12 * value), abs=1e-4) for value in validated.values())
    assert _splits(tmp_path / "run") == {("train", "train"): 52, ("test", "val"): 12}
    assert "test/top1" not in found
    assert "the test images are val" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.shared
def test_cat_dog_learns_from_real_pictures(tmp_path, shared):
    for split, count in (("train", 64), ("test", 25)):
        for label in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for path in sorted((shared / "data/cat_dog" / split / label).iterdir())[:count]:
                (folder / path.name).symlink_to(path)
    overrides = ["experiment=cat_dog_densenet121", "backbone=mobilenet_v2", "trainer=cpu", "logger=csv"]
    overrides += [f"backbone.weights='{shared / 'weights/mobilenet_v2.pth'}'", f"data.root='{tmp_path / 'pictures'}'"]
    overrides += ["data.batch_size=8", "data.num_workers=0", "transforms.resize=128", "transforms.size=112"]
    train(compose(overrides, output_dir=tmp_path / "run"))
    validated = _steps_validated(tmp_path / "run")
    assert list(validated) == [5, 10, 15]
    assert max(validated.values()) > 0.8
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert figures["val/top1"] > 0.8


@pytest.mark.slow
@pytest.mark.shared
def test_a_backbone_names_ants_and_bees_without_training(tmp_path, shared):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    samples = [one for one in FolderSource(shared / "data/hymenoptera").listing().samples if one.split == "val"]
    for sample in samples[:25] + samples[-25:]:
        (pictures / f"{sample.label} {Path(sample.path).name}").symlink_to(shared / "data/hymenoptera" / sample.path)
    overrides = [
        "backbone=mobilenet_v2",
        f"backbone.weights='{shared / 'weights/mobilenet_v2.pth'}'",
        "classes=imagenet",
    ]
    overrides += [
        "experiment=imagenet_vgg13",
        f"images='{pictures}'",
        f"output='{tmp_path / 'p.csv'}'",
        "num_workers=0",
    ]
    predict(compose(overrides, "predict", output_dir=tmp_path))
    rows = read_table(tmp_path / "p.csv")
    right = [row["class"] == Path(row["path"]).name.split()[0].removesuffix("s") for row in rows]
    assert len(right) == 50
    # 0.804 of the whole set, as the weights' own description says
    assert sum(right) / 50 > 0.7
    assert all(row["class_5"] for row in rows)


def test_what_is_chosen_beside_a_recipe_holds(recipe):
    built = recipe("flowers102_vgg16", "transforms=none", "data.batch_size=7", "optimizer.lr=0.01")
    assert built.steps == []
    assert built.data.batch_size == 7
    assert built.optimizer.param_groups[0]["lr"] == 0.01
