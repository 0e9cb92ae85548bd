"""Measure a finished run again: python -m tlearn.evaluate run=RUN_FOLDER split=test."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlearn.config.command import program

if TYPE_CHECKING:
    from tlearn.analysis.outputs import Outputs
    from tlearn.runs.model import Model


def evaluate(config: DictConfig) -> dict[str, float]:
    """Measure the model of `config.run` on one split and return its metrics."""
    # Imported here: torch and lightning take seconds, which help and configuration errors must not wait for.
    from tlearn.config.compose import plain, task_overrides
    from tlearn.console import is_main_process, session
    from tlearn.report.after_training import report_evaluation
    from tlearn.report.terminal import show_paths, show_result
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.model import load_model
    from tlearn.runs.record import RunRecord

    run = RunFolder(config.paths.output_dir)
    with session(run.path / "evaluate.log", quiet=config.quiet):
        model = load_model(config.run)
        metrics, outputs, unreadable = measure(config, model)
        if is_main_process():
            run.write_json("metrics.json", metrics)
            show_result(metrics, outputs)
            if config.report.write:
                record = RunRecord(run, plain(config), task_overrides())
                report_evaluation(record, model, outputs, metrics, unreadable)
            show_paths(run.path)
    return metrics


def measure(
    config: DictConfig, model: "Model", features: bool = False
) -> tuple[dict[str, float], "Outputs", dict[str, str]]:
    """Return a model's metrics on the images of an evaluation, its outputs, and what could not be read by path.

    `features` keeps what the head was given, too.
    """
    from pathlib import Path

    from tlearn.analysis.calibration import calibration_metrics
    from tlearn.analysis.outputs import view_metrics
    from tlearn.config import build
    from tlearn.console import say
    from tlearn.data.datamodule import ImageDataModule
    from tlearn.data.prepare import Pictures, readable
    from tlearn.data.transforms import Transform
    from tlearn.runs.evaluated import evaluated_samples
    from tlearn.training.measure import measure_split
    from tlearn.training.test_time_augmentation import preprocessing_for

    trainer = build.trainer(config, Path(config.paths.output_dir))
    own = config.data.root is None and config.data.name == "folder"
    root, chosen = evaluated_samples(model, config.split, None if own else build.build(config.data.source))
    transform = Transform(preprocessing_for(config.tta, model.description["preprocessing"]))
    verified = Path(config.paths.cache).expanduser() / "verified"
    unreadable, samples = readable(root, chosen, model.decoder, config.data.on_bad_image, verified)
    if unreadable:
        say(f"left out {len(unreadable)} unreadable pictures: {', '.join(list(unreadable)[:20])}")
    loading = {"batch_size": config.data.batch_size, "num_workers": config.data.num_workers}
    pictures = Pictures(root, {"test": samples}, model.classes)
    data = ImageDataModule(pictures, model.decoder, transform, transform, **loading)
    metrics, outputs, views = measure_split(trainer, model.network, data, config.split, config.tta, features)
    metrics |= calibration_metrics(outputs, model.temperature)
    if views is not None:
        metrics |= view_metrics(outputs, views)
    return metrics, outputs, unreadable


main, script = program("evaluate", evaluate)

if __name__ == "__main__":
    script()
