"""Which end of a metric is best."""

import pytest

from tlearn.analysis.direction import direction, further_metrics, lower_is_better


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("val/top1", False),
        ("val/loss", True),
        ("test/ece", True),
        ("time/fit_s", True),
        ("params/trainable", True),
        ("test/loss_scaled", True),
        ("val/ece_scaled", True),
        ("test/tta/loss_change", True),
        ("test/tta/top1", False),
        ("val/brier", True),
    ],
)
def test_losses_errors_and_costs_are_best_at_their_lowest(metric, lower):
    assert lower_is_better(metric) is lower


@pytest.mark.parametrize(
    ("metric", "mode", "found"),
    [
        ("val/loss", "auto", "min"),
        ("val/top1", "auto", "max"),
        ("val/loss", "max", "max"),
        ("val/top1", "min", "min"),
    ],
)
def test_a_direction_that_was_chosen_counts_and_auto_follows_the_metric(metric, mode, found):
    assert direction(metric, mode) == found


def test_further_metrics_of_a_split_are_those_that_not_every_run_has():
    metrics = {
        "val/f1": 0.5,
        "test/f1": 0.6,
        "test/top1": 0.7,
        "test/loss_scaled": 1.0,
        "test/tta/f1": 0.8,
        "time/f1": 1,
    }
    assert further_metrics(metrics, "test") == {"f1": 0.6}
