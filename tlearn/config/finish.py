"""The end of a trial that has trained with others: measured and left behind as a run alone is."""

import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.nn import functional as F

from tlearn.analysis.calibration import calibrate
from tlearn.analysis.outputs import Outputs
from tlearn.config import build, seats
from tlearn.config.prepared import Prepared
from tlearn.config.tree import Settings, task_overrides
from tlearn.console import say, session
from tlearn.features.datamodule import FeatureDataModule
from tlearn.files import write_table
from tlearn.models.network import TransferNetwork
from tlearn.report.tensorboard import boards, parameter_table, write_results, write_rows
from tlearn.report.terminal import show_result
from tlearn.runs.folder import RunFolder
from tlearn.runs.model import BODY
from tlearn.runs.record import RunRecord
from tlearn.sweeps.groups import Member
from tlearn.sweeps.heads import Batch, Course
from tlearn.training.best import ending
from tlearn.training.loggers import complete_loggers, log_results, tracked
from tlearn.training.metrics import shifted
from tlearn.training.module import TransferModule
from tlearn.training.non_finite import refuse_exploded
from tlearn.training.prepare_head import fold


@dataclass(frozen=True)
class Shared:
    """What the trials of a group have in common.

    Args:
        folder: the run folder that the settings are of.
        parts: of a training with the first trial's settings.
        data: their cached features.
        batches: those of val and test as heads take them, with targets, by split.
        tables: of the network's parts, by what its heads were trained as.
        logger_makers: by their names.
    """

    folder: Path
    parts: Prepared
    data: FeatureDataModule
    batches: dict[str, list[Batch]]
    tables: dict[nn.Module, str] = field(default_factory=dict)
    logger_makers: dict[str, Any] = field(default_factory=dict)

    def inputs(self, loaded: Any) -> Iterator[Batch]:
        """Yield features [N, F] as heads take them, and targets."""
        for images, targets, _ in loaded:
            with torch.no_grad():
                features = self.parts.network.features(images).float()
            yield features, targets

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the order of a run alone."""
        loader = self.data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return self.inputs(loader)

    def loggers(self, nodes: Mapping[str, Any]) -> dict[str, Logger]:
        """Build the loggers of a trial, which differ in paths alone: Hydra takes milliseconds for each."""
        for name, node in nodes.items():
            if name not in self.logger_makers and node is not None:
                # Otherwise they wait for a thread after each ten values.
                self.logger_makers[name] = seats.build(f"logger.{name}", {"max_queue": 1000, **node, "_partial_": True})
        texts = {
            name: {key: one for key, one in nodes[name].items() if isinstance(one, str) and key[:1] != "_"}
            for name in self.logger_makers
        }
        return {name: make(**texts[name]) for name, make in self.logger_makers.items()}

    def table(self, network: TransferNetwork, head: nn.Module) -> str:
        """Return the table of the network's parts; counting those of the body takes milliseconds."""
        if head not in self.tables:
            self.tables[head] = parameter_table(network)
        return self.tables[head]

    def settings(self, member: Member, folder: Path) -> Settings:
        """Return the settings of one trial, as it would have settled them alone."""
        node = _moved(dict(self.parts.settings), str(self.folder), str(folder))
        node["data"] = {**node["data"], "balance": member.balance}
        return Settings({**node, **member.nodes})


def _moved(node: Any, old: str, new: str) -> Any:
    """Return plain values with the paths below one folder in another."""
    if isinstance(node, dict):
        return {name: _moved(value, old, new) for name, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    is_below = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return f"{new}{node[len(old) :]}" if is_below else node


@dataclass
class Finish:
    """The end of one trial: what a run leaves behind, of a head that has been trained."""

    shared: Shared
    member: Member
    head: nn.Module
    module: TransferModule
    course: Course
    seconds: float = 0.0

    def __call__(self, run: RunFolder) -> dict[str, float]:
        """Evaluate the best epoch, and write the run folder."""
        started, parts = time.monotonic(), self.shared.parts
        with run.claimed(), session(run.path / "train.log", quiet=True):
            settings = self.shared.settings(self.member, run.path)
            record = RunRecord(run, settings, task_overrides())
            if not record.start_like(self.shared.folder):
                record.start(parts.images.image_set, resumed=False)
            build.report_images(parts.images.image_set, run)
            say(f"trained together with other trials of the sweep; {self._ending()}")
            network = self._network()
            metrics, outputs = self._evaluated(network)
            loggers = complete_loggers(self.shared.loggers(settings["logger"] or {}), run.path)
            with tracked(loggers, record.parameters):
                self._log(run.path, loggers, metrics)
                metrics |= calibrate(outputs) | network.sizes()
                metrics |= {"time/fit_s": self.seconds, "time/total_s": self.seconds + time.monotonic() - started}
                log_results(loggers, metrics)
                body = self.shared.folder / "model" / BODY
                record.finish(network, parts.backbone, parts.images, metrics, self.module.directions, "train", body)
                show_result(metrics, outputs["test"] if "test" in outputs else outputs["val"])
                write_results(loggers, self.shared.table(network, self.head), record.parameters, metrics)
        return metrics

    def _ending(self) -> str:
        recipe, course = self.shared.parts.settings, self.course
        seen: Any = SimpleNamespace(
            early_stopping_callbacks=[one for one in [course.stopping] if isinstance(one, EarlyStopping)],
            checkpoint_callback=SimpleNamespace(monitor=self.module.monitor),
            current_epoch=course.epochs,
            max_epochs=recipe["trainer"]["max_epochs"],
            val_check_interval=1.0,
            check_val_every_n_epoch=1,
        )
        return ending(seen, course.best)

    def _network(self) -> TransferNetwork:
        """Return the network with the best head, plain again."""
        network = self.shared.parts.network
        network.head = deepcopy(self.head)
        with torch.no_grad():
            for name, parameter in network.head.named_parameters():
                parameter.copy_(self.course.state[name])
        fold(network)
        # The body is in this mode already, with all its modules.
        network.head.eval()
        return network

    @torch.no_grad()
    def _evaluated(self, network: TransferNetwork) -> tuple[dict[str, float], dict[str, Outputs]]:
        """Measure the head on val and test, and return its outputs there."""
        found: dict[str, float] = {"epoch/last": self.course.epochs - 1, "epoch/best": self.course.best}
        outputs, images = {}, self.shared.parts.images
        for split, batches in self.shared.batches.items():
            metrics: Any = self.module.metrics[f"{split}/"]
            mean: Any = self.module.losses[f"{split}/"]
            metrics.reset()
            mean.reset()
            logits = []
            for features, targets in batches:
                logits.append(network.head(features))
                mean.update(F.cross_entropy(logits[-1], targets), len(targets))
                metrics.update(shifted(logits[-1]), targets)
            found |= {name: float(value) for name, value in metrics.compute().items()}
            found[f"{split}/loss"] = float(mean.compute())
            if split == "val":
                refuse_exploded(found["val/loss"], len(images.image_set.classes))
            paths, targets = images.datasets[split].paths, torch.cat([targets for _, targets in batches])
            classes, root = images.image_set.classes, images.image_set.root
            outputs[split] = Outputs(split, classes, root, paths, targets, torch.cat(logits))
        return found, outputs

    def _log(self, folder: Path, loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
        """Write the rows of metrics.csv as a whole, and the curves of other loggers."""
        test = {name: value for name, value in metrics.items() if name.startswith("test/")}
        rows: list[dict[str, float]] = [*self.course.rows, *([{"step": self.course.steps, **test}] if test else [])]
        write_table(folder / "metrics.csv", rows, sorted({name for row in rows for name in row}))
        for board in boards(loggers):
            write_rows(board, rows)
