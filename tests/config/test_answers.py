"""The same mistyped value gets the same answer from the command line, compose, fit and a sweep, and its line works."""

import re
import shlex
from collections.abc import Callable

import pytest

import tlearn
from tests.small_runs import kept_hydra, process
from tests.small_runs import program as run_program
from tlearn.config.command import program
from tlearn.errors import TlearnError

# What is typed; the last argument is the wrong one.
MISTYPED = [
    # of a wrong type
    "seed=abc",
    "seed=true",
    "seed=null",
    "seed='3'",
    "optimizer.lr=fast",
    "data.batch_size=many",
    "data.num_workers=-1",
    "trainer.max_epochs=ten",
    "finetune.pretrained=yes!",
    "quiet=2",
    "data.split.fractions=0.5",
    "data.alpha_background=white",
    "head=mlp head.hidden=64",
    "transforms.mean=0.5",
    "data.root=2024",
    "data=folder data.root=[old]",
    "callbacks=3",
    "trust=3",
    "paths.cache=true",
    "extra.note=[1,2",
    # out of range
    "seed=-1",
    "seed=4294967296",
    "optimizer.lr=0",
    "optimizer.lr=inf",
    "data.split.val_fraction=1.5",
    "data.split.fractions=[0.5,0.5,0.5]",
    "data.bit_depth=20",
    "head=mlp head.dropout=1.1",
    "scheduler=step scheduler.build.step_size=0",
    "features.limit_gb=0",
    # not a member
    "monitor.mode=minimum",
    "monitor.mode=max",
    "monitor.metric=val/f1",
    "data.balance=wieghts",
    "features.mode=cahce",
    "transforms.fit=stretch",
    "data=folder data.root=pics data.layout=flat",
    "head.replace=all",
    # an unknown option
    "optimizer=adm",
    "backbone=resnet19",
    "data=pictures",
    "experiment=mine",
    "debug=true",
    "monitor=val_loss",
    # an unknown key
    "lr=0.1",
    "batch_size=16",
    "optimizer.momentum=0.9",
    "+head.hidden=[3]",
    "+tta=flip",
    "bakbone=resnet18",
    "trainer.max_epoch=3",
    "+typo=1",
    "callbacks.early_stoping.patience=3",
    "+callbacks.mine._tagret_=mylab.Diary",
    "+modul._target_=mylab.Module",
    # what refers to nothing
    "seed=${nowhere}",
    "+extra.note=${oc.env:NO_SUCH_VARIABLE}",
    "optimizer.lr=${data.batchsize}",
    # together wrong
    "finetune.unfreeze_epoch=3",
    "features.views=2",
    "trust=[mylab]",
    # not to be read
    "data.name=a (2)",
    "seed",
    "data.name=it's",
]


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Give a function that types arguments in one way and returns the first line of the answer."""
    monkeypatch.chdir(tmp_path)

    def told(call: Callable[[], object]) -> str:
        with pytest.raises(TlearnError) as caught:
            call()
        assert caught.value.exit_status in (2, 3)
        return str(caught.value).splitlines()[0]

    def ask(way: str, *arguments: str) -> str:
        if way in ("compose", "fit"):
            return told(lambda: getattr(tlearn, way)(arguments))
        main, _ = program("train", lambda config: pytest.fail("it was accepted"))
        if way == "command line":
            assert main(arguments) == 2
            return capsys.readouterr().err.removeprefix("tlearn: error: ").splitlines()[0]
        # A sweep goes on with its other trials; what Hydra itself refuses, it refuses for all of them.
        assert main(["-m", *arguments]) in (2, 7)
        return re.sub("^tlearn: (error|trial 0 failed): ", "", capsys.readouterr().err.splitlines()[0])

    with kept_hydra():
        yield ask


def lines(message: str) -> list[list[str]]:
    """List what a message offers to be typed, each as arguments."""
    offers = re.findall(
        r"(?:did you mean|; type|type|; choose|so type|write) (.*?=.*?)(?:\?|, or others|$|\.\.\.| for )", message
    )
    return [shlex.split(one) for offer in offers for one in offer.split(" or ") if "KEY=" not in one]


def test_there_are_sixty_of_them():
    assert len(set(MISTYPED)) == len(MISTYPED) >= 60


# Of every kind of mistake, each way is asked about every third.
WAYS = ("command line", "sweep", "fit")


@pytest.mark.parametrize(("number", "typed"), list(enumerate(MISTYPED)), ids=lambda value: value)
def test_every_way_of_typing_it_gets_the_same_answer_whose_line_is_accepted(answer, number, typed):
    *others, wrong = [typed] if " (" in typed else typed.split(" ")
    found = answer("compose", *others, wrong)
    assert answer(WAYS[number % len(WAYS)], *others, wrong) == found
    assert len(found) < 250
    for line in lines(found):
        kept = [wrong] if not {one.partition("=")[0] for one in line} & {wrong.lstrip("+").partition("=")[0]} else []
        added = kept if found.endswith(f"choose {line[0]}") else []
        assert tlearn.compose([*others, *added, *line])


@pytest.mark.parametrize(
    ("typed", "way"),
    [
        ("data=folder data.root=nowhere", "command line"),
        ("backbone.weights=nowhere.pth", "command line"),
        ("+optimizer.betaz=3", "sweep"),
    ],
)
def test_what_only_a_run_can_find_gets_the_same_answer_too(drawn, tmp_path, monkeypatch, typed, way):
    monkeypatch.setenv("TLEARN_CACHE", str(drawn))
    monkeypatch.chdir(tmp_path)
    arguments = ["trainer=cpu", "report=off", "quiet=true", *typed.split(" ")]
    with pytest.raises(TlearnError) as caught:
        tlearn.fit(arguments)
    assert caught.value.exit_status in (2, 3, 4)
    swept = way == "sweep"
    done = run_program("train", *(["-m"] if swept else []), *arguments, cwd=tmp_path)
    assert done.returncode == (7 if swept else caught.value.exit_status)
    assert done.stderr.startswith(f"tlearn: {'trial 0 failed' if swept else 'error'}: {caught.value}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "status"), [("lr=0.1", 2), ("data.root=nowhere", 3)])
def test_a_process_of_its_own_answers_alike(tmp_path, typed, status):
    done = process("train", "data=folder", "data.root=x", typed, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert done.stderr.startswith("tlearn: error: ")


def test_a_sweep_with_a_reference_ends_as_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, _ = program("train", lambda config: {"val/top1": 0.1 * config.seed})
    assert main(["-m", "seed=1,2", "+extra.note=${seed}"]) == 0
    assert "Interpolation" not in capsys.readouterr().err
