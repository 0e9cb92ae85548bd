"""What a finished run shows of itself."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import COLOURS, draw_classes
from tests.forks import run_ranks
from tests.small_runs import program, run, write_weights
from tlearn.analysis.calibration import calibrate
from tlearn.config.compose import compose
from tlearn.config.evaluation import measure
from tlearn.config.tree import plain
from tlearn.data.manifest import read_manifest
from tlearn.evaluate import evaluate
from tlearn.features.datamodule import FeatureDataModule
from tlearn.files import read_table
from tlearn.report import after_training as reporting
from tlearn.runs.model import load_model
from tlearn.training.data_parallel import DataParallelStrategy


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "w.pth")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with images and weights for the runs that many tests look at."""
    folder = tmp_path_factory.mktemp("after")
    for split, count, first in (("train", 8, 0), ("val", 4, 100), ("test", 4, 200)):
        draw_classes(folder / "pictures" / split, count, tuple(COLOURS), first)
    write_weights(folder / "w.pth")
    return folder


@pytest.fixture(scope="module")
def reported(place) -> tuple[Path, dict[str, float]]:
    """Return the folder of a run with its report, and its metrics."""
    return place / "reported", run(place / "reported", place / "pictures", place / "w.pth", "report=default")


@pytest.fixture(scope="module")
def finished(place) -> tuple[Path, dict[str, float]]:
    """Return the folder of a run without a report, and its metrics."""
    return place / "finished", run(place / "finished", place / "pictures", place / "w.pth", "report=off")


def _measured(model_folder: Path, split: str, output: Path, *more: str):
    config = compose([f"run='{model_folder}'", f"split={split}", *more], "evaluate", output_dir=output)
    return measure(plain(config), load_model(model_folder))


def test_a_run_ends_with_a_report_of_its_own_figures(reported):
    folder, figures = reported
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "shufflenet_v2_x0_5 on folder" in page
    assert "could not be made" not in page
    splits = {row["split"]: row for row in read_table(folder / "report" / "splits.csv")}
    assert splits.keys() == {"train", "val", "test"}
    for split in ("val", "test"):
        assert float(splits[split]["top1"]) == pytest.approx(figures[f"{split}/top1"])
        assert float(splits[split]["loss"]) == pytest.approx(figures[f"{split}/loss"], abs=1e-5)
    assert {path.stem for path in (folder / "report").glob("*.png")} <= {
        path.stem for path in (folder / "report").glob("*.csv")
    }


def test_the_first_batch_is_drawn_as_it_will_be_seen(reported):
    folder, _ = reported
    rows = read_table(folder / "report" / "first_batch.csv")
    assert len(rows) == 8
    train = {sample.path: sample.label for sample in read_manifest(folder / "splits.csv").splits["train"]}
    assert all(train[row["path"]] == row["class"] for row in rows)
    assert (folder / "report" / "first_batch.png").stat().st_size > 1000


@pytest.mark.parametrize("more", [("features.views=2",), ("data.cache=memory",)])
def test_one_image_is_drawn_under_its_augmentation_and_no_augmented_one_is_judged(
    tmp_path, folder_data, weights, more, monkeypatch
):
    drawn = []
    figure = reporting.augmentation_figure
    monkeypatch.setattr(reporting, "augmentation_figure", lambda *given: drawn.append(given) or figure(*given))
    run(tmp_path / "run", folder_data, weights, "report=default", "transforms=light", *more)
    [(_, transform, path, count)] = drawn
    assert transform.is_random
    assert count == (2 if more == ("features.views=2",) else 16)
    [row] = read_table(tmp_path / "run" / "report" / "augmentation.csv")
    assert row["path"] == path
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "What training sees of its first image" in page
    # Doubtful labels are not looked for among augmented features.
    assert not (tmp_path / "run" / "report" / "suspects.csv").exists()
    looked = "features.views keeps only augmented versions" if count == 2 else "report.train_pictures=always"
    assert looked in page


def test_tensorboard_has_the_figures_and_the_settings_with_the_real_results(reported):
    folder, figures = reported
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    drawn = {path.stem for path in (folder / "report").glob("*.png")}
    assert {f"figures/{name}" for name in drawn} == set(events.Tags()["images"])
    assert events.Scalars("final/val/top1")[-1].value == pytest.approx(figures["val/top1"])
    assert list((folder / "tensorboard").rglob("tensors.tsv"))


def test_without_a_report_there_is_nothing_of_it(finished):
    folder, _ = finished
    assert not (folder / "report.html").exists()
    assert not (folder / "report").exists()


def test_a_report_that_fails_leaves_the_run_finished_and_says_so(tmp_path, folder_data, weights, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(reporting, "write_report", fail)
    figures = run(tmp_path / "run", folder_data, weights, "report=default")
    assert figures["val/loss"] > 0
    assert "the report could not be made: RuntimeError: no ink" in capsys.readouterr().err


def test_the_temperature_of_the_model_folder_is_that_of_val(tmp_path, finished):
    folder, trained = finished
    model = load_model(folder)
    assert model.temperature == trained["temperature"]
    _, outputs, _ = _measured(folder, "val", tmp_path)
    assert calibrate({"val": outputs})["temperature"] == pytest.approx(model.temperature, abs=1e-4)


def test_augmented_training_pictures_are_looked_at_again_where_asked_for(tmp_path, folder_data, weights):
    run(tmp_path / "always", folder_data, weights, "report=default", "transforms=light", "report.train_pictures=always")
    splits = {row["split"]: row for row in read_table(tmp_path / "always" / "report" / "splits.csv")}
    plain, _, _ = _measured(tmp_path / "always", "train", tmp_path)
    assert float(splits["train"]["loss"]) == pytest.approx(plain["train/loss"], abs=1e-5)


def test_under_dp_and_beyond_memory_the_training_pictures_are_not_looked_at(monkeypatch):
    network = SimpleNamespace(head=torch.nn.Linear(4, 2))
    data = FeatureDataModule.__new__(FeatureDataModule)
    data.datasets, data.image_set = {"train": range(8), "val": range(4)}, SimpleNamespace(classes=["a", "b"])
    trainer = SimpleNamespace(strategy=None, fast_dev_run=False, overfit_batches=0.0)
    under_dp = SimpleNamespace(**vars(trainer) | {"strategy": DataParallelStrategy.__new__(DataParallelStrategy)})
    for one, looked in ((under_dp, False), (trainer, True)):
        plan = reporting.plan_report({"write": True, "train_pictures": "auto"}, None, one, data, network)
        assert plan.write
        assert plan.features == plan.train_pictures == looked
        assert ("trainer=dp" in plan.reason) == (not looked)
    # A head of one's own, without a linear layer
    own = torch.nn.ParameterDict({"directions": torch.zeros(2, 4), "scale": torch.tensor(16.0)})
    assert reporting.plan_report({"write": True}, None, trainer, data, SimpleNamespace(head=own)).features
    data.image_set.classes = range(10**8)
    large = reporting.plan_report({"write": True, "train_pictures": "auto"}, None, trainer, data, network)
    assert large.features
    assert not large.train_pictures
    # 12 images x 4 features of 4 bytes
    monkeypatch.setattr(reporting, "_FEATURE_BYTES", 191)
    beyond = reporting.plan_report({"write": True, "train_pictures": "auto"}, None, trainer, data, network)
    assert beyond.write
    assert not beyond.features
    assert "12 images x 4 features would take too much memory" in beyond.reason


def test_what_cannot_be_found_and_a_class_with_a_single_picture_cost_no_more_than_their_place(
    tmp_path, draw_split, weights, monkeypatch
):
    def fail(_):
        raise RuntimeError("no neighbours")

    monkeypatch.setattr(reporting, "near_duplicates", fail)
    data = tmp_path / "pictures"
    for split, count in (("train", 3), ("val", 2)):
        draw_split(data / split, count)
    draw_split(data / "train", 1, ("green",))
    run(tmp_path / "run", data, weights, "report=default")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "could not be made" not in page
    assert "not computed: RuntimeError: no neighbours" in page
    assert "10 most doubtful labels" in page
    last = read_table(tmp_path / "run" / "report" / "suspects.csv")[-1]
    assert (last["class"], last["suggested"]) == ("green", "")


def test_views_change_no_figure_without_them_and_tell_what_they_change(tmp_path, finished):
    folder, _ = finished
    plain, outputs, _ = _measured(folder, "test", tmp_path)
    for kind in ("flip", "views"):
        figures, same, _ = _measured(folder, "test", tmp_path, f"tta={kind}")
        assert torch.allclose(same.logits, outputs.logits, atol=1e-5)
        assert plain == pytest.approx({name: figures[name] for name in plain}, abs=1e-5)
        change = figures["test/tta/loss"] - figures["test/loss"]
        assert figures["test/tta/loss_change"] == pytest.approx(change, abs=1e-5)
        assert change != 0


def test_an_evaluation_has_a_report_of_its_own(tmp_path, finished):
    folder, _ = finished
    arguments = [f"run='{folder}'", "split=val", "tta=flip"]
    figures = evaluate(compose(arguments, "evaluate", output_dir=tmp_path / "evaluation"))
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "shufflenet_v2_x0_5 of folder on val" in page
    assert "could not be made" not in page
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == figures
    assert "val top-1 with augmentation" in page
    # As it was measured, and not as torch is by default
    assert 'tf32.convolutions</td><td class="text">no<' in page
    classes = read_table(tmp_path / "evaluation" / "report" / "val_classes.csv")
    assert [row["train_pictures"] for row in classes] == ["8", "8", "8"]
    evaluate(compose([*arguments, "report=off"], "evaluate", output_dir=tmp_path / "other"))
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"metrics.json", "evaluate.log"}


def test_outputs_come_in_the_order_of_the_split_whatever_the_batches(tmp_path, finished):
    folder, _ = finished
    _, one, _ = _measured(folder, "test", tmp_path, "data.batch_size=5")
    _, other, _ = _measured(folder, "test", tmp_path, "data.batch_size=64")
    manifest = read_manifest(folder / "splits.csv")
    assert one.paths == other.paths == [sample.path for sample in manifest.splits["test"]]
    assert [one.classes[target] for target in one.targets] == [sample.label for sample in manifest.splits["test"]]
    assert torch.allclose(one.logits, other.logits, atol=1e-5)
    assert one.features is None


def test_features_are_what_the_head_was_given(tmp_path, finished):
    folder, _ = finished
    model = load_model(folder)
    config = compose([f"run='{folder}'"], "evaluate", output_dir=tmp_path)
    _, outputs, _ = measure(plain(config), model, features=True)
    assert torch.allclose(model.network.head(outputs.features), outputs.logits, atol=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_outputs_of_one(tmp_path, folder_data, weights):
    # 11 images in batches of 4: neither divides by two
    next((folder_data / "test" / "red").iterdir()).unlink()
    run(tmp_path / "run", folder_data, weights, "report=off")
    found = {}
    for name, start in (("cpu", program), ("ddp_cpu", run_ranks)):
        arguments = [f"run={tmp_path / 'run'}", f"trainer={name}", f"hydra.run.dir={tmp_path / name}", "tta=flip"]
        done = start("evaluate", *arguments, "metrics=full", "data.batch_size=4", "data.num_workers=0", cwd=tmp_path)
        assert done == [0, 0] if name == "ddp_cpu" else done.returncode == 0, done
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
        rows = read_table(tmp_path / name / "report" / "splits.csv")
        assert [row["pictures"] for row in rows] == ["11"]
    assert found["ddp_cpu"] == pytest.approx(found["cpu"], abs=1e-5)
    for name in ("auroc", "f1", "kappa", "brier", "class_mean_accuracy"):
        assert found["ddp_cpu"][f"test/{name}"] == pytest.approx(found["cpu"][f"test/{name}"], abs=1e-6)
    assert all(math.isfinite(value) for value in found["cpu"].values())
