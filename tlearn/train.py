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
    from tlearn.config.relaunch import check_resume, record_resume
    from tlearn.config.settle import settled
    from tlearn.config.trainer import training_trainer
    from tlearn.config.tree import plain, settings_of, task_overrides
    from tlearn.config.tuning import tuning
    from tlearn.console import is_main_process, say, session
    from tlearn.features.choose import choose_features
    from tlearn.report.after_training import plan_report, report_training, show_first_images
    from tlearn.report.terminal import show_paths, show_result
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.record import RunRecord
    from tlearn.training.best import evaluate_best
    from tlearn.training.checkpoints import check_room, trained_epochs
    from tlearn.training.ddp import further_processes, wait_for_record
    from tlearn.training.loggers import log_results, tracked
    from tlearn.training.resume import last_checkpoint
    from tlearn.training.validation import check_validation

    started = time.monotonic()
    run = RunFolder(config.paths.output_dir)
    with run.claimed(again=config.resume is not None), session(run.path / "train.log", quiet=config.quiet):
        seed_everything(config.seed, workers=True, verbose=False)
        unresolved, checkpoint, changed = plain(config, resolve=False), None, []
        if config.resume is not None:
            changed, checkpoint = check_resume(unresolved, run.path), last_checkpoint(run.path)
            epochs = trained_epochs(checkpoint, config.trainer.max_epochs)
        backbone = build.backbone(settings_of(config))
        settings = settled(config, backbone.preprocessing())
        trainer = training_trainer(settings, run.path)
        image_set = build.image_set(settings, run)
        record = RunRecord(run, settings, task_overrides())
        if is_main_process():
            record.start(image_set, resumed=checkpoint is not None)
            if changed:
                record_resume(unresolved, run.path)
        if checkpoint is not None:
            say(f"{run.path} goes on after epoch {epochs}", *(f"  {line}" for line in changed))
        network = build.network(settings, backbone, len(image_set.classes), settings["transforms"]["size"])
        images = build.datamodule(settings, image_set)
        module = build.module(settings, network, images)
        check_validation(trainer, 1 if module.full_batch else images.count_train_batches(trainer.world_size))
        check_room(run.path, network)
        tune = tuning(settings, trainer, module)
        data = choose_features(build.feature_options(settings, backbone), module, images, trainer)
        if tune is not None:
            record.adopt(tune(data, record.tuned(), run.path / "report"))
        views = settings["features"]["views"]
        plan = plan_report(settings["report"], views, trainer, data, network)
        if plan.write:
            show_first_images(run, images, views, trainer.loggers)
        with further_processes(trainer), tracked(trainer.loggers, record.parameters):
            fit_started = time.monotonic()
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
            fit_seconds = time.monotonic() - fit_started
            metrics, outputs = evaluate_best(trainer, module, data, run.path, plan)
            metrics |= calibrate(outputs) | network.sizes()
            metrics |= {f"tune/{key}": value for key, value in record.tuned().items()}
            metrics |= {"time/fit_s": fit_seconds, "time/total_s": time.monotonic() - started}
            log_results(trainer.loggers, metrics)
        if is_main_process():
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                run.write_json("metrics.json", metrics)
            else:
                record.finish(network, backbone, images, metrics, module.directions, module.trained_on)
            show_result(metrics, outputs["test"] if "test" in outputs else outputs["val"])
            if plan.write:
                report_training(record, plan, network, image_set, outputs, metrics, trainer.loggers)
            show_paths(run.path)
        wait_for_record()
    return metrics


main, script = program("train", train)

if __name__ == "__main__":
    script()
