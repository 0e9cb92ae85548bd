"""Intervals between validations that a training would never reach are refused before it starts."""

import pytest
from lightning import Trainer

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
            "training has 8 batches",
        ),
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
    ],
)
def test_what_is_reached_passes(settings):
    check_validation(_trainer(**settings), 7)


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
