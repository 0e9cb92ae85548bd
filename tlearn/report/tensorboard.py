"""TensorBoard beside the curves: figures, the network's parts, hyperparameters with final metrics, features."""

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from tlearn.analysis.drawing import compact, shown
from tlearn.analysis.outputs import Outputs
from tlearn.console import report_only
from tlearn.models.network import count_parameters

# The projector reads features as text: more would be tens of megabytes.
_MOST_EMBEDDED, _MOST_VALUES = 500, 1_000_000


def boards(loggers: Iterable[Logger]) -> list[TensorBoardLogger]:
    """Return the loggers that write for TensorBoard."""
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]


def write_figures(board: TensorBoardLogger, files: Iterable[Path], step: int = 0) -> None:
    """Add PNG files as images, each under its name."""
    # As `add_image` does, which would encode each once more; checksums of what is large take long, too.
    writer = board.experiment._get_file_writer()
    for file in files:
        with Image.open(file) as picture:
            shown_bytes, _ = compact(picture, file.read_bytes())
            size = {"width": picture.width, "height": picture.height, "colorspace": 3}
        image = Summary.Image(encoded_image_string=shown_bytes, **size)
        writer.add_summary(Summary(value=[Summary.Value(tag=f"figures/{file.stem}", image=image)]), step)
    writer.flush()


def write_rows(board: TensorBoardLogger, rows: Iterable[Mapping[str, float]]) -> None:
    """Add rows of metrics, each with its `step`, as one event each: every event is handed to a thread."""
    writer = board.experiment._get_file_writer()
    for row in rows:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
        writer.add_summary(Summary(value=values), int(row["step"]))


def write_results(
    loggers: Iterable[Logger], network_table: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Add the parts of the network with their parameters, and the settings with the run's final metrics."""
    for board in boards(loggers):
        with report_only("TensorBoard"):
            _write_results(board, network_table, settings, metrics)


def _write_results(
    board: TensorBoardLogger, network_table: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    writer: SummaryWriter = board.experiment
    writer.add_text("network", network_table)
    chosen = {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
    # Under names of their own: at step 0, they would be points of the curves.
    board.log_hyperparams(chosen, {f"final/{name}": value for name, value in metrics.items()})
    # The logger would write them to a file of its own, after trying each by itself.
    board.hparams.clear()
    writer.flush()


def write_embedding(board: TensorBoardLogger, outputs: Outputs) -> None:
    """Add a split's features to the projector, evenly chosen where there are many, with class, prediction and path."""
    if outputs.features is None or not len(outputs):
        return
    most = max(1, min(_MOST_EMBEDDED, _MOST_VALUES // outputs.features.shape[1]))
    every = -(-len(outputs) // most)
    chosen = range(0, len(outputs), every)
    names = [shown(name) for name in outputs.classes]
    rows = [
        [names[int(outputs.targets[index])], names[int(outputs.predictions[index])], shown(outputs.paths[index], 200)]
        for index in chosen
    ]
    header = ["class", "prediction", "path"]
    writer: SummaryWriter = board.experiment
    # It prints that a run that is resumed has an embedding already, which it overwrites.
    with redirect_stdout(None):
        writer.add_embedding(outputs.features[::every], rows, tag=f"{outputs.split}_features", metadata_header=header)
    writer.flush()


def parameter_table(network: nn.Module) -> str:
    """Return a network's parts as a Markdown table."""
    rows = ["| part | layers | parameters | trainable |", "|---|---|---:|---:|"]
    parts = [(f"{top}.{name}", part) for top, half in network.named_children() for name, part in half.named_children()]
    parts += [(name, half) for name, half in network.named_children() if not list(half.children())]
    for name, part in [*parts, ("all", network)]:
        total, trains = count_parameters(part)
        layers = sum(1 for layer in part.modules() if not list(layer.children()))
        rows.append(f"| {name} {type(part).__name__} | {layers} | {total:,} | {trains:,} |")
    return "\n".join(rows)
