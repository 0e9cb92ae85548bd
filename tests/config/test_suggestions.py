"""What was meant by a mistyped key, flag or value: the line that is offered is accepted when it is typed."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tlearn.config import declared
from tlearn.config.command import program
from tlearn.config.compose import compose
from tlearn.config.suggestions import alike, did_you_mean
from tlearn.errors import ConfigError

# What a program must be told besides
NEEDS = {"predict": ["run=r", "images=i"], "evaluate": ["run=r"]}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Give a function that returns the message for arguments which a program refuses before its task."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, name: str = "train") -> str:
        if not arguments[0].startswith("-"):
            with pytest.raises(ConfigError) as caught:
                compose(arguments, name)
            return str(caught.value)
        main, _ = program(name, lambda config: pytest.fail(f"{arguments} were accepted"))
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("tlearn: error: ")
        return message.removeprefix("tlearn: error: ").splitlines()[0]

    return run


def offered(message: str) -> list[list[str]]:
    """List what a message offers to type, each as arguments."""
    line = re.search(r"(?:did you mean |choose |such as |type |a list is )(.*?)(?:\?$|, or others$|$)", message)
    assert line, message
    return [shlex.split(one) for one in line[1].split(" or ")]


def accept(name: str, *arguments: str) -> None:
    compose([*NEEDS.get(name, ()), *arguments], name)


def accept_all(lines: Iterable[Sequence[str]]) -> None:
    """Let lines be accepted, as many at a time as give each key once and fit together."""
    batches: list[list[str]] = []
    for line in lines:
        keys = {one.partition("=")[0] for one in line}
        for batch in batches:
            taken = {one.partition("=")[0] for one in batch}
            if not any(
                key == one or one.startswith(f"{key}.") or key.startswith(f"{one}.") for key in keys for one in taken
            ):
                batch += line
                break
        else:
            batches.append([*line])
    for batch in batches:
        accept("train", *batch)


MEANT = [
    ("learning_rate=0.1", "optimizer.lr=0.1"),
    ("optimizer.learning_rate=0.1", "optimizer.lr=0.1"),
    ("lr=0.1", "optimizer.lr=0.1"),
    ("lr2=0.1", "optimizer.lr=0.1"),
    ("+lr=0.1", "optimizer.lr=0.1"),
    ("bakbone=resnet18", "backbone=resnet18"),
    ("Backbone=resnet18", "backbone=resnet18"),
    ("model=resnet50", "backbone=resnet50"),
    ("arch=resnet50", "backbone=resnet50"),
    ("weights=w.pth", "backbone.weights=w.pth"),
    ("batch_size=16", "data.batch_size=16"),
    ("data.bachsize=16", "data.batch_size=16"),
    ("data.batch-size=16", "data.batch_size=16"),
    ("epochs=5", "trainer.max_epochs=5"),
    ("trainer.max_epoch=5", "trainer.max_epochs=5"),
    ("gpus=2", "trainer.devices=2"),
    ("workers=4", "data.num_workers=4"),
    ("patience=3", "callbacks.early_stopping.patience=3"),
    ("val_fraction=0.3", "data.split.val_fraction=0.3"),
    ("root=pics", "data=folder data.root=pics"),
    ("inference_mode=false", "+trainer.inference_mode=false"),
    ("data_dir=my pics (2)", 'data=folder "data.root=my pics (2)"'),
    ("dropout=0.3", "head=mlp head.dropout=0.3"),
    ("momentum=0.9", "optimizer=sgd optimizer.momentum=0.9"),
    ("scheduler.gamma=0.5", "scheduler=step scheduler.build.gamma=0.5"),
    ("trainer.limit_train_batches=1", "+trainer.limit_train_batches=1"),
    ("trainer.limit_train_batch=1", "+trainer.limit_train_batches=1"),
    ("optimizer.amsgrad=true", "+optimizer.amsgrad=true"),
    ("data.balance=wieghts", "data.balance=weights"),
    ("fp16=true", "trainer.precision=16-mixed"),
    ("precision=bf16-mixed", "trainer.precision=bf16-mixed"),
    ("gradient_accumulation_steps=2", "trainer.accumulate_grad_batches=2"),
    ("max_grad_norm=1", "trainer.gradient_clip_val=1"),
    ("per_device_train_batch_size=8", "data.batch_size=8"),
    ("use_gpu=true", "trainer.accelerator=gpu"),
    ("freeze=true", "finetune=frozen"),
    ("report_to=wandb", "logger=wandb"),
    ("run_name=x", "hydra.run.dir=x"),
    ("overfit_batches=3", "+trainer.overfit_batches=3"),
    ("limit_train_batches=0.1", "+trainer.limit_train_batches=0.1"),
    ("optimizer.name=sgd", "optimizer=sgd"),
    ("labels=x.csv", "data=csv data.csv=x.csv"),
    ("validation_split=0.2", "data.split.val_fraction=0.2"),
    ("nodes=2", "trainer.num_nodes=2"),
    ("lr_scheduler=cosine", "scheduler=cosine"),
    ("seed_everything=1", "seed=1"),
    ("data.split=0.2", "data.split.val_fraction=0.2"),
    ("backbone=microsoft/resnet-50", "backbone=resnet50"),
    ("backbone=torchvision.models.resnet18", "backbone=resnet18"),
    ("report=false", "report=off"),
    ("monitor=val_loss", "monitor.metric=val/loss"),
    ("monitor=val_acc", "monitor.metric=val/top1"),
    ("monitor=val/loss", "monitor.metric=val/loss"),
    ("scheduler=False", "scheduler=none"),
]


@pytest.mark.parametrize(("typed", "meant"), MEANT)
def test_what_was_meant_is_offered_with_its_value(refused, typed, meant):
    message = refused(typed).splitlines()[0]
    assert f"; did you mean {meant}" in message
    assert offered(message)[0] == shlex.split(meant)


def test_every_such_line_is_accepted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    accept_all(shlex.split(meant) for _, meant in MEANT)


@pytest.mark.parametrize(
    "typed",
    [
        "freeze_bn=true",
        "shuffle=true",
        "drop_last=true",
        "notes=hi",
        "tag=x",
        "test_size=0.2",
        "train_dir=a",
        "plot=true",
    ],
)
def test_what_cannot_have_the_value_is_not_offered(refused, typed):
    assert "did you mean" not in refused(typed)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("debug=true", "debug=true: expected an option of debug: fast, overfit, profile"),
        ("finetune=5", "finetune=5: expected an option of finetune: frozen, full"),
        ("report=null", "report=null: expected an option of report: default, off; did you mean report=off?"),
        ("head=null", "head=null: expected an option of head: linear, mlp"),
        ("monitor=val_loss", "monitor=val_loss: expected one of monitor.metric, monitor.mode"),
        (
            "callbacks.early_stopping=5",
            "callbacks.early_stopping=5: expected one of callbacks.early_stopping.patience, ",
        ),
        ("callbacks.checkpoint=best", "callbacks.checkpoint=best: expected one of callbacks.checkpoint."),
    ],
)
def test_a_value_where_an_option_or_keys_are_expected_names_them(refused, typed, words):
    assert refused(typed).startswith(words)


def test_the_value_of_a_key_with_dashes_may_be_a_folder(refused, tmp_path):
    (tmp_path / "pics").mkdir()
    assert offered(refused("--data", "pics"))[0] == ["data=folder", "data.root=pics"]
    assert "--config-dir FOLDER" in refused("--config", "c.yaml")


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("train", ["--lr", "0.1"], "optimizer.lr=0.1"),
        ("train", ["--lr=0.1"], "optimizer.lr=0.1"),
        ("train", ["-lr", "0.1"], "optimizer.lr=0.1"),
        ("train", ["--data=folder", "data.root=pics"], "data=folder"),
        ("train", ["--batch-size", "32"], "data.batch_size=32"),
        ("train", ["--epochs", "5", "seed=3"], "trainer.max_epochs=5"),
        ("train", ["--seed", "3"], "seed=3"),
        ("predict", ["--run", "r", "images=i"], "run=r"),
        ("predict", ["--topk=5", "images=i"], "topk=5"),
        ("predict", ["--workers", "2"], "num_workers=2"),
    ],
)
def test_a_key_with_dashes_is_named_without(refused, name, typed, meant):
    message = refused(*typed, name=name)
    assert message.endswith(f"settings are KEY=VALUE, without dashes; did you mean {meant}?")
    accept(name, *typed[-1:] if typed[-1].startswith("data.") else [], *offered(message)[0])


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        ("head.hidden=[3]", "head=mlp"),
        ("+head.hidden=[3]", "head=mlp"),
        ("+head.build.hidden=[3]", "head=mlp"),
        ("optimizer.momentum=0.9", "optimizer=sgd"),
        ("+optimizer.momentum=0.9", "optimizer=sgd"),
        ("scheduler.build.gamma=0.5", "scheduler=step"),
        ("module.max_iter=3", "module=full_batch"),
        ("+module.max_iter=3", "module=full_batch"),
        ("data.parent=2", "data=parents"),
        ("+data.csv=a.csv", "data=csv"),
        ("data.pattern=(?P<label>a)", "data=filenames"),
        ("tune.steps=30", "tune=lr"),
        ("+data.layout=nested", "data=cat_dog"),
    ],
)
def test_a_key_of_another_option_names_that_option(refused, typed, chosen):
    message = refused(typed)
    group = chosen.partition("=")[0]
    assert message.startswith(f"unknown key {typed.lstrip('+').partition('=')[0]}: {group}=")
    assert f"; choose {chosen}" in message
    root = ["data.root=pics"] if chosen in ("data=parents", "data=filenames") else []
    accept("train", chosen, typed.lstrip("+"), *root)


def test_a_key_that_a_set_up_adds_to_an_option_without_it_is_refused(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhead:\n  hidden: [3]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="head=linear has no hidden; choose head=mlp"):
        compose(["experiment=mine"], config_dir=tmp_path)
    assert compose(["experiment=mine", "head=mlp"], config_dir=tmp_path).head.hidden == [3]


@pytest.mark.parametrize(
    ("name", "typed", "having"),
    [
        ("train", "+tta=flip", "evaluate has it"),
        ("train", "images=x", "predict has it"),
        ("compare", "trust=[a]", "train, evaluate, predict have it"),
        ("explore", "topk=3", "predict has it"),
        ("explore", "+head.hidden=[3]", "train, bench have it"),
        ("predict", "data.csv=x", "train, evaluate, explore have it"),
        ("evaluate", "backbone=resnet18", "train, predict, explore, bench have it"),
    ],
)
def test_a_key_of_another_program_names_that_program(refused, name, typed, having):
    key = typed.lstrip("+").partition("=")[0]
    message = refused(*NEEDS.get(name, ()), typed, name=name)
    assert message == f"unknown key {key}: {having}, and {name} does not"


@pytest.mark.parametrize(
    ("option", "key"),
    [("optimizer=adam", "+optimizer._target_=torch.optim.SGD +optimizer.momentum=0.9"), ("scheduler=none", "")],
)
def test_what_a_target_of_your_own_takes_is_welcome(option, key):
    own = "+scheduler.build._target_=torch.optim.lr_scheduler.StepLR +scheduler.build.step_size=3"
    compose([option, *(key or own).replace("+optimizer._target_", "optimizer._target_").split()])


def test_the_argument_that_was_meant_of_what_is_given_whole_is_named(refused):
    given = "+callbacks.mine={{_target_: lightning.pytorch.callbacks.LearningRateFinder, {}: 2}}"
    assert refused(given.format("max_lrs")).endswith("did you mean +callbacks.mine.max_lr?")
    assert "LearningRateFinder takes min_lr, max_lr, " in refused(given.format("nothing"))


def test_a_path_whose_blank_the_shell_has_split_gets_its_quotes(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my pictures").mkdir()
    assert refused("data=folder", "data.root=my", "pictures").endswith("so type \"data.root='my pictures'\"")
    assert "did you mean optimizer.lr=" in refused("lr", "=", "0.1")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["data.root='cats"], "data.root=cats"),
        (["data.root=[old]"], "data.root='[old]'"),
        (["data.root=a,b"], "data.root='a,b'"),
        (["data.name=~x"], "data.name='~x'"),
        (["data.name=a (2)"], "data.name='a (2)'"),
        (["data.name=a=b"], "data.name='a=b'"),
        (["data.name=Käse"], "data.name='Käse'"),
        (["data.name=Anna's"], "data.name='Anna\\'s'"),
        (["+extra.note=a#b"], "+extra.note='a#b'"),
        (["head=mlp", "head.hidden=64"], "head.hidden=[64]"),
        (["head=mlp", "head.hidden=64,32"], "head.hidden=[64,32]"),
        (["head=mlp", "head.hidden=[64,32"], "head.hidden=[64,32]"),
        (["data.split.fractions=(0.5,0.25,0.25)"], "data.split.fractions=[0.5,0.25,0.25]"),
        (["seed", "3"], "seed=3"),
        (["seed", "=", "3"], "seed=3"),
        (["seed=", "3"], "seed=3"),
        (["seed:3"], "seed=3"),
        (["seed = 3"], "seed=3"),
        (["pictures/cats"], "data=folder data.root=pictures/cats"),
    ],
)
def test_the_line_for_an_unreadable_argument_is_accepted(refused, typed, line):
    message = refused(*typed)
    found = shlex.split(re.split("type |such as |comma is |list is ", message)[-1])
    assert found == line.split() if " data" in line else [line]
    accept("train", *(one for one in typed if one == "head=mlp"), *found)


@pytest.mark.parametrize(
    "folder", ["cats (2)", "a=b", "Käse [alt]", "it's", "~/pictures", "{a}", "a#b", "猫", "a;b & c"]
)
def test_a_path_needs_no_quotes_but_the_shell_s(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    config = compose(["data=folder", f"data.root={folder}", f"hydra.run.dir={folder}"])
    assert config.data.root == folder
    assert Path(config.paths.output_dir) == tmp_path / folder.replace("~", "home")


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_tilde_is_the_home_folder_for_what_hydra_makes_and_reads(tmp_path, monkeypatch, quote):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (home / "mine" / "optimizer").mkdir(parents=True)
    (home / "mine" / "optimizer" / "own.yaml").write_text("defaults: [sgd]\nlr: 5\n", encoding="utf-8")
    main, _ = program("train", lambda config: {"val/top1": 0.5})
    run = f"hydra.run.dir={quote}~/run1{quote}"
    assert main(["--config-dir=~/mine", "optimizer=own", run]) == 0
    assert (home / "run1" / ".hydra").is_dir()
    assert main(["-m", "seed=1", f"hydra.sweep.dir={quote}~/sweep{quote}"]) == 0
    assert (home / "sweep" / "0").is_dir()
    assert not (tmp_path / "~").exists()
    assert compose(["optimizer=own"], config_dir="~/mine").optimizer.lr == 5


@pytest.mark.parametrize(
    ("name", "meant"),
    [("resnet19", "resnet18"), ("vit", "vit_b_16"), ("ViT_B_16", "vit_b_16"), ("mobilenet", "mobilenet_v2")],
)
def test_a_mistyped_option_gets_the_right_one_suggested(name, meant):
    options = ["densenet121", "mobilenet_v2", "resnet18", "resnet50", "resnext50_32x4d", "vit_b_16"]
    found = alike(name, options)
    assert found[0] == meant
    assert len(found) <= 3


def test_nothing_is_suggested_where_nothing_is_alike(refused):
    assert did_you_mean("zzzzzz", declared.options_of("data")) == ""
    assert refused("zzzzzz=1") == "unknown key zzzzzz (notes of your own go under extra., as +extra.zzzzzz=...)"


REFUSED = [
    ("monitor.metric=val_acc", "monitor.metric=val/top1"),
    ("monitor.metric=val_loss", "monitor.metric=val/loss"),
    ("monitor.metric=test/top1", "monitor.metric=val/top1"),
    ("monitor.metric=valid_auc", "metrics=full monitor.metric=val/auroc"),
    ("monitor.metric=val/f1_score", "metrics=full monitor.metric=val/f1"),
    ("monitor.mode=maximum", "monitor.mode=auto"),
    ("monitor.mode=minimize", "monitor.mode=auto"),
    ("patience=none", "callbacks.early_stopping=null"),
    ("callbacks.early_stopping.patience=none", "callbacks.early_stopping=null"),
    ("callbacks.early_stopping.patience=null", "callbacks.early_stopping=null"),
    ("callbacks.early_stopping=false", "callbacks.early_stopping=null"),
    ("early_stopping=off", "callbacks.early_stopping=null"),
    ("logger.tensorboard=none", "logger.tensorboard=null"),
    ("data.num_workers=none", "data.num_workers=null"),
    ("features.mode=none", "features.mode=off"),
    ("features=none", "features=off"),
    ("data.cache=off", "data.cache=none"),
    ("transforms.mixup_alpha=none", "transforms.mixup_alpha=0"),
    ("data.split.fractions=0.8/0.1/0.1", "data.split.fractions=[0.8,0.1,0.1]"),
    ("head.hidden=[512;256]", "head.hidden=[512,256]"),
    ("head.hidden=[512 256]", "head.hidden=[512,256]"),
    ("head.hidden=512x256", "head.hidden=[512,256]"),
]


@pytest.mark.parametrize(("typed", "line"), REFUSED)
def test_a_refused_value_has_its_line(refused, typed, line):
    before = ["head=mlp"] if typed.startswith("head") else []
    message = refused(typed, *before)
    assert offered(message.splitlines()[0]) == [shlex.split(line)]


def test_every_line_for_a_refused_value_is_accepted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    accept_all(
        shlex.split(line if "head." not in line else f"head=mlp {line}") for line in {line: 0 for _, line in REFUSED}
    )


@pytest.mark.parametrize(
    ("name", "typed", "line"),
    [
        ("predict", "device=gpu", "device=cuda"),
        ("evaluate", "split=validation", "split=val"),
        ("evaluate", "split=holdout", "split=test"),
        ("predict", "source=new", "images=new"),
        ("compare", "folder=multirun", "runs=multirun"),
    ],
)
def test_what_other_programs_take_is_found_as_well(refused, name, typed, line):
    needs = [one for one in NEEDS.get(name, ()) if one.partition("=")[0] != line.partition("=")[0]]
    assert offered(refused(*needs, typed, name=name))[0] == [line]
    compose([*needs, line], name)


def test_metrics_for_more_classes_are_listed_with_their_number(refused):
    assert "val/top1, val/top5 for more than 5 classes (metrics=full has more)" in refused("monitor.metric=bogus")
    assert "has more" not in refused("metrics=full", "monitor.metric=bogus")
