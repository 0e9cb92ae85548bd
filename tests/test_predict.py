"""Predictions: one right row for each image, where the table goes, and refusals that leave nothing behind."""

import csv
import functools
import html
import io
import os
import re
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.conftest import draw
from tests.forks import Running
from tests.small_runs import BACKBONE, describe_anew, program, write_weights
from tlearn.config import rules
from tlearn.config.compose import compose
from tlearn.config.tree import plain
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import CheckpointError, ConfigError, DataError, OutputError
from tlearn.models import heads
from tlearn.models.backbones import torchvision as torchvision_backbone
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.backbones.weights import sha256_of
from tlearn.models.network import TransferNetwork
from tlearn.predict import predict
from tlearn.report.predictions_page import predictions_page
from tlearn.runs.model import load_model, save_model
from tlearn.runs.predictions import Prediction, device_of
from tlearn.runs.pretrained import pretrained_model

CLASSES = ["blue", 'a "green", one', "rød"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Give a model folder with random weights and BatchNorm statistics that are not the initial ones."""
    folder = tmp_path_factory.mktemp("model")
    backbone = TorchvisionBackbone("shufflenet_v2_x0_5", None)
    torch.manual_seed(0)
    body = backbone.build()
    body.module.train()(torch.rand(8, 3, 64, 64))
    network = TransferNetwork(body.module, heads.linear(body.num_features, len(CLASSES)))
    description = {
        "classes": CLASSES,
        "preprocessing": {**backbone.preprocessing(), "resize": 32, "size": 32},
        "decoding": {"max_pixels": 100_000, "alpha_background": [255, 255, 255], "high_bit_depth": "error"},
        "architecture": backbone.architecture(),
        "replace": "classifier",
        "head": {"kind": "linear"},
        "data_root": "/pictures",
        "figures": {},
        "config": {},
    }
    save_model(folder, network, description)
    return folder


@pytest.fixture(scope="module")
def expected(model):
    """Give a function that computes one picture's probabilities alone and by other means than the program."""
    loaded = load_model(model)
    transform = Transform(loaded.description["preprocessing"])

    def probabilities(path: Path) -> torch.Tensor:
        with torch.no_grad():
            return loaded.network(transform(Decoder()(path))[None]).softmax(1)[0]

    return probabilities


@pytest.fixture
def pictures(tmp_path):
    """Give a folder with seven different pictures."""
    for number in range(7):
        colour = (30 * number, 200 - 25 * number, 90)
        draw(tmp_path / "new" / f"{number}.png", colour, (40 + 3 * number, 36), seed=number)
    return tmp_path / "new"


@pytest.fixture
def ask(tmp_path, model):
    """Give a function that predicts and gives the rows of the table."""

    def ask(images: Path | str, output: Path | str | None = None, **options: object) -> list[dict[str, str]]:
        config = compose(["run=x", "images=x", "device=cpu", "num_workers=0"], "predict", output_dir=tmp_path)
        output = output or tmp_path / "p.csv"
        # As values and not as overrides, in whose grammar odd names need escapes
        for key, value in {"run": str(model), "images": str(images), "output": str(output), **options}.items():
            config[key] = value
        predict(config)
        # What a pipe has given is gone.
        return _rows(Path(output)) if Path(output).is_file() else []

    return ask


def _rows(output: Path) -> list[dict[str, str]]:
    with output.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _probabilities(rows: list[dict[str, str]]) -> list[float]:
    return [float(row["probability"]) for row in rows]


def test_each_picture_has_one_row_in_order_with_the_most_probable_classes(ask, expected, pictures):
    rows = ask(pictures, topk=2)
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert [row["path"] for row in rows] == [str(pictures / f"{number}.png") for number in range(7)]
    for row in rows:
        values, indices = expected(Path(row["path"])).topk(2)
        assert [row["class"], row["class_2"]] == [CLASSES[index] for index in indices]
        assert [float(row["probability"]), float(row["probability_2"])] == pytest.approx(values.tolist(), abs=1e-5)


def test_all_classes_can_be_asked_for(ask, pictures):
    [row] = ask(pictures / "0.png", topk=3)
    assert {row["class"], row["class_2"], row["class_3"]} == set(CLASSES)
    assert sum(float(row[name]) for name in ("probability", "probability_2", "probability_3")) == pytest.approx(1)


def test_probabilities_are_those_of_the_calibrated_network_unless_told_otherwise(ask, tmp_path, model, pictures):
    hotter = shutil.copytree(model, tmp_path / "hotter")
    describe_anew(hotter, temperature=2.5)
    plain = ask(pictures, topk=3)
    assert ask(pictures, topk=3, run=str(hotter), calibrated=False) == plain
    logits = torch.tensor(
        [[float(row[key]) for key in ("probability", "probability_2", "probability_3")] for row in plain]
    )
    scaled = (logits.log() / 2.5).softmax(1)
    for row, expected in zip(ask(pictures, topk=3, run=str(hotter)), scaled.tolist(), strict=True):
        found = [float(row[key]) for key in ("probability", "probability_2", "probability_3")]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [0, -1.0, "1", None])
def test_a_model_with_an_impossible_temperature_is_refused(tmp_path, model, temperature):
    broken = shutil.copytree(model, tmp_path / "broken")
    describe_anew(broken, temperature=temperature)
    with pytest.raises(CheckpointError, match="temperature"):
        load_model(broken)


def test_a_page_shows_pictures_beside_their_most_probable_classes(ask, tmp_path, pictures, capsys):
    (pictures / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError):
        ask(pictures, page=str(tmp_path / "pages" / "p.html"), topk=3)
    page = (tmp_path / "pages" / "p.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 7
    assert all(html.unescape(page).count(name) >= 7 for name in CLASSES)
    assert "7 of 8 images" in page
    with pytest.raises(OutputError, match="named like one"):
        ask(pictures, page=str(pictures / "0.png"))


@pytest.fixture
def sorted_pictures(pictures, ask):
    """Give the pictures in folders that are called as the model's classes, of which the first holds a wrong one."""
    rows = ask(pictures)
    for number, row in enumerate(rows):
        name = CLASSES[(CLASSES.index(row["class"]) + (number == 0)) % 3]
        path = Path(row["path"])
        (pictures / name / "deeper").mkdir(parents=True, exist_ok=True)
        path.rename(pictures / name / "deeper" / path.name)
    return pictures


def _targets_on_page(ask, images, page) -> tuple[list[str], str]:
    """Give the marks of a page's images, and its text."""
    ask(images, page=str(page))
    text = html.unescape(page.read_text(encoding="utf-8"))
    return re.findall(r"\b(right|wrong)\b(?=</dd>)", text), text


def test_a_page_tells_right_from_wrong_where_folders_name_the_classes(ask, tmp_path, sorted_pictures):
    marks, text = _targets_on_page(ask, sorted_pictures, tmp_path / "p.html")
    assert sorted(marks) == ["right"] * 6 + ["wrong"]
    assert "Top-1 85.7 %: 6 of 7 images" in text
    (next(sorted_pictures.iterdir()) / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError):
        ask(sorted_pictures, page=str(tmp_path / "q.html"))
    text = (tmp_path / "q.html").read_text(encoding="utf-8")
    assert "6 of 7 images" in text
    assert re.search(r"1 image cannot be read and has no row in .*bad\.jpg: ", text, re.DOTALL)


def test_a_page_has_images_from_the_working_folder_and_from_elsewhere(tmp_path):
    paths = (str(tmp_path / "there.png"), "here.png")
    text = predictions_page([Prediction(path, [("blue", 1.0)]) for path in paths], 2, "a model", {}, None)
    assert all(path in text for path in paths)


def test_targets_are_never_guessed(ask, tmp_path, sorted_pictures, capsys):
    folder = next(path for path in sorted_pictures.iterdir() if path.is_dir())
    # One class alone, and a glob, name nothing.
    for images in (folder, f"{sorted_pictures}/*/*/*.png"):
        marks, text = _targets_on_page(ask, images, tmp_path / "p.html")
        assert marks == []
        assert "Top-1" not in text
    assert "no targets" not in capsys.readouterr().out
    draw(sorted_pictures / "Blue" / "a.png", (9, 9, 200))
    marks, text = _targets_on_page(ask, sorted_pictures, tmp_path / "p.html")
    assert marks == []
    assert "lie in 'Blue', which the model has no class for" in capsys.readouterr().out
    # Nor where an image lies beside the folders
    (sorted_pictures / "Blue" / "a.png").rename(sorted_pictures / "a.png")
    assert _targets_on_page(ask, sorted_pictures, tmp_path / "p.html")[0] == []
    assert "lie in no folder, which" in capsys.readouterr().out


def test_batch_size_and_workers_change_nothing(ask, pictures):
    first = ask(pictures, batch_size=1)
    for options in ({"batch_size": 3}, {"batch_size": 32}, {"batch_size": 3, "num_workers": 1}):
        rows = ask(pictures, **options)
        assert [(row["path"], row["class"]) for row in rows] == [(row["path"], row["class"]) for row in first]
        assert _probabilities(rows) == pytest.approx(_probabilities(first), abs=1e-5)


@pytest.mark.parametrize("bad", [{0, 4}, {3, 4, 5}, {0, 1, 2, 6}])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_probabilities_stay_with_their_picture_when_others_are_bad(ask, tmp_path, expected, pictures, bad, batch_size):
    right = {path.name: expected(path).max().item() for path in pictures.iterdir()}
    for number in bad:
        (pictures / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"{len(bad)} images cannot be read") as caught:
        ask(pictures, batch_size=batch_size)
    assert caught.value.exit_status == 3
    assert all(str(pictures / f"{number}.png") in str(caught.value) for number in bad)
    rows = _rows(tmp_path / "p.csv")
    assert [Path(row["path"]).name for row in rows] == [f"{n}.png" for n in range(7) if n not in bad]
    assert _probabilities(rows) == pytest.approx([right[Path(row["path"]).name] for row in rows], abs=1e-5)


def test_a_table_without_rows_is_left_when_all_pictures_are_bad(ask, tmp_path, pictures):
    for path in pictures.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="7 images cannot be read"):
        ask(pictures)
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines() == ["path,class,probability"]


def test_the_program_ends_with_the_status_of_bad_data(tmp_path, model, pictures):
    (pictures / "3.png").write_bytes(b"no picture")
    done = program("predict", f"run={model}", f"images={pictures}", "num_workers=0", cwd=tmp_path)
    assert done.returncode == 3
    assert f"{pictures / '3.png'}: not an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(_rows(tmp_path / "predictions.csv")) == 6


def test_more_classes_than_the_model_has_are_refused(ask, tmp_path, pictures):
    with pytest.raises(ConfigError, match="topk=4: the model knows 3"):
        ask(pictures, topk=4)
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(ask, tmp_path, pictures, capfd):
    for output in (None, "-"):
        with pytest.raises(
            ConfigError, match="device=cuda: there is no GPU that this torch can use; choose device=cpu"
        ):
            ask(pictures, output, device="cuda")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert not capfd.readouterr().out


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, True, "cuda")],
)
def test_auto_is_the_gpu_that_there_is(monkeypatch, cuda, mps, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device_of("auto").type == found
    assert device_of("cpu").type == "cpu"


def test_auto_finds_a_device(ask, pictures):
    assert len(ask(pictures, device="auto")) == 7


@pytest.mark.parametrize("name", ["a,b", 'a"b"', "a\nb", "a\r\nb", " a ", "ü漢", "[0]", "a\udcffb"])
def test_any_name_comes_back_from_the_table(ask, pictures, name):
    moved = pictures / name / f"{name}.png"
    try:
        moved.parent.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    shutil.move(pictures / "0.png", moved)
    rows = ask(moved.parent)
    assert [row["path"] for row in rows] == [str(moved)]
    assert rows[0]["class"] in CLASSES
    assert [row["path"] for row in ask(moved)] == [str(moved)]


def test_a_broken_link_is_named_as_bad(ask, pictures):
    (pictures / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        ask(pictures)


@pytest.mark.timeout(60)
def test_a_pipe_is_no_picture_and_does_not_hang(ask, pictures):
    os.mkfifo(pictures / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a regular file"):
        ask(pictures)


def test_missing_folders_of_the_output_are_made(ask, tmp_path, pictures):
    output = tmp_path / "far" / "away" / "p.csv"
    assert len(ask(pictures, output)) == 7
    assert [path.name for path in output.parent.iterdir()] == ["p.csv"]


def test_an_output_below_a_file_is_refused(ask, tmp_path, pictures):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot write .*p\.csv: ") as caught:
        ask(pictures, tmp_path / "file" / "p.csv")
    assert caught.value.exit_status == 4
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_an_output_that_is_a_folder_is_refused_and_stays(ask, tmp_path, pictures):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        ask(pictures, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]


@pytest.mark.parametrize("name", ["out", "O.CSV", ".csv", "-.csv", "./-", "dotted.d/out"])
def test_a_table_may_lie_in_a_file_of_any_name_that_says_csv_or_nothing(tmp_path, model, pictures, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments = [f"run='{model}'", f"images='{pictures}'", f"output='{name}'", "device=cpu", "num_workers=0"]
    config = compose(arguments, "predict", output_dir=tmp_path)
    rules.check(plain(config), [])
    predict(config)
    assert len(_rows(tmp_path / name)) == 7


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        *(
            (f"output={name}", "a .csv or .parquet file, a name without an ending, or - for standard output")
            for name in ("o.json", "out.csv.gz", "o.parquet.gz", "new/", "o.html", "photo.png")
        ),
        *((f"page={name}", "an .html file") for name in ("-", "x.txt", "page", "p.csv", "pages/")),
    ],
)
def test_an_ending_that_is_not_written_is_refused_with_those_that_are(option, expected):
    with pytest.raises(ConfigError, match=f"{option}: expected {expected}"):
        compose(["run=x", "images=x", option], "predict")


def test_a_refused_ending_costs_no_more_than_the_message(tmp_path):
    done = program("predict", "run=x", "images=x", "output=o.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("tlearn: error: output=o.json: expected a .csv or .parquet file, ")
    assert list(tmp_path.iterdir()) == []


def test_standard_output_gets_nothing_of_what_is_refused(ask, pictures, capfd):
    with pytest.raises(ConfigError, match="topk"):
        ask(pictures, "-", topk=99)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_on_standard_output_there_is_the_table_and_nothing_else(
    ask, tmp_path, expected, pictures, capfd, monkeypatch, output
):
    right = [expected(pictures / f"{number}.png").max().item() for number in range(7)]
    (pictures / "notes.txt").write_text("not an image", encoding="utf-8")
    (pictures / "bad.jpg").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/dev/stdout")
    forward = TransferNetwork.forward

    def talking(*given: object) -> torch.Tensor:
        # As a library might, in Python and below it
        print("chatter")
        os.write(1, b"chatter below\n")
        return forward(*given)

    monkeypatch.setattr(TransferNetwork, "forward", talking)
    with pytest.raises(DataError, match="1 image cannot be read and has no row in "):
        ask(pictures, output, page="p.html", num_workers=1, batch_size=2)
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["path"] for row in rows] == [str(pictures / f"{number}.png") for number in range(7)]
    assert _probabilities(rows) == pytest.approx(right, abs=1e-5)
    assert {"chatter", "chatter below", "7 of 8 images classified", str(tmp_path / "p.html")} <= set(err.splitlines())
    assert any(line.startswith("1 other file in ") for line in err.splitlines())
    print("as before")
    assert capfd.readouterr() == ("as before\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "new", "p.html"]


def append_to(file: Path) -> None:
    """Let the program's standard output be what a shell opens by >>."""
    os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), 1)


def test_a_table_is_added_to_what_standard_output_holds(tmp_path, model, pictures):
    (log := tmp_path / "log").write_text("before\n", encoding="utf-8")
    arguments = (f"run={model}", f"images={pictures / '0.png'}", "output=-")
    done = Running("predict", *arguments, cwd=tmp_path, prepare=functools.partial(append_to, log))
    assert done.end() == 0
    assert "/dev/stdout" not in done.said()
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["before", "path,class,probability"]
    assert len(lines) == 3


def print_to_nobody() -> None:
    """Let the program's standard output be a pipe whose reader has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    # That of the fork is made for a file.
    sys.stdout = os.fdopen(1, "w", closefd=False)


def test_a_reader_that_wants_no_more_ends_the_program_with_its_status(tmp_path, model, pictures):
    arguments = (f"run={model}", f"images={pictures}", "output=-")
    done = Running("predict", *arguments, cwd=tmp_path, prepare=print_to_nobody)
    assert done.end() == 141
    [line] = done.said().splitlines()
    assert line.startswith("tlearn: error: ")


def test_a_pipe_gets_the_table_and_stays_a_pipe(ask, tmp_path, pictures):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit((tmp_path / "pipe").read_text, "utf-8")
        ask(pictures, tmp_path / "pipe")
        assert len(received.result(timeout=60).splitlines()) == 8
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_device_that_is_full_is_one_plain_error_and_stays_a_device(ask, tmp_path, pictures):
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left on device"):
        ask(pictures, "/dev/full")
    assert ask(pictures, "/dev/null") == []
    assert all(stat.S_ISCHR(os.stat(name).st_mode) for name in ("/dev/full", "/dev/null"))


def test_a_link_to_a_table_stays_and_the_table_is_replaced(ask, tmp_path, pictures):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "p.csv").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("there/p.csv")
    assert len(ask(pictures, tmp_path / "link")) == 7
    assert (tmp_path / "link").is_symlink()
    assert len(_rows(tmp_path / "there" / "p.csv")) == 7


@pytest.mark.parametrize("kind", ["the image", "a link", "a hard link", "an image's link"])
def test_none_of_the_images_is_written_over_whatever_it_is_called(ask, tmp_path, pictures, kind):
    photo = draw(tmp_path / "photo.png", (1, 2, 3)).rename(tmp_path / "photo")
    images, output = photo, tmp_path / "out"
    if kind == "the image":
        output = photo
    elif kind == "a link":
        output.symlink_to(photo)
    elif kind == "a hard link":
        output.hardlink_to(photo)
    else:
        output = photo
        images = tmp_path / "image.png"
        images.symlink_to(photo)
    before = photo.read_bytes()
    with pytest.raises(OutputError, match="it would be written over"):
        ask(images, output)
    assert photo.read_bytes() == before


def test_a_page_and_a_table_are_two_files(ask, tmp_path, pictures):
    (tmp_path / "p.html").symlink_to("new/../p.csv")
    with pytest.raises(OutputError, match="name two files"):
        ask(pictures, page=str(tmp_path / "p.html"))
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("place", ["file/p.html", "new"])
def test_a_place_that_cannot_be_is_refused_before_anything_is_computed(ask, tmp_path, pictures, monkeypatch, place):
    (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.setattr(TransferNetwork, "forward", lambda *_: pytest.fail("an image was classified"))
    for key in ("page", "output"):
        with pytest.raises(OutputError, match=r"cannot write|is a folder"):
            ask(pictures, **{key: str(tmp_path / place)})
    assert not (tmp_path / "p.csv").exists()


def test_an_earlier_table_stays_until_the_new_one_is_whole(ask, tmp_path, pictures, monkeypatch):
    ask(pictures)
    before = (tmp_path / "p.csv").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TransferNetwork, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        ask(pictures, batch_size=2)
    assert (tmp_path / "p.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "p.csv"]


def test_nothing_is_written_beside_the_pictures(ask, pictures):
    before = sorted(pictures.iterdir())
    ask(pictures)
    assert sorted(pictures.iterdir()) == before


def test_the_number_of_pictures_and_the_place_of_the_table_are_printed(ask, tmp_path, pictures, capsys):
    ask(pictures)
    assert capsys.readouterr().out.splitlines() == ["7 of 7 images classified", str(tmp_path / "p.csv")]


def test_a_picture_is_never_written_over(tmp_path, model, pictures):
    before = (pictures / "0.png").read_bytes()
    config = compose([f"run='{model}'", f"images='{pictures}'"], "predict", output_dir=tmp_path)
    config.output = str(pictures / "0.png")
    with pytest.raises(OutputError, match="named like one"):
        predict(config)
    assert (pictures / "0.png").read_bytes() == before


def test_the_option_that_a_refusal_names_works(tmp_path, model, pictures):
    Image.fromarray(np.full((400, 300), 4000, np.uint16)).save(pictures / "deep.png")
    arguments = [f"run={model}", f"images={pictures}", "num_workers=0", "device=cpu"]
    for words in ("data.max_pixels=120000", "data.high_bit_depth=scale", None):
        done = program("predict", *arguments, cwd=tmp_path)
        assert done.returncode == (3 if words else 0)
        assert (words or "8 of 8 images classified") in done.stderr + done.stdout
        arguments += [words] if words else []
    assert "look like 12 bits" in done.stdout
    assert "bits" not in program("predict", *arguments, "data.bit_depth=12", cwd=tmp_path).stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Give a file with a whole classifier of 1000 classes, which torchvision does not know."""
    return write_weights(tmp_path_factory.mktemp("weights") / "mine.pth")


@pytest.fixture
def name_by_backbone(tmp_path, weights, pictures):
    """Give a function that predicts with a backbone as it is and gives the rows."""

    def ask(*options: str) -> list[dict[str, str]]:
        arguments = [f"backbone={BACKBONE}", f"backbone.weights='{weights}'"]
        arguments += [f"images='{pictures}'", f"output='{tmp_path / 'p.csv'}'", "device=cpu", "num_workers=0"]
        predict(compose([*arguments, *options], "predict", output_dir=tmp_path))
        return _rows(tmp_path / "p.csv")

    return ask


def test_a_backbone_names_pictures_by_the_classes_of_its_weights(name_by_backbone, weights, pictures, monkeypatch):
    # As if torchvision had published this file
    monkeypatch.setattr(torchvision_backbone, "_sha256_in", lambda url: sha256_of(weights)[:8])
    rows = name_by_backbone("topk=5")
    entry = torchvision.models.get_model_weights(BACKBONE).DEFAULT
    classifier = torchvision.models.get_model(BACKBONE, weights=None)
    classifier.load_state_dict(torch.load(weights))
    preset = entry.transforms()
    assert [Path(row["path"]).name for row in rows] == sorted(path.name for path in pictures.iterdir())
    for row in rows:
        image = Image.open(row["path"])
        with torch.no_grad():
            top = classifier.eval()(preset(image)[None]).softmax(1)[0].topk(5)
        assert row["class"] == entry.meta["categories"][top.indices[0]]
        found = [float(row["probability" if rank == 1 else f"probability_{rank}"]) for rank in range(1, 6)]
        # Pillow and torch round pixels differently.
        assert found == pytest.approx(top.values.tolist(), rel=0.05)


def test_weights_of_unknown_origin_name_nothing_until_the_user_says_what(name_by_backbone, tmp_path):
    with pytest.raises(ConfigError, match=f"nothing tells the classes of {BACKBONE} .*classes=imagenet.*classes=FILE"):
        name_by_backbone()
    assert not (tmp_path / "p.csv").exists()
    known = torchvision.models.get_model_weights(BACKBONE).DEFAULT.meta["categories"]
    told = name_by_backbone("classes=imagenet")
    assert {row["class"] for row in told} <= set(known)
    own = [f"class {number}, or ü" for number in range(1000)]
    (tmp_path / "names.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    renamed = name_by_backbone(f"classes='{tmp_path / 'names.txt'}'")
    # ImageNet has two cranes and two maillots.
    pairs = [(row["class"], own.index(other["class"])) for row, other in zip(told, renamed, strict=True)]
    assert all(known[index] == name for name, index in pairs)
    assert _probabilities(told) == _probabilities(renamed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", f"{BACKBONE} has 1000 classes, and 2 are named"),
        ("a\n\nb\n", "line 2 is empty"),
        ("", "line 1 is empty"),
        (None, "cannot be read: No such file"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_weights_are_loaded(
    name_by_backbone, tmp_path, monkeypatch, text, message
):
    if text is not None:
        (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(TorchvisionBackbone, "build", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(ConfigError, match=message):
        name_by_backbone(f"classes='{tmp_path / 'names.txt'}'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["backbone=tiny"], "the weights that come with tlearn are a body without classes"),
        (["backbone=tiny", "classes=imagenet"], "the weights that come with tlearn are a body without classes"),
        (["backbone=resnet18", "backbone.weights=null"], "random weights can name nothing"),
        (["backbone=resnet18", "backbone.weights=null", "classes=imagenet"], "random weights can name nothing"),
        (["backbone=resnet18", "backbone.pooling=max"], "backbone.pooling=max: the classifier was trained with avg"),
        (["backbone=vgg16", "backbone.weights=IMAGENET1K_FEATURES"], "nothing tells the classes of vgg16"),
    ],
)
def test_a_backbone_without_classes_of_its_own_names_nothing(tmp_path, pictures, options, message):
    config = compose([*options, f"images='{pictures}'"], "predict", output_dir=tmp_path)
    with pytest.raises(ConfigError, match=message):
        predict(config)


def test_a_timm_backbone_has_the_names_of_its_weights(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(TimmBackbone, "build", TimmBackbone.skeleton)
    model = pretrained_model(TimmBackbone("resnet10t"))
    assert (len(model.classes), model.classes[310]) == (1000, "ant, emmet, pismire")
    assert model.network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(ConfigError, match=r"nothing tells the classes of vit_base_patch16_clip_224\.openai"):
        pretrained_model(TimmBackbone("vit_base_patch16_clip_224.openai"))


def test_weights_with_other_names_than_logits_are_refused(monkeypatch):
    monkeypatch.setattr(TorchvisionBackbone, "build", TorchvisionBackbone.skeleton)
    monkeypatch.setattr(TorchvisionBackbone, "categories", lambda self: ["ant", "bee"])
    with pytest.raises(ConfigError, match="resnet18 has 1000 classes, and 2 are named"):
        pretrained_model(TorchvisionBackbone("resnet18"))


def test_a_backbone_reads_pictures_as_training_does_by_default(monkeypatch):
    monkeypatch.setattr(TorchvisionBackbone, "build", TorchvisionBackbone.skeleton)
    decoding = pretrained_model(TorchvisionBackbone("resnet18")).description["decoding"]
    read = {**decoding, "alpha_background": list(decoding["alpha_background"])}
    assert read.items() <= plain(compose(output_dir="run"))["data"].items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is required: run=RUN_FOLDER, or backbone=NAME"),
        (["run=null"], "run is required"),
        (["run=outputs/run", "backbone=vgg13"], "two models: give one of them"),
        (["run=outputs/run", "experiment=imagenet_vgg13"], "two models: give one of them"),
        (["run=outputs/run", "classes=imagenet"], "a run knows its own"),
    ],
)
def test_exactly_one_model_must_be_given(arguments, message):
    with pytest.raises(ConfigError, match=message):
        compose([*arguments, "images=pictures"], "predict")


def test_a_missing_model_ends_the_program_with_the_status_of_configuration(tmp_path, pictures):
    done = program("predict", f"images={pictures}", cwd=tmp_path)
    assert done.returncode == 2
    assert "backbone=NAME" in done.stderr
    assert "Traceback" not in done.stderr
