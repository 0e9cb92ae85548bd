"""Evaluate a network on one split, with or without test-time augmentation."""

from collections.abc import Mapping
from dataclasses import replace

from lightning import Trainer
from torch import Tensor
from torchmetrics import Metric

from tlearn.analysis.outputs import Outputs
from tlearn.data.datamodule import ImageDataModule
from tlearn.models.allocator import keep_memory
from tlearn.models.device import float32
from tlearn.models.network import TransferNetwork
from tlearn.training.collect_outputs import Collector
from tlearn.training.ddp import further_processes
from tlearn.training.test_time_augmentation import module_for


def measure_split(
    trainer: Trainer,
    network: TransferNetwork,
    data: ImageDataModule,
    split: str,
    tta: str,
    features: bool = False,
    metrics: Mapping[str, Metric] | None = None,
) -> tuple[dict[str, float], Outputs | None, Tensor | None]:
    """Evaluate a network on the test images of a data module, and name the metrics after the actual split.

    Args:
        trainer: the Trainer that runs it.
        network: in eval mode.
        data: the images of the split, as its test split.
        split: the name of this split.
        tta: the kind of test-time augmentation, as `module_for` takes it.
        features: also keep the head's inputs.
        metrics: as `TransferModule` takes them.

    Returns:
        The metrics, the outputs, None in further processes, and the logits [N, V, C] of the views of each image, None
        without augmentation and in further processes.
    """
    module, collector = module_for(tta, network, len(data.image_set.classes), metrics), Collector(features)
    kept = keep_memory(trainer.strategy.root_device)
    with float32(), further_processes(trainer), kept, collector.attached(trainer, network.head):
        [measured] = trainer.test(module, datamodule=data, verbose=False)
        outputs, more = collector.take("test", data)
    found = {f"{split}/{name.removeprefix('test/')}": value for name, value in measured.items()}
    return found, None if outputs is None else replace(outputs, split=split), more.get("views")
