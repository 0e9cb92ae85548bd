"""Transfer learning for image classification: a frozen pretrained body, a small head, one command.

From Python: `fit` trains and returns a `Run`, `load_model` opens the model of one, `compose` shows a configuration.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tlearn import errors

if TYPE_CHECKING:
    from tlearn.config.compose import compose
    from tlearn.interface import Run, fit, load_model

__version__ = "0.2.0"
__all__ = ["Run", "compose", "errors", "fit", "load_model"]

# Loaded when first asked for: torch takes seconds.
_MODULES = {"compose": "config.compose", **dict.fromkeys(("Run", "fit", "load_model"), "interface")}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
