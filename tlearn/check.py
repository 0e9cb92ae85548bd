"""Check a training without starting it: python -m tlearn.check, with the arguments of tlearn.train."""

from omegaconf import DictConfig

from tlearn.config.command import program


def check(config: DictConfig) -> dict[str, float]:
    """Do what a training does before its first step, and write data_report.json; a mistake ends it as it ends that."""
    # Imported here: torch and lightning take seconds to load, and help and configuration errors must not wait.
    from tlearn.config import build
    from tlearn.config.prepared import continued, prepared
    from tlearn.config.tree import plain
    from tlearn.config.tuning import tuning
    from tlearn.console import say, session
    from tlearn.features.choose import cacheable_part
    from tlearn.machine import gpu_names
    from tlearn.report.terminal import show_paths
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.record import RunRecord
    from tlearn.training.checkpoints import CheckpointIO
    from tlearn.training.prepare_head import PrepareHead

    run = RunFolder(config.paths.output_dir)
    with run.claimed(again=config.resume is not None), session(run.path / "check.log", quiet=config.quiet):
        checkpoint, _ = continued(plain(config, resolve=False), run.path)
        parts = prepared(config, run)
        trainer, module, images = parts.trainer, parts.module, parts.images
        found = images.image_set
        run.write_json("data_report.json", {"unreadable": found.skipped, "notes": found.notes})
        tuning(parts.settings, trainer, module)
        cacheable_part(build.feature_options(parts.settings, parts.backbone), module, images, trainer)
        if checkpoint is not None:
            RunRecord(run, parts.settings, []).check_images(found)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, PrepareHead):
                    callback.setup(trainer, module, "fit")
            files = CheckpointIO(run.path)
            content = files.load_checkpoint(checkpoint)
            with files.restoring():
                module.on_load_checkpoint(content)
            say("checkpoint: checkpoints/last.ckpt fits the network")
        # Its workers take shared memory as those of the training will.
        next(iter(images.val_dataloader()))
        gpus = ", ".join(gpu_names()) or "none"
        say(f"devices: {trainer.num_devices} x {trainer.strategy.root_device.type}; GPUs: {gpus}")
        say("nothing is in the way of this training: start it with tlearn.train in the place of tlearn.check")
        show_paths(run.path)
    return {}


main, script = program("train", check, "check")

if __name__ == "__main__":
    script()
