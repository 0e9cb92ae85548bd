"""Warnings of Lightning and torch about intended behaviour."""

import logging
import warnings

_EXPECTED = (
    # a frozen body is in eval mode: that is what frozen means
    r".*module\(s\) in eval mode at the start of training",
    # decided by data.num_workers and the available CPUs
    r".*does not have many workers",
    # fewer batches than log_every_n_steps: small data sets are common here
    r".*The number of training batches .* is smaller than the logging interval",
    # the run folder is claimed and holds the configuration by then
    r".*Checkpoint directory .* exists and is not empty",
    # the batches that a resumed run has had are left out before the loader is asked
    r".*You're resuming from a checkpoint that ended before the epoch ended",
    # between lightning or torchmetrics and torch, once in each process
    r".*torch\.distributed\.\S*all_gather\w*`? is deprecated",
    # between lightning and torch
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",
    # raised by lightning for every scheduler on resume and for ReduceLROnPlateau
    r".*The epoch parameter in `scheduler.step\(\)`",
)


def ignore_expected_warnings() -> None:
    """Ignore expected warnings, and Lightning's messages on devices, processes and its other products."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Both tell that they make the database and the experiment which logger=mlflow asks for.
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message)
