"""What sets runs apart, read from their folders as plain data."""

import json
import math
from dataclasses import replace

import pytest
import yaml

from tlearn.console import say, session
from tlearn.errors import DataError
from tlearn.runs.comparison import (
    Run,
    comparison_table,
    differing,
    find_runs,
    metric_mode,
    name_of,
    read_run,
    setting,
)
from tlearn.runs.dotted_keys import flat
from tlearn.runs.ranking import Entry, ranked
from tlearn.runs.trial import Trial, write_trial


def write_run(folder, settings, metrics=None, choices=None, log=(), job="train"):
    """Write what a training leaves in its folder."""
    (folder / ".hydra").mkdir(parents=True)
    config = {"seed": 0, "backbone": {"name": "tiny"}, "optimizer": {"lr": 0.1}, "paths": {"output_dir": str(folder)}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({**config, **settings}), encoding="utf-8")
    chosen = {"hydra": "default", "loading@data": "default", **(choices or {})}
    hydra = {"hydra": {"job": {"name": job}, "runtime": {"choices": chosen}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    if log:
        rows = [f"{epoch},{epoch},{value}" for epoch, value in enumerate(log)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,step,val/top1", *rows, ""]), encoding="utf-8")
    return folder


def _runs(*settings, choices=(), metrics=()):
    given = zip(settings, choices or [{}] * len(settings), metrics or [{}] * len(settings), strict=True)
    return [Run(None, "done", figure, chosen_settings, chosen) for chosen_settings, chosen, figure in given]


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    for name in ("sweep/1", "sweep/0", "one"):
        write_run(tmp_path / name, {})
    (tmp_path / "copied" / "model").mkdir(parents=True)
    (tmp_path / "copied" / "model" / "model.json").write_text("{}", encoding="utf-8")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_runs([tmp_path, tmp_path / "one"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["copied", "one", "sweep/0", "sweep/1"]
    assert find_runs([tmp_path / "one"]) == [tmp_path / "one"]


def test_a_run_is_read_as_it_was_configured(tmp_path):
    folder = write_run(tmp_path / "run", {"seed": 7}, {"val/top1": 0.5}, {"head": "mlp", "debug": None})
    run = read_run(folder)
    assert (run.status, run.metrics, run.error) == ("done", {"val/top1": 0.5}, "")
    assert run.settings == {"seed": 7, "backbone.name": "tiny", "optimizer.lr": 0.1}
    assert run.choices == {"loading": "default", "head": "mlp", "debug": "null"}


def test_a_run_made_without_the_command_line_is_read_from_its_model(tmp_path):
    (tmp_path / "model").mkdir()
    config = {"optimizer": {"lr": 0.5, "_target_": "os.system"}, "trainer": {"default_root_dir": "here"}}
    (tmp_path / "model" / "model.json").write_text(json.dumps({"config": config}), encoding="utf-8")
    (tmp_path / "metrics.json").write_text('{"val/loss": 1}', encoding="utf-8")
    run = read_run(tmp_path)
    assert (run.status, run.settings) == ("done", {"optimizer.lr": 0.5, "optimizer._target_": "os.system"})


def test_an_evaluation_is_no_run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("run: outputs/run\nbackbone: {name: tiny}\n", encoding="utf-8")
    (tmp_path / "metrics.json").write_text('{"test/top1": 1}', encoding="utf-8")
    assert read_run(tmp_path) is None


def test_a_run_that_is_not_done_is_named_with_its_reason(tmp_path):
    assert read_run(write_run(tmp_path / "alone", {})).status == "unfinished"
    failed, going_on = (read_run(write_run(tmp_path / "sweep" / str(number), {})) for number in (0, 1))
    assert (failed.status, going_on.status) == ("unfinished", "unfinished")
    write_trial(Trial(0, [], tmp_path / "sweep" / "0", "failed", exit_status=3, error="a.jpg: cut short"))
    write_trial(Trial(1, [], tmp_path / "sweep" / "1"))
    failed, going_on = (read_run(tmp_path / "sweep" / str(number)) for number in (0, 1))
    assert (failed.status, failed.error) == ("failed (3)", "a.jpg: cut short")
    assert going_on.status == "unfinished"


def test_the_error_that_ended_a_run_is_named_until_it_goes_on(tmp_path):
    folder = write_run(tmp_path / "run", {})
    with pytest.raises(DataError), session(folder / "train.log", quiet=True):
        raise DataError("no images:\n2 files\n2026-11-27 notes")
    assert read_run(folder).error == "no metrics.json: ended by DataError, as train.log tells"
    with session(folder / "train.log", quiet=True):
        say("epoch    1/2")
        assert read_run(folder).error == "no metrics.json: still running, or stopped"


@pytest.mark.parametrize("program", ["check", "bench"])
def test_what_was_checked_or_timed_is_no_run(tmp_path, program):
    for metrics in (None, {"cpu/step_s": 1.0}):
        assert read_run(write_run(tmp_path / f"{metrics}", {}, metrics, job=program)) is None


@pytest.mark.parametrize("file", [".hydra/config.yaml", ".hydra/hydra.yaml", "metrics.json"])
@pytest.mark.parametrize("content", ["", "3", "[", "a: b: c", "!!python/object/apply:os.system [exit 3]"])
def test_a_damaged_run_is_named_and_nothing_in_it_is_made(tmp_path, file, content):
    folder = write_run(tmp_path / "run", {}, {"val/top1": 1})
    (folder / file).write_text(content, encoding="utf-8")
    run = read_run(folder)
    assert run.status == "damaged"
    assert run.error
    assert "\n" not in run.error


def test_a_configuration_that_unfolds_without_end_is_cut(tmp_path):
    folder = write_run(tmp_path / "run", {})
    levels = [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)]
    text = "\n".join(["optimizer: {lr: 1}", "a0: &a0 {x: 1}", *levels])
    (folder / ".hydra" / "config.yaml").write_text(text, encoding="utf-8")
    assert len(read_run(folder).settings) < 10_000


def test_settings_are_told_apart_by_value():
    runs = _runs({"a": 1, "b": [1, 2], "c": "x"}, {"a": 1, "b": [1, 3], "c": "x"})
    assert differing(runs) == ["b"]
    assert [setting(run, "b") for run in runs] == ["[1, 2]", "[1, 3]"]
    assert setting(Run(None, "done", settings={"a": None, "t": True}), "a") == "null"
    assert setting(Run(None, "done", settings={"a": None, "t": True}), "t") == "true"


def test_what_refers_to_another_setting_and_what_older_runs_lack_tells_nothing():
    assert differing(_runs({"a": 1, "b": "${a}"}, {"a": 2, "b": 2})) == ["a"]
    assert differing(_runs({"a": 1}, {"a": 1, "new": False})) == []


def test_what_follows_from_a_chosen_option_is_left_out():
    adam, sgd = (
        {"optimizer._target_": "Adam", "optimizer.lr": 0.001},
        {"optimizer._target_": "SGD", "optimizer.lr": 0.1},
    )
    choices = [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"optimizer": "sgd"}]
    assert differing(_runs(adam, sgd, sgd, choices=choices)) == ["optimizer"]
    faster = {**sgd, "optimizer.lr": 0.5}
    assert differing(_runs(adam, sgd, faster, choices=choices)) == ["optimizer", "optimizer.lr"]


def test_patience_is_a_setting_and_what_is_shown_is_none(tmp_path):
    runs = []
    for number in (1, 2):
        callbacks = {"early_stopping": {"patience": number}, "progress": {"refresh": number}}
        settings = {"callbacks": callbacks, "quiet": number == 1}
        write_run(tmp_path / str(number), settings, {"val/top1": 0.5})
        runs.append(read_run(tmp_path / str(number)))
    assert differing(runs) == ["callbacks.early_stopping.patience"]


def _folders(tmp_path, *values):
    runs = [{"lr": number} for number in range(len(values))]
    metrics = [{} if value is None else {"val/top1": value, "time/fit_s": 3.0} for value in values]
    made = [Run(tmp_path / str(number), "done", *pair) for number, pair in enumerate(zip(metrics, runs, strict=True))]
    return made


def test_the_best_run_comes_first_and_what_has_no_figure_last(tmp_path):
    runs = _folders(tmp_path, 0.5, None, 0.75, math.nan)
    rows = comparison_table(runs, "val/top1")
    assert [row["run"] for row in rows] == ["2", "0", "1", "3"]
    assert list(rows[0]) == ["run", "val/top1", "status", "lr", "time/fit_s", "folder", "error"]
    losses = [Run(tmp_path / name, "done", {"val/loss": value}) for name, value in (("a", 2.0), ("b", 1.0))]
    assert [row["run"] for row in comparison_table(losses, "val/loss")] == ["b", "a"]


def test_the_best_end_of_a_metric_is_what_the_first_run_that_knows_it_says(tmp_path):
    one, two = _folders(tmp_path, 0.5, 0.6)
    for folder, content in ((one.folder, "damaged"), (two.folder, json.dumps({"directions": {"hamming": "min"}}))):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.json").write_text(content)
    folders = [tmp_path / "nothing", one.folder, two.folder]
    modes = [metric_mode(folders, name) for name in ("val/hamming", "test/hamming", "val/top1", "hamming")]
    assert modes == ["min", "min", "auto", "auto"]
    runs = _runs({"n": 1}, {"n": 2}, metrics=[{"val/hamming": 0.4}, {"val/hamming": 0.2}])
    runs = [replace(run, folder=folder.folder) for run, folder in zip(runs, (one, two), strict=True)]
    assert [row["val/hamming"] for row in comparison_table(runs, "val/hamming", "min")] == [0.2, 0.4]
    assert [row["val/hamming"] for row in comparison_table(runs, "val/hamming")] == [0.4, 0.2]
    assert [group.mean("m") for group in ranked(entries_of(0.2, 0.1, 0.3), "m", "min")] == [0.1, 0.2, 0.3]


def entries_of(*values):
    return [Entry(str(number), {"n": number}, {"m": value}) for number, value in enumerate(values)]


def test_a_run_is_named_by_what_sets_its_folder_apart(tmp_path):
    runs = [Run(tmp_path / "x" / name, "done") for name in ("sweep/0", "sweep/1", "one")]
    assert [name_of(run, runs) for run in runs] == ["sweep/0", "sweep/1", "one"]
    assert name_of(runs[2], runs[2:]) == "one"


def test_nested_settings_get_dotted_keys():
    assert flat({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
