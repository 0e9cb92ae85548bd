"""Loggers: metrics.csv whatever is chosen; parameters, curves and final metrics for each tracker and a user's own."""

from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from tests.small_runs import run, write_weights
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.config.trainer import training_trainer
from tlearn.errors import ConfigError
from tlearn.training import loggers
from tlearn.training.csv_logger import CSVLogger


class Recorder(Logger):
    """A user's own logger, which keeps what it is given."""

    seen: ClassVar[list["Recorder"]] = []

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.parameters: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.ends: list[str] = []
        self.fails = fails
        self.seen.append(self)

    name = version = "recorder"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.parameters |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.fails and any(name.startswith("final/") for name in metrics):
            raise OSError("no server")
        self.metrics.append((step, dict(metrics)))

    def finalize(self, status: str) -> None:
        self.ends.append(status)


OWN = f"+logger.own._target_={__name__}.Recorder"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    Recorder.seen.clear()
    return write_weights(tmp_path / "weights.pth")


def _trainer(tmp_path: Path, override: str):
    config = compose(["trainer=cpu", override], output_dir=tmp_path)
    return training_trainer(settled(config, IMAGENET), tmp_path)


@pytest.mark.parametrize("option", ["csv", "tensorboard", "default"])
def test_metrics_csv_is_written_whatever_is_chosen(tmp_path, option):
    trainer = _trainer(tmp_path, f"logger={option}")
    assert [one.save_dir for one in trainer.loggers if isinstance(one, CSVLogger)] == [str(tmp_path)]
    assert any(isinstance(one, TensorBoardLogger) for one in trainer.loggers) == (option != "csv")


def test_a_logger_of_ones_own_gets_parameters_curves_and_final_metrics(tmp_path, folder_data, weights):
    found = run(tmp_path / "run", folder_data, weights, OWN, "trainer.max_epochs=2", "optimizer.lr=0.02")
    [own] = Recorder.seen
    assert own.parameters["optimizer.lr"] == 0.02
    assert own.parameters["data.batch_size"] == 8
    assert own.parameters["run"] == str(tmp_path / "run")
    assert [step for step, metrics in own.metrics if "val/loss" in metrics] == [2, 5]
    assert own.metrics[-1] == (None, {f"final/{name}": value for name, value in found.items()})
    assert own.ends[-1] == "success"
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_a_logger_that_fails_at_the_end_does_not_cost_the_run(tmp_path, folder_data, weights, capsys):
    run(tmp_path / "run", folder_data, weights, OWN, "+logger.own.fails=true")
    assert "logging the final metrics could not be made: OSError: no server" in capsys.readouterr().err
    assert (tmp_path / "run" / "model").is_dir()


def test_a_failed_run_is_closed_as_failed():
    tracker = Recorder()
    with pytest.raises(ValueError, match="stop"), loggers.tracked([tracker], {}):
        raise ValueError("stop")
    assert tracker.ends == ["failed"]


def test_a_logger_that_cannot_begin_is_named_before_anything_is_drawn(tmp_path, folder_data, weights, capsys):
    with pytest.raises(ConfigError, match=r"^logger: TensorBoardLogger cannot begin its log: TypeError: .*'log_grap'"):
        run(tmp_path / "run", folder_data, weights, "logger=tensorboard", "+logger.tensorboard.log_grap=true")
    assert "could not be made" not in capsys.readouterr().err


def test_what_writes_over_metrics_csv_is_refused(tmp_path):
    given = "{_target_:lightning.pytorch.loggers.CSVLogger,save_dir:'${paths.output_dir}',name:'',version:''}"
    with pytest.raises(ConfigError, match=r"logger.x would write over metrics.csv"):
        _trainer(tmp_path, f"+logger.x={given}")


@pytest.mark.parametrize(("name", "flag"), [("mlflow", "_MLFLOW_AVAILABLE"), ("wandb", "_WANDB_AVAILABLE")])
def test_a_missing_extra_is_one_line_with_the_command(tmp_path, monkeypatch, name, flag):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}.{flag}", False)
    with pytest.raises(ConfigError) as error:
        _trainer(tmp_path, f"logger={name}")
    assert str(error.value) == f"logger={name} needs the extra {name}: pip install 'tlearn[{name}]'"


def test_mlflow_keeps_everything_in_the_run_folder(tmp_path, folder_data, weights, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a run%20?1"
    found = run(folder, folder_data, weights, "logger=mlflow", "trainer.max_epochs=2")
    client = mlflow.MlflowClient(f"sqlite:///{quote(str(folder))}/mlflow.db")
    [kept] = client.search_runs([client.get_experiment_by_name("tlearn").experiment_id])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["optimizer.lr"] == "0.003"
    assert [point.step for point in client.get_metric_history(kept.info.run_id, "val/loss")] == [2, 5]
    assert {name: kept.data.metrics[f"final/{name}"] for name in found} == pytest.approx(found)
    assert not (tmp_path / "mlruns").exists()


def test_wandb_keeps_everything_offline_and_each_trial_apart(tmp_path, folder_data, weights, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    summaries = []
    finish = wandb.sdk.wandb_run.Run.finish

    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        summaries.append((dict(self.config), dict(self.summary)))
        finish(self, *args, **kwargs)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", recorded)
    for seed in (1, 2):
        found = run(tmp_path / str(seed), folder_data, weights, "logger=wandb", f"seed={seed}")
        config, summary = summaries[-1]
        assert config["seed"] == seed
        assert config["optimizer.lr"] == 0.003
        assert {name: summary[f"final/{name}"] for name in found} == pytest.approx(found)
        assert "val/loss" in summary
        assert list((tmp_path / str(seed)).glob("wandb/offline-run-*/*.wandb"))
    assert wandb.run is None
