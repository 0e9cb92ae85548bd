"""Features on one scale, and probabilities of images by classifiers that did not see them."""

import pytest
import torch
from torch import Tensor, nn

from tlearn.analysis import linear_probe
from tlearn.analysis.linear_probe import Standardisation, held_out


def clusters(counts: list[int], width: int = 30, apart: float = 2.0) -> tuple[Tensor, Tensor]:
    """Draw features of which those of a class lie round a place of its own."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = apart * torch.randn(len(counts), width, generator=generator)
    return (centres[targets] + torch.randn(len(targets), width, generator=generator)).relu(), targets


def test_standardised_features_have_mean_0_and_deviation_1_but_for_those_that_do_not_vary():
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 4, 6) + 5
    # The first of the two is constant, the second but for rounding
    features[:, 2], features[:, 5] = 0.1, 3 + 3e-10 * features[:, 4]
    assert len(features[:, 5].unique()) > 2
    standardised = Standardisation.of([features])(features)
    assert standardised.mean(0).abs().max() < 1e-3
    deviations = standardised.std(0, correction=0)
    assert deviations[[0, 1, 3, 4]].tolist() == pytest.approx([1] * 4, rel=1e-3)
    assert standardised[:, 2].abs().max() < 1e-6
    assert standardised[:, 5].abs().max() < 2e-6


def test_statistics_of_blocks_are_those_of_all_features(monkeypatch):
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + torch.tensor([0, 1, 1e3, 1e5, 0, 0])
    # Constant, also one that binary numbers cannot hold
    features[:, 4], features[:, 5] = 0.1, 7
    exact = features.double()
    for rows in (1024, 7):
        monkeypatch.setattr(linear_probe, "_ROWS", rows)
        found = Standardisation.of(features.split([1, 30, 19]))
        torch.testing.assert_close(found.mean.double(), exact.mean(0), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found.deviation.double(), exact.std(0, correction=0), rtol=1e-5, atol=0)
        assert found.deviation[4:].tolist() == [0, 0]


def test_an_adapted_layer_computes_the_same_logits_from_standardised_features():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 5, generator=generator) * torch.tensor([0.1, 1, 10, 1, 0]) + 3
    layer, standardise = nn.Linear(5, 3), Standardisation.of([features])
    expected = layer(features).detach()
    standardise.adapt(layer)
    assert not torch.allclose(layer(features), expected, atol=0.1)
    torch.testing.assert_close(layer(standardise(features)), expected, atol=1e-5, rtol=1e-5)
    standardise.revert(layer)
    torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=1e-5)


def test_probabilities_are_of_classifiers_that_did_not_see_the_picture():
    # Features that say nothing but who a picture is: whoever has seen it knows its class.
    features, targets = torch.eye(60), torch.arange(60) % 2
    probabilities = held_out(features, targets, 2)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * 60, abs=1e-5)
    assert probabilities.gather(1, targets[:, None]).mean() <= 0.5 + 1e-4
    features, targets = clusters([40, 40, 40])
    assert (held_out(features, targets, 3).argmax(1) == targets).float().mean() > 0.95


def test_every_fold_has_its_part_of_each_class():
    # With both pictures of a class in one fold, the other would know nothing of it.
    features, targets = clusters([2] * 8, apart=6)
    for seed in range(5):
        assert (held_out(features, targets, 8, folds=2, seed=seed).argmax(1) == targets).all()


def test_the_same_seed_gives_the_same_and_no_other_generator_is_touched():
    features, targets = clusters([20, 30], apart=0.3)
    before = torch.get_rng_state()
    first = held_out(features, targets, 2)
    torch.manual_seed(5)
    assert torch.equal(held_out(features, targets, 2), first)
    assert not torch.equal(held_out(features, targets, 2, seed=1), first)
    torch.set_rng_state(before)
    held_out(features, targets, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_scale_nor_place_of_features_matters():
    features, targets = clusters([30, 30, 5])
    expected = held_out(features, targets, 3)
    scales = torch.logspace(-4, 4, features.shape[1])
    torch.testing.assert_close(held_out(features * scales + scales, targets, 3), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("targets", "classes"),
    [([0], 2), ([0, 1], 2), ([0, 0, 0], 2), ([0, 0, 1, 1, 2], 3), ([0, 1, 2, 3, 4, 5, 6], 8)],
)
def test_few_images_and_classes_without_any_are_no_error(targets, classes):
    features = torch.randn(len(targets), 6, generator=torch.Generator().manual_seed(0))
    probabilities = held_out(features, torch.tensor(targets), classes)
    assert probabilities.shape == (len(targets), classes)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * len(targets), abs=1e-5)


def test_features_without_differences_are_no_error():
    assert held_out(torch.ones(10, 4), torch.arange(10) % 2, 2).sub(0.5).abs().max() < 0.2


@torch.inference_mode()
def test_it_can_be_called_in_inference_mode():
    features, targets = clusters([10, 10])
    assert (held_out(features, targets, 2).argmax(1) == targets).all()
