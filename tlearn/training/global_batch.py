"""What a step of several processes is, and where it differs from that of one process with as many images."""

from lightning import Trainer
from torch import nn
from torchvision.ops import StochasticDepth

from tlearn.errors import ConfigError
from tlearn.training.module import TransferModule

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Probabilities of layers that are not torch's own
_DROP_RATES = ("drop_prob", "drop_rate")


def step_notes(
    trainer: Trainer, module: TransferModule, batch_size: int, count: int, rate: float | None, synced: bool
) -> list[str]:
    """Return lines on how many images a step of several processes takes, and what in it is not as in one process.

    Args:
        trainer: of the training.
        module: to train.
        batch_size: of each process.
        count: images in train.
        rate: `optimizer.lr`, which nothing scales; None without one.
        synced: whether BatchNorm's statistics are shared (`trainer.sync_batchnorm`).

    Raises:
        ConfigError: they are to be shared on a CPU, or of layers that would compute something else then.
    """
    processes, on_gpu = trainer.world_size, trainer.strategy.root_device.type != "cpu"
    if synced and (others := _more_than_norms(module)):
        raise ConfigError(
            f"trainer.sync_batchnorm would put plain norms in the place of {others[0]}, without what else it computes: "
            "leave it out"
        )
    if synced and not on_gpu:
        raise ConfigError("trainer.sync_batchnorm works on GPUs alone: leave it out on a CPU")
    if processes == 1:
        return []
    factors, images = f"{processes} processes x data.batch_size={batch_size}", processes * batch_size
    if (steps := trainer.accumulate_grad_batches) > 1:
        factors += f" x trainer.accumulate_grad_batches={steps}"
    notes = [f"{factors}: {images * steps} images a step" + (f", or all {count:,}" if count < images * steps else "")]
    if rate is not None:
        notes[0] += f"; optimizer.lr stays {rate:g}: nothing scales it with the processes"
    apart = _apart(module, synced)
    if apart:
        differs = f"{' and '.join(apart)} in what trains see the images of one process at a time"
        notes.append(f"{differs}, so the weights are not those of one process with data.batch_size={images}")
        if "BatchNorm" in apart and on_gpu and not _more_than_norms(module):
            notes[-1] += "; +trainer.sync_batchnorm=true shares the statistics of BatchNorm"
    return notes


def _apart(module: TransferModule, synced: bool) -> list[str]:
    """List what computes with the images of one process: not with each alone, and not with those of all."""
    trained = module.network.trained_modules(module.later_stages)
    found = {
        "BatchNorm": not synced and any(isinstance(one, _NORMS) for one in trained),
        "dropout": any(map(_drops, trained)),
        "mixed images": module.mix is not None,
        "class weights": getattr(module.loss, "weight", None) is not None,
    }
    return [name for name, is_there in found.items() if is_there]


def _more_than_norms(module: TransferModule) -> list[str]:
    """List the kinds of BatchNorm that do more, such as timm's with an activation: torch takes all for plain ones."""
    kinds = (*_NORMS, nn.SyncBatchNorm)
    norms = {type(one) for one in module.modules() if isinstance(one, kinds)}
    return sorted(kind.__name__ for kind in norms.difference(kinds))


def _drops(layer: nn.Module) -> bool:
    rates = [layer.p] if isinstance(layer, (*_DROPS, StochasticDepth)) else []
    return any([*rates, *(getattr(layer, name, 0) for name in _DROP_RATES)])
