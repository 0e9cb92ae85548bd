"""The report of a finished run: its plan, the first batch, report.html and TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from torch import nn

from tlearn.analysis.drawing import font_advice, write_figure
from tlearn.analysis.label_errors import suspects
from tlearn.analysis.near_duplicates import compared_splits, near_duplicates
from tlearn.analysis.outputs import Outputs
from tlearn.console import is_main_process, report_only, say
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.dataset import class_counts
from tlearn.data.manifest import read_manifest
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.base import SPLITS
from tlearn.features.datamodule import FeatureDataModule
from tlearn.files import write_table
from tlearn.machine import environment
from tlearn.models.network import TransferNetwork
from tlearn.report.gallery import augmentation_figure, gallery_figure
from tlearn.report.run_report import RunSummary, TableRows, write_report
from tlearn.report.tensorboard import boards, write_embedding, write_figures
from tlearn.runs.evaluated import trained_on_note
from tlearn.runs.folder import RunFolder
from tlearn.runs.model import MANIFEST, Model
from tlearn.runs.record import RunRecord
from tlearn.training.collect_outputs import Plan
from tlearn.training.data_parallel import DataParallelStrategy

# Images of the first training batch
_SHOWN = 24
# Values in memory for all evaluated images
_FEATURE_BYTES = 1e9
# Images x features x classes of a linear probe: about 15 s on one thread
_PRODUCTS = 2e9
# Draws of one image's augmentation
_DRAWS = 16
_FIRST_BATCH, _AUGMENTATION = "first_batch.png", "augmentation.png"
# Drawn before training, into report/
_FIRST_IMAGES = {
    _FIRST_BATCH: "The first training batch",
    _AUGMENTATION: "What training sees of its first image",
}
# Figures that are there before the report
_OWN_FIGURES = {**_FIRST_IMAGES, "learning_rate.png": "Range test of the learning rate"}
_REFIT = (
    "After val had chosen the weight decay, the model was fitted to train and val together: metrics of test are "
    "those of this model; metrics of val and the temperature are those of the fit before, on train alone."
)


def plan_report(
    options: Mapping[str, Any], views: int | None, trainer: Trainer, data: SplitDataModule, network: TransferNetwork
) -> Plan:
    """Decide which outputs of a training are kept for its report.

    Args:
        options: `write`, whether a report is written, and `train_pictures`, whether the training images are evaluated
            once more: "auto", "always", or "never" (also None, or without it).
        views: number of cached augmented views of each training image, if any.
        trainer: the Trainer before the fit.
        data: its data module.
        network: the network to train.
    """
    if not options["write"] or trainer.fast_dev_run or trainer.overfit_batches:  # type: ignore[attr-defined]
        return Plan(write=False)
    on_features, classes = isinstance(data, FeatureDataModule), len(data.image_set.classes)
    count = sum(len(dataset) for dataset in data.datasets.values())
    widths = [layer.in_features for layer in network.head.modules() if isinstance(layer, nn.Linear)]
    # A head of your own may have no such layer: its widest parameter tells about as much.
    num_features = (widths or [max(one.shape[-1] for one in network.head.parameters() if one.ndim)])[0]
    size = f"{count:,} images x {num_features:,} features"
    if isinstance(trainer.strategy, DataParallelStrategy):
        return Plan(write=True, reason="trainer=dp runs copies of the head, whose inputs cannot be put in order")
    if 4 * num_features * count > _FEATURE_BYTES:
        return Plan(write=True, reason=f"{size} would take too much memory")
    asked = options.get("train_pictures")
    if asked in (None, "never"):
        reason = "report.train_pictures=never"
    elif on_features and views is not None:
        reason = "features.views keeps only augmented versions of the training images"
    elif asked == "auto" and not on_features:
        reason = (
            "the training did not run on cached features; report.train_pictures=always evaluates its images once more"
        )
    elif asked == "auto" and num_features * count * classes > _PRODUCTS:
        reason = f"{size} x {classes} classes would take long; report.train_pictures=always computes them all the same"
    else:
        return Plan(write=True, features=True, train_pictures=True)
    return Plan(write=True, features=True, reason=reason)


def show_first_images(run: RunFolder, images: ImageDataModule, views: int | None, loggers: Sequence[Logger]) -> None:
    """Draw the first training batch with its labels, and what training sees of its first image, before training.

    `views` is the number of cached augmented views of each training image, if any.
    """
    if not is_main_process():
        return
    batch, transform = images.first_batch(_SHOWN, views is not None), images.transforms["train"]
    rows = [{"path": path, "class": images.image_set.classes[target]} for _, target, path in batch]

    def show(file: str, make: Callable[[], Figure], rows: TableRows) -> None:
        path = run.path / "report" / file
        with report_only(_FIRST_IMAGES[file].lower()):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_figure(path, make())
            write_table(path.with_suffix(".csv"), rows)
            for board in boards(loggers):
                write_figures(board, [path])

    show(_FIRST_BATCH, lambda: gallery_figure([image for image, _, _ in batch], [row["class"] for row in rows]), rows)
    if transform.is_random or len(transform.versions) > 1:
        dataset, first = images.datasets["train"], rows[0]["path"]
        draws = min(views or _DRAWS, _DRAWS)
        show(
            _AUGMENTATION,
            lambda: augmentation_figure(dataset.decode(dataset.root / first), transform, first, draws),
            rows[:1],
        )


def report_training(
    record: RunRecord,
    plan: Plan,
    image_set: ImageSet,
    outputs: Mapping[str, Outputs],
    metrics: Mapping[str, float],
    loggers: Sequence[Logger],
) -> None:
    """Write the report of a training, and its figures and the features of val to TensorBoard."""
    splits = [outputs[split] for split in SPLITS if split in outputs]
    report = record.folder.path / "report"
    with report_only("the report"):
        _, note = compared_splits(splits)
        notes = [note] if note and "train" in outputs else []
        say(*notes)
        _write(
            record,
            image_set.skipped,
            title=f"{record.backbone} on {record.settings['data']['name']}",
            subtitle=str(record.folder.path),
            outputs=outputs,
            metrics=metrics,
            notes=[*image_set.notes, *notes],
            train_counts=class_counts(image_set.splits["train"], image_set.classes),
            temperature=metrics["temperature"],
            remarks=[_REFIT] if "weight_decay_refit" in metrics else [],
            suspects=_found(suspects, splits, plan.reason),
            near_duplicates=_found(near_duplicates, splits, plan.reason),
            run_folder=record.folder.path,
            extras={what: report / file for file, what in _OWN_FIGURES.items() if (report / file).is_file()},
        )
    drawn = sorted(path for path in report.glob("*.png") if path.name not in _FIRST_IMAGES)
    for board in boards(loggers):
        with report_only("TensorBoard"):
            write_figures(board, drawn)
            write_embedding(board, outputs["val"])


def report_evaluation(
    record: RunRecord, model: Model, outputs: Outputs, metrics: Mapping[str, float], unreadable: Mapping[str, str]
) -> None:
    """Write the report of an evaluation."""
    with report_only("the report"):
        trained = read_manifest(model.folder / MANIFEST).splits["train"]
        _write(
            record,
            unreadable,
            title=f"{model.name} on {outputs.split}",
            subtitle=f"{model.folder} on {outputs.root}",
            outputs={outputs.split: outputs},
            metrics=metrics,
            train_counts=class_counts(trained, model.classes),
            remarks=[f"{note}."] if (note := trained_on_note(model, outputs)) else [],
            # Models of earlier versions have none.
            temperature=model.description.get("temperature"),
        )


def _write(record: RunRecord, skipped: Mapping[str, str], notes: Sequence[str] = (), **more: Any) -> None:
    """Write a report; `more` are further fields of `RunSummary`."""
    say(*font_advice(next(iter(more["outputs"].values())).classes))
    summary = RunSummary(
        overrides=record.overrides,
        settings=record.settings,
        environment=environment(),
        notes=[*notes, *(f"left out {path}: {reason}" for path, reason in skipped.items())],
        **more,
    )
    write_report(record.folder.path, summary)


def _found(look: Callable[[Sequence[Outputs]], TableRows], outputs: Sequence[Outputs], reason: str) -> TableRows | str:
    """Return the rows found in all splits, or the reason why they were not computed."""
    if "train" not in [part.split for part in outputs]:
        return reason or "the training images could not be evaluated"
    try:
        return look(outputs)
    # The rest of the report does not need them.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
