"""A user's own package in every seat: trained, evaluated, predicted, resumed, swept; edited, extracted anew."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tlearn
from tests.small_runs import program
from tlearn.errors import CheckpointError, ConfigError

HERE = Path(__file__).resolve().parent
# A body of two convolutions, on 24 tiles
SMALL = ("backbone=smallnet", "data=tiles", "data.root=tiles")
QUICK = ("trainer=cpu", "trainer.max_epochs=1", "data.num_workers=0", "report=off")
MEASURE = ("trainer=cpu", "data.num_workers=0", "report.write=false")
NUMBERS = ("val/loss", "val/top1", "test/loss", "test/top1")


def forget() -> None:
    """Let the next import read the package's files again, as a new process would."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Iterator[Path]:
    """Give a working folder with the package and its options, which only the working folder makes importable."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("mylab", "conf"):
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    forget()
    yield folder
    forget()


@pytest.fixture
def lab(desk, tmp_path) -> Iterator[Path]:
    """Give a working folder of a test's own, whose package it may edit."""
    forget()
    for name in ("mylab", "conf"):
        shutil.copytree(HERE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    yield tmp_path
    forget()


def train(lab: Path, run: str, *more: str) -> dict[str, float]:
    done = program("train", "--config-dir", "conf", *SMALL, *QUICK, f"hydra.run.dir={run}", *more, cwd=lab)
    assert done.returncode == 0, done.stderr
    return metrics(lab / run)


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(one[name] == pytest.approx(other[name], abs=1e-5) for name in NUMBERS)


def refused(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1 + ("\noptions of" in done.stderr)
    assert words in done.stderr


@pytest.fixture(scope="module")
def cosine(desk) -> Path:
    """Give a run with a head of the user's own on a body of tlearn's."""
    train(desk, "cosine", "backbone=tiny", "head=cosine", "head.scale=20")
    return desk / "cosine"


def test_a_head_is_evaluated_with_trust_and_refused_without(desk, cosine):
    head = json.loads((cosine / "model" / "model.json").read_text(encoding="utf-8"))["head"]
    assert head == {"_target_": "mylab.heads.CosineHead", "scale": 20}
    refused(program("evaluate", "run=cosine", *MEASURE, cwd=desk), 4, "if you trust it, add trust=[mylab]\n")
    refused(
        program("evaluate", "run=cosine", "trust=[mylba]", *MEASURE, cwd=desk), 2, "trust names mylba, and there is no "
    )
    done = program("evaluate", "run=cosine", "trust=[mylab]", "hydra.run.dir=again", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "again")["test/loss"] == pytest.approx(metrics(cosine)["test/loss"], abs=1e-6)


def test_a_head_predicts_from_a_copied_model_folder(desk, cosine):
    shutil.copytree(cosine / "model", desk / "copied")
    images = ("images=tiles/red", "num_workers=0", "device=cpu")
    refused(program("predict", "run=copied", *images, cwd=desk), 4, "copied names code that is not tlearn's")
    done = program("predict", "run=copied", "trust=[mylab]", *images, cwd=desk)
    assert done.returncode == 0, done.stderr
    with (desk / "predictions.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8


def test_a_head_is_used_from_python(desk, cosine):
    told = [*SMALL, *QUICK, "backbone=tiny", "head=cosine", "head.scale=20", "hydra.run.dir=python", "quiet=true"]
    with contextlib.chdir(desk):
        run = tlearn.fit(told, config_dir="conf")
        assert run.metrics["val/loss"] == pytest.approx(metrics(cosine)["val/loss"], abs=1e-6)
        # It has just run here, and so it is trusted.
        logits = run.model(device="cpu").logits("tiles/red")
        assert len(run.outputs("val")) > 0
    with pytest.raises(CheckpointError, match=r'if you trust it, give trust=\["mylab"\]$'):
        tlearn.load_model(run.folder)
    with pytest.raises(CheckpointError, match="if you trust it"):
        tlearn.Run(run.folder).outputs("val")
    with pytest.raises(ConfigError, match="trust=mylab: expected a list"):
        tlearn.load_model(run.folder, trust="mylab")
    again = tlearn.Run(run.folder, trust=["mylab"]).model(device="cpu")
    assert torch.equal(again.logits(desk / "tiles" / "red"), logits)


def test_a_package_that_is_not_there_is_named(desk, cosine, tmp_path):
    forget()
    done = program("evaluate", f"run={cosine}", "trust=[mylab]", *MEASURE, cwd=tmp_path)
    refused(
        done, 2, "trust names mylab, and there is no such package: correct it, install it, or start from the folder "
    )


def test_a_run_with_own_code_goes_on_when_trust_and_options_are_given_again(desk, cosine):
    before = metrics(cosine)
    (cosine / "metrics.json").unlink()
    line = f"again: python -m tlearn.train --config-dir {desk}/conf resume={cosine} 'trust=[mylab]'\n"
    refused(program("train", "resume=cosine", cwd=desk), 2, line)
    refused(program("train", "--config-dir", "conf", "resume=cosine", cwd=desk), 4, "add trust=[mylab]\n")
    done = program("train", "--config-dir", "conf", "resume=cosine", "trust=[mylab]", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert same(metrics(cosine), before)


def test_an_argument_of_a_head_is_swept(desk):
    swept = ("-m", "--config-dir", "conf", *SMALL, *QUICK, "head=cosine", "head.scale=5,20", "hydra.sweep.dir=swept")
    done = program("train", *swept, cwd=desk)
    assert done.returncode == 0, done.stderr
    with (desk / "swept" / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["status"], row["overrides"].split()[-1]) for row in rows] == [
        ("done", "head.scale=5"),
        ("done", "head.scale=20"),
    ]


def test_a_function_with_layers_as_arguments_is_a_head(desk):
    trained = train(desk, "bottleneck", "head=bottleneck")
    assert program("evaluate", "run=bottleneck", "hydra.run.dir=b", *MEASURE, cwd=desk).returncode == 4
    done = program("evaluate", "run=bottleneck", "trust=[mylab]", "hydra.run.dir=b", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "b")["test/loss"] == pytest.approx(trained["test/loss"], abs=1e-6)


def test_a_backbone_trains_from_features_as_from_images_and_opens_with_trust(desk):
    cached = train(desk, "cached", "features=cache")
    assert same(cached, train(desk, "plain", "features=off"))
    refused(program("evaluate", "run=cached", *MEASURE, cwd=desk), 4, "mylab.nets.SmallNet): if you trust it")
    done = program("evaluate", "run=cached", "trust=[mylab]", "hydra.run.dir=net", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "net")["test/loss"] == pytest.approx(cached["test/loss"], abs=1e-5)
    done = program("predict", "run=cached", "trust=[mylab]", "images=tiles/red", "output=net.csv", cwd=desk)
    assert done.returncode == 0, done.stderr


def test_a_backbone_is_fine_tuned_from_random_weights_and_resumed(desk):
    before = train(desk, "scratch", "finetune=scratch")
    (desk / "scratch" / "metrics.json").unlink()
    done = program("train", "--config-dir", "conf", "resume=scratch", "trust=[mylab]", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert same(metrics(desk / "scratch"), before)


def test_an_edited_helper_is_extracted_anew(lab):
    first = train(lab, "first", "features=cache")
    again = program("train", "--config-dir", "conf", *SMALL, *QUICK, "hydra.run.dir=again", cwd=lab)
    assert "features: 24 images" not in again.stdout
    layers = lab / "mylab" / "layers.py"
    layers.write_text(layers.read_text(encoding="utf-8").replace("GAIN = 1.0", "GAIN = 25.0"), encoding="utf-8")
    # This process has imported the code as it was: what it computes now is kept for nobody.
    stale = program("train", "--config-dir", "conf", *SMALL, *QUICK, "hydra.run.dir=stale", cwd=lab)
    assert "on the fly, because the code of mylab has changed since this process imported it" in stale.stdout
    assert same(metrics(lab / "stale"), first)
    forget()
    edited = train(lab, "edited", "features=cache")
    assert not same(edited, first)
    assert same(edited, train(lab, "images", "features=off"))


@pytest.mark.parametrize(
    "loss",
    [
        ("loss=focal", "+loss._partial_=true", "data.balance=weights"),
        ("loss=margin",),
        ("loss._target_=torch.nn.CrossEntropyLoss", "data.balance=weights"),
        ("loss._target_=torch.nn.CrossEntropyLoss", "loss._partial_=false"),
        ("loss._target_=torch.nn.functional.cross_entropy", "data.balance=weights", "transforms.mixup_alpha=0.2"),
        ("loss._target_=torch.nn.functional.cross_entropy", "loss._partial_=false"),
    ],
    ids=" ".join,
)
def test_a_loss_is_a_class_or_a_function_partial_or_not(desk, loss):
    assert train(desk, f"losses/{abs(hash(loss))}", *loss)["val/loss"] < 5


def test_a_loss_is_checked_before_training(desk):
    def failed(*loss: str, words: str) -> None:
        arguments = ("--config-dir", "conf", *SMALL, *QUICK, "hydra.run.dir=failed", *loss)
        refused(program("train", *arguments, cwd=desk), 2, words)
        shutil.rmtree(desk / "failed", ignore_errors=True)

    failed("loss=margin", "data.balance=weights", words="mylab.losses.Margin takes no weight; choose data.balance=sam")
    failed("loss=margin", "loss.margin=wide", words="loss: mylab.losses.Margin: TypeError")
    failed("loss=focal", "+loss.alpha=1", words="unknown key loss.alpha: mylab.losses.focal takes ")
    torch_loss = "loss={_target_:torch.nn.functional.cross_entropy}"
    failed(torch_loss, "+loss.reduction=none", words="must compute one number with a gradient")


OTHERS = ("transforms=darken", "features.views=2", "optimizer=signed", "scheduler=halving", "callbacks=diary")


def test_source_transforms_optimizer_scheduler_callback_and_logger(desk):
    before = train(desk, "others", *OTHERS, "logger=notebook", "trainer.max_epochs=2")
    assert (desk / "others" / "diary.txt").read_text(encoding="utf-8") == "epoch 0: 0.0005\nepoch 1: 0.00025\n"
    assert "val/loss" in (desk / "others" / "metric_names.txt").read_text(encoding="utf-8").split()
    assert same(train(desk, "once more", *OTHERS, "logger=notebook", "trainer.max_epochs=2"), before)
    (desk / "others" / "metrics.json").unlink()
    done = program("train", "--config-dir", "conf", "resume=others", "trust=[mylab]", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert same(metrics(desk / "others"), before)


def test_a_module_is_trained_swept_resumed_and_evaluated(desk):
    swept = ("module=noisy", "optimizer=none", "module.noise=0.1,0.3", "hydra.sweep.dir=noise")
    done = program("train", "-m", "--config-dir", "conf", *SMALL, *QUICK, "backbone=tiny", *swept, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert len(list((desk / "noise").glob("*/metrics.json"))) == 2
    trained = train(desk, "noisy", "backbone=tiny", "module=noisy", "optimizer=none")
    assert same(trained, metrics(desk / "noise" / "0"))
    # Neither its network nor its metrics are the package's.
    done = program("evaluate", "run=noisy", "hydra.run.dir=quiet", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "quiet")["test/loss"] == pytest.approx(trained["test/loss"], abs=1e-6)
    (desk / "noisy" / "metrics.json").unlink()
    refused(program("train", "--config-dir", "conf", "resume=noisy", cwd=desk), 4, "mylab.modules.NoisyModule")
    done = program("train", "--config-dir", "conf", "resume=noisy", "trust=[mylab]", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert same(metrics(desk / "noisy"), trained)


def test_a_metric_is_monitored_swept_resumed_and_evaluated(desk):
    sure = ("backbone=tiny", "metrics=sure", "monitor.metric=val/sureness", "optimized_metric=val/sureness")
    swept = ("metrics.sureness.power=1,2", "hydra.sweep.dir=powers")
    done = program("train", "-m", "--config-dir", "conf", *SMALL, *QUICK, *sure, *swept, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert "val sureness" in done.stdout
    trained = train(desk, "sure", *sure)
    assert trained["test/sureness"] == metrics(desk / "powers" / "0")["test/sureness"]
    assert trained["test/sureness"] > metrics(desk / "powers" / "1")["test/sureness"] > 0
    refused(program("evaluate", "run=sure", *MEASURE, cwd=desk), 4, "mylab.metrics.Sureness): if you trust it")
    done = program("evaluate", "run=sure", "trust=[mylab]", "hydra.run.dir=surely", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "surely")["test/sureness"] == pytest.approx(trained["test/sureness"], abs=1e-6)
    # Other metrics than the run's, and predictions, need none of its code.
    done = program("evaluate", "run=sure", "metrics=default", "hydra.run.dir=plainly", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    assert program("predict", "run=sure", "images=tiles/red", "output=sure.csv", cwd=desk).returncode == 0
    (desk / "sure" / "metrics.json").unlink()
    done = program("train", "--config-dir", "conf", "resume=sure", "trust=[mylab]", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert metrics(desk / "sure")["test/sureness"] == pytest.approx(trained["test/sureness"], abs=1e-6)


def test_a_model_of_tlearn_alone_opens_without_trust_whatever_its_images_came_from(desk):
    train(desk, "ours", "backbone=tiny", *OTHERS)
    done = program("evaluate", "run=ours", "hydra.run.dir=measured", *MEASURE, cwd=desk)
    assert done.returncode == 0, done.stderr
    done = program("explore", "run=ours", "hydra.run.dir=explored", cwd=desk)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_console_program_and_its_workers_find_the_package_in_the_working_folder(lab, tmp_path_factory):
    # As pip installs a console program: its own folder comes first on the path, and not the working folder.
    script = tmp_path_factory.mktemp("bin") / "tlearn-train"
    script.write_text("from tlearn.train import script\n\nscript()\n", encoding="utf-8")
    path = {"PYTHONPATH": str(HERE.parent.parent)}
    swept = ("head=cosine", "head.scale=5", "hydra.sweep.dir=swept", "hydra/launcher=joblib")
    console = subprocess.run(
        [sys.executable, str(script), "-m", "--config-dir", "conf", *SMALL, *QUICK, *swept],
        cwd=lab,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert console.returncode == 0, console.stderr
    assert len(list((lab / "swept").glob("*/metrics.json"))) == 1


@pytest.mark.parametrize(
    ("file", "code", "given", "said"),
    [
        (
            "modules.py",
            "    def training_step(self, *step):\n        return super().training_step(*step).repeat(3)",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none"],
            "training_step of Wrong must return one loss, and returned [3]",
        ),
        (
            "modules.py",
            "    def training_step(self, *step):\n        super().training_step(*step)",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none"],
            "training_step of Wrong must return one loss, and returned none",
        ),
        (
            "modules.py",
            "    def training_step(self, batch, _):\n        return self.loss(self(batch[0]), batch[1])",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none"],
            'training_step of Wrong must call self.measure("train", ',
        ),
        (
            "modules.py",
            "    def validation_step(self, *step):\n        self(step[0][0])",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none"],
            'validation_step of Wrong must call self.measure("val", ',
        ),
        (
            "modules.py",
            "    def configure_optimizers(self):\n        pass",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none"],
            "configure_optimizers of Wrong returned none for a parameter of the module",
        ),
        (
            "modules.py",
            "    pass",
            ["module=noisy", "module._target_=mylab.modules.Wrong", "optimizer=none", "+module.nois=0.2"],
            "module: mylab.modules.Wrong: TransferModule.__init__() got an unexpected keyword argument 'nois'",
        ),
        (
            "heads.py",
            "    def get_extra_state(self):\n        return {}",
            ["head=cosine", "head.build._target_=mylab.heads.Wrong"],
            "head._extra_state of the network is not a tensor",
        ),
        (
            "heads.py",
            "    def parameters(self, *_):\n        return iter(())",
            ["head=cosine", "head.build._target_=mylab.heads.Wrong"],
            "nothing trains: the head has no parameters",
        ),
        (
            "training.py",
            "    def step(self):\n        pass",
            ["optimizer=signed", "optimizer._target_=mylab.training.Wrong"],
            "optimizer: step() of Wrong takes no closure",
        ),
        (
            "nets.py",
            "    def build(self):\n        pass",
            ["backbone._target_=mylab.nets.Wrong"],
            "backbone: mylab.nets.Wrong is called by build(replace): too many positional arguments",
        ),
        (
            "nets.py",
            "    def build(self, replace):\n        return Body(super().build(replace).module.half(), 32)",
            ["backbone._target_=mylab.nets.Wrong"],
            "made cannot take [1, 3, 32, 32]: ",
        ),
        (
            "nets.py",
            "    def architecture(self):\n        return {'width': {8}}",
            ["backbone._target_=mylab.nets.Wrong"],
            "error: backbone: architecture() of mylab.nets.Wrong must return plain data",
        ),
        (
            "training.py",
            "    pass",
            ["~scheduler", "+scheduler={_target_:torch.optim.lr_scheduler.StepLR,_partial_:true,step_size:1}"],
            "scheduler: torch.optim.lr_scheduler.StepLR goes into scheduler.build",
        ),
        (
            "training.py",
            "    pass",
            ["optimizer._target_=torch.optim.Adm"],
            "torch.optim has no Adm; did you mean Adam",
        ),
        ("heads.py", "    pass", ["head=cosine", "head.build._target_=mylab.heads.Cosin"], "did you mean CosineHead?"),
        (
            "training.py",
            "    pass\n\n\nclass Old(Callback):\n    def on_train_epoch_end(self, trainer):\n        pass",
            ["+callbacks.old._target_=mylab.training.Old"],
            "callbacks.old is called by Old.on_train_epoch_end(trainer, pl_module): too many positional arguments",
        ),
        (
            "training.py",
            "    pass\n\n\nclass Old(Notebook):\n    def log_metrics(self, values, step):\n        pass",
            ["logger=notebook", "logger.notebook._target_=mylab.training.Old"],
            "logger.notebook is called by Old.log_metrics(metrics, step): ",
        ),
        (
            "training.py",
            "    pass",
            ["+trainer.callbacks=[{_target_: mylab.training.Diary, path: diary.txt}]"],
            "trainer.callbacks is what the run builds itself, and would be ignored: give it as +callbacks.NAME.",
        ),
        (
            "heads.py",
            "    pass",
            ["head=mylab.heads.CosineHead"],
            "did you mean head.build._target_=mylab.heads.",
        ),
        ("heads.py", "    pass", ["head.build=mylab.heads.Mine"], "did you mean head.build._target_=mylab.heads.Mine?"),
        (
            "training.py",
            "    pass",
            ["+scheduler.build=mylab.training.halving"],
            'did you mean "+scheduler.build={_target_: mylab.training.halving, _partial_: true}"?',
        ),
        (
            "data.py",
            "    def __call__(self, image):\n        image * 0.5",
            ["transforms.train=[{_target_:mylab.data.Wrong}]", "features=off"],
            "transforms.train: Wrong returned NoneType, and a step returns the image, a tensor",
        ),
    ],
    ids=lambda value: value.split(".")[0] if isinstance(value, str) and value.endswith(".py") else None,
)
def test_what_own_code_returns_is_said_in_one_line_where_it_is_wrong(lab, file, code, given, said):
    parents = {"modules.py": "NoisyModule", "heads.py": "CosineHead", "training.py": "SGD", "nets.py": "SmallNet"}
    with (lab / "mylab" / file).open("a", encoding="utf-8") as written:
        written.write(f"\n\nclass Wrong({parents.get(file, 'object')}):\n{code}\n")
    (lab / "tiles").mkdir(exist_ok=True)
    done = program("train", "--config-dir", "conf", *SMALL, *QUICK, "hydra.run.dir=wrong", *given, cwd=lab)
    refused(done, 2, said)
