"""Give a finished run's figures again: python -m tlearn.evaluate run=RUN_FOLDER split=test."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlearn.cli import is_main_process, program

if TYPE_CHECKING:
    from pathlib import Path

    from tlearn.bundle import Model
    from tlearn.data.samples import Sample


def evaluate(config: DictConfig) -> dict[str, float]:
    """Measure the model of `config.run` on one split and give its figures."""
    # Imported here: torch and lightning take seconds, which help and configuration errors shall not.
    from tlearn import assemble, parallel
    from tlearn.bundle import load_model
    from tlearn.data.datamodule import ImageDataModule
    from tlearn.data.prepare import Pictures
    from tlearn.data.transforms import Transform
    from tlearn.module import TransferModule
    from tlearn.run import RunFolder

    model = load_model(config.run)
    root, samples = _samples(config, model)
    decoder = assemble.model_decoder(model)
    assemble.check_readable(config, root, samples, decoder)
    transform = Transform(model.description["preprocessing"])
    loading = {"batch_size": config.data.batch_size, "num_workers": config.data.num_workers}
    data = ImageDataModule(Pictures(root, {"test": samples}, model.classes), decoder, transform, transform, **loading)
    run = RunFolder(config.paths.output_dir)
    trainer = assemble.evaluator(config, run.path)
    with parallel.further_processes(trainer):
        [measured] = trainer.test(TransferModule(model.network, len(model.classes)), datamodule=data, verbose=False)
    figures = {f"{config.split}/{name.removeprefix('test/')}": value for name, value in measured.items()}
    if is_main_process():
        run.write_json("metrics.json", figures)
        assemble.show(figures, run.path)
    return figures


def _samples(config: DictConfig, model: "Model") -> tuple["Path", list["Sample"]]:
    """Choose the pictures: the run's own split, also where they have moved to, or another data set's."""
    from pathlib import Path

    from hydra.utils import instantiate

    from tlearn.bundle import MANIFEST
    from tlearn.data.splits import check_manifest, read_manifest
    from tlearn.errors import DataError

    manifest = read_manifest(model.folder / MANIFEST)
    own = config.data.root is None and "csv" not in config.data
    root = Path(model.description["data_root"] if own or config.data.root is None else config.data.root).expanduser()
    try:
        check_manifest(manifest, root)
    except DataError:
        if own:
            raise
    else:
        if config.split not in manifest.splits:
            raise DataError(f"the run has no {config.split} split: it has {', '.join(manifest.splits)}")
        return root, manifest.splits[config.split]
    listing = instantiate(config.data.source).listing()
    given = {sample.split for sample in listing.samples}
    if given != {None} and config.split not in given:
        raise DataError(f"{listing.root} has no {config.split} split: it has {', '.join(sorted(map(str, given)))}")
    samples = [sample for sample in listing.samples if sample.split in (None, config.split)]
    unknown = sorted({sample.label for sample in samples} - set(model.classes))
    if unknown:
        raise DataError(
            f"{listing.root} has classes that the model does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(model.classes)}"
        )
    absent = sorted(set(model.classes) - {sample.label for sample in samples})
    if absent and is_main_process():
        print(f"no picture of {', '.join(absent)}", flush=True)
    return listing.root, samples


main = program("evaluate")(evaluate)

if __name__ == "__main__":
    main()
