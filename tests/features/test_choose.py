"""A run on cached features is the run on pictures, only faster: same figures, same files, and a line that says so."""

import copy
import csv
import gc
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests import small_runs as runs
from tests.conftest import COLOURS, draw_classes
from tests.forks import Running
from tests.models.families import FAMILIES, body_of
from tlearn.config import build
from tlearn.config.compose import compose
from tlearn.config.prepared import prepared
from tlearn.data.datamodule import SplitDataModule
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import ConfigError
from tlearn.evaluate import evaluate
from tlearn.features import choose, compute, extract, precision
from tlearn.features.extract import Extractor, Reader
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import RunFolder
from tlearn.runs.model import load_model

FIGURES = ("val/loss", "val/top1", "test/loss", "test/top1", "epoch/best", "params/trainable")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images for the tests that only read them."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count, first in (("train", 8, 0), ("val", 4, 100), ("test", 4, 200)):
        draw_classes(root / split, count, tuple(COLOURS), first)
    return root


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, pictures, weights) -> tuple[Path, dict]:
    """Return the folder of a run on cached features, and its metrics."""
    folder = tmp_path_factory.mktemp("cached") / "run"
    return folder, runs.run(folder, pictures, weights)


def choose_data(folder: Path, data: Path, weights: Path, *more: str) -> SplitDataModule:
    """Go as far as a run's choice of data, by when all its features are computed, and train nothing."""
    run = RunFolder(folder)
    with run.claimed(again=False):
        parts = prepared(compose(runs.overrides(data, weights, *more), output_dir=folder), run)
        options = build.feature_options(parts.settings, parts.backbone)
        return choose.choose_features(options, parts.module, parts.images, parts.trainer)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many pictures each pass through a body computes."""
    counts: list[int] = []
    call = Extractor.__call__

    def counted(self: Extractor, items: list):
        counts.append(len(items))
        return call(self, items)

    monkeypatch.setattr(Extractor, "__call__", counted)
    return counts


def same(one: dict, other: dict) -> None:
    for name in FIGURES:
        assert one[name] == pytest.approx(other[name], abs=1e-5), name


@pytest.mark.parametrize(
    "more",
    [
        ("head=mlp", "head.dropout=0.5", "data.balance=sampler", "transforms.average=[crop,flip,squash]"),
        (
            "finetune=partial",
            "finetune.stages=[stage4.2]",
            "finetune.body_lr_scale=1.0",
            "transforms.average=[crop,pad]",
        ),
        (
            "finetune=gradual",
            "finetune.later_stages=[conv5]",
            "finetune.unfreeze_epoch=1",
            "transforms.fit=squash",
            "backbone.pooling=avgmax",
            "data.balance=weights",
            "loss.label_smoothing=0.1",
            "trainer.accumulate_grad_batches=2",
        ),
    ],
    ids=lambda more: more[0],
)
def test_figures_equal_those_from_pictures(tmp_path, pictures, weights, capsys, more):
    more = ("trainer.max_epochs=2", *more)
    plain = runs.run(tmp_path / "plain", pictures, weights, "features=off", *more)
    assert "features: on the fly, because features=off" in capsys.readouterr().out
    cached = runs.run(tmp_path / "cached", pictures, weights, "features=cache", *more)
    assert "computed once" in capsys.readouterr().out
    same(cached, plain)


# Of each kind one: plain, with branches and other inputs, with attention over windows, over a grid, over all patches
@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "swin_v2_t", "maxvit_t", "vit_b_32"])
def test_a_family_gives_the_same_from_features_as_from_pictures(name, tmp_path, pictures):
    size, body = FAMILIES[name][0], body_of(name)
    network = TransferNetwork(body, torch.nn.LazyLinear(3)).eval()
    transform = Transform({**TorchvisionBackbone(name, None).preprocessing(), "resize": size, "size": size})
    # One of each class
    files = sorted(pictures.glob("test/*/*.jpg"))[::4]
    targets = torch.arange(3)
    extractor = Extractor(network.frozen_part(size).module, Reader(Decoder(), transform, transform))
    images = torch.stack([transform(Decoder()(file)) for file in files])
    with torch.no_grad():
        logits = network(images)
        exact = copy.deepcopy(network).double()(images.double())
        network.start_after(network.frozen_part(size))
        cached = network(torch.cat(list(extractor([(file, None) for file in files]))))
    # Random weights magnify rounding in some families, and the network's own is then more than 1e-5.
    rounding = 1e-5 + 3 * (logits - exact).abs().max()
    assert (cached - exact).abs().max() < rounding
    assert abs(F.cross_entropy(cached, targets) - F.cross_entropy(logits, targets)) < rounding


def test_a_second_run_computes_nothing_and_a_new_picture_costs_one(
    tmp_path, folder_data, weights, computed, draw_split
):
    choose_data(tmp_path / "first", folder_data, weights)
    choose_data(tmp_path / "second", folder_data, weights, "optimizer.lr=0.01", "head=mlp", "seed=1")
    assert computed == [48]
    draw_split(folder_data / "val", 1, ("red",), first=300)
    choose_data(tmp_path / "third", folder_data, weights)
    assert computed == [48, 1]
    picture = folder_data / "train" / "red" / "red_0.jpg"
    os.utime(picture, (1, 1))
    choose_data(tmp_path / "fourth", folder_data, weights)
    assert computed == [48, 1, 1]


def test_features_are_of_what_they_depend_on(tmp_path, pictures, weights, computed):
    choose_data(tmp_path / "first", pictures, weights)
    for number, more in enumerate(
        [
            ("transforms.fit=squash",),
            ("transforms.mean=[0.5,0.5,0.5]",),
            ("backbone.pooling=max",),
            ("finetune=partial", "finetune.stages=[conv5]"),
            ("data.alpha_background=[0,0,0]",),
        ]
    ):
        computed.clear()
        choose_data(tmp_path / str(number), pictures, weights, *more)
        assert sum(computed) >= 48, more
    computed.clear()
    choose_data(tmp_path / "other", pictures, runs.write_weights(tmp_path / "other.pth", seed=1))
    assert computed == [48]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("transforms=light",), "transforms.train is random (features.views=4 would"),
        (("transforms.mixup_alpha=0.2",), "mix images"),
        (("finetune=full",), "no layer of the body is frozen"),
        (("finetune=gradual", "finetune.unfreeze_epoch=1"), "no layer of the body is frozen"),
        (("features.limit_gb=0.0001",), "more than features.limit_gb=0.0001"),
        (("trainer.fast_dev_run=true",), "trainer.fast_dev_run takes single batches"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_on_the_fly_where_features_are_not_the_same_and_the_log_says_why(
    tmp_path, pictures, weights, capsys, computed, more, reason
):
    choose_data(tmp_path / "run", pictures, weights, *more)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features: on the fly, because")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert computed == []
    if "fast_dev_run" not in reason:
        with pytest.raises(ConfigError, match="features=cache needs cached features"):
            choose_data(tmp_path / "forced", pictures, weights, "features=cache", *more)


def test_views_are_drawn_once_and_shared_by_seeds(tmp_path, pictures, weights, computed, capsys):
    more = ("transforms=light", "features.views=3", "trainer.max_epochs=2")
    first = runs.run(tmp_path / "first", pictures, weights, *more)
    assert computed == [24, 3 * 24]
    again = runs.run(tmp_path / "again", pictures, weights, *more)
    assert computed == [24, 72]
    same(again, first)
    choose_data(tmp_path / "seed", pictures, weights, *more, "seed=7")
    assert computed == [24, 72]
    choose_data(tmp_path / "more", pictures, weights, "transforms=light", "features.views=4")
    assert computed == [24, 72, 24]
    # The deterministic features of val and test are those of every run.
    choose_data(tmp_path / "none", pictures, weights)
    assert computed == [24, 72, 24, 24]


def test_views_leave_other_pictures_as_they_are(tmp_path, pictures, weights):
    first = ("transforms.average=[crop,flip]", "optimizer.lr=1e-9", "callbacks.prepare_head=null")
    plain = runs.run(tmp_path / "plain", pictures, weights, *first)
    steps = (
        "{_target_: torchvision.transforms.v2.RandomResizedCrop, size: 32},"
        "{_target_: torchvision.transforms.v2.ConvertImageDtype}"
    )
    more = (f"transforms.train=[{steps}]", "features.views=2")
    views = runs.run(tmp_path / "views", pictures, weights, *first, *more)
    # The head hardly moves, so these are figures of the first head on features of val and test.
    for name in ("val/loss", "test/loss"):
        assert views[name] == pytest.approx(plain[name], abs=1e-6)


def test_a_run_by_heart_takes_pictures(tmp_path, pictures, weights, capsys):
    runs.run(tmp_path / "run", pictures, weights, "debug=overfit", "trainer.max_epochs=2")
    assert "features: on the fly, because trainer.overfit_batches" in capsys.readouterr().out


def test_counted_evaluation_batches_are_those_of_pictures(tmp_path, pictures, weights):
    limited = ("+trainer.limit_val_batches=1", "data.batch_size=4")
    cached = runs.run(tmp_path / "cached", pictures, weights, *limited)
    same(cached, runs.run(tmp_path / "plain", pictures, weights, *limited, "features=off"))


def test_train_figures_are_there_when_an_epoch_ends_early(tmp_path, pictures, weights):
    runs.run(
        tmp_path / "run",
        pictures,
        weights,
        "+trainer.max_steps=2",
        "trainer.val_check_interval=1",
        "callbacks.early_stopping=null",
    )
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert any(row["train/top1"] for row in rows)


def test_broken_weights_are_named_before_training(tmp_path, pictures, weights):
    state = torch.load(weights, weights_only=True)
    state["conv5.0.weight"] *= 1e38
    state["conv5.0.weight"] *= 1e38
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(Exception, match="not finite"):
        choose_data(tmp_path / "run", pictures, tmp_path / "broken.pth")


def test_file_names_that_are_no_text_have_views(tmp_path, folder_data, weights):
    picture = folder_data / "train" / "red" / "red_0.jpg"
    os.rename(picture, os.fsencode(picture.parent) + b"/\xff.jpg")
    runs.run(tmp_path / "run", folder_data, weights, "transforms=light", "features.views=2")


def test_a_fit_of_more_epochs_than_weight_decays_can_be_resumed(tmp_path, pictures, weights):
    more = ("module=full_batch", "module.weight_decays=[1.0,0.1]", "trainer.max_epochs=9")
    program = runs.overrides(pictures, weights, f"hydra.run.dir={tmp_path / 'run'}", *more)
    assert runs.program("train", *program, cwd=tmp_path).returncode == 0
    (tmp_path / "run" / "metrics.json").unlink()
    done = runs.program("train", f"resume={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch/last"] == 1


def test_views_take_turns(tmp_path, pictures, weights, monkeypatch):
    from tlearn.features.datamodule import FeatureDataset

    seen = []
    get = FeatureDataset.__getitem__

    def noted(self: FeatureDataset, choice):
        if len(self.views) > 1:
            seen.append(choice[1])
        return get(self, choice)

    monkeypatch.setattr(FeatureDataset, "__getitem__", noted)
    runs.run(tmp_path / "run", pictures, weights, "transforms=light", "features.views=2", "trainer.max_epochs=3")
    # The head is made ready with the first view.
    assert seen == [0] * 3 + [0] * 3 + [1] * 3 + [0] * 3


def test_views_need_something_to_draw(tmp_path):
    done = runs.program("train", "features.views=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "features.views=2 needs augmentation" in done.stderr


def test_a_run_that_cannot_write_the_store_goes_on_or_stops(tmp_path, pictures, weights, cached, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / "file"))
    same(runs.run(tmp_path / "on", pictures, weights), cached[1])
    assert "they stay in memory for this run" in capsys.readouterr().err
    with pytest.raises(Exception, match="cannot keep features"):
        choose_data(tmp_path / "stop", pictures, weights, "features.on_write_error=stop")


def test_an_interrupted_extraction_goes_on(tmp_path, pictures, weights, monkeypatch, computed):
    forward = Extractor._forward
    batches = []

    def interrupted(self: Extractor, pixels: torch.Tensor, body: torch.nn.Module) -> torch.Tensor:
        batches.append(len(pixels))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return forward(self, pixels, body)

    monkeypatch.setattr(extract, "available_cpus", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "_forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            choose_data(tmp_path / "first", pictures, weights)
    choose_data(tmp_path / "second", pictures, weights)
    assert computed == [48, 16]


def test_the_models_of_both_ways_are_alike(tmp_path, pictures, weights, cached):
    folder, measured = cached
    again = runs.run(tmp_path / "plain", pictures, weights, "features=off")
    for name in ("val/loss", "test/loss"):
        assert measured[name] == pytest.approx(again[name], abs=1e-5)
    one, other = (load_model(place).network.state_dict() for place in (folder, tmp_path / "plain"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        # Features of this body hardly vary, so that the last digits of the head's large weights mean nothing.
        assert value.shape == other[name].shape if name.startswith("head.") else torch.equal(value, other[name]), name


def test_evaluation_from_pictures_gives_the_figures_of_the_run(tmp_path, pictures, weights):
    trained = runs.run(tmp_path / "run", pictures, weights, "transforms.average=[crop,flip]")
    config = compose(
        [f"run={tmp_path / 'run'}", "trainer=cpu", "report=off"], "evaluate", output_dir=tmp_path / "evaluated"
    )
    figures = evaluate(config)
    for name, value in figures.items():
        assert value == pytest.approx(trained[name], abs=1e-5)


def test_a_stopped_run_goes_on_with_features(tmp_path, pictures, weights, computed):
    whole = runs.run(tmp_path / "whole", pictures, weights, "trainer.max_epochs=2")
    program = runs.overrides(pictures, weights, f"hydra.run.dir={tmp_path / 'part'}", "trainer.max_epochs=1")
    first = runs.program("train", *program, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (tmp_path / "part" / "metrics.json").unlink()
    more = runs.program("train", f"resume={tmp_path / 'part'}", "trainer.max_epochs=2", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    resumed = json.loads((tmp_path / "part" / "metrics.json").read_text())
    for name in FIGURES:
        assert resumed[name] == pytest.approx(whole[name], abs=1e-6), name


def test_a_full_batch_fit_chooses_the_weight_decay_by_val(tmp_path, pictures, weights):
    decays = ("module.weight_decays=[10,1,0.1,0.01]", "trainer.max_epochs=4")
    figures = runs.run(tmp_path / "run", pictures, weights, "module=full_batch", *decays)
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    columns: dict[str, dict[str, float]] = {"weight_decay": {}, "val/loss": {}}
    for row in csv.DictReader(lines):
        for name, values in columns.items():
            if row[name]:
                values[row["epoch"]] = float(row[name])
    assert len(columns["weight_decay"]) == 4
    best = min(columns["val/loss"], key=columns["val/loss"].__getitem__)
    assert int(best) == figures["epoch/best"]
    assert figures["weight_decay"] == pytest.approx(columns["weight_decay"][best], rel=1e-4)
    assert figures["val/loss"] == pytest.approx(columns["val/loss"][best], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("transforms=light",), "module=full_batch needs cached features"),
        (("transforms=light", "features.views=2"), "one view"),
        (("data.balance=sampler",), "data.balance=weights"),
        (("head=mlp",), "choose head=linear"),
        (("finetune=partial", "finetune.stages=[conv5]"), "finetune=frozen"),
        (("scheduler=cosine",), "scheduler=none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_full_batch_fit_refuses_what_it_cannot_do(tmp_path, pictures, weights, more, message):
    with pytest.raises(ConfigError, match=message):
        choose_data(tmp_path / "run", pictures, weights, "module=full_batch", *more)


def test_bfloat16_is_kept_only_where_features_stay_the_same(tmp_path, pictures, weights, monkeypatch, capsys):
    monkeypatch.setattr(choose, "has_bf16", lambda device: True)
    runs.run(tmp_path / "good", pictures, weights, "features.precision=auto")
    assert "bf16)" in capsys.readouterr().out
    # What is there was found good before.
    choose_data(tmp_path / "again", pictures, weights, "features.precision=auto")
    assert "bf16)" in capsys.readouterr().out
    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(precision, "similarity", lambda exact, approximate: 0.9)
    choose_data(tmp_path / "bad", pictures, weights, "features.precision=auto")
    assert "fp32)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"precision=bf16 changes this body's features too much"):
        choose_data(tmp_path / "asked", pictures, weights, "features.precision=bf16")
    assert "not known to compute" not in capsys.readouterr().out
    monkeypatch.setattr(choose, "has_bf16", lambda device: False)
    choose_data(tmp_path / "slow", pictures, weights, "features.precision=auto")
    out = capsys.readouterr().out
    assert "fp32)" in out
    assert "not known to compute" not in out
    monkeypatch.setattr(precision, "similarity", lambda exact, approximate: 1.0)
    choose_data(tmp_path / "slower", pictures, weights, "features.precision=bf16")
    assert "features.precision=bf16: this cpu is not known to compute so" in capsys.readouterr().out


def test_other_runs_features_make_room(tmp_path, pictures, weights):
    store = Path(os.environ["TLEARN_CACHE"]) / "features"
    choose_data(tmp_path / "first", pictures, weights)
    [old] = store.iterdir()
    size = sum(file.stat().st_size for file in old.iterdir())
    # The run above is over, and what it has read with it.
    gc.collect()
    choose_data(
        tmp_path / "second", pictures, weights, "transforms.fit=squash", f"features.limit_gb={1.5 * size / 1e9}"
    )
    [new] = store.iterdir()
    assert new != old


def test_room_is_not_made_of_what_another_run_has_computed_of_the_same(
    tmp_path, folder_data, weights, computed, draw_split
):
    store = Path(os.environ["TLEARN_CACHE"]) / "features"
    choose_data(tmp_path / "first", folder_data, weights)
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    draw_split(folder_data / "val", 1, ("red",), first=300)
    gc.collect()
    choose_data(tmp_path / "second", folder_data, weights, f"features.limit_gb={1.1 * size / 1e9}")
    assert computed == [48, 1]


@pytest.mark.slow
def test_two_runs_at_once_compute_everything_once(tmp_path, pictures, weights):
    started = [
        Running("train", *runs.overrides(pictures, weights, f"hydra.run.dir={tmp_path / str(number)}"), cwd=tmp_path)
        for number in range(2)
    ]
    assert [running.end() for running in started] == [0, 0]
    printed = [running.said() for running in started]
    passes = [line for text in printed for line in text.splitlines() if "images in" in line]
    assert len(passes) == 1
    figures = [json.loads((tmp_path / str(number) / "metrics.json").read_text()) for number in range(2)]
    same(*figures)


def test_segments_are_read_in_order_by_training(tmp_path, pictures, weights, cached, monkeypatch):
    monkeypatch.setattr(compute, "_SEGMENT_BYTES", 1)
    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / "cache"))
    same(runs.run(tmp_path / "many", pictures, weights), cached[1])
    assert len(list((tmp_path / "cache").glob("features/*/*.safetensors"))) == 3


@pytest.mark.parametrize(
    ("root", "parallel", "expected"),
    [
        ("cuda:0", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"], ["cuda:0", "cuda:1", "cuda:3"]),
        # A rank that torchrun started, and DataParallel's list
        ("cuda:1", ["cuda:0", "cuda:1"], ["cuda:1", "cuda:0"]),
        ("cuda:0", ["cuda:0", "cuda:0"], ["cuda:0"]),
        ("cuda:2", None, ["cuda:2"]),
        # Threads use all CPUs already.
        ("cpu", ["cpu", "cpu"], ["cpu"]),
    ],
)
def test_features_are_computed_by_all_gpus_of_one_kind(monkeypatch, root, parallel, expected):
    names = {0: "A", 1: "A", 2: "B", 3: "A"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    strategy = SimpleNamespace(root_device=torch.device(root))
    if parallel is not None:
        strategy.parallel_devices = list(map(torch.device, parallel))
    assert [str(device) for device in choose._devices(strategy)] == expected
