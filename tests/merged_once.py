"""Options that are chosen and merged once in a process: nine tenths of what a composition costs."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from unittest import mock

from hydra._internal import config_loader_impl as hydra_loader
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf

from tlearn.config.tree import CONF_DIR

_SHIPPED = {("pkg", "hydra.conf"), ("file", str(CONF_DIR)), ("tlearn", "options"), ("structured", "")}


def _stored(node: Any) -> object:
    """Return the content of Hydra's store, whose nodes are copied whenever its globals are kept."""
    if isinstance(node, Mapping):
        return [(name, _stored(of)) for name, of in node.items()]
    return node.node, OmegaConf.get_type(node.node), node.package, node.provider


def _written(folder: str) -> list[object]:
    """Return the names and option files below a folder of a test's own."""
    return [
        (os.path.relpath(place, folder), names, [Path(place, name).read_bytes() for name in files if ".y" in name])
        for place, names, files in os.walk(folder, followlinks=True)
    ]


def _depends_on(sources: list[ConfigSource]) -> str | None:
    """Return what is the same where the same options mean the same; None where that is not known."""
    path: list[object] = []
    for source in sources:
        if (place := (source.scheme(), source.path)) in _SHIPPED:
            path.append(place)
        elif place[0] == "file":
            path.append(_written(source.path))
        else:
            return None
    return repr((path, _stored(ConfigStore.instance().repo)))


def _kept(known: dict[object, bytes], key: tuple[object, ...], make: Callable[[], Any]) -> Any:
    """Make something once for each key; each time where Hydra warns of it, or for a key of None."""
    if key in known:
        return pickle.loads(known[key])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = make()
    for one in told:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if key[0] is not None and not told:
        known[key] = pickle.dumps(made)
    return made


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """Keep what each text of options means: a run composes its dozen files three times, at 3 ms a file."""
    load = OmegaConf.load
    parsed: dict[str, bytes] = {}

    def known(file: str | Path | IO[Any]) -> Any:
        if isinstance(file, str | Path):
            return load(file)
        if (text := file.read()) not in parsed:
            file.seek(0)
            parsed[text] = pickle.dumps(load(file))
        return pickle.loads(parsed[text])

    with mock.patch.object(OmegaConf, "load", staticmethod(known)):
        yield


@contextlib.contextmanager
def merged_once() -> Iterator[None]:
    """Keep what Hydra makes of files and a choice of options; the values that are typed are set anew each time."""
    choose, loader = hydra_loader.create_defaults_list, hydra_loader.ConfigLoaderImpl
    merge = loader._compose_config_from_defaults_list
    chosen: dict[object, bytes] = {}
    merged: dict[object, bytes] = {}

    def choose_once(repo, config_name, overrides_list: list[Override], skip_missing: bool, **more) -> DefaultsList:
        values = Overrides(repo, overrides_list).config_overrides
        groups = [one.input_line for one in overrides_list if not any(one is value for value in values)]
        key = (_depends_on(repo.get_sources()), config_name, *groups, *more.items())
        try:
            # What has no ??? is the same for a sweep, which skips these, and for a run.
            kept = _kept(chosen, key, lambda: choose(repo, config_name, overrides_list, skip_missing=False, **more))
        except Exception:
            if not skip_missing:
                raise
            return choose(repo, config_name, overrides_list, skip_missing=True, **more)
        return DefaultsList(kept.defaults, kept.defaults_tree, values, kept.overrides)

    def merge_once(self, defaults: list[ResultDefault], repo) -> DictConfig:
        key = (_depends_on(repo.get_sources()), *map(repr, defaults))
        return _kept(merged, key, lambda: merge(self, defaults, repo))

    with (
        _parsed_once(),
        mock.patch.object(hydra_loader, "create_defaults_list", choose_once),
        mock.patch.object(loader, "_compose_config_from_defaults_list", merge_once),
    ):
        yield
