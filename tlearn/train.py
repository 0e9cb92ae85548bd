"""Train a classifier on pictures: python -m tlearn.train backbone=resnet18 data=folder data.root=FOLDER."""

import time
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import is_main_process

if TYPE_CHECKING:
    from tlearn.runs.folder import RunFolder


def train(config: DictConfig) -> dict[str, float]:
    """Run one training and give its figures; everything it leaves lies in the run folder `config.paths.output_dir`."""
    from tlearn.runs.folder import RunFolder

    run = RunFolder(config.paths.output_dir)
    if not is_main_process():
        return _train(config, run)
    run.claim(again=config.resume is not None)
    try:
        return _train(config, run)
    finally:
        run.release()


def _train(config: DictConfig, run: "RunFolder") -> dict[str, float]:
    # Imported here: torch and lightning take seconds, which help and configuration errors shall not.
    from lightning import seed_everything

    from tlearn.config import build as assemble
    from tlearn.config.relaunch import check_resume, resume_from
    from tlearn.features.choose import cached
    from tlearn.report import after_training as reporting
    from tlearn.training import ddp as parallel

    started = time.monotonic()
    seed_everything(config.seed, workers=True, verbose=False)
    check_resume(config, run.path)
    checkpoint = resume_from(config)
    trainer = assemble.trainer(config, run.path)
    backbone = assemble.backbone(config)
    preprocessing = assemble.complete_transforms(config, backbone)
    pictures = assemble.pictures(config, run)
    assemble.describe(config, run, pictures)
    optimizer = assemble.optimizer(config)
    network = assemble.network(config, backbone, len(pictures.classes), preprocessing["size"])
    images = assemble.datamodule(config, pictures, preprocessing)
    module = assemble.module(config, network, images, optimizer)
    data = cached(config, backbone, network, images, preprocessing, trainer, module.full_batch)
    plan = reporting.plan(config, trainer, data, network, len(pictures.classes))
    if plan.write:
        reporting.show_first_batch(run, images, config.features.views is not None, trainer.loggers)
    with parallel.further_processes(trainer):
        fit_started = time.monotonic()
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        fit_seconds = time.monotonic() - fit_started
        figures, outputs = assemble.evaluate_best(trainer, module, data, run.path, plan)
    figures |= reporting.calibrate(outputs)
    total, trainable = network.count_parameters()
    figures |= {"params/total": total, "params/trainable": trainable}
    figures |= {"time/fit_s": fit_seconds, "time/total_s": time.monotonic() - started}
    if trainer.is_global_zero:
        assemble.finish(config, run, backbone, data, network, preprocessing, figures)
        if plan.write:
            reporting.report(config, run, plan, pictures, outputs, figures)
            reporting.show_on_boards(config, run, network, outputs["val"], figures, trainer.loggers)
        assemble.show(figures, run.path)
    return figures


main = program("train")(train)

if __name__ == "__main__":
    main()
