"""Evaluation from a model folder alone: equal figures, moved pictures, other pictures, refusals."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw
from tests.small_runs import describe_anew, run, write_weights
from tlearn.config.compose import compose
from tlearn.config.evaluation import opened_model
from tlearn.config.tree import plain
from tlearn.data.decode import Decoder
from tlearn.errors import CheckpointError, ConfigError, DataError
from tlearn.evaluate import evaluate
from tlearn.predict import predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Give a finished run, its pictures and its figures."""
    folder = tmp_path_factory.mktemp("trained")
    colours = {"blue": (60, 60, 190), "green": (60, 170, 60), "red": (190, 60, 60)}
    for split, count, first in (("train", 8, 0), ("val", 5, 100), ("test", 7, 200)):
        for name, colour in colours.items():
            for number in range(first, first + count):
                draw(folder / "pictures" / split / name / f"{number}.png", colour, seed=number)
    figures = run(folder / "run", folder / "pictures", write_weights(folder / "weights.pth"), "optimizer.lr=0.05")
    return folder, figures


def _evaluate(output: Path, run_folder: Path, *more: str) -> dict[str, float]:
    arguments = [f"run='{run_folder}'", "trainer=cpu", "data.num_workers=0", *more]
    return evaluate(compose(arguments, "evaluate", output_dir=output))


@pytest.mark.parametrize(("split", "batch_size"), [("test", 1), ("val", 4), ("test", 32)])
def test_the_figures_are_those_of_the_training(tmp_path, trained, split, batch_size):
    folder, figures = trained
    again = _evaluate(tmp_path, folder / "run", f"split={split}", f"data.batch_size={batch_size}")
    for name in ("top1", "loss"):
        # This body's features hardly vary: the head has large weights for them.
        assert again[f"{split}/{name}"] == pytest.approx(figures[f"{split}/{name}"], abs=1e-5)
    assert json.loads((tmp_path / "metrics.json").read_text()) == again


def test_a_copied_model_folder_is_enough(tmp_path, trained):
    folder, figures = trained
    shutil.copytree(folder / "run" / "model", tmp_path / "copy")
    shutil.copytree(folder / "pictures", tmp_path / "moved pictures")
    again = _evaluate(tmp_path, tmp_path / "copy", f"data.root='{tmp_path / 'moved pictures'}'")
    assert again["test/loss"] == pytest.approx(figures["test/loss"], abs=1e-5)


def test_predictions_agree_with_the_test_figures(tmp_path, trained):
    folder, figures = trained
    arguments = [f"run={folder / 'run'}", f"images={folder / 'pictures' / 'test'}", f"output={tmp_path / 'p.csv'}"]
    predict(compose(arguments, "predict", output_dir=tmp_path))
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = [Path(row["path"]).parent.name == row["class"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(figures["test/top1"], abs=1e-6)


def test_a_changed_data_set_is_refused(tmp_path, trained):
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "all")
    describe_anew(tmp_path / "all" / "run" / "model", data_root=str(tmp_path / "all" / "pictures"))
    assert _evaluate(tmp_path, tmp_path / "all" / "run")["test/top1"] >= 0
    picture = tmp_path / "all" / "pictures" / "test" / "red" / "201.png"
    whole, state = picture.read_bytes(), picture.stat()
    picture.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(picture, ns=(state.st_mtime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match=r"201\.png: it is not the image that the run began with"):
        _evaluate(tmp_path, tmp_path / "all" / "run")
    os.utime(picture, ns=(1, 1))
    with pytest.raises(DataError, match=r"other content: test/red/201\.png"):
        _evaluate(tmp_path, tmp_path / "all" / "run")
    picture.write_bytes(whole)
    (tmp_path / "all" / "pictures" / "test" / "red" / "200.png").unlink()
    with pytest.raises(DataError, match=r"200\.png"):
        _evaluate(tmp_path, tmp_path / "all" / "run")


def test_other_pictures_are_matched_by_class_name(tmp_path, trained, capsys):
    folder, _ = trained
    for number in range(6):
        draw(tmp_path / "new" / "red" / f"{number}.png", (190, 60, 60), seed=number)
        draw(tmp_path / "new" / "green" / f"{number}.png", (60, 170, 60), seed=number)
    figures = _evaluate(tmp_path / "out", folder / "run", f"data.root={tmp_path / 'new'}")
    assert 0 <= figures["test/top1"] <= 1
    lines = capsys.readouterr().out.splitlines()
    assert "no image of blue" in lines
    assert lines[-1] == str(tmp_path / "out")
    log = (tmp_path / "out" / "evaluate.log").read_text(encoding="utf-8").splitlines()
    assert [line.partition("INFO    ")[2] for line in log] == lines


def test_unknown_classes_are_refused_by_name(tmp_path, trained):
    folder, _ = trained
    for name in ("red", "violet"):
        draw(tmp_path / "new" / name / "1.png", (100, 0, 100))
    with pytest.raises(DataError, match=r"violet.*blue, green, red"):
        _evaluate(tmp_path, folder / "run", f"data.root={tmp_path / 'new'}")


def test_part_of_the_runs_own_pictures_is_refused(tmp_path, draw_split):
    data = draw_split(tmp_path / "one folder per class", 12)
    run(tmp_path / "run", data, write_weights(tmp_path / "w.pth"))
    shutil.copytree(data, tmp_path / "copy")
    assert _evaluate(tmp_path / "a", tmp_path / "run", f"data.root='{tmp_path / 'copy'}'")["test/top1"] >= 0
    next((tmp_path / "copy" / "red").iterdir()).unlink()
    with pytest.raises(DataError, match="trained on"):
        _evaluate(tmp_path / "b", tmp_path / "run", f"data.root='{tmp_path / 'copy'}'")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("data.layout=nested", "data.root must be given"),
        ("data.source._target_=nowhere.Tiles", "nowhere"),
    ],
)
def test_what_is_said_of_other_pictures_is_not_ignored(tmp_path, trained, said, reason):
    folder, _ = trained
    with pytest.raises(Exception, match=reason):
        _evaluate(tmp_path, folder / "run", said)


def test_a_table_of_other_pictures_is_measured(tmp_path, trained):
    folder, _ = trained
    for number in range(4):
        draw(tmp_path / "new" / f"{number}.png", (190, 60, 60), seed=number)
    rows = "".join(f"{number}.png,{'red' if number else 'blue'}\n" for number in range(4))
    (tmp_path / "new" / "labels.csv").write_text("path,label\n" + rows)
    figures = _evaluate(tmp_path / "out", folder / "run", "data=csv", f"data.csv={tmp_path / 'new' / 'labels.csv'}")
    assert figures["test/top1"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_unreadable_pictures_are_refused_or_left_out(tmp_path, trained):
    folder, _ = trained
    for number in range(3):
        draw(tmp_path / "new" / "red" / f"{number}.png", (190, 60, 60), seed=number)
    (tmp_path / "new" / "red" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png"):
        _evaluate(tmp_path / "a", folder / "run", f"data.root={tmp_path / 'new'}")
    skipping = (f"data.root={tmp_path / 'new'}", "data.on_bad_image=skip")
    assert _evaluate(tmp_path / "b", folder / "run", *skipping)["test/top1"] >= 0


def test_a_split_that_is_not_there_is_refused(tmp_path, trained):
    folder, _ = trained
    for split in ("train", "val"):
        for name in ("red", "blue"):
            draw(tmp_path / "new" / split / name / "1.png", (100, 0, 100))
    with pytest.raises(DataError, match="no test split: it has train, val; measure one of these, split=val, or"):
        _evaluate(tmp_path, folder / "run", f"data.root={tmp_path / 'new'}")


def test_pictures_are_read_as_in_training(tmp_path, draw_split):
    decoding = ("data.alpha_background=[0,0,0]", "data.high_bit_depth=scale")
    run(tmp_path / "run", draw_split(tmp_path / "data", 8), write_weights(tmp_path / "w.pth"), *decoding)
    description = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    decoder = Decoder(alpha_background=(0, 0, 0), high_bit_depth="scale")
    assert Decoder(**description["decoding"]) == decoder
    opened = [f"run='{tmp_path / 'run'}'"]
    given = compose([*opened, "data.bit_depth=12", "data.alpha_background=[1,2,3]"], "evaluate", output_dir=tmp_path)
    assert opened_model(plain(given)).decoder == replace(decoder, alpha_background=(1, 2, 3), bit_depth=12)
    untouched = compose([*opened, "images=x"], "predict", output_dir=tmp_path)
    assert opened_model(plain(untouched)).decoder == decoder


def test_other_options_of_decoding_are_those_of_an_evaluation(tmp_path, trained):
    folder, _ = trained
    for name in ("blue", "green", "red"):
        for number in range(2):
            (tmp_path / "new" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(tmp_path / "new" / name / f"{number}.png")
    new = f"data.root={tmp_path / 'new'}"
    with pytest.raises(DataError, match=r"data\.high_bit_depth=scale"):
        _evaluate(tmp_path / "a", folder / "run", new)
    assert _evaluate(tmp_path / "b", folder / "run", new, "data.high_bit_depth=scale", "data.bit_depth=12")
    with pytest.raises(ConfigError, match=r"data\.bit_depth=12 needs data\.high_bit_depth=scale"):
        _evaluate(tmp_path / "c", folder / "run", new, "data.bit_depth=12")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model"):
        _evaluate(tmp_path, tmp_path)
