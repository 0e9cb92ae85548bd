"""Loggers of a run: metrics.csv always; parameters and final metrics beside the curves for experiment trackers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from tlearn.console import is_main_process, report_only
from tlearn.errors import ConfigError
from tlearn.training.csv_logger import CSVLogger


def complete_loggers(given: Mapping[str, Logger], folder: Path) -> list[Logger]:
    """Return the loggers that a run is given, by their names under `logger`, and one for metrics.csv.

    Raises:
        ConfigError: one would write over metrics.csv.
    """
    for name, logger in given.items():
        if isinstance(logger, lightning_loggers.CSVLogger) and Path(logger.log_dir).absolute() == folder:
            raise ConfigError(f"logger.{name} would write over metrics.csv, which every run writes: leave it out")
    return [*given.values(), CSVLogger(folder)]


@contextmanager
def tracked(loggers: Sequence[Logger], parameters: Mapping[str, Any]) -> Iterator[None]:
    """Log the parameters of the run of this block, and close its trackers afterwards.

    The next run of a sweep or a notebook would otherwise be logged into this one.

    Raises:
        ConfigError: a logger cannot begin its log.
    """
    trackers, status = _trackers(loggers), "failed"
    for logger in loggers if is_main_process() else []:
        try:
            # Made when first read; hands its arguments on to another library.
            _ = getattr(logger, "experiment", None)
        except OSError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise ConfigError(f"logger: {type(logger).__name__} cannot begin its log: {told}") from error
    for tracker in trackers:
        tracker.log_hyperparams(dict(parameters))
    try:
        yield
        status = "success"
    finally:
        for tracker in trackers:
            with report_only("the end of a log"):
                tracker.finalize(status)
                if isinstance(tracker, WandbLogger):
                    # Lightning leaves it open.
                    tracker.experiment.finish(exit_code=int(status != "success"))
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger) and is_main_process():
                # Lightning does so after the fit; what is written later opens its file, and a thread, again.
                with report_only("the end of a log"):
                    logger.finalize(status)


def log_results(loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
    """Log the final metrics, under names of their own: at step 0, they would be points of the curves."""
    for tracker in _trackers(loggers):
        with report_only("logging the final metrics"):
            tracker.log_metrics({f"final/{name}": value for name, value in metrics.items()})
            tracker.save()


def _trackers(loggers: Sequence[Logger]) -> list[Logger]:
    """Return the loggers that take parameters and results as numbers: TensorBoard's come with its figures."""
    trackers = [logger for logger in loggers if not isinstance(logger, CSVLogger | TensorBoardLogger)]
    return trackers if is_main_process() else []
