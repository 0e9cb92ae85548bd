"""Pages of help: what each program is for, its own options with their meanings, and nothing slow to get there."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.config.test_command import STATUSES
from tests.config.test_compose import PROGRAMS, ROUNDS, composed
from tests.config.test_rules import keys
from tests.conftest import REPOSITORY
from tlearn import __version__, check
from tlearn.config.comments import key_meanings, read_comments
from tlearn.config.help import help_text
from tlearn.config.options import TORCHVISION
from tlearn.config.programs import PROGRAMS as PURPOSES
from tlearn.config.tree import CONF_DIR

# Names, code, places and what fits together: nothing to choose beside what chooses it
INTERNAL = re.compile(
    r".*\b_(target|partial)_|data\.(name|source\..*)|backbone\.(name|arguments\..*|preprocessing\..*)|head\.build\..*"
    r"|scheduler\.(from_run.*|build|build\.mode)|paths\.output_dir|logger.*|loss\.build.*"
    r"|trainer\.(default_root_dir|enable_model_summary|use_distributed_sampler|profiler|overfit_batches|strategy\.process.*)"
    r"|callbacks\.(last|learning_rate|progress|summary)(\..*)?|callbacks\.early_stopping|callbacks\..*\.(monitor|mode)"
    r"|callbacks\.checkpoint\.(dirpath|filename|auto_insert_metric_name|save_on_train_epoch_end|enable_version_counter)"
)


@pytest.fixture(scope="module", params=PROGRAMS)
def page(request) -> tuple[str, str]:
    return request.param, help_text(request.param, [], None)


def test_a_page_fits_on_a_terminal_and_is_soon_read(page):
    lines = page[1].splitlines()
    assert len(lines) < 150
    assert [line for line in lines if len(line) > 80] == []
    assert not any("  \n" in line or line != line.rstrip() for line in lines)


def test_a_page_says_how_to_call_the_program_what_it_is_for_and_shows_examples(page):
    program, text = page
    assert text.startswith(f"usage: python -m tlearn.{program} ")
    header = read_comments(CONF_DIR / f"{program}.yaml").header
    assert header[0] == PURPOSES[program]
    assert f"\n\n{header[0]}\n\n" in text
    assert len(header) >= 3
    assert all(f"  {example}\n" in text for example in header[1:])
    assert all(f" python -m tlearn.{program}" in example for example in header[1:])


def test_the_page_of_a_check_is_its_own(capsys):
    check.main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith(
        f"usage: python -m tlearn.check [GROUP=OPTION ...] [KEY=VALUE ...]\n\n{PURPOSES['check']}\n\n"
    )
    assert "tlearn.train" not in text
    assert "optimizer.lr=" in text


def test_a_page_has_every_key_of_its_program_with_a_meaning(page):
    program, text = page
    config = composed(("run=outputs/run",) if program == "predict" else (), program)
    wanted = {key for key, value in keys(config) if not isinstance(value, dict) and not INTERNAL.fullmatch(key)}
    if program == "evaluate":
        wanted = {key for key in wanted if not key.startswith("trainer.")} | {"trainer.devices", "trainer.precision"}
        assert "max_epochs" not in text
    found = {match[1]: match[2] for match in re.finditer(r"^  ([\w.]+)=\S+\s+(\w.*)", text, re.MULTILINE)}
    assert wanted <= found.keys()


@pytest.mark.parametrize("overrides", [one for one in ROUNDS if "experiment" not in one[0]], ids=lambda one: one[0])
def test_every_key_of_every_option_has_a_meaning(overrides):
    choices = dict(override.lstrip("+").split("=") for override in overrides)
    meanings = key_meanings(
        "train", {**dict.fromkeys(read_comments(CONF_DIR / "train.yaml").groups), **choices}, [CONF_DIR]
    )
    found = {key for key, value in keys(composed(overrides)) if not isinstance(value, dict)}
    assert [key for key in sorted(found) if key not in meanings and not INTERNAL.fullmatch(key)] == []


def test_backbones_are_shown_by_their_families():
    text = " ".join(help_text("train", [], None).split())
    listed = re.search(r"pretrained network: (.*?) transforms=", text)[1].split(", ")
    assert {"tiny", "alexnet", "resnet*", "regnet*", "wide_resnet*", "timm/NAME"} <= set(listed)
    assert len(listed) < 25
    shown = [one.rstrip("*") for one in listed]
    assert [name for name in TORCHVISION if not name.startswith(tuple(shown))] == []


def test_a_page_shows_what_was_chosen(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text(
        "defaults: [resnet18, _self_]\nweights: my.pth\n", encoding="utf-8"
    )
    chosen = ["backbone=mine", "finetune=gradual", "seed=7", "data=folder", "scheduler=step"]
    text = help_text("train", chosen, str(tmp_path))
    for words in ("backbone=mine ", " mine, ", "backbone.weights=my.pth ", "finetune.unfreeze_epoch=3 ", "seed=7 "):
        assert words in text
    assert re.search(r"data\.root=\.\.\. +folder of the images\n", text)
    assert re.search(r"scheduler\.build\.gamma=0\.1 +what the learning rate is multiplied by\n", text)


def test_experiments_are_listed_by_the_program_that_they_are_for():
    assert "imagenet_vgg13" in help_text("predict", [], None)
    assert "hymenoptera" not in help_text("predict", [], None)
    assert "imagenet_vgg13" not in help_text("train", [], None)


def test_every_exit_status_is_explained():
    stated = " ".join(help_text("train", [], None).split()).partition("Exit status: ")[2]
    for status in {0, 130, 143, *STATUSES.values()}:
        assert f" {status} " in f" {stated}"


def test_the_package_lists_its_programs():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts.keys() == {f"tlearn-{name}" for name in PURPOSES}
    runnable = {
        path.stem for path in (REPOSITORY / "tlearn").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
    }
    assert runnable - {"__main__"} == PURPOSES.keys()
    done = subprocess.run([sys.executable, "-m", "tlearn"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"tlearn {__version__}\n")
    for name, purpose in PURPOSES.items():
        assert re.search(rf"python -m tlearn\.{name} +{re.escape(purpose)}\n", done.stdout)


def test_a_program_that_is_named_as_an_argument_does_not_pass_for_run():
    done = subprocess.run(
        [sys.executable, "-m", "tlearn", "trian", "seed=1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "tlearn: did you mean python -m tlearn.train?\n"


ASKED = {
    "--help": 0,
    "--version": 0,
    "learning_rate=1": 2,
    "extra={": 2,
    "backbone=resnet19": 2,
    "--verbose": 2,
    # Hydra leaves by itself
    "--hydra-help": 0,
}


def test_help_versions_and_mistakes_import_nothing_slow_and_leave_nothing(tmp_path):
    code = f"""
import contextlib, importlib, io, json, sys
from tests.merged_once import merged_once
once = contextlib.ExitStack()
once.enter_context(merged_once())
answers = []
for name in {PROGRAMS}:
    program = importlib.import_module(f"tlearn.{{name}}")
    for argument in {list(ASKED)}:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = program.main([argument])
        answers.append([name, argument, status, out.getvalue(), err.getvalue()])
import tlearn.__main__
slow = {{"torch", "torchvision", "lightning", "torchmetrics", "timm", "matplotlib"}} & set(sys.modules)
print(json.dumps([answers, sorted(slow)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    answers, slow = json.loads(done.stdout)
    assert slow == []
    for name, argument, status, out, err in answers:
        assert status == ASKED[argument], (name, argument, err)
        if argument == "--version":
            assert out == f"tlearn {__version__}\n"
        if status:
            assert out == ""
            assert err.startswith("tlearn: error: ")
    assert list(tmp_path.iterdir()) == []
