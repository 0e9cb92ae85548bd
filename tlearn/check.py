"""Check a training without starting it: python -m tlearn.check, with the arguments of tlearn.train."""

from omegaconf import DictConfig

from tlearn.config.command import program


def check(config: DictConfig) -> dict[str, float]:
    """Do what a training does before its first step, and write data_report.json; a mistake ends it as it ends that."""
    # Imported here: torch and lightning take seconds to load, and help and configuration errors must not wait.
    from tlearn.config import build
    from tlearn.config.relaunch import check_resume
    from tlearn.config.settle import settled
    from tlearn.config.trainer import training_trainer
    from tlearn.config.tree import plain, settings_of
    from tlearn.console import say, session
    from tlearn.machine import environment
    from tlearn.report.terminal import show_paths
    from tlearn.runs.folder import RunFolder
    from tlearn.training.checkpoints import CheckpointIO, check_room
    from tlearn.training.prepare_head import PrepareHead
    from tlearn.training.resume import last_checkpoint
    from tlearn.training.validation import check_validation

    run = RunFolder(config.paths.output_dir)
    with run.claimed(again=config.resume is not None), session(run.path / "check.log", quiet=config.quiet):
        if config.resume is not None:
            check_resume(plain(config, resolve=False), run.path)
        backbone = build.backbone(settings_of(config))
        settings = settled(config, backbone.preprocessing())
        trainer = training_trainer(settings, run.path)
        image_set = build.image_set(settings, run)
        run.write_json("data_report.json", {"unreadable": image_set.skipped, "notes": image_set.notes})
        network = build.network(settings, backbone, len(image_set.classes), settings["transforms"]["size"])
        images = build.datamodule(settings, image_set)
        module = build.module(settings, network, images)
        check_validation(trainer, 1 if module.full_batch else images.count_train_batches(trainer.world_size))
        check_room(run.path, network)
        if config.resume is not None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, PrepareHead):
                    callback.setup(trainer, module, "fit")
            module.on_load_checkpoint(CheckpointIO(run.path).load_checkpoint(last_checkpoint(run.path)))
            say("checkpoint: checkpoints/last.ckpt fits the network")
        # Its workers take shared memory as those of the training will.
        next(iter(images.val_dataloader()))
        gpus = ", ".join(environment()["gpus"]) or "none"
        say(f"devices: {trainer.num_devices} x {trainer.strategy.root_device.type}; GPUs: {gpus}")
        say("nothing is in the way of this training: start it with tlearn.train in the place of tlearn.check")
        show_paths(run.path)
    return {}


main, script = program("train", check)

if __name__ == "__main__":
    script()
