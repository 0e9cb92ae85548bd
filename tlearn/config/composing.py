"""What Hydra and OmegaConf say of a configuration that cannot be composed, in plain words."""

import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tlearn.config import options
from tlearn.config.declared import options_of
from tlearn.config.meant_values import option_name
from tlearn.config.suggestions import Asked, did_you_mean, scalar, unknown_key
from tlearn.config.unreadable import several, unreadable
from tlearn.config.valid_values import NOTHING
from tlearn.errors import ConfigError, typed

# Options of Hydra's own plugins, which are packages
_PLUGINS = {
    "hydra/sweeper/optuna": "'tlearn[sweep]'",
    "hydra/sweeper/ax": "hydra-ax-sweeper",
    "hydra/sweeper/nevergrad": "hydra-nevergrad-sweeper",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/rq": "hydra-rq-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
}

# How a class or function is given that was named in the place of an option
_OWN = {
    "head": "head.build._target_={}",
    "loss": "~loss +loss._target_={}",
    "optimizer": "optimizer._target_={}",
    "scheduler": '"+scheduler.build={{_target_: {}, _partial_: true}}"',
    "module": "module._target_={}",
    "metrics": "+metrics.NAME._target_={}",
    "callbacks": "+callbacks.NAME._target_={}",
    "logger": "+logger.NAME._target_={}",
}

# Options of earlier versions and their replacements
_GONE = {
    "optimizer/lbfgs": "optimizer=lbfgs is now module=full_batch, and its options are module.weight_decays and so on",
    "backbone/torchvision": "backbone=torchvision backbone.name=NAME is now backbone=NAME",
    "backbone/timm": "backbone=timm backbone.name=NAME is now backbone=timm/NAME",
    "logger/none": "logger=none is now logger=csv, as every run writes metrics.csv: the other loggers are beside it",
    "report/evaluation": "report=evaluation is now what evaluate does by itself: leave it out",
    "loading/default": "/loading is now a part of every program: leave it out of the defaults of your own option",
}


def of_composing(error: BaseException, asked: Asked | None) -> tuple[int, str] | None:
    """Return the status and the message of an error that composing a configuration raised; None for any other."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return ConfigError.exit_status, _unknown_option(error.missing_cfg_file or "", error.options)
    # One of several: Hydra says less.
    if several_of := re.match(r"In '.*': Could not load '((.*)/.*)'\.", str(error)):
        return ConfigError.exit_status, _unknown_option(several_of[1], options_of(several_of[2]))
    if isinstance(error, HydraException | OmegaConfBaseException) or _is_no_option(error):
        return ConfigError.exit_status, _configuration(error, asked)
    unreadable_file = isinstance(error, YAMLError | UnicodeDecodeError) or "Expected header format" in str(error)
    if unreadable_file and _was_composing(error):
        return ConfigError.exit_status, f"an option file cannot be read: {_unreadable_option(error, asked)}"
    if isinstance(error, RecursionError) and _was_composing(error):
        return (
            ConfigError.exit_status,
            "an option builds on itself: give your file another name than what its defaults name",
        )
    if isinstance(error, TypeError) and place(error).startswith("hydra."):
        return ConfigError.exit_status, "an option of a group is a name, or a list of names (GROUP=OPTION)"
    if isinstance(error, AssertionError) and place(error).startswith("hydra."):
        return ConfigError.exit_status, "an argument has no key before its @ (GROUP@PACKAGE=OPTION)"
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    # OmegaConf raises errors whose cause leads back to themselves.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__


def place(error: BaseException) -> str:
    """Return the module in which an error was raised."""
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return places[-1] if places else ""


def _unknown_option(path: str, known_options: Iterable[str]) -> str:
    if path in _GONE:
        return _GONE[path]
    # Groups of Hydra lie in one another, ours do not.
    group, _, option = path.rpartition("/") if path.startswith("hydra/") else path.partition("/")
    if path in _PLUGINS:
        return f"{group}={option} is of a package that is not installed: pip install {_PLUGINS[path]}"
    if options.option(path):
        return (
            f"{group}={option} is hidden by hydra.searchpath: add tlearn://options there, or take --config-dir instead"
        )
    known = sorted(known_options)
    more = ", and timm/NAME for a model of timm" if group == "backbone" else ""
    listed = f"options of {group}: {', '.join(known)}{more}"
    if group in _OWN and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", option):
        return f"unknown option {group}={option}; did you mean {_OWN[group].format(option)}?\n{listed}"
    if group == "data" and Path(option).exists():
        return f"unknown option data={option}; did you mean data=folder {typed('data.root', option)}?\n{listed}"
    bare = {re.sub(r"\W|_", "", one).casefold(): one for one in known}
    parts = [re.sub(r"\W|_", "", part).casefold() for part in (option, *re.split(r"[./]", option))]
    # Of another library: microsoft/resnet-50, torchvision.models.resnet18
    same = [bare[part] for part in parts if part in bare]
    meant = f"; did you mean {group}={same[0]}?" if same else did_you_mean(option, known, f"{group}={{}}")
    if nothing := [one for one in known if one in NOTHING and option.casefold() in NOTHING]:
        meant = f"; did you mean {group}={nothing[0]}?"
    return f"unknown option {group}={option}{meant}\n{listed}"


def _configuration(error: BaseException, asked: Asked | None) -> str:
    asked = asked or Asked("train")
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, asked)
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error)):
        return several(sweep[1], asked)
    message = str(error).strip()
    # The innermost error knows the key best.
    keys = [key for one in chain(error) if (key := getattr(one, "full_key", None))]
    if any(isinstance(one, MissingMandatoryValue) for one in chain(error)):
        key = keys[-1] if keys else message.split(": ")[-1].split()[0]
        return f"{key} is required: {key}=..."
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown:
        key = max([unknown.group(1), *keys], key=len)
        return unknown_key(key, asked)
    if merged := re.match(r"Error merging override \+*((.*?)=.*)", message):
        is_list = re.match(r"[^=]*=\s*\[", merged[1])
        form = f"keys below it, {merged[2]}.KEY=VALUE" if is_list else f"a list, {merged[2]}=[...]"
        return f"{merged[1]}: expected {form}"
    if "is not in struct" in message and keys:
        return f"{keys[-1]} is missing: it can be changed, not removed"
    if "is not a container" in message:
        for meant in filter(None, (scalar(key, asked) for key in asked.given)):
            return meant
    if of_timm := re.search(r"Invalid Defaults List override '/?backbone/timm: (.*)'", message):
        # Hydra 1.4 takes the slash for one between groups, and overrides only what defaults name.
        return f"Hydra 1.4 takes no models of timm in defaults: leave it out there, and type backbone=timm/{of_timm[1]}"
    # Hydra prints its search path after an empty line.
    lines = [line for line in message.partition("\n\n")[0].splitlines() if not line.startswith("    ")]
    where = f"{keys[-1]}: " if keys else ""
    if _is_no_option(error):
        if told := option_name(asked):
            return told
        where = "GROUP=OPTION takes a name, in a file 'off' in quotes: "
    return where + ("\n".join(lines) or type(error).__name__)


def _is_no_option(error: BaseException) -> bool:
    # backbone=3, or an unquoted off in a defaults list, which YAML reads as false: Hydra raises a bare ValueError.
    starts = ("Config group override", "Unsupported item value in defaults")
    return isinstance(error, ValueError) and str(error).startswith(starts)


def _unreadable_option(error: BaseException, asked: Asked | None) -> str:
    """Return which option file is damaged, and where."""
    reason = " ".join(str(error).split())
    if isinstance(error, YAMLError):
        return reason
    # These errors name no file: the bytes that were read, or the header between quotes.
    found = error.object[:512] if isinstance(error, UnicodeDecodeError) else reason.partition("'")[2][:-1].encode()
    paths = sorted(Path(asked.config_dir).rglob("*.yaml")) if asked and asked.config_dir else []
    return ", ".join([*[str(path) for path in paths if found in path.read_bytes()][:1], reason])


def _was_composing(error: BaseException) -> bool:
    return any("hydra" in Path(frame.f_code.co_filename).parts for frame, _ in traceback.walk_tb(error.__traceback__))
