"""How far confidences can be believed, and the temperature that mends them."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from tlearn.analysis.calibration import (
    calibration_error,
    choose_temperature,
    fit_temperature,
    reliability,
    reliability_figure,
)
from tlearn.analysis.outputs import Outputs


def drawn_from(logits: Tensor, seed: int = 0) -> Tensor:
    """Draw targets of which the logits are the true probabilities."""
    return torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def outputs(logits: Tensor, targets: Tensor) -> Outputs:
    classes = [str(number) for number in range(logits.shape[1])]
    return Outputs("val", classes, Path(), [""] * len(logits), targets, logits)


def objective(logits: Tensor, targets: Tensor, temperature: float) -> float:
    loss = F.cross_entropy(logits.double() / temperature, targets, reduction="sum")
    return float(loss) + math.log(temperature) ** 2 / 2


def test_bins_hold_the_pictures_of_their_confidences():
    confidences = torch.tensor([0.52, 0.55, 0.58, 0.95, 1.0])
    made = outputs(torch.stack([confidences, 1 - confidences], 1).log(), torch.tensor([0, 1, 0, 0, 1]))
    table = reliability(made, bins=10)
    assert [(row["low"], row["high"]) for row in table] == [(at / 10, (at + 1) / 10) for at in range(10)]
    assert [row["pictures"] for row in table] == [0, 0, 0, 0, 0, 3, 0, 0, 0, 2]
    assert table[5]["confidence"] == pytest.approx(0.55)
    assert table[5]["accuracy"] == pytest.approx(2 / 3)
    assert table[9]["accuracy"] == 0.5
    assert table[0]["confidence"] is table[0]["accuracy"] is None
    assert calibration_error(table) == pytest.approx(3 / 5 * (2 / 3 - 0.55) + 2 / 5 * (0.975 - 0.5), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_the_error_is_that_of_torchmetrics(classes):
    logits = 2 * normal(700, classes)
    targets = drawn_from(logits / 3)
    metric = MulticlassCalibrationError(classes, n_bins=15, norm="l1")
    expected = float(metric(logits.softmax(1), targets))
    assert calibration_error(reliability(outputs(logits, targets))) == pytest.approx(expected, abs=1e-6)


def test_no_picture_has_no_error():
    assert calibration_error(reliability(outputs(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)))) == 0


@pytest.mark.parametrize("scale", [1e-4, 0.05, 1.0, 7.0, 1e5])
@pytest.mark.parametrize("classes", [2, 50])
def test_the_temperature_is_the_one_by_which_true_logits_were_multiplied(scale, classes):
    # Of many classes each picture tells more.
    logits = normal(40_000 // classes + 4_000, classes) * 2
    found = fit_temperature(logits * scale, drawn_from(logits))
    assert found == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize("factor", [0.01, 3.0, 200.0])
def test_multiplied_logits_have_a_multiplied_temperature(factor):
    logits = normal(20_000, 5)
    targets = drawn_from(logits / 2)
    assert fit_temperature(logits * factor, targets) == pytest.approx(
        factor * fit_temperature(logits, targets), rel=5e-3
    )


SETS = {
    "all right and sure": (torch.tensor([[30.0, 0.0]]).repeat(50, 1), torch.zeros(50, dtype=torch.long)),
    "all right and unsure": (torch.tensor([[0.5, 0.0]]).repeat(50, 1), torch.zeros(50, dtype=torch.long)),
    "all right and hardly at all": (torch.tensor([[0.01, 0.0]]).repeat(30, 1), torch.zeros(30, dtype=torch.long)),
    "two minima": (
        torch.tensor([[1.0, 0.0]] * 20 + [[0.001, 0.0]] * 100),
        torch.zeros(120, dtype=torch.long),
    ),
    "all wrong": (torch.tensor([[9.0, 0.0]]).repeat(50, 1), torch.ones(50, dtype=torch.long)),
    "one right": (torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])),
    "one wrong": (torch.tensor([[200.0, 0.0, -1.0]]), torch.tensor([1])),
    "three": (3 * normal(3, 4), torch.tensor([0, 1, 2])),
    "chance": (5 * normal(300, 2), torch.randint(2, (300,), generator=torch.Generator().manual_seed(3))),
    "largest": (3e38 * torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]]), torch.tensor([0, 1, 0])),
    "huge": (1e6 * normal(300, 4), torch.randint(4, (300,), generator=torch.Generator().manual_seed(3))),
}


@pytest.mark.parametrize("name", SETS)
def test_no_other_temperature_is_better(name):
    logits, targets = SETS[name]
    found = fit_temperature(logits, targets)
    assert 0 < found < math.inf
    assert fit_temperature(logits, targets) == found
    best = objective(logits, targets, found)
    assert best <= objective(logits, targets, 1.0) + 1e-12
    for step in range(-400, 400):
        assert best <= objective(logits, targets, math.exp(step / 20)) + 1e-6
    # Where it is flat, only the prior is left.
    for near in (0.999, 1.001):
        assert best <= objective(logits, targets, found * near) + 1e-9 * abs(best)


def test_where_nothing_can_be_learned_the_temperature_is_one():
    targets = torch.tensor([0, 1, 1, 0])
    assert fit_temperature(torch.zeros(4, 3), targets) == 1
    assert fit_temperature(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long)) == 1
    assert fit_temperature(torch.full((4, 3), math.nan), targets) == 1
    assert fit_temperature(torch.tensor([[0.0, -math.inf]] * 4), targets) == 1


def test_chunks_change_nothing(monkeypatch):
    logits = 3 * normal(100, 7)
    targets = drawn_from(logits / 4)
    whole = fit_temperature(logits, targets)
    monkeypatch.setattr("tlearn.analysis.calibration._CHUNK", 7 * 9)
    assert fit_temperature(logits, targets) == pytest.approx(whole, rel=1e-6)


def test_scaling_brings_accuracy_and_confidence_together():
    logits = normal(3000, 4)
    made = outputs(4 * logits, drawn_from(logits))
    scaled = made.scaled(fit_temperature(made.logits, made.targets))
    assert calibration_error(reliability(made)) > 0.2
    assert calibration_error(reliability(scaled)) < 0.03


def test_the_figure_has_accuracies_shares_and_both_errors():
    logits = normal(500, 3)
    made = outputs(4 * logits, drawn_from(logits))
    before, after = reliability(made), reliability(made.scaled(4.0))
    figure = reliability_figure(before, after)
    figure.draw_without_rendering()
    top, below = figure.axes
    legend = [text.get_text() for text in top.get_legend().get_texts()]
    for table, line in zip((before, after), legend[1:], strict=True):
        assert f"ECE {calibration_error(table):.3f}" in line
    filled = [row for row in before if row["pictures"]]
    assert top.lines[1].get_ydata().tolist() == [row["accuracy"] for row in filled]
    assert top.lines[1].get_xdata().tolist() == [row["confidence"] for row in filled]
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(2)
    assert len(reliability_figure(before).axes[0].lines) == 2


def test_a_temperature_is_kept_only_where_the_pictures_tell_it_from_one():
    logits = normal(4000, 5) * 2
    targets = drawn_from(logits)
    # The right probabilities: what the fit finds is chance.
    assert fit_temperature(logits, targets) != 1.0
    assert choose_temperature(logits, targets) == 1.0
    assert choose_temperature(logits * 3, targets) == fit_temperature(logits * 3, targets) == pytest.approx(3, abs=0.2)
    # The same of a handful of pictures says little.
    assert choose_temperature(logits[:6] * 1.5, targets[:6]) == 1.0
    assert choose_temperature(torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.long)) == 1.0
