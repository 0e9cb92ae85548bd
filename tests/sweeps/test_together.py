"""Trials that train together: each has what it would have alone, and what cannot train together runs as ever."""

import csv
import json
import re
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional

import tlearn
from hydra_plugins.tlearn_launcher import _Composer
from tests.small_runs import overrides, program, write_weights
from tests.sweeps.test_sweep import sweep_rows
from tlearn.config.compose import compose
from tlearn.config.together import _trained
from tlearn.config.tree import CONF_DIR, own_hydra, plain
from tlearn.errors import CheckpointError
from tlearn.sweeps import groups
from tlearn.sweeps.heads import Course, Heads, Recipe
from tlearn.training.metrics import accuracies, cloned
from tlearn.training.schedule import Schedule

TOGETHER = "train together"


@pytest.fixture
def sweep(tmp_path, folder_data, monkeypatch):
    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / "cache"))
    common = overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer.log_every_n_steps=2")

    def start(name: str, *typed: str, launcher: str = "batched"):
        place = f"hydra.sweep.dir='{tmp_path / name}'"
        return program("train", "-m", *common, *typed, place, f"hydra/launcher={launcher}", cwd=tmp_path)

    return start


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def numbers(values: dict) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value not in ("", None)}


def results(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if not name.startswith("time/")}


GRIDS = {
    "linear": "trainer.max_epochs=6 callbacks.early_stopping.patience=2 optimizer.lr=0.0001,0.3 "
    "optimizer.weight_decay=0,0.1",
    "unprepared": "callbacks.prepare_head=null optimizer=adamw,sgd optimizer.weight_decay=0,0.1 "
    "metrics=full monitor.metric=val/top1",
    "mlp": "head=mlp head.hidden=[8],[16,8] head.dropout=0.5 transforms=light features.views=2",
    "losses": "loss.label_smoothing=0,0.1 loss.weight=[1.0,3.0,2.0] optimizer=sgd optimizer.nesterov=true",
    "schedules": "scheduler=cosine,onecycle,plateau,step data.balance=weights",
}


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
def test_every_trial_has_the_metrics_of_the_trial_alone(sweep, tmp_path, grid):
    typed = GRIDS[grid].split()
    typed += [] if "max_epochs" in GRIDS[grid] else ["trainer.max_epochs=3"]
    threads = threading.active_count()
    batched = sweep("batched", *typed)
    assert batched.returncode == 0, batched.stderr
    assert TOGETHER in batched.stdout
    alone = sweep("alone", *typed, launcher="basic")
    assert alone.returncode == 0, alone.stderr
    assert TOGETHER not in alone.stdout
    # Those of a trial end with it.
    assert threading.active_count() == threads
    folders = sorted(folder.name for folder in (tmp_path / "alone").iterdir() if folder.is_dir())
    assert len(folders) > 1
    # None has fallen back to a run alone.
    trained = re.findall(r"(\d+) heads of \d+ trained together", batched.stdout)
    assert sum(map(int, trained)) == len(folders)
    for name in folders:
        one, other = tmp_path / "batched" / name, tmp_path / "alone" / name
        assert results(one) == pytest.approx(results(other), abs=1e-5)
        rows = [[numbers(row) for row in table(folder / "metrics.csv")] for folder in (one, other)]
        assert len(rows[0]) == len(rows[1])
        for row, expected in zip(*rows, strict=True):
            assert row == pytest.approx(expected, abs=1e-5)
    if grid == "linear":
        assert len({results(tmp_path / "alone" / name)["epoch/last"] for name in folders}) > 1


def test_the_line_of_a_group_says_what_its_trials_lack_and_each_has_a_run_folder(sweep, tmp_path):
    ended = sweep("swept", "optimizer.lr=0.01,0.02,0.03")
    assert ended.returncode == 0, ended.stderr
    assert "trials 0 to 2 train together, without checkpoints and reports of their own" in ended.stdout
    for number in range(3):
        folder = tmp_path / "swept" / str(number)
        for file in ("metrics.json", "metrics.csv", "splits.csv", "environment.json", "train.log"):
            assert (folder / file).stat().st_size > 0
        stored = OmegaConf.load(folder / ".hydra" / "config.yaml")
        assert stored.optimizer.lr == pytest.approx(0.01 * (number + 1))
        board = EventAccumulator(str(folder / "tensorboard"))
        board.Reload()
        assert "_hparams_/session_start_info" in board.PluginTagToContent("hparams")
        assert {"val/loss", "train/loss", "test/loss"} <= {*board.Tags()["scalars"]}
    assert [row["status"] for row in sweep_rows(tmp_path / "swept")] == ["done"] * 3


class Seen(Callback):
    """What Hydra's callbacks see of each job."""

    jobs: ClassVar[list[tuple[Any, ...]]] = []

    def on_job_start(self, config, *, task_function, **kwargs):
        self.jobs.append((config.hydra.job.num, HydraConfig.get().job.id, config.optimizer.lr, task_function.__name__))

    def on_job_end(self, config, job_return, **kwargs):
        own, hydras = job_return.cfg, job_return.hydra_cfg.hydra
        told = (job_return.status, job_return.task_name, job_return.working_dir, job_return.overrides)
        self.jobs.append((*told, list(own), own.optimizer.lr, hydras.overrides.task, config.hydra.runtime.choices))


def test_a_trial_that_was_trained_with_others_has_the_job_that_hydra_gives_it(sweep, tmp_path):
    seen = f"+hydra.callbacks.seen._target_={__name__}.Seen"
    note = "+extra.note='on: a very long line with spaces and # signs, that is folded where eighty columns end, no'"
    found = {}
    for launcher in ("batched", "basic"):
        Seen.jobs.clear()
        ended = sweep(launcher, "optimizer.lr=0.01,1e-3", "+extra.name='on','é'", seen, note, launcher=launcher)
        assert ended.returncode == 0, ended.stderr
        assert (TOGETHER in ended.stdout) == (launcher == "batched")
        files = sorted((tmp_path / launcher).glob("*/.hydra/*.yaml"))
        texts = {str(file.relative_to(tmp_path / launcher)): file.read_text(encoding="utf-8") for file in files}
        assert len(texts) == 12
        # Where they lie, and who launched them
        plugin = "hydra_plugins.tlearn_launcher.Batched"
        same = {"/batched": "/basic", plugin: "hydra._internal.core_plugins.basic_launcher.Basic"}
        for one, other in {
            **same,
            "launcher=batched": "launcher=basic",
            "launcher: batched": "launcher: basic",
        }.items():
            texts = {name: text.replace(one, other) for name, text in texts.items()}
        found[launcher] = texts, [*Seen.jobs]
    assert len(found["basic"][1]) == 8
    assert found["batched"][0] == found["basic"][0]
    for one, other in zip(*(found[launcher][1] for launcher in found), strict=True):
        assert one[:-1] == other[:-1]


def test_a_model_of_a_group_is_whole_when_it_is_copied_and_shares_the_bodys_weights_on_the_disk(sweep, tmp_path):
    assert sweep("swept", "optimizer.lr=0.01,0.02").returncode == 0
    folders = [tmp_path / "swept" / str(number) / "model" for number in range(2)]
    bodies = [folder / "body.safetensors" for folder in folders]
    assert bodies[0].samefile(bodies[1])
    shutil.copytree(folders[1], tmp_path / "copied")
    shutil.rmtree(tmp_path / "swept")
    model = tlearn.load_model(tmp_path / "copied")
    assert model.logits([Image.new("RGB", (40, 40))]).shape == (1, 3)
    (tmp_path / "copied" / "body.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"body\.safetensors"):
        tlearn.load_model(tmp_path / "copied")


def test_a_trial_that_fails_in_a_group_fails_alone_with_its_status(sweep, tmp_path):
    ended = sweep("swept", "optimizer.lr=0.01,3e37,0.02,-1", "loss.label_smoothing=0,2", "trainer.max_epochs=3")
    assert ended.returncode == 7
    rows = sweep_rows(tmp_path / "swept")
    assert [row["status"] for row in rows] == [
        "done",
        "failed (2)",
        "failed (6)",
        *["failed (2)", "done"],
        *["failed (2)"] * 3,
    ]
    assert "checkpoints" not in {path.name for path in (tmp_path / "swept" / "4").iterdir()}
    assert TOGETHER in ended.stdout
    assert "lower optimizer.lr" in rows[2]["error"]


def test_the_momentum_of_a_schedule_goes_on_when_the_first_head_has_failed():
    features, targets = 10 * torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
    batches = [(features[start : start + 8], targets[start : start + 8]) for start in range(0, 32, 8)]
    cycle = Schedule(
        partial(torch.optim.lr_scheduler.OneCycleLR, total_steps=12), "step", from_run={"max_lr": "learning_rates"}
    )
    metrics = {split: cloned(accuracies(3), f"{split}/") for split in ("train", "val")}
    recipe = Recipe(functional.cross_entropy, torch.optim.Adam, cycle, None, 3, "val/loss", "min", 10, metrics)

    def fitted(*rates: float) -> list[Course]:
        torch.manual_seed(0)
        own = [{"lr": rate} for rate in rates]
        return Heads(nn.Linear(4, 3), own, recipe, lambda _: iter(batches), batches, 4).fit()

    (failed, beside), (alone,) = fitted(3e38, 0.1), fitted(0.1)
    assert failed.failed
    assert [row for row in beside.rows if "val/loss" in row] == [
        pytest.approx(row, abs=1e-6) for row in alone.rows if "val/loss" in row
    ]


def test_what_cannot_train_together_runs_as_ever_in_the_same_sweep(sweep, tmp_path):
    ended = sweep("swept", "finetune=frozen,partial", "finetune.stages=[conv5]", "optimizer.lr=0.01,0.02")
    assert ended.returncode == 0, ended.stderr
    assert "together" not in ended.stdout
    ended = sweep("mixed", "trainer.gradient_clip_val=null,1.0", "seed=1,2", "optimizer.lr=0.01,0.02")
    assert ended.returncode == 0, ended.stderr
    # A group for each seed; clipped gradients are of a whole run.
    assert ended.stdout.count(TOGETHER) == 2
    assert [(tmp_path / "mixed" / str(number) / "checkpoints").is_dir() for number in range(8)] == [False] * 4 + [
        True
    ] * 4
    assert [row["status"] for row in sweep_rows(tmp_path / "mixed")] == ["done"] * 8


def test_nothing_is_promised_to_train_together_where_a_gpu_trains(tmp_path, folder_data, monkeypatch):
    typed = overrides(folder_data, write_weights(tmp_path / "w.pth"))
    for trainer, gpu, trains in (("auto", False, True), ("auto", True, False), ("cpu", True, True)):
        monkeypatch.setattr(groups, "has_gpu", lambda gpu=gpu: gpu)
        settings = plain(compose([*typed, f"trainer={trainer}"], output_dir=tmp_path), resolve=False)
        trial = groups.Planned(0, str(tmp_path), "train", [], settings, lambda name: {})
        assert (groups._key(trial) is not None) == trains


def test_on_a_gpu_a_group_is_given_up_before_its_features_are_computed():
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="on the CPU alone"):
        _trained(SimpleNamespace(trainer=SimpleNamespace(strategy=strategy)), Path(), SimpleNamespace())


def test_a_report_that_is_asked_for_is_written(sweep, tmp_path):
    ended = sweep("swept", "report=default", "optimizer.lr=0.01,0.02")
    assert ended.returncode == 0, ended.stderr
    assert TOGETHER not in ended.stdout
    assert (tmp_path / "swept" / "1" / "report.html").is_file()


def test_a_group_that_is_interrupted_goes_on(sweep, tmp_path, monkeypatch):
    fit, calls = Heads.fit, []

    def interrupted(self):
        calls.append(len(self.courses))
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return fit(self)

    monkeypatch.setattr(Heads, "fit", interrupted)
    typed = ("optimizer.lr=0.01,0.02,0.03",)
    stopped = sweep("swept", *typed)
    assert stopped.returncode == 130
    assert [row["status"] for row in sweep_rows(tmp_path / "swept")] == ["failed (130)", "missing", "missing"]
    assert sweep("swept", *typed).returncode == 0
    assert [row["status"] for row in sweep_rows(tmp_path / "swept")] == ["done"] * 3
    assert calls == [3, 3]


def test_a_sweep_that_goes_on_trains_those_that_are_not_done(sweep, tmp_path, monkeypatch):
    typed, fit, calls = ("optimizer.lr=0.01,0.02,0.03,0.04",), Heads.fit, []

    def counted(self):
        calls.append(len(self.courses))
        return fit(self)

    monkeypatch.setattr(Heads, "fit", counted)
    assert sweep("swept", *typed).returncode == 0
    kept = (tmp_path / "swept" / "1" / "metrics.json").read_bytes()
    for number in (0, 2, 3):
        row = tmp_path / "swept" / str(number) / f"trial_{number}.json"
        row.write_text(json.dumps(json.loads(row.read_text()) | {"status": "failed", "exit_status": 3}))
    again = sweep("swept", *typed)
    assert again.returncode == 0, again.stderr
    assert calls == [4, 3]
    assert (tmp_path / "swept" / "1" / "metrics.json").read_bytes() == kept
    assert [row["status"] for row in sweep_rows(tmp_path / "swept")] == ["done"] * 4


def test_trials_are_composed_by_differences_as_hydra_composes_them():
    first = ["head=mlp", "optimizer.lr=0.1", "head.hidden=[64]"]
    second = ["head=mlp", "optimizer.lr=0.2", "head.hidden=[64,32]"]
    with own_hydra(), initialize_config_dir(str(CONF_DIR), job_name="train", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", ["seed=3", "hydra.sweep.dir=x"], run_mode=RunMode.MULTIRUN)
        composer = _Composer(loader)
        for trial in (first, second, [*first, "optimizer={lr: 0.3}"], [*second, "optimizer={lr: 0.4}"]):
            composed, hydras = composer.load_sweep_config(master, trial), loader.load_sweep_config(master, trial)
            assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(hydras)
