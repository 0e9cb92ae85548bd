"""What the tests of mistyped arguments share."""

import functools

import pytest
from omegaconf import DictConfig

from tlearn.config.tree import compose_unchecked


@functools.cache
def _kept(groups: tuple[str, ...], program: str) -> DictConfig:
    return compose_unchecked(groups, program)


@pytest.fixture
def options_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose what explains a mistake once for all that chose the same options; what is asked for, each time."""

    def kept(groups=(), program="train", config_dir=None):
        return compose_unchecked(groups, program, config_dir) if config_dir else _kept(tuple(groups), program)

    monkeypatch.setattr("tlearn.config.suggestions.compose_unchecked", kept)
