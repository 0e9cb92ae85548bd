"""Give a finished run's figures again: python -m tlearn.evaluate run=RUN_FOLDER split=test."""

from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import is_main_process

if TYPE_CHECKING:
    from pathlib import Path

    from tlearn.analysis.outputs import Outputs
    from tlearn.data.sources.torchvision import Sample
    from tlearn.runs.model import Model


def evaluate(config: DictConfig) -> dict[str, float]:
    """Measure the model of `config.run` on one split and give its figures."""
    # Imported here: torch and lightning take seconds, which help and configuration errors shall not.
    from tlearn.config import build as assemble
    from tlearn.report import after_training as reporting
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.model import load_model

    model, run = load_model(config.run), RunFolder(config.paths.output_dir)
    figures, outputs, unreadable = measure(config, model)
    if is_main_process():
        run.write_json("metrics.json", figures)
        if config.report.write:
            reporting.report_evaluation(config, run, model, outputs, figures, unreadable)
        assemble.show(figures, run.path)
    return figures


def measure(
    config: DictConfig, model: "Model", features: bool = False
) -> tuple[dict[str, float], "Outputs", dict[str, str]]:
    """Give a model's figures on the pictures of an evaluation, what it gave for them, and what could not be read.

    `features` keeps what the head was given, too.
    """
    from pathlib import Path

    from tlearn.config import build as assemble
    from tlearn.data.datamodule import ImageDataModule
    from tlearn.data.prepare import Pictures, readable
    from tlearn.data.transforms import Transform
    from tlearn.report import after_training as reporting
    from tlearn.training import ddp as parallel
    from tlearn.training.collect_outputs import Collector
    from tlearn.training.test_time_augmentation import module_for, preprocessing_for

    trainer = assemble.evaluator(config, Path(config.paths.output_dir))
    root, chosen = _choose(config, model)
    transform = Transform(preprocessing_for(config.tta, model.description["preprocessing"]))
    bad, samples = readable(root, chosen, model.decoder, config.data.on_bad_image, assemble.verified(config))
    if bad and is_main_process():
        print(f"left out {len(bad)} unreadable pictures: {', '.join(list(bad)[:20])}", flush=True)
    loading = {"batch_size": config.data.batch_size, "num_workers": config.data.num_workers}
    pictures = Pictures(root, {"test": samples}, model.classes)
    data = ImageDataModule(pictures, model.decoder, transform, transform, **loading)
    module, collector = module_for(config.tta, model.network, len(model.classes)), Collector(features)
    with parallel.further_processes(trainer), collector.attached(trainer, model.network.head):
        [measured] = trainer.test(module, datamodule=data, verbose=False)
        outputs, more = collector.take("test", data)
    figures = {f"{config.split}/{name.removeprefix('test/')}": value for name, value in measured.items()}
    outputs = replace(outputs, split=config.split)
    figures |= reporting.evaluation_figures(outputs, more.get("views"), model.temperature)
    return figures, outputs, bad


def _choose(config: DictConfig, model: "Model") -> tuple["Path", list["Sample"]]:
    """Choose the pictures: the run's own split, also where they have moved to, or another data set's."""
    from pathlib import Path

    from tlearn.config import build as assemble
    from tlearn.data.split import check_manifest, read_manifest, unchanged_files
    from tlearn.errors import DataError
    from tlearn.runs.model import MANIFEST

    manifest = read_manifest(model.folder / MANIFEST)
    own = config.data.root is None and config.data.name == "folder"
    if own:
        root = Path(model.description["data_root"])
        check_manifest(manifest, root)
    else:
        source = assemble.build(config.data.source)
        source.prepare()
        listing = source.listing()
        root = listing.root
    same = unchanged_files(manifest, root)
    if own or same == len(manifest.sizes):
        if config.split not in manifest.splits:
            raise DataError(f"the run has no {config.split} split: it has {', '.join(manifest.splits)}")
        return root, manifest.splits[config.split]
    given = {sample.split for sample in listing.samples}
    if given == {None} and same:
        raise DataError(
            f"{root} has {same} of the run's {len(manifest.sizes)} pictures and no splits of its own: figures would "
            "include pictures it was trained on; give the whole set, or other pictures"
        )
    if given != {None} and config.split not in given:
        raise DataError(f"{root} has no {config.split} split: it has {', '.join(sorted(map(str, given)))}")
    samples = [sample for sample in listing.samples if sample.split in (None, config.split)]
    _check_classes(samples, model.classes, root)
    return root, samples


def _check_classes(samples: list["Sample"], classes: list[str], root: "Path") -> None:
    """Refuse classes that the model does not know, and name those without a picture."""
    from tlearn.errors import DataError

    present = {sample.label for sample in samples}
    unknown, absent = sorted(present - set(classes)), sorted(set(classes) - present)
    if unknown:
        raise DataError(
            f"{root} has classes that the model does not know: {', '.join(unknown)}; it knows {', '.join(classes)}"
        )
    if is_main_process():
        print(
            f"{len(samples)} pictures of {root}", *([f"no picture of {', '.join(absent)}"] if absent else []), sep="\n"
        )


main = program("evaluate")(evaluate)

if __name__ == "__main__":
    main()
