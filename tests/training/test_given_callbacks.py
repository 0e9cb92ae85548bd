"""Callbacks of Lightning and of users: what cannot work is refused with what does, the rest is let through."""

import csv
import inspect
import re

import lightning.pytorch.callbacks
import pytest
from lightning.pytorch import callbacks as known
from lightning.pytorch.callbacks import Callback

from tests.small_runs import overrides, program, write_weights
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.config.trainer import training_trainer
from tlearn.errors import ConfigError
from tlearn.training.given_callbacks import check_callbacks

LIBRARY = "lightning.pytorch.callbacks"


def _trainer(tmp_path, *overrides: str):
    config = compose(["trainer=cpu", *overrides], output_dir=tmp_path)
    return training_trainer(settled(config, IMAGENET), tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["LearningRateFinder"], "callbacks.x: LearningRateFinder .*choose tune=lr"),
        (["BatchSizeFinder"], "callbacks.x: BatchSizeFinder .*choose tune=batch_size"),
        (["BackboneFinetuning"], "callbacks.x: BackboneFinetuning .*choose finetune=gradual"),
        (
            ["StochasticWeightAveraging", "swa_lrs=0.1"],
            f"StochasticWeightAveraging .*take {LIBRARY}.EMAWeightAveraging",
        ),
        (["ModelPruning", "pruning_fn=l1_unstructured"], "ModelPruning renames"),
        (["BasePredictionWriter"], "use python -m tlearn.predict"),
        (["OnExceptionCheckpoint", "dirpath=."], "last.ckpt of the last epoch is there already"),
        (["SpikeDetection"], "no run with it resumes"),
        (["ModelSummary"], "take RichModelSummary"),
        (["Callback"], "callbacks.x: Callback does nothing itself"),
        (["Checkpoint"], "callbacks.x: Checkpoint does nothing itself"),
        (["RichProgressBar"], "callbacks.progress._target_=lightning.pytorch.callbacks.progress.*.RichProgressBar"),
        (
            ["ModelCheckpoint", "monitor=val/loss"],
            "callbacks.x and callbacks.checkpoint have the same key",
        ),
        (
            ["ModelCheckpoint", "save_last=true"],
            "callbacks.x.save_last: .* is that of callbacks.last",
        ),
    ],
)
def test_a_callback_that_cannot_work_is_refused_with_what_does(tmp_path, given, words):
    target, *arguments = given
    more = [f"+callbacks.x.{argument}" for argument in arguments]
    with pytest.raises(ConfigError, match=words):
        _trainer(tmp_path, f"+callbacks.x._target_={LIBRARY}.{target}", *more)


@pytest.mark.parametrize(
    "given",
    [
        ["DeviceStatsMonitor"],
        ["EMAWeightAveraging"],
        ["EarlyStopping", "monitor=val/top1", "mode=max"],
        ["GradientAccumulationScheduler", "scheduling={1:2}"],
        ["LearningRateMonitor"],
        ["ModelCheckpoint", "monitor=val/top1"],
        ["RichModelSummary"],
        ["ThroughputMonitor", "batch_size_fn={_target_:hydra.utils.get_method,path:builtins.len}"],
        ["Timer", "duration='00:01:00:00'"],
        ["WeightAveraging"],
    ],
)
def test_the_other_callbacks_of_lightning_are_taken(tmp_path, given):
    target, *arguments = given
    more = [f"+callbacks.x.{argument}" for argument in arguments]
    trainer = _trainer(tmp_path, f"+callbacks.x._target_={LIBRARY}.{target}", *more)
    assert any(type(callback).__name__ == target for callback in trainer.callbacks)


class Counting(Callback):
    """A user's own callback: it counts batches over all runs of a training, and fails on demand."""

    def __init__(self, fails: bool = False) -> None:
        self.count, self.fails = 0, fails

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.count += 1

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("counted", float(self.count))
        if self.fails:
            {}["nothing"]

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict) -> None:
        self.count = state_dict["count"]


OWN = f"+callbacks.own._target_={__name__}.Counting"


@pytest.mark.slow
def test_a_callback_of_ones_own_works_and_its_state_resumes(tmp_path, folder_data):
    weights, folder = write_weights(tmp_path / "weights.pth"), tmp_path / "run"
    done = program("train", *overrides(folder_data, weights, OWN), f"hydra.run.dir='{folder}'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = program("train", f"resume={folder}", "trainer.max_epochs=2", OWN, "trust=[tests]", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        assert [float(row["counted"]) for row in csv.DictReader(file) if row["counted"]] == [3, 6]


def test_a_callback_that_raises_is_shown_as_the_users_own_error(tmp_path, folder_data):
    weights = write_weights(tmp_path / "weights.pth")
    failed = program("train", *overrides(folder_data, weights, OWN, "+callbacks.own.fails=true"), cwd=tmp_path)
    assert failed.returncode == 1
    assert "KeyError: 'nothing'" in failed.stderr
    words = rf"tlearn: error: KeyError in Counting.on_train_epoch_end of {__file__}:\d+"
    assert re.fullmatch(words, failed.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["callbacks.early_stopping.monitor=val/topp"], "callbacks: Early stopping conditioned on metric `val/topp`"),
        (
            [
                f"+callbacks.x={{_target_:{LIBRARY}.GradientAccumulationScheduler,scheduling:{{1:2}}}}",
                "trainer.accumulate_grad_batches=2",
            ],
            "callbacks: You have set `accumulate_grad_batches`",
        ),
    ],
)
def test_what_a_callback_of_lightning_misses_is_said_in_a_line(tmp_path, folder_data, given, words):
    weights = write_weights(tmp_path / "weights.pth")
    failed = program("train", *overrides(folder_data, weights, *given), cwd=tmp_path)
    assert failed.returncode == ConfigError.exit_status
    assert failed.stderr.startswith(f"tlearn: error: {words}")
    assert len(failed.stderr.splitlines()) == 1


def test_every_callback_of_lightning_was_looked_at():
    text = inspect.getsource(inspect.getmodule(test_every_callback_of_lightning_was_looked_at))
    # ProgressBar and BaseFinetuning are extended by those above; LambdaCallback is given functions, TQDM's as rich's.
    judged = {"ProgressBar", "BaseFinetuning", "LambdaCallback", "TQDMProgressBar"}
    assert {name for name in lightning.pytorch.callbacks.__all__ if f'"{name}"' not in text} <= judged


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_another_bar_takes_the_place_of_the_first(tmp_path, bar):
    trainer = _trainer(tmp_path, f"callbacks.progress._target_={LIBRARY}.{bar}")
    assert [type(one).__name__ for one in trainer.callbacks if isinstance(one, known.ProgressBar)] == [bar]


def test_without_a_bar_lightning_adds_none(tmp_path):
    trainer = _trainer(tmp_path, "callbacks.progress=null")
    assert not any(isinstance(one, known.ProgressBar) for one in trainer.callbacks)


def test_a_hook_of_a_class_or_of_an_object_makes_a_callback():
    class Own(Callback):
        def on_train_end(self, trainer, pl_module):
            pass

    check_callbacks({"own": Own(), "functions": known.LambdaCallback(on_fit_end=print)})
    with pytest.raises(ConfigError, match="LambdaCallback does nothing itself"):
        check_callbacks({"functions": known.LambdaCallback()})


def test_layers_that_no_model_folder_holds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"transformer-engine-float16 puts layers of its own .*: choose bf16-mixed"):
        _trainer(tmp_path, "trainer.precision=transformer-engine-float16")
