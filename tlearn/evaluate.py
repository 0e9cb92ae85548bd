"""Measure a finished run again: python -m tlearn.evaluate run=RUN_FOLDER split=test."""

from omegaconf import DictConfig

from tlearn.config.command import program


def evaluate(config: DictConfig) -> dict[str, float]:
    """Measure the model of `config.run` on one split and return its metrics."""
    # Imported here: torch and lightning take seconds to load, and help and configuration errors must not wait.
    from tlearn.config.evaluation import measure, opened_model
    from tlearn.config.tree import settings_of, task_overrides
    from tlearn.console import say, session
    from tlearn.models.device import float32
    from tlearn.report.after_training import report_evaluation
    from tlearn.report.terminal import show_paths, show_result
    from tlearn.runs.evaluated import trained_on_note
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.record import RunRecord
    from tlearn.training.ddp import wait_for_record

    settings = settings_of(config)
    run = RunFolder(settings["paths"]["output_dir"])
    # As the measurement, so that the report tells it of the environment
    with session(run.path / "evaluate.log", quiet=settings["quiet"]), float32():
        model = opened_model(settings)
        metrics, outputs, unreadable = measure(settings, model)
        # The first process alone has them.
        if outputs is not None:
            run.write_json("metrics.json", metrics)
            show_result(metrics, outputs)
            if note := trained_on_note(model, outputs):
                say(note)
            if settings["report"]["write"]:
                record = RunRecord(run, settings, task_overrides())
                report_evaluation(record, model, outputs, metrics, unreadable)
            show_paths(run.path)
        wait_for_record()
    return metrics


main, script = program("evaluate", evaluate)

if __name__ == "__main__":
    script()
