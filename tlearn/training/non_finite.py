"""A loss that is not finite, or has exploded: where it appeared, and what to do."""

import math
from pathlib import Path

from lightning import Trainer
from torch import Tensor

from tlearn.errors import NonFiniteError
from tlearn.files import write_json
from tlearn.models.device import Arriving

# Of the loss of a network that knows nothing
_EXPLODED = 1000


class LossCheck:
    """End a training whose loss is not finite: at once on a CPU, a step later on a GPU, for which no step waits."""

    def __init__(self) -> None:
        self._last: tuple[Arriving, Tensor, int, int] | None = None

    def __call__(self, trainer: Trainer, loss: Tensor, indices: Tensor) -> None:
        """Check the loss of a batch, whose images have these indices [N] in train, or that of the batch before."""
        self.settle(trainer)
        arriving = Arriving(loss.detach())
        self._last = arriving, indices, trainer.global_step, trainer.current_epoch
        if not arriving.is_late:
            self.settle(trainer)

    def settle(self, trainer: Trainer) -> None:
        """Check the last loss now, before anything is made of what it has trained."""
        if self._last is None:
            return
        (arriving, indices, step, epoch), self._last = self._last, None
        value = arriving.get().item()
        if not math.isfinite(value):
            raise _non_finite(trainer, value, indices, step, epoch)


def _non_finite(trainer: Trainer, loss: float, indices: Tensor, step: int, epoch: int) -> NonFiniteError:
    """Write the step and the images of its batch to nan_batch.json, and return the error that names them."""
    folder, rate = Path(trainer.default_root_dir), trainer.optimizers[0].param_groups[0]["lr"]
    files = trainer.datamodule.files("train", indices.tolist())  # type: ignore[attr-defined]
    note = {"step": step, "epoch": epoch, "lr": rate, "loss": str(loss)}
    write_json(folder / "nan_batch.json", {**note, "files": files})
    last = folder / "checkpoints" / "last.ckpt"
    kept = f"; the last good checkpoint is {last}" if last.exists() else ""
    # Which rounds Adam's eps to 0, whatever the rate
    half = ", or take trainer.precision=bf16-true" if trainer.precision == "16-true" else ""
    return NonFiniteError(
        f"train/loss became {loss} at step {step} with optimizer.lr={rate:g}: lower it{half} "
        f"(the images of that batch are in {folder / 'nan_batch.json'}){kept}"
    )


def refuse_exploded(loss: float, classes: int) -> None:
    """Refuse a training whose best val/loss is far beyond that of equal probabilities.

    Raises:
        NonFiniteError: it is more than 1,000 ln(classes).
    """
    if loss > _EXPLODED * math.log(max(classes, 2)):
        raise NonFiniteError(
            f"the best val/loss is {loss:.3g}, more than {_EXPLODED:,} times that of equal probabilities: the training "
            "exploded; lower optimizer.lr"
        )
