"""Never a model that no validation has chosen: refused before the training where it can be told, after it otherwise."""

from datetime import timedelta

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.small_runs import overrides, program, write_weights
from tlearn.errors import ConfigError
from tlearn.training.validation import check_validation


def _trainer(**settings) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", **{"max_epochs": 2, **quiet, **settings})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"val_check_interval": 8}, r"=8: an epoch has 7 batches; set trainer.val_check_interval=7, or .*=null"),
        ({"val_check_interval": 5, "limit_train_batches": 3}, "an epoch has 3 batches"),
        ({"val_check_interval": 5, "limit_train_batches": 0.5}, "an epoch has 3 batches"),
        ({"val_check_interval": 5, "overfit_batches": 1}, "an epoch has 1 batch;"),
        ({"val_check_interval": 15, "check_val_every_n_epoch": None}, "training has 14 batches.* set .*interval=7"),
        (
            {"val_check_interval": 9, "check_val_every_n_epoch": None, "max_steps": 4, "accumulate_grad_batches": 2},
            "training has 7 batches",
        ),
        ({"limit_train_batches": 0}, "limit_train_batches=0: nothing would be trained"),
        ({"max_steps": 0}, "max_steps=0: nothing would be trained"),
        ({"max_steps": 6}, "max_steps=6: .* before its first validation, which is after 7 batches; .*interval=6"),
        ({"max_steps": 4, "accumulate_grad_batches": 3, "check_val_every_n_epoch": 2}, "after 14 batches"),
        ({"check_val_every_n_epoch": 3}, "=3: the training has 2 epochs.* set trainer.check_val_every_n_epoch=2"),
    ],
)
def test_what_would_never_be_reached_is_refused_with_what_to_type(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        check_validation(_trainer(**settings), 7)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"val_check_interval": 7},
        {"val_check_interval": 0.01},
        {"val_check_interval": 14, "check_val_every_n_epoch": None},
        {"val_check_interval": 500, "check_val_every_n_epoch": None, "max_epochs": -1},
        {"val_check_interval": 5, "limit_train_batches": 5},
        {"val_check_interval": 5, "fast_dev_run": True},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 7},
        {"max_steps": 3, "accumulate_grad_batches": 3},
        {"max_steps": 3, "val_check_interval": 0.5},
    ],
)
def test_what_is_reached_passes(settings):
    check_validation(_trainer(**settings), 7)


@pytest.mark.parametrize(
    ("saved", "settings", "reason"),
    [
        ({"save_top_k": 0}, {}, "save_top_k=0 keeps no checkpoint"),
        ({"every_n_epochs": 5}, {}, "every_n_epochs=5: no such epoch of 4 is validated"),
        ({"every_n_epochs": 3}, {"check_val_every_n_epoch": 2}, "no such epoch of 4"),
        ({"every_n_epochs": 0}, {}, "every_n_epochs=0: that is never"),
        ({"every_n_train_steps": 5}, {}, "every_n_train_steps and .* no validation has measured"),
        ({"train_time_interval": timedelta(days=1)}, {}, "every_n_train_steps and .* no validation has measured"),
        ({"save_on_train_epoch_end": True}, {"val_check_interval": 0.3}, "that are not validated: set null"),
    ],
)
def test_a_checkpoint_that_would_never_be_kept_or_hold_what_none_has_validated_is_refused(saved, settings, reason):
    trainer = _trainer(max_epochs=4, **{**settings, "enable_checkpointing": True})
    trainer.callbacks[:] = [ModelCheckpoint(monitor="val/loss", **saved)]
    with pytest.raises(ConfigError, match=reason):
        check_validation(trainer, 7)


@pytest.mark.parametrize(
    ("settings", "status", "reason"),
    [
        (["+trainer.max_time=00:00:00:00"], 4, "ended after 0 epochs and 0 steps, before any checkpoint was validated"),
        (["+trainer.limit_val_batches=0"], 2, "trainer.limit_val_batches=0: nothing of val would be measured"),
        (["+trainer.limit_test_batches=0"], 2, "trainer.limit_test_batches=0: nothing of test would be measured"),
    ],
)
def test_no_training_ends_well_without_a_checkpoint_that_val_has_chosen(
    tmp_path, folder_data, settings, status, reason
):
    arguments = overrides(folder_data, write_weights(tmp_path / "w.pth"), f"hydra.run.dir='{tmp_path / 'run'}'")
    done = program("train", *arguments, *settings, cwd=tmp_path)
    assert done.returncode == status
    assert reason in done.stderr
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_within_an_epoch_the_weights_that_are_kept_are_those_that_were_validated(tmp_path, folder_data):
    more = ("trainer.val_check_interval=2", "callbacks.prepare_head=null", f"hydra.run.dir='{tmp_path / 'run'}'")
    done = program("train", *overrides(folder_data, write_weights(tmp_path / "w.pth"), *more), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Of three batches; the weights after the third are nobody's choice.
    assert [file.name for file in (tmp_path / "run" / "checkpoints").glob("epoch*")] == ["epoch000-step000002.ckpt"]


def test_a_try_out_keeps_no_model_and_says_so(tmp_path, folder_data):
    arguments = overrides(
        folder_data, write_weights(tmp_path / "w.pth"), "debug=fast", f"hydra.run.dir={tmp_path / 'run'}"
    )
    done = program("train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no model is kept" in done.stdout
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("features", ["off", "auto"])
def test_a_training_with_too_few_batches_ends_before_features_are_computed(tmp_path, folder_data, features):
    arguments = overrides(folder_data, write_weights(tmp_path / "w.pth"), f"features={features}")
    # 24 training images in batches of 8
    done = program("train", *arguments, "trainer.val_check_interval=4", cwd=tmp_path)
    assert done.returncode == 2
    assert "trainer.val_check_interval=4: an epoch has 3 batches" in done.stderr
    assert "features:" not in done.stdout
    done = program(
        "train", *arguments, "trainer.val_check_interval=0.5", "trainer.check_val_every_n_epoch=null", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "to a number of them" in done.stderr
