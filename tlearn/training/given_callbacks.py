"""Callbacks that a run is given: those that cannot work here are refused before training, with what does."""

from collections.abc import Mapping

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    RichModelSummary,
    SpikeDetection,
    StochasticWeightAveraging,
)

from tlearn.errors import ConfigError

_REFUSED: dict[type[Callback], str] = {
    LearningRateFinder: "sets one rate for head and body and leaves no record: choose tune=lr",
    BatchSizeFinder: "changes the batches without a word: choose tune=batch_size",
    BaseFinetuning: "unfreezes behind the network's back: choose finetune=gradual",
    StochasticWeightAveraging: (
        "averages after the last validation, so no checkpoint has the average, and it resets the BatchNorm of a frozen "
        "body: take lightning.pytorch.callbacks.EMAWeightAveraging, or WeightAveraging for the plain mean"
    ),
    ModelPruning: "renames and masks weights, also frozen ones, and no model folder can hold them",
    BasePredictionWriter: "is never called, as a training predicts nothing: use python -m tlearn.predict",
    OnExceptionCheckpoint: "writes what no resume reads: checkpoints/last.ckpt of the last epoch is there already",
    # Lightning 2.6 saves `running` and looks for another name when it loads.
    SpikeDetection: "cannot be read from a checkpoint, so no run with it resumes; a loss that is not finite ends any",
}


def check_callbacks(callbacks: Mapping[str, Callback]) -> None:
    """Refuse callbacks, by their names under `callbacks`, that would do nothing or something else than they say.

    Raises:
        ConfigError: names the callback, the reason, and what to do.
    """
    for name, callback in callbacks.items():
        kind = type(callback)
        for refused, reason in _REFUSED.items():
            if isinstance(callback, refused):
                raise ConfigError(f"callbacks.{name}: {kind.__name__} {reason}")
        if isinstance(callback, ModelCheckpoint) and callback.save_last:
            raise ConfigError(f"callbacks.{name}.save_last: checkpoints/last.ckpt is that of callbacks.last")
        if isinstance(callback, ModelSummary) and not isinstance(callback, RichModelSummary):
            raise ConfigError(
                f"callbacks.{name}: {kind.__name__} writes to a log that is not shown: take RichModelSummary"
            )
        if kind.__module__.startswith("lightning.") and not _acts(callback):
            raise ConfigError(f"callbacks.{name}: {kind.__name__} does nothing itself: name a class that extends it")
    _check_bars({name: callback for name, callback in callbacks.items() if isinstance(callback, ProgressBar)})
    _check_states(callbacks)


def _acts(callback: Callback) -> bool:
    """Return whether any hook of the class or the object is its own."""
    hooks = [name for name, value in vars(Callback).items() if callable(value) and not name.startswith("_")]
    return any(name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name) for name in hooks)


def _check_bars(bars: Mapping[str, Callback]) -> None:
    second = next((name for name in bars if name != "progress"), None)
    if len(bars) > 1 and second is not None:
        target = f"{type(bars[second]).__module__}.{type(bars[second]).__name__}"
        raise ConfigError(
            f"callbacks.{second} is a second progress bar: put it in the place of the first, "
            f"callbacks.progress._target_={target}"
        )


def _check_states(callbacks: Mapping[str, Callback]) -> None:
    """Refuse two callbacks whose states a checkpoint could not tell apart."""
    keys: dict[str, str] = {}
    for name, callback in callbacks.items():
        if type(callback).state_dict is Callback.state_dict:
            continue
        other = keys.setdefault(callback.state_key, name)
        if other != name:
            raise ConfigError(
                f"callbacks.{name} and callbacks.{other} have the same key in checkpoints, {callback.state_key}: let "
                "them differ (ModelCheckpoint: in monitor, mode or every_n_epochs), or leave one out"
            )
