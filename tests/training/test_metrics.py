"""Metrics of a whole split: by formulas of their own, in any batches, and where they are not defined."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC, MulticlassPrecision

from tests import small_runs as runs
from tlearn.analysis.outputs import among_top
from tlearn.config import seats
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.config.tree import plain
from tlearn.errors import CheckpointError, ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.metrics import AUROC, BrierScore, ClassMeanAccuracy, TopK, shifted
from tlearn.training.module import TransferModule


def full(classes: int) -> dict[str, Metric]:
    return seats.metrics(plain(compose(["metrics=full"]))["metrics"], classes)


def measured(metric: Metric, logits: Tensor, targets: Tensor, batch: int = 7) -> float:
    """Give a metric of logits that come in batches."""
    for part, wanted in zip(logits.split(batch), targets.split(batch), strict=True):
        metric.update(shifted(part), wanted)
    return float(metric.compute())


def drawn(count: int, classes: int, rounded: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(count, classes, generator=generator)
    targets = (logits + 2 * torch.randn(count, classes, generator=generator)).argmax(1)
    return (logits.round() if rounded else logits), targets


def auroc(logits: Tensor, targets: Tensor) -> float:
    """Count pairs one by one."""
    probabilities, areas = logits.double().softmax(1).tolist(), []
    for label in sorted(set(targets.tolist())):
        own = [row[label] for row, target in zip(probabilities, targets.tolist(), strict=True) if target == label]
        rest = [row[label] for row, target in zip(probabilities, targets.tolist(), strict=True) if target != label]
        areas.append(sum((a > b) + (a == b) / 2 for a in own for b in rest) / (len(own) * len(rest)))
    return sum(areas) / len(areas)


def counts(logits: Tensor, targets: Tensor) -> list[tuple[int, int, int]]:
    """Give images, predictions and hits of each class that has any."""
    found = [
        (
            int((targets == k).sum()),
            int((logits.argmax(1) == k).sum()),
            int(((logits.argmax(1) == k) & (targets == k)).sum()),
        )
        for k in range(logits.shape[1])
    ]
    return [entry for entry in found if entry[0] or entry[1]]


def kappa(logits: Tensor, targets: Tensor) -> float:
    found, total = counts(logits, targets), len(targets)
    chance = sum(images * predictions for images, predictions, _ in found) / total**2
    return (sum(hits for *_, hits in found) / total - chance) / (1 - chance)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


FORMULAS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "top1": lambda logits, targets: (logits.argmax(1) == targets).double().mean().item(),
    "top5": lambda logits, targets: (logits.topk(5).indices == targets[:, None]).any(1).double().mean().item(),
    "class_mean_accuracy": lambda logits, targets: mean([h / n for n, _, h in counts(logits, targets) if n]),
    "recall": lambda logits, targets: mean([h / n if n else 0.0 for n, _, h in counts(logits, targets)]),
    "precision": lambda logits, targets: mean([h / p if p else 0.0 for _, p, h in counts(logits, targets)]),
    "f1": lambda logits, targets: mean([2 * h / (n + p) for n, p, h in counts(logits, targets)]),
    "auroc": auroc,
    "kappa": kappa,
    "brier": lambda logits, targets: (
        (logits.double().softmax(1) - nn.functional.one_hot(targets, logits.shape[1])).square().sum(1).mean().item()
    ),
}


@pytest.mark.parametrize("batch", [1, 7, 200])
@pytest.mark.parametrize("classes", [2, 7, 30])
def test_every_metric_of_full_follows_its_formula_in_any_batches(classes, batch):
    logits, targets = drawn(60, classes)
    found = full(classes)
    assert found.keys() == FORMULAS.keys() - ({"top5"} if classes == 2 else set())
    # With 30 classes, some have no image, and some of those are predicted.
    assert (len(set(targets.tolist())) < classes) == (classes == 30)
    for name, metric in found.items():
        assert measured(metric, logits, targets, batch) == pytest.approx(FORMULAS[name](logits, targets), abs=1e-6), (
            name
        )


def test_equal_probabilities_count_half_for_auroc():
    logits, targets = drawn(80, 4, rounded=True)
    assert measured(AUROC(4), logits, targets) == pytest.approx(auroc(logits, targets), abs=1e-6)
    assert measured(AUROC(3), torch.zeros(6, 3), torch.arange(6) % 3) == 0.5


def test_auroc_is_that_of_torchmetrics_where_every_class_has_images():
    logits, targets = drawn(200, 5)
    theirs = MulticlassAUROC(5)(logits.double().softmax(1), targets)
    assert measured(AUROC(5), logits, targets) == pytest.approx(float(theirs), abs=1e-6)


def test_a_class_without_images_is_left_out_and_not_counted_as_zero():
    logits, targets = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2]]), torch.tensor([0, 1, 1])
    assert measured(ClassMeanAccuracy(3), logits, targets) == 0.75
    assert measured(AUROC(3), logits, targets) == pytest.approx(auroc(logits, targets))


def test_auroc_is_nan_where_no_class_has_it():
    for logits, targets in (drawn(1, 3), (drawn(4, 3)[0], torch.zeros(4, dtype=torch.long))):
        assert math.isnan(measured(AUROC(3), logits, targets))


def test_one_image_has_every_other_metric():
    logits, targets = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]]), torch.tensor([3])
    found = {name: measured(metric, logits, targets) for name, metric in full(7).items()}
    assert math.isnan(found.pop("auroc"))
    assert found.pop("brier") == pytest.approx(FORMULAS["brier"](logits, targets))
    assert found == {"top1": 0, "top5": 1, "class_mean_accuracy": 0, "precision": 0, "recall": 0, "f1": 0, "kappa": 0}


def test_of_equal_logits_the_first_classes_count():
    logits = torch.tensor([[1.0, 1, 1, 0]] * 4)
    assert among_top(logits, torch.arange(4), 1).tolist() == [True, False, False, False]
    assert among_top(logits, torch.arange(4), 2).tolist() == [True, True, False, False]
    assert measured(TopK(2), logits, torch.arange(4)) == 0.5


def test_saturated_probabilities_keep_their_order():
    """In single precision both would be 1, and so equal."""
    logits = torch.tensor([[20.0, 0], [21, 0], [0, 5]])
    assert measured(AUROC(2), logits, torch.tensor([1, 0, 1])) == 1.0


def test_a_brier_score_goes_from_0_to_2():
    sure = torch.tensor([[100.0, 0], [100, 0]])
    assert measured(BrierScore(2), sure, torch.tensor([0, 0])) == pytest.approx(0)
    assert measured(BrierScore(2), sure, torch.tensor([1, 1])) == pytest.approx(2)


def _tested(metrics: dict[str, Metric], pixels: Tensor, targets: Tensor) -> dict[str, float]:
    network = TransferNetwork(nn.Flatten(), nn.Identity())
    module = TransferModule(network, pixels.shape[1], metrics=metrics)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [found] = trainer.test(
        module, DataLoader(TensorDataset(pixels[:, :, None, None], targets, targets), 2), verbose=False
    )
    return found


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    generator = torch.Generator().manual_seed(0)
    # The first batch would be taken for probabilities, and the others not.
    logits = torch.cat([torch.rand(2, 3, generator=generator), torch.randn(6, 3, generator=generator) * 3])
    targets = torch.arange(8) % 3
    found = _tested({"auroc": MulticlassAUROC(3)}, logits, targets)
    assert found["test/auroc"] == pytest.approx(auroc(logits, targets), abs=1e-6)


def test_metrics_that_agree_on_the_first_batch_stay_apart():
    metrics = {
        "all": MulticlassPrecision(3, average="micro"),
        "some": MulticlassPrecision(3, average="micro", ignore_index=2),
    }
    found = _tested(metrics, torch.eye(3)[[0, 1, 0, 0]], torch.tensor([0, 1, 2, 0]))
    assert found["test/all"] == 0.75
    assert found["test/some"] == 1.0


def test_train_measures_what_costs_next_to_nothing():
    module = TransferModule(TransferNetwork(nn.Flatten(), nn.Linear(4, 7)), 7, metrics=full(7))
    assert {*module.metrics["train/"].keys(keep_base=True)} == {"top1", "top5"}
    assert {*module.metrics["val/"].keys(keep_base=True)} == FORMULAS.keys()
    assert module.directions == {name: "min" if name == "brier" else "max" for name in FORMULAS}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "torchmetrics.classification.MulticlassConfusionMatrix"},
            r"one number, and not a tensor \[4, 4\]",
        ),
        ({"_target_": "torchmetrics.classification.BinaryAccuracy"}, "Unexpected keyword arguments: `num_classes`"),
        ({"_target_": "torchmetrics.classification.MulticlassNothing"}, "cannot be imported"),
        ({"_target_": "torch.nn.Linear"}, "cannot be a metric"),
        ({"_target_": "tlearn.training.metrics.shifted"}, "cannot be a metric"),
        ({"_target_": "tlearn.training.metrics.TopK", "k": "three"}, "metrics.x: tlearn.training.metrics.TopK"),
    ],
    ids=lambda value: value["_target_"].rpartition(".")[2] if isinstance(value, dict) else "",
)
def test_what_cannot_be_a_metric_is_refused_in_one_line(node, message):
    with pytest.raises(ConfigError, match=message) as caught:
        seats.metrics({"x": node}, 4)
    assert str(caught.value).startswith("metrics.x: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["loss", "ece_scaled", "step_loss", "a/b"])
def test_a_name_that_means_something_else_is_refused(name):
    with pytest.raises(ConfigError, match="choose another"):
        seats.metrics({name: {"_target_": "tlearn.training.metrics.AUROC"}}, 4)


def test_a_stored_metric_of_a_foreign_package_needs_trust():
    node = {"x": {"_target_": "tests.training.own_module.LastClass"}}
    assert seats.metrics(node, 3)["x"].num_classes == 3
    assert seats.metrics(node, 3, ["tests"]).keys() == {"x"}
    with pytest.raises(CheckpointError, match=r"trust=\[tests\]"):
        seats.metrics(node, 3, [])


def test_what_is_null_or_does_not_exist_is_left_out():
    nodes = compose(["metrics.top1=null"]).metrics
    assert seats.metrics(nodes, 5) == {}
    assert seats.metrics(nodes, 6).keys() == {"top5"}


OWN = "+metrics.last._target_=tests.training.own_module.LastClass"
HAMMING = "+metrics.hamming._target_=torchmetrics.classification.MulticlassHammingDistance"


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ([], "min"),
        (["monitor.metric=val/top1"], "max"),
        (["metrics=full", "monitor.metric=val/brier"], "min"),
        ([HAMMING, "monitor.metric=val/hamming"], "min"),
        ([OWN, "monitor.metric=val/last", "monitor.mode=max"], "max"),
        ([OWN, "monitor.metric=val/last", "monitor.mode=min"], "min"),
    ],
)
def test_the_metric_itself_says_which_end_is_best(arguments, mode):
    config = compose([*arguments, "scheduler=plateau"])
    settings = settled(config, IMAGENET)
    callbacks = settings["callbacks"]
    assert callbacks["checkpoint"]["mode"] == callbacks["early_stopping"]["mode"] == mode
    assert settings["scheduler"]["build"]["mode"] == mode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["monitor.metric=val/top1", "monitor.mode=min"], "val/top1 is best at its maximum, so max"),
        ([HAMMING, "monitor.metric=val/hamming", "monitor.mode=max"], "val/hamming is best at its minimum, so min"),
        ([OWN, "monitor.metric=val/last"], "give monitor.mode=min or max"),
    ],
)
def test_a_wrong_end_is_refused_and_one_that_nobody_knows_is_asked_for(arguments, message):
    with pytest.raises(ConfigError, match=message):
        settled(compose(arguments), IMAGENET)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return runs.write_weights(tmp_path / "weights.pth")


def test_the_metrics_of_a_run_choose_its_epoch_and_are_measured_again_by_trust(tmp_path, folder_data, weights):
    chosen = (OWN, HAMMING, "monitor.metric=val/last", "monitor.mode=min", "~metrics.top1", "trainer.max_epochs=3")
    run = tmp_path / "run"
    trained = runs.run(run, folder_data, weights, *chosen, "report=default")
    assert trained.keys() >= {"val/last", "test/last", "val/hamming", "test/hamming"}
    assert not {"val/top1", "test/top1"} & trained.keys()
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3
    description = json.loads((run / "model" / "model.json").read_text())
    assert description["directions"] == {"last": "min", "hamming": "min"}
    with (run / "report" / "splits.csv").open() as file:
        assert {"last", "hamming"} <= set(file.readline().strip().split(","))

    def evaluated(*more: str) -> tuple[int, str, set[str]]:
        place = tmp_path / "again"
        shutil.rmtree(place, ignore_errors=True)
        done = runs.program(
            "evaluate", f"run={run}", "report.write=false", f"hydra.run.dir={place}", *more, cwd=tmp_path
        )
        found = json.loads((place / "metrics.json").read_text()) if done.returncode == 0 else {}
        for name in found.keys() & trained.keys():
            assert found[name] == pytest.approx(trained[name], abs=1e-5), name
        return done.returncode, done.stderr, set(found)

    status, message, _ = evaluated()
    assert status == 4
    assert "trust=[tests]" in message
    assert evaluated("trust=[tests]")[2] >= {"test/last", "test/hamming", "test/loss"}
    assert evaluated("metrics=default")[2] & {"test/last", "test/hamming", "test/top1"} == {"test/top1"}


def test_a_monitored_metric_that_does_not_exist_for_the_images_of_val_stops_the_run(tmp_path, folder_data, weights):
    for folder in sorted((folder_data / "val").iterdir())[1:]:
        shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="val/auroc is nan for the images of val"):
        runs.run(tmp_path / "run", folder_data, weights, "metrics=full", "monitor.metric=val/auroc")
