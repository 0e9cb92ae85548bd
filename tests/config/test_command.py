"""The command line as a user meets it: plain errors and exit statuses, help, going on with a run, sweeps."""

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.small_runs import kept_hydra
from tlearn import __version__, errors
from tlearn.config.command import program
from tlearn.config.compose import compose
from tlearn.config.messages import explain, plain_error
from tlearn.config.options import TORCHVISION
from tlearn.config.relaunch import child_command, quoted, restored_arguments
from tlearn.config.stored_run import check_resume
from tlearn.config.tree import plain
from tlearn.errors import BadImageError, CheckpointError, ConfigError, DataError, TlearnError
from tlearn.train import main as train_main

STATUSES = {
    "TlearnError": 1,
    "ConfigError": 2,
    "DataError": 3,
    "BadImageError": 3,
    "CheckpointError": 4,
    "OutputError": 4,
    "DownloadError": 5,
    "NonFiniteError": 6,
    "SweepError": 7,
    "OutOfMemoryError": 8,
}


class Ended(NamedTuple):
    status: int
    out: str
    err: str
    configs: list[Any]


@pytest.fixture
def start(tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., Ended]]:
    """Give a function that runs a program in this process, with a task that returns figures and nothing else."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str, name: str = "train", task: Callable[[Any], dict[str, float]] | None = None) -> Ended:
        configs = []

        def noted(config: Any) -> dict[str, float]:
            # References to the run's folder hold only while it goes on.
            configs.append(OmegaConf.create(plain(config)))
            return task(config) if task else {"val/top1": 0.5}

        main, _ = program(name, noted)
        return Ended(main(arguments), *capsys.readouterr(), configs)

    with kept_hydra():
        yield run


# The program with the fewest keys composes fastest
SMALL = ("run=RUN", "images=PICTURES")


def raising(error: BaseException) -> Callable[[Any], dict[str, float]]:
    def task(config: Any) -> dict[str, float]:
        raise error

    return task


def shell(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does."""
    command = [sys.executable, "-m", f"tlearn.{name}", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


class TestConfigurationErrors:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["learning_rate=0.1"], "unknown key learning_rate; did you mean optimizer.lr=0.1?"),
            (["bakbone=resnet18"], "unknown key bakbone; did you mean backbone"),
            (["+lr2=1"], "unknown key lr2; did you mean optimizer.lr=1?"),
            (["head.hidden=[3]"], "unknown key head.hidden: head=linear has no hidden; choose head=mlp"),
            (["optimizer={foo: 1}"], "unknown key optimizer.foo"),
            (["optimizer.lr=abc"], "optimizer.lr=abc: expected a number > 0"),
            (["data=folder"], "data.root is required: data.root=..."),
            (["backbone=torchvision", "backbone.name=resnet18"], "is now backbone=NAME"),
            (["backbone=timm", "backbone.name=resnet18"], "is now backbone=timm/NAME"),
            (["backbone=resnet18", "hydra.searchpath=[.]"], "is hidden by hydra.searchpath"),
            (["--verbose"], "--verbose is not a flag: settings are KEY=VALUE, without dashes: see --help"),
            (
                ["seed=1", "--config-dir", ".", "head=mlp"],
                "flags go first: python -m tlearn.train --config-dir . seed=1 head=mlp",
            ),
            (["+extra.note=${nowhere}"], "extra.note: Interpolation key 'nowhere' not found"),
            (["seed=${oc.env:NO_SUCH_VARIABLE}"], "seed: "),
            (["optimizer=3"], "optimizer=3: expected an option of optimizer: adam, adamw, none, sgd"),
            (["callbacks=[default,nothing]"], "unknown option callbacks=nothing"),
            (["seed"], "cannot read the argument seed: write KEY=VALUE, as seed=..."),
            (
                ["data.name=a=b"],
                "cannot read the argument data.name=a=b: quotes are needed around =; type \"data.name='a=b'\"",
            ),
            (
                ["seed=1,2"],
                "seed=1,2 gives several values, and one run takes one: a sweep is python -m tlearn.train -m seed=1,2",
            ),
            (["~seed"], "seed is missing: it can be changed, not removed"),
            (["--config-name", "nowhere"], "add options with --config-dir"),
            (["optimizer.lr=-1", "hydra.run.dir='a folder/with = and spaces'"], "optimizer.lr=-1: expected"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_one_plain_message_status_2_and_nothing_written(self, start, arguments, expected):
        ended = start(*arguments)
        assert ended.status == 2
        assert ended.err.startswith("tlearn: error: ")
        assert expected in ended.err
        assert "Traceback" not in ended.err + ended.out
        assert ended.configs == []
        assert list(Path.cwd().iterdir()) == []

    def test_an_unknown_option_lists_the_options_and_names_close_ones_first(self, start):
        ended = start("backbone=resnet19")
        assert ended.status == 2
        first, second = ended.err.strip().splitlines()
        assert first.startswith("tlearn: error: unknown option backbone=resnet19; did you mean backbone=resnet18 or ")
        names = ", ".join(sorted([*TORCHVISION, "tiny"]))
        assert second == f"options of backbone: {names}, and timm/NAME for a model of timm"

    def test_a_user_sees_the_message_only(self, tmp_path):
        done = shell("train", "learning_rate=0.1", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "tlearn: error: unknown key learning_rate; did you mean optimizer.lr=0.1?\n"
        assert done.stdout == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_user_who_asks_for_the_trace_sees_it_too(self, tmp_path):
        done = shell("evaluate", cwd=tmp_path, HYDRA_FULL_ERROR="1")
        assert done.returncode == 2
        assert done.stderr.startswith("Traceback (most recent call last):")
        assert done.stderr.endswith("tlearn: error: run is required: run=...\n")


class TestRunning:
    def test_a_task_gets_the_checked_configuration_and_a_folder_that_explains_itself(self, start):
        ended = start("seed=0", "optimizer.lr=1e-3", "+extra.note=1", "hydra.run.dir='a b=c'")
        assert ended.status == 0
        [config] = ended.configs
        assert (config.seed, config.optimizer.lr, config.extra.note) == (0, 0.001, 1)
        folder = Path.cwd() / "a b=c"
        assert Path(config.paths.output_dir) == folder
        assert OmegaConf.load(folder / ".hydra" / "overrides.yaml")[0] == "seed=0"

    @pytest.mark.parametrize("sweep", [[], ["-m"]])
    def test_paths_are_of_where_they_were_typed_with_chdir_too(self, start, sweep):
        here, seen = Path.cwd(), []

        def task(config):
            seen.append((Path.cwd(), child_command(Path(config.paths.output_dir))[-2]))
            return {"val/top1": 0.5}

        place = "hydra.sweep.dir=run" if sweep else "hydra.run.dir=run"
        assert start(*sweep, "hydra.job.chdir=true", place, task=task).status == 0
        assert seen == [(here, f"hydra.run.dir='{here / 'run' / '0' if sweep else here / 'run'}'")]

    @pytest.mark.parametrize("quote", ["", "'", '"'])
    def test_a_regular_expression_is_text_with_the_quotes_of_a_shell_alone(self, start, quote):
        pattern = r"^(?!(train)/)|(?P<label>[a-z]+)\.\d{1,2}$"
        ended = start("data=filenames", "data.root=d", f"data.pattern={quote}{pattern}{quote}", "hydra.run.dir=run")
        assert ended.configs[0].data.pattern == pattern
        # as resume reads it back
        stored = list(OmegaConf.load("run/.hydra/overrides.yaml"))
        assert start(*stored, "hydra.run.dir=again").configs[0].data.pattern == pattern

    def test_options_of_your_own_come_from_a_folder(self, start, tmp_path):
        options = tmp_path / "my options" / "optimizer"
        options.mkdir(parents=True)
        (options / "mine.yaml").write_text("defaults: [sgd]\nlr: 5\n", encoding="utf-8")
        ended = start("--config-dir", str(options.parent), "optimizer=mine")
        assert ended.status == 0
        assert ended.configs[0].optimizer.lr == 5

    def test_a_name_that_yaml_takes_for_false_is_explained(self, start, tmp_path):
        options = tmp_path / "mine" / "experiment"
        options.mkdir(parents=True)
        text = "# @package _global_\ndefaults:\n  - override /features: off\n"
        (options / "quick.yaml").write_text(text, encoding="utf-8")
        ended = start("--config-dir", str(options.parent), "experiment=quick")
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert "in a file 'off' in quotes" in ended.err

    @pytest.mark.parametrize(
        "content", [b"seed: [1", b"seed: 1\n\tlr: 2", b"x: \x01", b"a: b: c", b"x: \xd0", b"# @mine", b"\xff\xfe"]
    )
    def test_an_option_file_that_cannot_be_read_is_named(self, start, tmp_path, content):
        (tmp_path / "mine" / "experiment").mkdir(parents=True)
        file = tmp_path / "mine" / "experiment" / "broken.yaml"
        file.write_bytes(content if content.startswith(b"#") else b"# @package _global_\n" + content)
        ended = start("--config-dir", str(tmp_path / "mine"), "experiment=broken")
        assert ended.status == 2
        assert str(file) in ended.err
        assert ended.err.count("\n") == 1

    @pytest.mark.parametrize("typed", ["+@a=1", "@a=1", "++@a.b=x", "~@a", "+@=1", "+@a@b=1"])
    def test_a_key_that_is_only_a_package_is_explained(self, start, typed):
        ended = start(*SMALL, typed)
        assert ended.status == 2
        assert ended.err.startswith("tlearn: error: ")
        assert ended.err.count("\n") == 1

    @pytest.mark.parametrize(
        "typed", ["paths.output_dir=x", "++paths.output_dir=9", "paths.output_dir=[null]", "++paths.output_dir=a/b"]
    )
    def test_the_run_folder_has_one_name(self, start, typed):
        for given in ([typed], ["-m", typed]):
            ended = start(*given, name="bench")
            assert ended.status in (2, 7)
            assert "the run folder is given as hydra.run.dir=FOLDER" in ended.err

    def test_an_option_that_builds_on_itself_is_explained(self, start, tmp_path):
        options = tmp_path / "mine" / "backbone"
        options.mkdir(parents=True)
        (options / "resnet18.yaml").write_text("defaults: [resnet18, _self_]\nweights: my.pth\n", encoding="utf-8")
        ended = start("--config-dir", str(options.parent), "backbone=resnet18")
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert "an option builds on itself" in ended.err

    def test_without_a_folder_of_its_own_each_run_gets_a_new_one(self, start):
        folders = {start(*SMALL, name="predict").configs[0].paths.output_dir for _ in range(2)}
        assert len(folders) == 2
        assert all("=" not in folder and " " not in Path(folder).name for folder in folders)

    def test_a_folder_that_holds_a_run_is_refused_with_the_way_on(self, start):
        assert start("hydra.run.dir='my run'").status == 0
        # Nothing of use is there yet: a run that failed early may be started again.
        assert start("hydra.run.dir='my run'").status == 0
        (Path("my run") / "checkpoints").mkdir()
        assert start("hydra.run.dir='my run'").status == 0
        (Path("my run") / "checkpoints").mkdir(exist_ok=True)
        (Path("my run") / "checkpoints" / "last.ckpt").touch()
        before = (Path("my run") / ".hydra" / "config.yaml").read_bytes()
        ended = start("hydra.run.dir='my run'", "seed=7")
        assert ended.status == 4
        assert "my run already holds a run" in ended.err
        assert "resume=" in ended.err
        assert ended.configs == []
        assert (Path("my run") / ".hydra" / "config.yaml").read_bytes() == before

    @pytest.mark.parametrize("place", ["file", "file/run"])
    def test_a_folder_that_cannot_be_made_is_refused(self, start, place):
        Path("file").write_text("mine", encoding="utf-8")
        ended = start(*SMALL, f"hydra.run.dir={place}", name="predict")
        assert ended.status == 4
        assert ended.err.startswith(f"tlearn: error: cannot write {place}: ")
        assert "Traceback" not in ended.err
        assert Path("file").read_text(encoding="utf-8") == "mine"

    @pytest.mark.parametrize("error", [DataError("a.jpg: what to do"), ConfigError("a.jpg: what to do")])
    def test_an_error_of_the_task_is_one_message_and_its_status(self, start, error):
        ended = start(*SMALL, name="predict", task=raising(error))
        assert ended.status == error.exit_status
        assert ended.err == "tlearn: error: a.jpg: what to do\n"

    def test_a_fault_of_tlearn_keeps_its_trace(self, start):
        ended = start(*SMALL, name="predict", task=raising(ZeroDivisionError("a fault")))
        assert ended.status == 1
        assert "Traceback" in ended.err
        assert "ZeroDivisionError: a fault" in ended.err

    def test_a_fault_in_own_code_is_named_after_its_trace(self, start):
        ended = start(*SMALL, name="predict", task=raising(ZeroDivisionError("a fault")))
        assert ended.err.splitlines()[-1].startswith("tlearn: error: ZeroDivisionError in ")
        assert __file__ in ended.err.splitlines()[-1]

    @pytest.mark.parametrize("passed_on", [False, True])
    def test_an_interruption_is_no_fault(self, start, passed_on):
        def task(config):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                if passed_on:
                    # As Lightning does
                    sys.exit(1)
                raise

        ended = start(*SMALL, name="predict", task=task)
        assert (ended.status, ended.err) == (130, "tlearn: interrupted\n")

    @pytest.mark.parametrize("name", ["train", "predict"])
    def test_a_stopped_training_names_the_line_that_goes_on(self, start, name):
        def task(config):
            checkpoint = Path(config.paths.output_dir, "checkpoints", "last.ckpt")
            checkpoint.parent.mkdir()
            checkpoint.touch()
            raise KeyboardInterrupt

        folder = Path("a user's $run")
        ended = start(*([] if name == "train" else SMALL), f"hydra.run.dir={quoted(folder)}", name=name, task=task)
        [line] = ended.err.splitlines()
        if name == "predict":
            assert line == "tlearn: interrupted"
        else:
            command = line.removeprefix("tlearn: interrupted; go on with: ")
            assert shlex.split(command) == ["python", "-m", "tlearn.train", f"resume={folder.absolute()}"]

    def test_the_task_finds_the_environment_as_the_user_left_it(self, start, monkeypatch):
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        seen = []

        def task(config):
            seen.append(os.environ.get("HYDRA_FULL_ERROR"))
            return {}

        start(*SMALL, name="predict", task=task)
        assert seen == [None]
        assert "HYDRA_FULL_ERROR" not in os.environ


class TestMain:
    def test_it_returns_the_status_and_leaves_the_interpreter_as_it_was(self, start, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
        environment = dict(os.environ)
        assert start(*SMALL, name="predict").status == 0
        assert start("nonsense=1").status == 2
        assert sys.argv == ["kernel", "-f", "connection.json"]
        assert dict(os.environ) == environment

    def test_the_command_line_is_read_where_no_arguments_are_given(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tlearn-predict", *SMALL, "topk=3"])
        seen = []
        main, _ = program("predict", lambda config: seen.append(config.topk) or {})
        assert main() == 0
        assert seen == [3]

    def test_a_script_ends_with_the_status(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["tlearn-train", "nonsense=1"])
        _, script = program("train", lambda config: {})
        with pytest.raises(SystemExit) as caught:
            script()
        assert caught.value.code == 2
        assert "unknown key nonsense" in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_cell_of_a_notebook_that_trains_goes_on(self, monkeypatch, tmp_path):
        """As a cell does it: sys.argv is set, SystemExit would be caught, and the kernel has a variable to lose."""
        quick = ["trainer=cpu", "report=off", "trainer.max_epochs=1", "backbone=tiny"]
        monkeypatch.setattr(sys, "argv", ["train", *quick, "data.counts={train: 8, val: 2, test: 2}"])
        monkeypatch.chdir(tmp_path)
        with kept_hydra():
            assert train_main() == 0
        assert len(list(tmp_path.glob("outputs/train/*/*/metrics.json"))) == 1


class TestExplain:
    def test_every_error_has_its_status_and_keeps_its_words(self):
        found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
        kinds = {name: kind for name, kind in found.items() if issubclass(kind, TlearnError)}
        assert {name: explain(kind("words")) for name, kind in kinds.items()} == {
            name: (status, "words") for name, status in STATUSES.items()
        }

    def test_a_cause_counts_however_it_was_wrapped(self):
        error = RuntimeError("in the loader")
        error.__cause__ = DataError("a.jpg cannot be read")
        assert explain(error) == (3, "a.jpg cannot be read")

    def test_an_error_of_a_worker_loses_the_trace_around_it(self):
        from torch._utils import ExceptionWrapper

        try:
            raise BadImageError("pictures/a.jpg", "cut short\nafter 147 bytes")
        except BadImageError:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(BadImageError, match="Original Traceback") as caught:
            wrapped.reraise()
        assert explain(caught.value) == (3, "pictures/a.jpg: cut short\nafter 147 bytes")

    @pytest.mark.parametrize("kind", ["Python", "torch", "a GPU"])
    def test_too_little_memory_is_not_a_fault(self, kind):
        def fail():
            if kind == "a GPU":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return torch.zeros(2**45) if kind == "torch" else bytearray(2**47)

        with pytest.raises((MemoryError, RuntimeError)) as caught:
            fail()
        wrapped = RuntimeError("in the loader")
        wrapped.__cause__ = caught.value
        for error in (caught.value, wrapped):
            assert explain(error) == (
                8,
                "out of memory: lower data.batch_size (trainer.accumulate_grad_batches makes up for it)",
            )
        assert isinstance(plain_error(caught.value), errors.OutOfMemoryError)

    def test_an_operation_without_a_deterministic_kernel_is_named(self):
        # It has none on the CPU either; on a GPU, that of adaptive pooling in VGG has none, too.
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            with pytest.raises(RuntimeError) as caught:
                torch.nn.functional.max_unpool2d(torch.ones(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), 2)
        finally:
            torch.use_deterministic_algorithms(before)
        status, message = explain(caught.value)
        assert status == 2
        assert message == (
            "max_unpooling2d_forward_out does not have a deterministic implementation: give "
            "+trainer.deterministic=warn, or leave it out"
        )

    @pytest.mark.parametrize("kind", ["16-mixed", "bf16-mixed"])
    def test_a_fused_optimizer_does_not_go_with_mixed_precision_and_clipping(self, kind):
        from lightning.pytorch.plugins import MixedPrecision

        parameter = torch.nn.Parameter(torch.ones(1))
        with pytest.raises(RuntimeError) as caught:
            MixedPrecision(kind, "cpu").clip_gradients(torch.optim.AdamW([parameter], fused=True), 1.0)
        told = "trainer.gradient_clip_val does not go with a fused optimizer in mixed precision: leave out "
        assert explain(caught.value) == (2, f"{told}optimizer.fused")

    def test_ctrl_c_is_130_also_as_lightning_passes_it_on(self):
        assert explain(KeyboardInterrupt()) == (130, "interrupted")
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            with pytest.raises(SystemExit) as caught:
                sys.exit(1)
        assert explain(caught.value) == (130, "interrupted")

    def test_termination_is_143(self):
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        assert explain(SIGTERMException()) == (143, "terminated")

    @pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("x"), FileNotFoundError(errno.ENOENT, "x")])
    def test_anything_unknown_is_a_fault_of_tlearn(self, error):
        assert explain(error) == (1, None)

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST])
    def test_a_place_that_cannot_be_written_to_is_named(self, number):
        status, message = explain(OSError(number, os.strerror(number), "runs/one"))
        remedy = "; free some space" if number == errno.ENOSPC else ""
        assert (status, message) == (4, f"cannot write runs/one: {os.strerror(number)}{remedy}")
        assert explain(OSError(number, os.strerror(number)))[1].startswith("cannot write the output: ")

    @pytest.mark.parametrize(
        "node",
        [
            {"_target_": "datetime.timedelta", "dayz": 3},
            {"_target_": "decimal.Decimal", "value": {}},
            {"_target_": "fractions.Fraction", "numerator": "abc"},
            {"_target_": "no_such_module.Optimizer"},
            {"_target_": "datetime.NoSuchClass"},
        ],
    )
    def test_a_constructor_that_refuses_its_arguments_is_named_by_its_key(self, node):
        with pytest.raises(InstantiationException) as caught:
            instantiate(OmegaConf.create({"optimizer": node}).optimizer)
        status, message = explain(caught.value)
        assert status == 2
        assert message.startswith("optimizer: ")
        assert "\n" not in message

    def test_a_target_that_the_run_completes_is_told_to_be_partial(self):
        node = {"build": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3}}
        with pytest.raises(InstantiationException) as caught:
            instantiate(OmegaConf.create({"scheduler": node}).scheduler.build)
        message = explain(caught.value)[1]
        assert message.endswith("'optimizer'; the run adds it, so add scheduler.build._partial_=true")

    def test_a_constructor_with_a_fault_keeps_its_trace(self):
        with pytest.raises(InstantiationException) as caught:
            instantiate({"_target_": "operator.truediv", "_args_": [1, 0]})
        assert explain(caught.value) == (1, None)

    def test_a_constructor_that_says_nothing_is_no_problem(self):
        error = InstantiationException("full_key: optimizer")
        error.__cause__ = ValueError()
        assert explain(error) == (2, "optimizer: ValueError")

    def test_a_constructor_that_raises_an_error_of_ours_passes_it_on(self):
        with pytest.raises(InstantiationException) as caught:
            instantiate({"_target_": "tlearn.models.heads.mlp", "in_features": 2, "num_classes": 2, "dropout": 3})
        assert explain(caught.value) == (2, "head.dropout=3: expected a number >= 0 and <= 1")


class TestResume:
    def stopped(self, folder: Path, *overrides: str, cwd: Path | None = None, config_dir: str | None = None) -> Path:
        """Write what Hydra leaves of a run."""
        sources = [{"path": "hydra.conf", "schema": "pkg", "provider": "hydra"}]
        if config_dir:
            sources.append({"path": config_dir, "schema": "file", "provider": "command-line"})
        runtime = {"cwd": str(cwd or folder.parent), "config_sources": sources}
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
        OmegaConf.save({"hydra": {"runtime": runtime}}, folder / ".hydra" / "hydra.yaml")
        return folder

    @pytest.fixture(autouse=True)
    def _keep_the_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("arguments", [[], ["seed=3"], ["resume="], ["resume=null"], ["-m", "seed=1,2"]])
    def test_arguments_without_a_run_stay_as_they_are(self, arguments):
        assert restored_arguments(list(arguments)) == arguments

    def test_stored_arguments_come_back_and_given_ones_win(self, tmp_path):
        run = self.stopped(tmp_path / "run", "optimizer.lr=0.5", "+extra.note=old", "resume=null", "seed=3")
        config = compose(restored_arguments([f"resume={run}", "extra.note=new"][:1])[:-2])
        assert (config.optimizer.lr, config.extra.note, config.seed, config.resume) == (0.5, "old", 3, str(run))
        config = compose(restored_arguments(["++extra.note=new", f"resume={run}", "seed=4"])[:-2])
        assert (config.optimizer.lr, config.extra.note, config.seed, config.resume) == (0.5, "new", 4, str(run))

    def test_a_run_goes_on_in_its_own_folder_and_its_paths_are_of_where_it_was_started(self, start, tmp_path):
        first = start("seed=3", "data=folder", "data.root=mine", "hydra.run.dir='runs/my run'")
        there, folder = Path.cwd(), Path.cwd() / "runs" / "my run"
        before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
        os.chdir(tmp_path)
        places = []

        def task(config):
            places.append(Path.cwd())
            return {}

        again = start("resume=here/runs/my run", task=task)
        assert again.status == 0
        assert again.configs[0].resume == str(folder)
        assert again.configs[0].paths.output_dir == first.configs[0].paths.output_dir == str(folder)
        assert again.configs[0].seed == 3
        assert again.configs[0].data.root == str(there / "mine")
        # From there, nothing is imported.
        assert places == [tmp_path]
        # And not afterwards: the interpreter may be a notebook's.
        assert Path.cwd() == tmp_path
        assert sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()) == before

    @pytest.mark.parametrize("backbone", ["regnet_y_400mf", "timm/resnet10t"])
    def test_a_backbone_by_name_comes_back(self, start, backbone):
        first = start(f"backbone={backbone}", "features=off", "hydra.run.dir=run")
        again = start("resume=run")
        assert (first.status, again.status) == (0, 0)
        assert again.configs[0].backbone == first.configs[0].backbone
        assert again.configs[0].features.mode == "off"

    def test_a_run_of_another_version_is_refused_where_its_configuration_differs(self, tmp_path):
        config = compose(output_dir=tmp_path / "run")
        run = self.stopped(tmp_path / "run")
        OmegaConf.save(config, run / ".hydra" / "config.yaml")
        config.resume = str(run)
        (run / "environment.json").write_text('{"packages": {"tlearn": "0.1.0"}}', encoding="utf-8")
        check_resume(plain(config, resolve=False), run)
        config.optimizer.lr = 7
        with pytest.raises(ConfigError, match=f"^{run} was started by tlearn 0.1.0 and this is {__version__}, whose"):
            check_resume(plain(config, resolve=False), run)
        for content in (f'{{"packages": {{"tlearn": "{__version__}"}}}}', "{", "[]", '{"packages": 3}'):
            (run / "environment.json").write_text(content, encoding="utf-8")
            with pytest.raises(ConfigError, match=r"these differ:\n  optimizer.lr: 0.003 -> 7"):
                check_resume(plain(config, resolve=False), run)

    def test_so_is_one_whose_options_are_no_more(self, start, tmp_path):
        run = self.stopped(tmp_path / "run", "backbone=torchvision", "backbone.name=resnet18")
        assert "is now backbone=NAME" in start(f"resume={run}").err
        (run / "environment.json").write_text('{"packages": {"tlearn": "0.1.0"}}', encoding="utf-8")
        ended = start(f"resume={run}")
        assert ended.status == 2
        assert ended.err.startswith(f"tlearn: error: {run} was started by tlearn 0.1.0 and this is ")
        assert ended.err.count("\n") == 1

    def test_any_name_of_a_folder_survives(self):
        names = [
            "a b",
            "a=b",
            "it's",
            'say "x"',
            "a\\b",
            "a\\",
            "a\\'b",
            "a\\\\'",
            "[x]{y}(z), !",
            "${seed}",
            "æ",
            "#1",
            "null",
        ]
        given = {f"name{number}": name for number, name in enumerate(names)}
        config = compose([f"+extra.{key}={quoted(Path(name))}" for key, name in given.items()])
        assert {key: config.extra[key] for key in given} == given

    def test_a_folder_with_an_odd_name_is_the_run_folder_again(self, tmp_path):
        run = self.stopped(tmp_path / "it's = 'a ${seed}'", "seed=3")
        *arguments, folder, last = restored_arguments([f"resume={run}"])
        assert compose(arguments).resume == str(run)
        assert (folder, last) == (f"hydra.run.dir={quoted(run)}", "hydra.output_subdir=null")

    @pytest.mark.parametrize("quote", ["'", '"'])
    def test_quotes_that_hydra_would_want_are_no_part_of_the_name(self, tmp_path, quote):
        run = self.stopped(tmp_path / "my run", "seed=3")
        assert compose(restored_arguments([f"resume={quote}{run}{quote}"])[:-2]).resume == str(run)

    @pytest.mark.parametrize("flag", [["--config-dir", "others"], ["--config-dir=others"], ["-cd", "others"]])
    def test_a_folder_of_options_must_be_given_again_and_is_found_from_here(self, tmp_path, flag, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        run = self.stopped(tmp_path / "run", "seed=3", config_dir="/my options", cwd=tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match=r"again: python -m tlearn\.train --config-dir '/my options' resume="):
            restored_arguments([f"resume={run}"])
        here = Path.cwd()
        for arguments in ([*flag, "head=mlp", f"resume={run}"], ["head=mlp", f"resume={run}", *flag]):
            monkeypatch.chdir(here)
            restored = restored_arguments(arguments)
            assert restored[:4] == ["--config-dir", str(here / "others"), "seed=3", "head=mlp"]

    @pytest.mark.parametrize(
        "stored",
        [
            "+callbacks.mine={_target_:os.system}",
            "optimizer._target_=os.system",
            "trainer.strategy='${oc.create:${oc.decode:${extra.text}}}'",
            "backbone=../../../tmp/options/mine",
            "+experiment@callbacks.mine=../../mine",
        ],
    )
    def test_code_that_a_stored_run_names_must_be_given_again(self, tmp_path, stored):
        run = self.stopped(tmp_path / "run", "seed=3", "data.root=../pictures", stored)
        with pytest.raises(ConfigError, match="must be given again") as caught:
            restored_arguments([f"resume={run}"])
        assert stored in shlex.split(str(caught.value).partition("again: ")[2])
        assert "pictures" not in str(caught.value)
        assert restored_arguments([stored, f"resume={run}"]).count(stored) == 1

    @pytest.mark.parametrize(
        "stored",
        [
            ["~loss", "+loss={_target_: mine.loss}"],
            ["~loss", "+loss._target_=mine.loss", "+loss.gamma=2"],
            ["~callbacks.early_stopping", "+callbacks.early_stopping={_target_: mine.Stop}"],
        ],
        ids=len,
    )
    def test_code_that_took_the_place_of_something_comes_back_by_the_line_that_is_printed(self, tmp_path, stored):
        run = self.stopped(tmp_path / "run", *stored)
        with pytest.raises(ConfigError, match="must be given again") as caught:
            restored_arguments([f"resume={run}"])
        given = shlex.split(str(caught.value).partition("tlearn.train ")[2])
        again, first = (
            plain(compose(arguments), resolve=False) for arguments in (restored_arguments(given)[:-2], stored)
        )
        assert (again["loss"], again["callbacks"]) == (first["loss"], first["callbacks"])

    @pytest.mark.parametrize("stored", ["--experimental-rerun=x.pickle", "hydra.searchpath=[x]", "+hydra/launcher=x"])
    def test_a_stored_run_cannot_steer_hydra(self, tmp_path, stored):
        run = self.stopped(tmp_path / "run", stored)
        with pytest.raises(CheckpointError, match="is not an argument of a run"):
            restored_arguments([f"resume={run}"])

    def test_a_folder_that_is_missing_is_named(self, tmp_path):
        with pytest.raises(CheckpointError, match="holds no run to resume") as caught:
            restored_arguments(["resume=nowhere"])
        assert str(tmp_path / "nowhere") in str(caught.value)

    @pytest.mark.parametrize("name", ["overrides.yaml", "hydra.yaml"])
    @pytest.mark.parametrize("content", ["", "3", "a: [", "a: b: c", "\x00", "hydra: 3", "{}"])
    def test_a_damaged_record_is_a_plain_error(self, tmp_path, name, content):
        run = self.stopped(tmp_path / "run", "seed=3")
        (run / ".hydra" / name).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"run/\.hydra cannot be read"):
            restored_arguments([f"resume={run}"])

    def test_a_run_whose_starting_place_is_gone_can_go_on(self, tmp_path):
        run = self.stopped(tmp_path / "run", "seed=3", cwd=tmp_path / "gone")
        assert compose(restored_arguments([f"resume={run}"])[:-2]).seed == 3
        assert Path.cwd() == tmp_path


class TestSweep:
    def test_backbones_by_name_and_switches_can_be_swept(self, start):
        ended = start("-m", "backbone=regnet_y_400mf,timm/resnet10t", "features=off,auto")
        assert ended.status == 0
        names = ["regnet_y_400mf", "resnet10t"]
        assert [config.backbone.name for config in ended.configs] == [name for name in names for _ in range(2)]
        assert [config.features.mode for config in ended.configs] == ["off", "auto"] * 2

    def test_a_further_process_gets_the_backbone_of_its_trial(self, start):
        commands = []

        def task(config):
            commands.append(child_command(Path(config.paths.output_dir)))
            return {"val/top1": 0.5}

        assert start("-m", "backbone=vit_b_16,timm/resnet10t", task=task).status == 0
        for command, name in zip(commands, ("vit_b_16", "resnet10t"), strict=True):
            assert command[:2] == ["-m", "tlearn.train"]
            assert compose([one for one in command[2:] if not one.startswith("hydra.")]).backbone.name == name
