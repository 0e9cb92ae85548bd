"""A head on a frozen body starts near its best, whatever the scale of the features, and is plain in the end."""

import math
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from tests import small_runs as runs
from tlearn.analysis.linear_probe import Standardisation, lbfgs, minimise
from tlearn.models.network import TransferNetwork
from tlearn.training import prepare_head
from tlearn.training.module import TransferModule
from tlearn.training.prepare_head import StandardisedLinear


def problem(count: int = 120, classes: int = 3, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % classes
    centres = 0.7 * torch.randn(classes, width, generator=generator)
    return centres[targets] + torch.randn(count, width, generator=generator) + 1, targets


Images = tuple[torch.Tensor, torch.Tensor]


def prepared(
    features: torch.Tensor, targets: torch.Tensor, weight_decays: Sequence[float] = (200.0,), val: Images | None = None
) -> tuple[StandardisedLinear, float]:
    """Fit a layer, and return it with the weight decay that `val` chooses."""
    classes = max(3, int(targets.max()) + 1)
    layer = StandardisedLinear(nn.Linear(features.shape[1], classes))
    layer.adapt(features)
    module = TransferModule(TransferNetwork(nn.Identity(), layer), classes)
    fit = prepare_head._Fit(layer, module.loss, lambda parts: parts)
    return layer, fit.start((features, targets), val or (features, targets), weight_decays)


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_loss_whose_own_tensors_are_in_single_precision_starts_a_head_all_the_same(kind):
    class Weighted(nn.Module):
        weight = torch.tensor([1.0, 2.0, 3.0])

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(logits, targets, weight=self.weight)

    images, exact = problem(), nn.CrossEntropyLoss(weight=Weighted.weight)
    layers = [StandardisedLinear(nn.Linear(40, 3)) for _ in range(2)]
    loss = Weighted() if kind == "module" else Weighted().forward
    for layer, one in zip(layers, (loss, exact), strict=True):
        prepare_head.prepare(layer, one, images, images, [200.0])
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=1e-2, atol=1e-3)


class _OnApple(torch.Tensor):
    """A tensor that takes itself for one on a GPU of Apple's, which has no double precision."""

    device = torch.device("mps")  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to and torch.double in args[1:]:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return super().__torch_function__(function, types, args, kwargs)

    def __deepcopy__(self, memo):
        return self.clone()


def test_a_head_on_a_gpu_without_double_precision_is_fitted_on_the_cpu():
    images, layers = problem(), [StandardisedLinear(nn.Linear(40, 3)) for _ in range(2)]
    layers[1].weight = nn.Parameter(layers[1].weight.detach().as_subclass(_OnApple))
    for layer, kind in zip(layers, (torch.Tensor, _OnApple), strict=True):
        loss, features = nn.CrossEntropyLoss(torch.ones(3).as_subclass(kind)), images[0].as_subclass(kind)
        prepare_head.prepare(layer, loss, (features, images[1]), (features, images[1]), [200.0, 50.0])
    assert torch.equal(layers[0].weight, layers[1].weight.as_subclass(torch.Tensor))


SCALES = {
    "larger": lambda features: features * 100,
    "smaller": lambda features: features / 100,
    "one dominating": lambda features: features * torch.tensor([1e4] + [1.0] * (features.shape[1] - 1)),
}


@pytest.mark.parametrize("kind", SCALES)
def test_logits_do_not_depend_on_the_scale_of_features(kind):
    features, targets = problem()
    scaled = SCALES[kind](features)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(prepared(scaled, targets)[0](scaled), prepared(features, targets)[0](features), **close)


def test_the_first_weights_are_the_regularised_optimum():
    features, targets = problem()
    standardised = Standardisation.of([features])(features)
    layer, best = prepared(features, targets)[0].folded(), nn.Linear(40, 3)
    strength = 200 / (120 * 3)

    def objective(logits: torch.Tensor, weight: torch.Tensor, weight_decay: float = strength) -> float:
        return float(functional.cross_entropy(logits, targets) + weight_decay / 2 * weight.square().sum())

    optimizer = lbfgs(best.parameters(), 500, 1e-7)
    minimise(optimizer, lambda: functional.cross_entropy(best(standardised), targets), best.weight, strength)
    lowest = objective(best(standardised), best.weight)
    found = objective(layer(features), layer.weight * features.std(0, correction=0))
    assert abs(found - lowest) < 1e-3
    # which is not that of another strength
    assert abs(found - objective(best(standardised), best.weight, strength / 2)) > 0.01


def test_val_chooses_the_weight_decay():
    features, targets = problem()
    features = features + 3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    train, weight_decays = (features[:60], targets[:60]), (500.0, 50.0, 5.0, 0.5)
    found = []
    for val in (train, (features[60:], targets[60:])):
        losses = {
            one: float(functional.cross_entropy(prepared(*train, [one])[0](val[0]), val[1])) for one in weight_decays
        }
        layer, chosen = prepared(*train, weight_decays, val)
        assert chosen == min(losses, key=losses.__getitem__)
        assert float(functional.cross_entropy(layer(val[0]), val[1])) == pytest.approx(losses[chosen], rel=0.05)
        found.append(chosen)
    assert found[1] > found[0], "other images ask for more weight decay than those of the fit"


def test_the_search_goes_up_where_weak_decays_are_worse_than_chance():
    generator = torch.Generator().manual_seed(0)
    # A few images for each of many classes, in many features
    features, targets = torch.randn(90, 200, generator=generator), torch.arange(90) % 30
    features += 0.1 * torch.randn(30, 200, generator=generator)[targets]
    val, chance = (features[60:], targets[60:]), math.log(30)
    layer, chosen = prepared(features[:60], targets[:60], (1.0, 0.1), val)
    assert chosen in {10.0**power for power in range(1, 7)}
    assert functional.cross_entropy(layer(val[0]), val[1]) < chance
    weak, _ = prepared(features[:60], targets[:60], (1.0,))
    assert functional.cross_entropy(weak(val[0]), val[1]) > chance


def test_features_that_hardly_vary_are_not_enlarged_to_noise():
    features = torch.randn(50, 4)
    features[:, 0] = 0
    features[:, 1] = 7 + 1e-6 * features[:, 1]
    layer = StandardisedLinear(nn.Linear(4, 2))
    layer.adapt(features)
    lengths = layer.standardised(features).square().mean(0).sqrt()
    assert lengths[:2].max() < 1e-3
    assert lengths[2:].min() > 0.7


def test_the_folded_layer_computes_the_same():
    features, targets = problem()
    layer, _ = prepared(features, targets)
    torch.testing.assert_close(layer.folded()(features), layer(features), rtol=1e-5, atol=1e-5)


def test_a_run_says_so_and_leaves_a_plain_model(tmp_path, folder_data, capsys):
    weights = runs.write_weights(tmp_path / "weights.pth")
    for head, keys in (("linear", {"head.weight", "head.bias"}), ("mlp", {"head.0.weight", "head.0.bias"})):
        runs.run(tmp_path / head, folder_data, weights, f"head={head}")
        out = capsys.readouterr().out
        assert "head: features standardised by 24 training images" in out
        assert ("first weights fitted to them with weight decay" in out) == (head == "linear")
        saved = {key for key in load_file(tmp_path / head / "model" / "model.safetensors") if key.startswith("head.")}
        assert keys <= saved
        assert not [key for key in saved if key.endswith(("shift", "scale"))]


def test_the_layers_of_a_sequence_may_have_names():
    head = nn.Sequential()
    head.add_module("first", nn.Linear(4, 8))
    head.add_module("last", nn.Linear(8, 3))
    network, features = TransferNetwork(nn.Identity(), head), torch.rand(5, 4)
    expected = head(features)
    prepare_head.standardise(network)
    assert [type(layer) for layer in head] == [StandardisedLinear, nn.Linear]
    torch.testing.assert_close(head(features), expected)
    prepare_head.fold(network)
    assert [(name, type(layer)) for name, layer in head.named_children()] == [
        ("first", nn.Linear),
        ("last", nn.Linear),
    ]


def test_a_layer_whose_weight_is_computed_stays_as_it_is():
    layer = torch.nn.utils.spectral_norm(nn.Linear(4, 3))
    network = TransferNetwork(nn.Identity(), layer)
    prepare_head.standardise(network)
    assert network.head is layer


@pytest.mark.parametrize("more", ["callbacks.prepare_head=null", "finetune=full", "module=full_batch"])
def test_other_runs_are_as_without(tmp_path, folder_data, capsys, more):
    runs.run(tmp_path / "run", folder_data, runs.write_weights(tmp_path / "weights.pth"), more)
    assert "standardised" not in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_that_persist_take_no_batch_from_the_first_epoch(tmp_path, folder_data, workers):
    weights = runs.write_weights(tmp_path / "weights.pth")
    more = ("trainer.max_epochs=2", f"data.num_workers={workers}")
    cached = runs.run(tmp_path / "cached", folder_data, weights, *more)
    images = runs.run(tmp_path / "images", folder_data, weights, *more, "features=off")
    assert images["val/loss"] == pytest.approx(cached["val/loss"], abs=1e-5)
