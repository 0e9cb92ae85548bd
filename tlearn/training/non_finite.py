"""A training loss that is not finite: where it appeared, and what to do."""

from pathlib import Path

from lightning import Trainer
from torch import Tensor

from tlearn.errors import NonFiniteError
from tlearn.files import write_json


def non_finite_loss(trainer: Trainer, loss: Tensor, indices: Tensor) -> NonFiniteError:
    """Write the step and the images of its batch to nan_batch.json, and return the error that names them.

    Args:
        trainer: in the step.
        loss: NaN or infinite.
        indices: of the images in train, [N].
    """
    folder, rate = Path(trainer.default_root_dir), trainer.optimizers[0].param_groups[0]["lr"]
    files = trainer.datamodule.files("train", indices.tolist())  # type: ignore[attr-defined]
    note = {"step": trainer.global_step, "epoch": trainer.current_epoch, "lr": rate, "loss": str(loss.item())}
    write_json(folder / "nan_batch.json", {**note, "files": files})
    last = folder / "checkpoints" / "last.ckpt"
    kept = f"; the last good checkpoint is {last}" if last.exists() else ""
    return NonFiniteError(
        f"train/loss became {loss.item()} at step {trainer.global_step} with optimizer.lr={rate:g}: lower it "
        f"(the images of that batch are in {folder / 'nan_batch.json'}){kept}"
    )
