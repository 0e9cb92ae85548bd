"""Hydra's job of a trial that has been trained with its group: as Hydra runs it, without the copies that cost most."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import get_omega_conf_dumper

from tlearn.files import write_text


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's way of writing YAML, in C where it can be, as OmegaConf 2.4 does itself."""

    yaml_representers = get_omega_conf_dumper().yaml_representers


def is_plain(hydra: HydraConf) -> bool:
    """Return whether Hydra's job does nothing for a trial but keep its configuration and call what runs it."""
    job, logging = hydra.job, hydra.job_logging
    changes = job.chdir or job.env_set or hydra.verbose or logging is None or logging.get("root") is not None
    return not changes and hydra.output_subdir is not None


def run_trained_job(config: DictConfig, folder: str, task: Callable[[DictConfig], Any], callbacks: Any) -> JobReturn:
    """Run the job of a trial.

    Args:
        config: of the trial, with Hydra's own.
        folder: of its run.
        task: is called with the configuration, without Hydra's.
        callbacks: Hydra's.
    """
    with open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = folder
    OmegaConf.set_readonly(config.hydra, True)
    hydra, before = config.hydra, HydraConfig.instance().cfg
    # Hydra keeps the node alone there, which is all that is read of it.
    HydraConfig.instance().cfg = config  # type: ignore[assignment]
    try:
        own, typed = _without_hydra(config), _plain(hydra.overrides.task)
        ended = JobReturn(overrides=typed, cfg=own, hydra_cfg=config, working_dir=os.getcwd())
        contents = {"config": _plain(own), "hydra": {"hydra": _plain(hydra)}, "overrides": typed}
        for name, content in contents.items():
            write_text(Path(folder, hydra.output_subdir, f"{name}.yaml"), yaml_text(content))
        callbacks.on_job_start(config=config, task_function=task)
        ended.return_value = task(own)
        ended.status, ended.task_name = JobStatus.COMPLETED, JobRuntime.instance().get("name")
        callbacks.on_job_end(config=config, job_return=ended)
        return ended
    finally:
        HydraConfig.instance().cfg = before


def _without_hydra(config: DictConfig) -> DictConfig:
    """Return a configuration with the same nodes, as those of Hydra's copy have it above them, too."""
    own = OmegaConf.create({}, flags={"no_deepcopy_set_nodes": True})
    for name, node in config.items_ex(resolve=False):
        if name != "hydra":
            own[name] = node
    OmegaConf.set_struct(own, True)
    return own


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, enum_to_str=True)


def yaml_text(content: Any) -> str:
    """Return plain data as the YAML that `OmegaConf.to_yaml` makes of it."""
    return yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper)
