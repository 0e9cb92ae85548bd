"""The valid values of every configuration key: a rule is a dotted key pattern and a check.

Where something is built, at the `SEATS`, a node may have a `_target_` and further arguments without a rule
(`+trainer.limit_train_batches=3`), which its constructor checks.
"""

import re
from fnmatch import fnmatchcase

from tlearn.data.sources.base import SPLITS
from tlearn.ranges import (
    COUNT,
    DRAWN,
    FRACTION,
    RANGES,
    Check,
    anything,
    boolean,
    either,
    file_name,
    file_stem,
    integer,
    keys,
    list_of,
    number,
    one_of,
    optional,
    path,
    text,
)

PREPROCESSING = ("resize", "size", "interpolation", "mean", "std")
# Null where a run has them, the last also elsewhere
DECODING = ("max_pixels", "alpha_background", "high_bit_depth", "bit_depth")
_STAGES = either(one_of("all"), list_of(text))
# Where a `_target_` is built, with all below it
SEATS = (
    *("backbone", "data.source", "head.build", "loss", "module", "optimizer", "scheduler", "trainer"),
    *("metrics.*", "callbacks.*", "logger.*", "transforms.train", "tune"),
)

# What is typed to do without something
NOTHING = ("none", "off", "never", "disabled", "null", "no", "false", "nil", "disable")

RULES: dict[str, Check] = {
    **RANGES,
    "*._target_": text,
    "*._partial_": boolean,
    "seed": integer(0, 2**32 - 1),
    "monitor.metric": text,
    "monitor.mode": one_of("auto", "min", "max"),
    "optimized_metric": text,
    "quiet": boolean,
    "resume": optional(path),
    "run": optional(path),
    "classes": optional(path),
    "split": one_of(*SPLITS),
    "tta": one_of("none", "flip", "views"),
    "report.write": boolean,
    "report.train_pictures": one_of("auto", "always", "never"),
    "images": either(path, list_of(path)),
    "runs": either(path, list_of(path)),
    "metric": text,
    "output": file_name(
        "a .csv or .parquet file, a name without an ending, or - for standard output", ".csv", ".parquet", ""
    ),
    "calibrated": boolean,
    "page": optional(file_name("an .html file", ".html", ".htm")),
    "show": optional(one_of("body", "head", "network")),
    "size": optional(integer(1)),
    "num_classes": integer(1),
    "batches": integer(1),
    "warmup": integer(0),
    "extra": anything,
    "extra.*": anything,
    "paths.*": path,
    "data.name": text,
    "data.root": optional(path),
    "data.csv": path,
    "data.parent": COUNT,
    "data.columns.*": optional(either(text, integer(0))),
    "data.encoding": optional(RANGES["data.encoding"]),
    **{f"data.{name}": optional(RANGES[f"data.{name}"]) for name in DECODING},
    "data.download_root": path,
    "data.url": either(text, list_of(text)),
    "data.sha256": optional(RANGES["data.sha256"]),
    **{f"data.counts.{split}": DRAWN for split in SPLITS},
    "data.draw_seed": integer(0),
    "data.split.test_as_val": boolean,
    "data.batch_size": integer(1),
    "data.num_workers": optional(integer(0)),
    "data.balance": one_of("none", "sampler", "weights"),
    "data.on_bad_image": one_of("error", "skip"),
    "data.allow_empty": boolean,
    "data.cache": one_of("none", "memory", "disk"),
    **{f"transforms.{key}": optional(RANGES[f"transforms.{key}"]) for key in PREPROCESSING},
    "transforms.train": anything,
    "transforms.mixup_alpha": number(0),
    "transforms.cutmix_alpha": number(0),
    "backbone.name": text,
    "backbone.weights": optional(path),
    "backbone.arguments.stages_repeats": list_of(integer(1)),
    "backbone.arguments.stages_out_channels": list_of(integer(1)),
    "backbone.preprocessing": keys,
    "backbone.arguments": keys,
    **{f"backbone.preprocessing.{key}": RANGES[f"transforms.{key}"] for key in PREPROCESSING},
    "head.replace": one_of("classifier", "last"),
    "head.activation": text,
    "finetune.pretrained": boolean,
    "finetune.stages": _STAGES,
    "finetune.later_stages": _STAGES,
    "finetune.unfreeze_epoch": optional(integer(0)),
    "finetune.body_lr_scale": number(above=0),
    "features.mode": one_of("auto", "off", "cache"),
    "features.views": optional(integer(1)),
    "features.precision": one_of("fp32", "tf32", "bf16", "auto"),
    "features.on_write_error": one_of("continue", "stop"),
    "features.limit_gb": number(above=0),
    # What it is where there is none
    "optimizer": anything,
    "optimizer.lr": number(above=0),
    "optimizer.weight_decay": number(0),
    "optimizer.momentum": number(0),
    "optimizer.nesterov": boolean,
    "module.refit": boolean,
    "module.max_iter": integer(1),
    "module.history_size": integer(1),
    "module.tolerance": number(0),
    "scheduler.interval": one_of("step", "epoch"),
    "scheduler.warmup_steps": integer(0),
    "scheduler.from_run": anything,
    "scheduler.from_run.*": one_of("steps", "epochs", "learning_rates"),
    "scheduler.build.eta_min": number(0),
    "scheduler.build.pct_start": FRACTION,
    "scheduler.build.factor": number(0, 1, above=0),
    "scheduler.build.patience": integer(0),
    "scheduler.build.step_size": integer(1),
    "scheduler.build.gamma": number(above=0),
    "scheduler.build": anything,
    "trainer.max_epochs": either(integer(1), one_of(-1)),
    "trainer.strategy.devices": optional(list_of(integer(0))),
    "trainer.devices": either(integer(1), one_of("auto", -1), list_of(integer(0))),
    "trainer.num_nodes": integer(1),
    "trainer.accelerator": text,
    "trainer.strategy": text,
    "trainer.strategy.process_group_backend": text,
    "trainer.default_root_dir": path,
    "trainer.precision": either(text, one_of(16, 32, 64)),
    "trainer.check_val_every_n_epoch": optional(integer(1)),
    "trainer.val_check_interval": either(number(0, 1, above=0), integer(1)),
    "trainer.accumulate_grad_batches": integer(1),
    "trainer.gradient_clip_val": optional(number(above=0)),
    "trainer.log_every_n_steps": integer(1),
    "trainer.num_sanity_val_steps": integer(-1),
    "trainer.fast_dev_run": either(boolean, integer(1)),
    "trainer.use_distributed_sampler": boolean,
    "trainer.enable_model_summary": boolean,
    "trainer.overfit_batches": either(number(0, 1), integer(1)),
    "trainer.profiler": optional(text),
    **{f"metrics.top{k}.k": integer(1) for k in (1, 5)},
    **{f"metrics.{name}.average": text for name in ("precision", "recall", "f1")},
    "metrics": anything,
    "metrics.*": anything,
    "tune.min_lr": number(above=0),
    "tune.max_lr": number(above=0),
    "tune.steps": integer(20),
    "tune.max_size": integer(1),
    "callbacks": anything,
    "callbacks.checkpoint.filename": file_stem,
    "callbacks.*.dirpath": path,
    "callbacks.checkpoint.save_top_k": integer(-1),
    "callbacks.checkpoint.auto_insert_metric_name": boolean,
    "callbacks.*.save_on_train_epoch_end": optional(boolean),
    "callbacks.*.enable_version_counter": boolean,
    "callbacks.early_stopping.patience": integer(0),
    "callbacks.early_stopping.min_delta": number(),
    "callbacks.*": anything,
    "logger": anything,
    "logger.tensorboard.default_hp_metric": boolean,
    "logger.wandb.settings.silent": boolean,
    "logger.wandb.mode": one_of("offline", "online", "disabled"),
    "logger.*": anything,
}


def rule_of(key: str) -> Check | None:
    """Return the check of a key's values; None for a key without a rule."""
    if key in RULES:
        return RULES[key]
    return next((check for pattern, check in RULES.items() if "*" in pattern and fnmatchcase(key, pattern)), None)


def without(key: str, raw: str) -> str | None:
    """Return the line that does without something, where a value was meant to and is refused: none, off, false."""
    rule, value = rule_of(key), {"null": None, "false": False}.get(raw.casefold(), raw)
    named = re.match(r"(callbacks|logger|metrics)\.\w+", key)
    if rule is None or raw.casefold() not in NOTHING:
        return None
    if named and key == named[0] and value is not None:
        return f"{key}=null"
    if (expected := rule(value)) is None:
        return None
    if rule(None) is None:
        return f"{key}=null"
    if word := next((one for one in NOTHING if re.search(rf"one of .*\b{one}\b", expected)), None):
        return f"{key}={word}"
    if named:
        return f"{named[0]}=null"
    return f"{key}=0" if rule(0) is None else None


def is_path(key: str) -> bool:
    """Return whether the values of a key are paths."""
    rule = rule_of(key)
    return rule is not None and "a path" in (rule(0) or "")
