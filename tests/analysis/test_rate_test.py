"""The range test's choice: where the loss falls fastest per decade, and none where it does not fall."""

import numpy as np
import pytest

from tlearn.analysis.rate_test import rate_figure, smoothed, steepest_rate

RATES = list(np.logspace(-6, 1, 100))


def _losses(middle: float, end: float) -> list[float]:
    """Return losses that fall by a sigmoid around a rate and explode after another."""
    decades = np.log10(RATES)
    fall = 2 - 1.5 / (1 + np.exp(-4 * (decades - np.log10(middle))))
    return list(fall + 10 * np.maximum(0, decades - np.log10(end)))


@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
def test_the_rate_is_where_the_loss_falls_fastest_per_decade(middle):
    rate = steepest_rate(RATES, _losses(middle, 1))
    # Smoothing comes some steps late: 14 steps are a decade.
    assert middle <= rate <= 6 * middle
    assert rate == float(f"{rate:.1e}")


def test_noise_at_the_smallest_rates_does_not_count():
    noise = np.random.default_rng(0).normal(0, 0.03, 100)
    assert 1e-3 <= steepest_rate(RATES, list(_losses(1e-3, 1) + noise)) <= 1e-2


def test_a_loss_that_only_rises_gives_no_rate():
    assert steepest_rate(RATES, list(np.linspace(1, 5, 100))) is None
    assert steepest_rate(RATES[:3], [1.0, 2.0, 3.0]) is None


def test_smoothing_starts_at_the_first_loss():
    assert smoothed([2.0, 2.0, 5.0])[:2] == pytest.approx([2, 2])


def test_the_figure_marks_the_chosen_rate_and_is_not_pressed_flat():
    axes = rate_figure(RATES, [*_losses(1e-3, 1)[:-1], 1e9], 1e-3).axes[0]
    assert axes.get_ylim()[1] < 10
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label().startswith("chosen")] == [1e-3]
