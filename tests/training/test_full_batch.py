"""A head fitted on all features at once is the optimum of its objective, for each weight decay and for the refit."""

import copy
import json
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from tests import small_runs as runs
from tlearn.analysis.linear_probe import Standardisation, lbfgs, minimise
from tlearn.data.split import TEST_AS_VAL
from tlearn.errors import ConfigError
from tlearn.models.graph.divide import FrozenPart
from tlearn.models.losses import FunctionLoss
from tlearn.models.network import TransferNetwork
from tlearn.training import feature_blocks
from tlearn.training.feature_blocks import BlockLoss, FeatureBlocks
from tlearn.training.full_batch import LBFGS, FullBatchModule

DECAYS = [1.0, 0.1, 0.001]


def problem(count: int = 120, classes: int = 3, width: int = 6) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    # Scales from 1 to 1000, an offset, and a constant feature, as bodies have them
    features = (centres[targets] + torch.randn(count, width, generator=generator)) * 10.0 ** torch.linspace(0, 3, width)
    features = torch.cat([features + 5, torch.full((count, 1), 7.0)], 1)
    return TensorDataset(features, targets, torch.arange(count))


def fitted(decays: list[float], loss: nn.Module | None = None, epochs: int = 10) -> tuple[FullBatchModule, list[dict]]:
    data = problem()
    # L-BFGS ends elsewhere within its tolerance from another start.
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    network = TransferNetwork(body, nn.Linear(7, 3))
    network.start_after(FrozenPart(body, None, "body", (7,)))
    module = FullBatchModule(network, 3, loss, weight_decays=decays)
    history: list[dict] = []
    kept = module.on_validation_epoch_end

    def keep() -> None:
        kept()
        head = network.head
        history.append({"weight": head.weight.detach().clone(), "bias": head.bias.detach().clone()})

    module.on_validation_epoch_end = keep
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, len(data)), DataLoader(data, 32))
    for number, entry in enumerate(history):
        entry["epoch"] = number
    history.append({"figures": {name: float(value) for name, value in trainer.callback_metrics.items()}})
    return module, history


def gradient(entry: dict, weight_decay: float, smoothing: float = 0.0, data: TensorDataset | None = None) -> float:
    """Give the largest gradient of the objective, which knows nothing of how it was minimised."""
    features, targets, _ = (data or problem()).tensors
    mean, scale = features.double().mean(0), features.double().std(0, correction=0)
    scale = scale.where(scale > 0, 1.0)
    weight = (entry["weight"].double() * scale).requires_grad_()
    bias = (entry["bias"].double() + entry["weight"].double() @ mean).requires_grad_()
    logits = F.linear((features.double() - mean) / scale, weight, bias)
    objective = F.cross_entropy(logits, targets, label_smoothing=smoothing) + weight_decay / 2 * weight.square().sum()
    objective.backward()
    return max(weight.grad.abs().max().item(), bias.grad.abs().max().item())


def test_each_epoch_is_the_optimum_of_its_weight_decay():
    _, (*epochs, _) = fitted(DECAYS)
    assert len(epochs) == len(DECAYS)
    for entry, weight_decay in zip(epochs, DECAYS, strict=True):
        assert gradient(entry, weight_decay) < 1e-4
    # and of that one alone
    assert gradient(epochs[0], DECAYS[2]) > 1e-3


def minimised(make: Callable) -> tuple[torch.Tensor, int]:
    """Fit weight decays one after another; return the last weight, and how often the loss was evaluated."""
    generator, targets = torch.Generator().manual_seed(0), torch.arange(500) % 50
    centres = torch.randn(50, 600, generator=generator)
    features = torch.relu(0.2 * centres[targets] + torch.randn(500, 600, generator=generator))
    features = Standardisation.of([features])(features)
    weight, evaluated = torch.zeros(50, 600, requires_grad=True), []
    optimizer = make([weight], 200, 1e-5)

    def loss() -> torch.Tensor:
        evaluated.append(1)
        return F.cross_entropy(features @ weight.T, targets)

    for weight_decay in DECAYS[:2]:
        optimizer.state.clear()
        minimise(optimizer, loss, weight, weight_decay)
    assert optimizer.param_groups[0]["max_iter"] == 200
    return weight.detach(), len(evaluated)


def test_a_fit_of_many_parameters_evaluates_less_than_torchs_and_comes_to_the_same_end():
    (ours, evaluations), (theirs, usual) = minimised(partial(LBFGS, history_size=10)), minimised(lbfgs)
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert evaluations <= 0.8 * usual


def test_the_objective_is_the_runs_own():
    _, (*epochs, _) = fitted([0.01], nn.CrossEntropyLoss(label_smoothing=0.2))
    assert gradient(epochs[0], 0.01, smoothing=0.2) < 1e-4
    assert gradient(epochs[0], 0.01) > 1e-3


def test_train_figures_are_those_of_the_fitted_head():
    module, (*epochs, last) = fitted(DECAYS)
    features, targets, _ = problem().tensors
    logits = F.linear(features, epochs[-1]["weight"], epochs[-1]["bias"])
    figures = last["figures"]
    assert figures["train/loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-4)
    assert figures["train/top1"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert figures["val/loss"] == pytest.approx(figures["train/loss"], rel=1e-4)
    assert figures["weight_decay"] == pytest.approx(DECAYS[-1])
    assert module.describe_epoch(1) == {"weight_decay": 0.1}


def test_fewer_epochs_fit_fewer_weight_decays_and_say_so(capsys):
    _, (*epochs, _) = fitted(DECAYS, epochs=2)
    assert len(epochs) == 2
    assert "only the first 2 of 3 weight decays" in capsys.readouterr().out
    fitted(DECAYS, epochs=3)
    assert "only the first" not in capsys.readouterr().out


def test_every_epoch_counts_as_a_step():
    module, _ = fitted(DECAYS)
    assert module.trainer.global_step == len(DECAYS)


def test_only_a_linear_head_on_a_frozen_body_is_fitted():
    body = nn.Sequential(nn.Linear(4, 4))
    for head, stages, later in (
        (nn.Sequential(nn.Linear(4, 2)), (), ()),
        (nn.Linear(4, 2), "all", ()),
        (nn.Linear(4, 2), (), "0"),
    ):
        with pytest.raises(ConfigError, match="choose head=linear and finetune=frozen"):
            FullBatchModule(TransferNetwork(body, head, stages), 2, weight_decays=[1.0], later_stages=later)


class Rows(TensorDataset):
    """Features as the store of a run hands them out: for indices and a view."""

    def __getitem__(self, choice):
        return super().__getitem__(slice(None) if choice[0] is None else choice[0])


def splits(*notes: str) -> SimpleNamespace:
    """Give 120 images of train and 30 others of val."""
    features, targets, indices = problem(150).tensors
    parts = {"train": slice(0, 120), "val": slice(120, 150)}
    datasets = {split: Rows(features[part], targets[part], indices[part]) for split, part in parts.items()}
    return SimpleNamespace(datasets=datasets, image_set=SimpleNamespace(notes=notes))


def test_the_refit_is_the_optimum_on_train_and_val_with_the_weight_decay_of_the_sum():
    module, _ = fitted(DECAYS)
    assert module.finish(splits(), 1) == {"weight_decay_refit": pytest.approx(0.1 * 120 / 150)}
    head, both = module.network.head, problem(150)
    entry = {"weight": head.weight.detach(), "bias": head.bias.detach()}
    assert gradient(entry, 0.1 * 120 / 150, data=both) < 1e-4
    assert gradient(entry, 0.1, data=both) > 1e-3
    assert module.trained_on == "train+val"


class Living(TorchDispatchMode):
    """Measures the most bytes that large tensors take at a time."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.now, self.most = least, 0, 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage.nbytes() >= self.least and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def test_the_refit_holds_all_features_once_and_a_block(monkeypatch):
    module, _ = fitted(DECAYS)
    monkeypatch.setattr(feature_blocks, "_CPU_BLOCK", 10 * 10 * 4)
    data = splits()
    features = torch.cat([data.datasets[split].tensors[0] for split in ("train", "val")])
    with Living(features.nbytes // 2) as living:
        module.finish(data, 1)
    assert living.most <= 2.0 * features.nbytes


class OnDisk:
    """Features that are read by slicing, and count how much of them was read."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features, self.shape, self.read = features, features.shape, 0

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, part: slice) -> torch.Tensor:
        self.read += len(self.features[part])
        return self.features[part].clone()


@pytest.fixture
def blocks_of_ten(monkeypatch):
    """Let blocks have ten of the images with seven features, and keep none in memory."""
    monkeypatch.setattr(feature_blocks, "_CPU_BLOCK", 10 * 10 * 4)
    monkeypatch.setattr(feature_blocks, "_KEPT_BYTES", 0)


LOSSES = {
    "plain": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(torch.tensor([0.5, 3.0, 1.0]), label_smoothing=0.1),
    "a class that does not count": nn.CrossEntropyLoss(torch.tensor([0.5, 3.0, 0.0])),
    "divided by images": nn.MultiMarginLoss(weight=torch.tensor([0.5, 3.0, 1.0])),
    "a function": FunctionLoss(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("by_class", [False, True])
def test_loss_and_gradient_of_blocks_are_those_of_all_images_at_once(blocks_of_ten, loss, by_class):
    features, targets, _ = problem().tensors
    if by_class:
        order = targets.argsort()
        features, targets = features[order], targets[order]
    layer, rows = nn.Linear(7, 3), OnDisk(features + 1e4)
    blocks = FeatureBlocks([(rows, targets)], layer.weight)
    found = BlockLoss(blocks, loss, layer)()
    gradients = torch.autograd.grad(found, tuple(layer.parameters()))
    exact = rows.features.double()
    scale = exact.std(0, correction=0)
    inputs = (exact - exact.mean(0)) / scale.where(scale > 0, 1.0)
    weight, bias = (one.detach().double().requires_grad_() for one in layer.parameters())
    expected = copy.deepcopy(loss).double()(F.linear(inputs, weight, bias), targets)
    assert len(found_blocks := list(blocks)) == 12
    assert all(len(part) == 10 for _, part in found_blocks)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for one, other in zip(gradients, torch.autograd.grad(expected, (weight, bias)), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_blocks_are_read_anew_each_time_unless_all_fit(monkeypatch):
    features, targets, _ = problem().tensors
    for kept in (0, features.nbytes + 3 * 4 * len(features)):
        monkeypatch.setattr(feature_blocks, "_KEPT_BYTES", kept)
        blocks = FeatureBlocks([(rows := OnDisk(features), targets)], torch.zeros(3, 7))
        first, read = [part for part, _ in blocks], rows.read
        assert all(map(torch.equal, first, (part for part, _ in blocks)))
        assert rows.read == read + (0 if kept else len(features))


def test_statistics_are_computed_once_for_all_weight_decays(monkeypatch):
    made, first = [], FeatureBlocks.__init__

    def counting(self: FeatureBlocks, *arguments: object) -> None:
        made.append(self)
        first(self, *arguments)

    monkeypatch.setattr(FeatureBlocks, "__init__", counting)
    module, _ = fitted(DECAYS)
    assert len(made) == 1
    assert module._objective is None


def test_a_loss_that_is_not_a_mean_over_images_is_refused_where_there_are_several_blocks(monkeypatch):
    features, targets, _ = problem().tensors
    layer, total = nn.Linear(7, 3), nn.CrossEntropyLoss(reduction="sum")
    # Of a single block, any loss is right.
    BlockLoss(FeatureBlocks([(features, targets)], layer.weight), total, layer)()
    monkeypatch.setattr(feature_blocks, "_CPU_BLOCK", 10 * 10 * 4)
    monkeypatch.setattr(feature_blocks, "_KEPT_BYTES", 0)
    with pytest.raises(ConfigError, match="CrossEntropyLoss is not a mean over images"):
        BlockLoss(FeatureBlocks([(features, targets)], layer.weight), total, layer)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 3.0, 1.0])], ids=["plain", "class weights"])
def test_a_fit_in_blocks_is_that_of_all_at_once(monkeypatch, weight):
    loss = nn.CrossEntropyLoss(weight)
    whole, (*epochs, last) = fitted(DECAYS, loss)
    monkeypatch.setattr(feature_blocks, "_CPU_BLOCK", 10 * 10 * 4)
    monkeypatch.setattr(feature_blocks, "_KEPT_BYTES", 0)
    parted, (*in_blocks, measured) = fitted(DECAYS, loss)
    for name, value in last["figures"].items():
        assert measured["figures"][name] == pytest.approx(value, abs=1e-5), name
    for one, other in zip(epochs, in_blocks, strict=True):
        torch.testing.assert_close(one["weight"], other["weight"], atol=1e-3, rtol=1e-3)
    assert whole.finish(splits(), 1) == parted.finish(splits(), 1)
    torch.testing.assert_close(whole.network.head.weight, parted.network.head.weight, atol=1e-3, rtol=1e-3)


def test_a_fit_in_blocks_holds_no_more_of_many_images_than_of_few(blocks_of_ten):
    most = []
    for count in (200, 2000):
        features, targets, _ = problem(count).tensors
        layer = nn.Linear(7, 3)
        objective = BlockLoss(FeatureBlocks([(OnDisk(features), targets)], layer.weight), F.cross_entropy, layer)
        with Living(10 * 7 * 4) as living:
            minimise(LBFGS(layer.parameters(), 5, 1e-5, 2), objective, layer.weight, 0.1)
        # A view counts as all that it is a part of.
        most.append(living.most - features.nbytes - targets.nbytes)
    assert 0 < most[1] <= most[0] <= 5 * 10 * 7 * 4


@pytest.mark.parametrize("said", [True, False])
def test_there_is_no_refit_on_the_test_images_or_where_it_is_not_wanted(capsys, said):
    module, (*_, before, _) = fitted(DECAYS)
    module.refit = said
    assert module.finish(splits(TEST_AS_VAL), 1) == {}
    assert torch.equal(module.network.head.weight, before["weight"])
    assert module.trained_on == "train"
    assert ("no refit on train + val: val holds the test images" in capsys.readouterr().out) == said


def test_val_is_measured_before_the_refit_and_test_after_it_as_model_and_evaluation_say(tmp_path, folder_data):
    weights, run = runs.write_weights(tmp_path / "weights.pth"), tmp_path / "run"
    # The drawn images are easy: with less, all losses would be 0.
    more = ("module=full_batch", "module.weight_decays=[3.0,1.0]", "trainer.max_epochs=2")
    alone = runs.run(tmp_path / "alone", folder_data, weights, *more, "module.refit=false")
    found = runs.run(run, folder_data, weights, *more, "report=default")
    for name in ("val/loss", "val/top1", "temperature", "weight_decay", "val/ece"):
        assert found[name] == pytest.approx(alone[name], abs=1e-6), name
    assert found["weight_decay_refit"] == pytest.approx(found["weight_decay"] * 24 / 36)
    assert "weight_decay_refit" not in alone
    assert found["test/loss"] != pytest.approx(alone["test/loss"], abs=1e-4)
    kept = {folder: json.loads((folder / "model" / "model.json").read_text()) for folder in (run, tmp_path / "alone")}
    assert [description["trained_on"] for description in kept.values()] == ["train+val", "train"]
    note = "the model was trained on the val images"
    for split, said in (("val", True), ("test", False)):
        again = tmp_path / split
        done = runs.program("evaluate", f"run={run}", f"split={split}", f"hydra.run.dir={again}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (note in done.stdout) == (note in (again / "report.html").read_text()) == said
        measured = json.loads((again / "metrics.json").read_text())
        # Standardising drawn images' features, some of them nearly constant, magnifies what rounding makes of these.
        assert (measured[f"{split}/loss"] == pytest.approx(found[f"{split}/loss"], abs=1e-4)) == (not said)
    assert "fitted to train and val together" in (run / "report.html").read_text()
