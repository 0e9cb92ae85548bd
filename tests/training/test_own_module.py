"""A module of a user's own trains, is evaluated, predicts and resumes; what it ignores is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests import small_runs as runs
from tlearn.errors import ConfigError

OWN = ("module._target_=tests.training.own_module.CentreModule", "optimizer=none", "+module.rate=0.05")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return runs.write_weights(tmp_path / "weights.pth")


def test_a_module_with_two_optimizers_trains_is_evaluated_predicts_and_resumes(tmp_path, folder_data, weights):
    run = tmp_path / "run"
    program = runs.overrides(folder_data, weights, f"hydra.run.dir={run}", *OWN, "trainer.max_epochs=2")
    assert runs.program("train", *program, cwd=tmp_path).returncode == 0
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(checkpoint["optimizer_states"]) == 2
    assert checkpoint["state_dict"]["centres"].abs().sum() > 0
    trained = json.loads((run / "metrics.json").read_text())
    assert json.loads((run / "model" / "model.json").read_text())["config"]["optimizer"] == {}
    place = f"hydra.run.dir={tmp_path / 'again'}"
    again = runs.program("evaluate", f"run={run}", "report.write=false", "trainer=cpu", place, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    evaluated = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert evaluated["test/loss"] == pytest.approx(trained["test/loss"], abs=1e-5)
    done = runs.program("predict", f"run={run}", f"images='{folder_data}'", "num_workers=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run / "metrics.json").unlink()
    more = runs.program("train", f"resume={run}", "trust=[tests]", OWN[0], "trainer.max_epochs=4", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    with (run / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 4
    assert losses[3] < losses[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((OWN[0],), "CentreModule does not use the optimizer of the run: choose optimizer=none"),
        ((*OWN, "scheduler=cosine"), "CentreModule does not use the scheduler of the run: choose scheduler=none"),
        (
            ("module._target_=tests.training.own_module.SilentModule",),
            "validation_step of SilentModule must call self.measure",
        ),
        (("module._target_=tests.training.own_module.NarrowModule",), "unexpected keyword argument 'loss'"),
    ],
    ids=["optimizer", "scheduler", "measure", "keywords"],
)
def test_what_a_module_ignores_is_refused(tmp_path, folder_data, weights, more, message):
    with pytest.raises(ConfigError, match=message):
        runs.run(tmp_path / "run", folder_data, weights, *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer=lbfgs"], "optimizer=lbfgs is now module=full_batch"),
        (["module=full_batch", "optimizer.lr=0.1"], "module=full_batch has no optimizer: leave it out"),
    ],
)
def test_the_line_to_type_instead_is_said(tmp_path, arguments, message):
    done = runs.program("train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
