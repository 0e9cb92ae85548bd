"""Train a classifier on images: python -m tlearn.train backbone=resnet18 data=folder data.root=FOLDER."""

import time

from omegaconf import DictConfig

from tlearn.config.command import program


def train(config: DictConfig) -> dict[str, float]:
    """Run one training and return its metrics; every file it writes is in `config.paths.output_dir`."""
    # Imported here: torch and lightning take seconds to load, and help and configuration errors must not wait.
    from lightning import seed_everything

    from tlearn.analysis.calibration import calibrate
    from tlearn.config import build
    from tlearn.config.prepared import continued, prepared
    from tlearn.config.stored_run import record_resume
    from tlearn.config.together import finished_with_others
    from tlearn.config.tree import plain, task_overrides
    from tlearn.config.tuning import tuning
    from tlearn.console import is_main_process, session
    from tlearn.features.choose import choose_features
    from tlearn.models.allocator import keep_memory
    from tlearn.models.device import float32
    from tlearn.report.after_training import plan_report, report_training, show_first_images
    from tlearn.report.tensorboard import parameter_table, write_results
    from tlearn.report.terminal import show_paths, show_result
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.record import RunRecord
    from tlearn.training.best import evaluate_best
    from tlearn.training.ddp import further_processes, wait_for_record
    from tlearn.training.last_checkpoint import restoring, seconds_before
    from tlearn.training.loggers import log_results, tracked

    started = time.monotonic()
    run = RunFolder(config.paths.output_dir)
    done = finished_with_others(run, config.seed, config.quiet, lambda: prepared(config, run))
    if done is not None:
        return done
    claimed, told = run.claimed(again=config.resume is not None), session(run.path / "train.log", quiet=config.quiet)
    with claimed, told, float32(tf32=config.features.precision == "tf32"):
        seed_everything(config.seed, workers=True, verbose=False)
        unresolved = plain(config, resolve=False)
        checkpoint, changed = continued(unresolved, run.path)
        parts = prepared(config, run)
        settings, trainer, module, images = parts.settings, parts.trainer, parts.module, parts.images
        record = RunRecord(run, settings, task_overrides())
        if is_main_process():
            record.start(images.image_set, resumed=checkpoint is not None)
            record_resume(unresolved, run.path, changed)
        tune = tuning(settings, trainer, module)
        data = choose_features(build.feature_options(settings, parts.backbone), module, images, trainer)
        if tune is not None:
            record.adopt(tune(data, record.tuned(), run.path / "report"))
        views = settings["features"]["views"]
        plan = plan_report(settings["report"], views, trainer, data, parts.network)
        with tracked(trainer.loggers, record.parameters):
            if plan.write:
                show_first_images(run, images, views, trainer.loggers)
            with further_processes(trainer), keep_memory(trainer.strategy.root_device):
                fit_started = time.monotonic()
                with restoring(trainer):
                    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
                before = seconds_before(trainer)
                fit_seconds = before + time.monotonic() - fit_started
                metrics, outputs = evaluate_best(trainer, module, data, run.path, plan)
                metrics |= calibrate(outputs) | parts.network.sizes()
                metrics |= {f"tune/{key}": value for key, value in record.tuned().items()}
                metrics |= {"time/fit_s": fit_seconds, "time/total_s": before + time.monotonic() - started}
                log_results(trainer.loggers, metrics)
            if is_main_process():
                if trainer.fast_dev_run:  # type: ignore[attr-defined]
                    run.write_json("metrics.json", metrics)
                else:
                    record.finish(parts.network, parts.backbone, images, metrics, module.directions, module.trained_on)
                show_result(metrics, outputs["test"] if "test" in outputs else outputs["val"])
                write_results(trainer.loggers, parameter_table(parts.network), record.parameters, metrics)
                if plan.write:
                    report_training(record, plan, images.image_set, outputs, metrics, trainer.loggers)
        if is_main_process():
            show_paths(run.path)
        wait_for_record()
    return metrics


main, script = program("train", train)

if __name__ == "__main__":
    script()
