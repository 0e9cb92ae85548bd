"""Shipped options that are chosen and merged once in a process: nine tenths of what a composition costs."""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from unittest import mock

from hydra._internal import config_loader_impl as hydra_loader
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig

from tlearn.config.tree import CONF_DIR

_SHIPPED = {("pkg", "hydra.conf"), ("file", str(CONF_DIR)), ("tlearn", "options"), ("structured", "")}


def _stored(node: object) -> object:
    return [(name, _stored(of)) for name, of in node.items()] if isinstance(node, Mapping) else id(node)


def _depends_on(sources: list[ConfigSource]) -> str | None:
    """Return what is the same where the same options mean the same; None where a test may have written some of them."""
    path = [(source.scheme(), source.path) for source in sources]
    return repr((path, _stored(ConfigStore.instance().repo))) if {*path} <= _SHIPPED else None


@contextlib.contextmanager
def merged_once() -> Iterator[None]:
    """Keep what Hydra makes of a choice of shipped options; the values that are typed are set anew each time."""
    choose, loader = hydra_loader.create_defaults_list, hydra_loader.ConfigLoaderImpl
    merge = loader._compose_config_from_defaults_list
    chosen: dict[object, DefaultsList] = {}
    merged: dict[object, bytes] = {}

    def choose_once(repo, config_name, overrides_list: list[Override], **more) -> DefaultsList:
        if (known := _depends_on(repo.get_sources())) is None:
            return choose(repo, config_name, overrides_list, **more)
        values = Overrides(repo, overrides_list).config_overrides
        groups = [one.input_line for one in overrides_list if not any(one is value for value in values)]
        if (key := (known, config_name, *groups, *more.items())) not in chosen:
            chosen[key] = choose(repo, config_name, overrides_list, **more)
        kept = chosen[key]
        return DefaultsList(kept.defaults, kept.defaults_tree, values, kept.overrides)

    def merge_once(self, defaults: list[ResultDefault], repo) -> DictConfig:
        if (known := _depends_on(repo.get_sources())) is None:
            return merge(self, defaults, repo)
        if (key := (known, *map(repr, defaults))) not in merged:
            merged[key] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[key])

    with (
        mock.patch.object(hydra_loader, "create_defaults_list", choose_once),
        mock.patch.object(loader, "_compose_config_from_defaults_list", merge_once),
    ):
        yield
