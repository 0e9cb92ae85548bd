"""What a finished run shows of itself: what is kept for it, calibration, the report, TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor, nn

from tlearn.analysis import outputs as insight
from tlearn.analysis.calibration import calibration_error, choose_temperature, reliability
from tlearn.analysis.drawing import write_figure
from tlearn.analysis.label_errors import suspects
from tlearn.analysis.near_duplicates import near_duplicates
from tlearn.analysis.outputs import Outputs
from tlearn.config.build import RECIPE
from tlearn.config.compose import plain
from tlearn.console import is_main_process, report_only
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.dataset import class_counts
from tlearn.data.prepare import Pictures
from tlearn.data.split import read_manifest
from tlearn.features.datamodule import FeatureDataModule
from tlearn.files import write_table
from tlearn.models.network import TransferNetwork
from tlearn.report.gallery import gallery_figure
from tlearn.report.run_report import Rows, RunSummary, write_report
from tlearn.report.tensorboard import boards, write_embedding, write_figures, write_results
from tlearn.runs.dotted_keys import flat
from tlearn.runs.folder import RunFolder, environment
from tlearn.runs.model import MANIFEST, Model
from tlearn.training.collect_outputs import Plan
from tlearn.training.ddp import DataParallelStrategy
from tlearn.training.test_time_augmentation import averaged

# Of a training batch, more than this is not looked at.
_SHOWN = 24
# In memory, of all pictures that are looked at
_FEATURE_BYTES = 1e9
# Pictures x features x classes: what takes about 15 s on one thread
_PRODUCTS = 2e9
_FIRST_BATCH = Path("report") / "first_batch.png"


def plan(config: DictConfig, trainer: Trainer, data: SplitDataModule, network: TransferNetwork, classes: int) -> Plan:
    """Decide what is kept of a training for its report."""
    if not config.report.write or config.trainer.fast_dev_run or config.trainer.get("overfit_batches"):
        return Plan(write=False)
    asked, on_features = config.report.get("train_pictures", "never"), isinstance(data, FeatureDataModule)
    count = sum(len(dataset) for dataset in data.datasets.values())
    num_features = next(layer.in_features for layer in network.head.modules() if isinstance(layer, nn.Linear))
    size = f"{count:,} pictures x {num_features:,} features"
    if isinstance(trainer.strategy, DataParallelStrategy):
        return Plan(write=True, reason="trainer=dp runs copies of the head, whose inputs cannot be told apart")
    if 4 * num_features * count > _FEATURE_BYTES:
        return Plan(write=True, reason=f"{size} would take too much memory")
    if asked == "never":
        reason = "report.train_pictures=never"
    elif on_features and config.features.views is not None:
        reason = "features.views keeps augmented versions of the training pictures only"
    elif asked == "auto" and not on_features:
        reason = "the training did not run on cached features; report.train_pictures=always looks at them once more"
    elif asked == "auto" and num_features * count * classes > _PRODUCTS:
        reason = f"{size} x {classes} classes would take long; report.train_pictures=always looks for them all the same"
    else:
        return Plan(write=True, features=True, train_pictures=True)
    return Plan(write=True, features=True, reason=reason)


def calibrate(outputs: Mapping[str, Outputs]) -> dict[str, float]:
    """Choose the temperature by val, and give it with the calibration figures of val and test before and after."""
    val = outputs["val"]
    temperature = choose_temperature(val.logits, val.targets)
    figures = {"temperature": temperature}
    for split in (name for name in ("val", "test") if name in outputs):
        figures |= calibration_figures(outputs[split], temperature)
    return figures


def calibration_figures(outputs: Outputs, temperature: float) -> dict[str, float]:
    """Give the expected calibration error before and after scaling, and the loss after it (in nats)."""
    scaled, split = outputs.scaled(temperature), outputs.split
    return {
        f"{split}/ece": calibration_error(reliability(outputs)),
        f"{split}/ece_scaled": calibration_error(reliability(scaled)),
        f"{split}/loss_scaled": insight.figures(scaled)["loss"],
    }


def evaluation_figures(outputs: Outputs, views: Tensor | None, temperature: float) -> dict[str, float]:
    """Give an evaluation's calibration figures, and those of the mean of all views with what they change."""
    found = calibration_figures(outputs, temperature)
    if views is not None:
        as_it_is, mean = insight.figures(outputs), insight.figures(replace(outputs, logits=averaged(views)))
        found |= {f"{outputs.split}/tta/{name}": value for name, value in mean.items()}
        found |= {f"{outputs.split}/tta/{name}_change": mean[name] - as_it_is[name] for name in mean}
    return found


def show_first_batch(run: RunFolder, images: ImageDataModule, fixed_views: bool, loggers: Sequence[Logger]) -> None:
    """Draw the first training batch with its labels, as its transforms make it, before anything is trained."""
    if not is_main_process():
        return
    batch, file = images.first_batch(_SHOWN, fixed_views), run.path / _FIRST_BATCH
    labels = [images.pictures.classes[target] for _, target, _ in batch]
    with report_only("the first batch"):
        file.parent.mkdir(parents=True, exist_ok=True)
        # A pixel of the drawing for one of the file: more would only make it larger.
        write_figure(file, gallery_figure([picture for picture, _, _ in batch], labels), dpi=100)
        rows = [{"path": path, "class": label} for (_, _, path), label in zip(batch, labels, strict=True)]
        write_table(file.with_suffix(".csv"), rows)
        for board in boards(loggers):
            write_figures(board, [file])


def report(
    config: DictConfig,
    run: RunFolder,
    plan: Plan,
    pictures: Pictures,
    outputs: Mapping[str, Outputs],
    figures: Mapping[str, float],
) -> None:
    """Write the report of a training."""
    looked = [outputs[split] for split in ("train", "val", "test") if split in outputs]
    first_batch = run.path / _FIRST_BATCH
    with report_only("the report"):
        _write(
            config,
            run,
            pictures.skipped,
            title=f"{config.backbone.name} on {config.data.name}",
            subtitle=str(run.path),
            outputs=outputs,
            figures=figures,
            notes=pictures.notes,
            train_counts=class_counts(pictures.splits["train"], pictures.classes),
            temperature=figures["temperature"],
            suspects=_found(suspects, looked, plan.reason),
            near_duplicates=_found(near_duplicates, looked, plan.reason),
            run_folder=run.path,
            extras={"The first training batch": first_batch} if first_batch.is_file() else {},
        )


def report_evaluation(
    config: DictConfig,
    run: RunFolder,
    model: Model,
    outputs: Outputs,
    figures: Mapping[str, float],
    unreadable: Mapping[str, str],
) -> None:
    """Write the report of an evaluation."""
    with report_only("the report"):
        trained = read_manifest(model.folder / MANIFEST).splits["train"]
        _write(
            config,
            run,
            unreadable,
            title=f"{model.name} on {outputs.split}",
            subtitle=f"{model.folder} on {outputs.root}",
            outputs={outputs.split: outputs},
            figures=figures,
            train_counts=class_counts(trained, model.classes),
            # A model may have been made before there was one.
            temperature=model.description.get("temperature"),
        )


def _write(
    config: DictConfig, run: RunFolder, skipped: Mapping[str, str], notes: Sequence[str] = (), **more: Any
) -> None:
    """Write a report with what every one tells; `more` are further fields of `RunSummary`."""
    summary = RunSummary(
        overrides=list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [],
        settings=plain(config),
        environment=environment(),
        notes=[*notes, *(f"left out {path}: {reason}" for path, reason in skipped.items())],
        **more,
    )
    write_report(run.path, summary)


def show_on_boards(
    config: DictConfig,
    run: RunFolder,
    network: TransferNetwork,
    val: Outputs,
    figures: Mapping[str, float],
    loggers: Sequence[Logger],
) -> None:
    """Show in TensorBoard what the report shows, and the features of val."""
    everything = plain(config)
    settings = flat({**{name: everything[name] for name in RECIPE}, "batch_size": config.data.batch_size})
    drawn = sorted(path for path in (run.path / "report").glob("*.png") if path.name != _FIRST_BATCH.name)
    for board in boards(loggers):
        with report_only("TensorBoard"):
            write_figures(board, drawn)
            write_results(board, network, settings, figures)
            write_embedding(board, val)


def _found(look: Callable[[Sequence[Outputs]], Rows], outputs: Sequence[Outputs], reason: str) -> Rows | str:
    """Give what is found in all splits, or the reason why it is not looked for."""
    if "train" not in [part.split for part in outputs]:
        return reason or "the training pictures could not be looked at"
    try:
        return look(outputs)
    # The rest of the report does without.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
