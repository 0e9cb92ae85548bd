"""The report of a run: complete, with files beside it, whatever things are called and whatever fails."""

import re
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tests.conftest import draw
from tests.report.test_page import HOSTILE, _Elements
from tlearn.analysis import accuracy
from tlearn.analysis.outputs import Outputs
from tlearn.files import read_table
from tlearn.report.run_report import RunSummary, write_report

CLASSES = ("ant", "bee", "cat")
HEADER = "epoch,step,train/loss,train/top1,val/loss,val/top1\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        draw(folder / f"{number}.png", (20 * number, 30, 200), seed=number)
    return folder


def _outputs(root, split="test", classes=CLASSES, count=12):
    """Return images of which every third, as 0, 3, 6 and 9, is taken for the next class."""
    targets = torch.arange(count) // 2 % len(classes)
    taken = torch.where(torch.arange(count) % 3 == 0, (targets + 1) % len(classes), targets)
    logits = torch.randn(count, len(classes), generator=torch.Generator().manual_seed(0)) / 9
    logits[torch.arange(count), taken] += 2
    paths = [f"{number % 12}.png" for number in range(count)]
    return Outputs(split, list(classes), root, paths, targets, logits)


def _summary(root, **more):
    outputs = {split: _outputs(root, split) for split in ("val", "test")}
    given = {
        "title": "tiny on pictures",
        "outputs": outputs,
        "metrics": {
            "epoch/best": 1,
            "params/total": 1234567,
            "params/trainable": 42,
            "time/total_s": 61.0,
            "time/fit_s": 6,
        },
        "train_counts": {"ant": 4, "bee": 5, "cat": 6},
        "temperature": 1.5,
    }
    return RunSummary(**{**given, **more})


def _page(folder, summary):
    folder.mkdir(exist_ok=True)
    path = write_report(folder, summary)
    assert path == folder / "report.html"
    return _Elements(path.read_bytes().decode("utf-8", errors="strict"))


SUSPECT = {"rank": 1, "split": "train", "path": "5.png", "class": "ant", "suggested": "bee"}
SUSPECT |= {"probability_of_class": 0.125, "probability_of_suggested": 0.875}
COPY = {"similarity": 0.998, "split": "train", "path": "1.png", "other_split": "test", "other_path": "2.png"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, root):
    """Give the folder and the page of a report that has everything."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.csv").write_text(HEADER + "0,4,0.9,0.5,0.8,0.5\n1,9,0.7,0.75,0.6,0.75\n", encoding="utf-8")
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    batch = draw(folder / "report" / "batch.png", (1, 2, 3), (600, 100))
    summary = _summary(
        root,
        run_folder=folder,
        notes=["a note"],
        suspects=[SUSPECT],
        near_duplicates=[COPY],
        extras={"A batch": batch},
        overrides=["optimizer.lr=0.125", "+logger.wandb.api_key=geheim", "logger.uri=https://me:geheim@host"],
        settings={
            "backbone": {"name": "tiny"},
            "optimizer": {"lr": 0.125},
            "logger": {"password": "geheim"},
            "data": {"csv": "a.csv"},
        },
        environment={"packages": {"torch": "2.9"}, "command": ["train.py", "+logger.wandb.api_key=geheim"]},
    )
    return folder, _page(folder, summary)


def test_the_figures_of_the_test_split_come_first(made):
    folder, page = made
    # 8 of 12 are right, with Wilson's interval
    for text in ("test top-1", "66.7 %", "39.1 % to 86.2 %", "1,234,567", "42 trained", "61.0 s", "backbone tiny"):
        assert text in page.text
    splits = read_table(folder / "report" / "splits.csv")
    assert [row["split"] for row in splits] == ["test", "val"]
    assert float(splits[0]["top1"]) == pytest.approx(8 / 12)
    assert float(splits[0]["calibration_error"]) != float(splits[0]["calibration_error_scaled"])


def test_every_figure_has_a_table_of_its_name_beside_it(made):
    folder, page = made
    drawn = {path.stem for path in (folder / "report").glob("*.png")} - {"batch"}
    assert {
        "curves",
        "test_predictions",
        "test_confusion",
        "test_class_accuracy",
        "test_class_counts",
        "test_calibration",
    } <= drawn
    assert [stem for stem in drawn if not (folder / "report" / f"{stem}.csv").is_file()] == []
    for path in (folder / "report").iterdir():
        assert f"report/{path.name}" in page.text
    images = [source for source in page.values("img", "src") if not str(source).startswith("data:image/jpeg")]
    # Photographs are smaller as JPEG.
    assert len(images) == len(drawn - {"test_predictions"} | {"batch"})


def test_every_figure_is_laid_out_and_drawn_once(tmp_path, root, monkeypatch):
    drawn, laid_out, draw_plainly, lay_out = [], [], Figure.draw, ConstrainedLayoutEngine.execute
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: (drawn.append(self), draw_plainly(self, renderer)))
    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", lambda self, figure: (laid_out.append(figure), lay_out(self, figure))
    )
    (tmp_path / "metrics.csv").write_text(HEADER + "0,4,0.9,0.5,0.8,0.5\n", encoding="utf-8")
    _page(tmp_path, _summary(root, run_folder=tmp_path))
    files = list((tmp_path / "report").glob("*.png"))
    assert len(files) == 6
    assert len(drawn) == len(set(drawn)) == len(files)
    # All but the gallery, whose places are known
    assert len(laid_out) == len(set(laid_out)) == len(files) - 1


def test_mistakes_are_shown_with_what_they_were_taken_for(made):
    folder, page = made
    rows = read_table(folder / "report" / "test_mistakes.csv")
    assert sorted(row["path"] for row in rows) == ["0.png", "3.png", "6.png", "9.png"]
    assert {(row["class"], row["prediction"]) for row in rows} == {("ant", "bee"), ("bee", "cat")}
    assert "ant: 2 of 4 wrong" in page.text
    # 4 mistakes, 8 right ones, the 12 least certain, the mistakes of each class, a doubtful label and two copies
    assert page.values("div", "class").count("card") == 4 + 8 + 12 + 4 + 1 + 2
    assert "Most confident correct predictions" in page.text
    right = read_table(folder / "report" / "test_correct.csv")
    assert [row["class"] == row["prediction"] for row in right] == [True] * 8


def test_random_images_are_shown_right_and_wrong(made):
    folder, page = made
    assert "test: 12 random images, titled prediction / target" in page.text
    rows = read_table(folder / "report" / "test_predictions.csv")
    assert sorted(row["path"] for row in rows) == sorted(f"{number}.png" for number in range(12))


def test_pictures_to_look_at_again_are_shown_in_pairs_and_with_a_suggestion(made):
    folder, page = made
    for text in ("a note", "suggested", "0.875", "similarity", "0.998", "report/suspects.csv"):
        assert text in page.text
    assert page.values("div", "class").count("set several") == 1
    assert read_table(folder / "report" / "near_duplicates.csv")[0]["other_path"] == "2.png"


def test_logins_and_signatures_are_told_nowhere(tmp_path, root):
    hidden = ["https://user:pw@host/a.zip?signature=abc", "{api_key:pw}"]
    settings = {"data": {"url": hidden, "name": "flowers.v2"}, "backbone": {"name": "resnet18.a1_in1k"}}
    overrides = [f"data.url=[{hidden[0]}]", "logger.mlflow={api_key:pw}", "private_key=pw", "+x=https://h/?abc"]
    page = _page(tmp_path / "run", _summary(root, settings=settings, overrides=overrides))
    assert ":pw" not in page.text
    assert "=pw" not in page.text
    assert "abc" not in page.text
    assert "backbone resnet18.a1_in1k" in page.text
    assert "data flowers.v2" in page.text


def test_settings_are_told_without_what_opens_doors(made):
    _, page = made
    assert "geheim" not in page.text
    for text in ("optimizer.lr", "0.125", "logger.password", "packages.torch", "a.csv", "train.py", "@host"):
        assert text in page.text


def test_further_figures_are_shown(made):
    _, page = made
    for text in ("A batch", "report/batch.png"):
        assert text in page.text


def test_the_files_of_the_run_are_listed_where_they_are(made):
    folder, page = made
    addresses = page.values("a", "href")
    assert {"metrics.json", "metrics.csv", "report/curves.png"} <= set(addresses)
    assert "checkpoints" not in addresses
    files = [address for address in addresses if address and not address.startswith("#")]
    assert all((folder / file).exists() for file in files)


def test_without_a_test_split_val_is_shown_and_what_was_not_looked_for_is_told(tmp_path, root):
    given = {"suspects": "it would take long", "near_duplicates": [], "outputs": {"val": _outputs(root, "val")}}
    page = _page(tmp_path / "run", _summary(root, **given, train_counts={}))
    assert "val top-1" in page.text
    assert (tmp_path / "run" / "report" / "val_confusion.png").is_file()
    assert not (tmp_path / "run" / "report" / "val_class_counts.png").exists()
    assert "Most doubtful labels: not computed: it would take long." in page.text
    assert "Near-duplicates in several splits: none found." in page.text
    assert "its number of training images" not in page.text


def test_what_a_run_does_not_have_is_left_out(tmp_path):
    page = _page(tmp_path / "run", RunSummary("title", {}, {}))
    assert "doubtful labels" not in page.text
    assert [str(address) for address in page.values("a", "href")][:3] == ["#s1", "#s2", "#s3"]
    assert "could not be made" not in page.text


def test_no_class_path_or_setting_makes_elements(tmp_path, root):
    # What a file can be called
    hostile = [name.replace("\ud800", "") for name in HOSTILE]
    structures = []
    for names in (hostile, [re.sub("[^a-z]", "n", name) for name in hostile]):
        outputs = _outputs(root, classes=names, count=44)
        outputs = replace(outputs, paths=[f"{name}.png" for name in names * 4])
        suspects = [{"rank": 1, "split": "train", "path": name, "class": name, "suggested": name} for name in names]
        probabilities = {"probability_of_class": 0.125, "probability_of_suggested": 0.875}
        copies = [{"similarity": 1.0, "split": "val", "path": name, "other_split": "test"} for name in names]
        summary = _summary(
            root,
            title=names[0],
            subtitle=names[1],
            outputs={"test": outputs},
            overrides=[f"data.root={name}" for name in names],
            settings=dict(zip(names, names, strict=True)),
            environment={"command": names},
            notes=names,
            train_counts={name: number + 1 for number, name in enumerate(names)},
            suspects=[suspect | probabilities for suspect in suspects],
            near_duplicates=[copy | {"other_path": copy["path"]} for copy in copies],
        )
        page = _page(tmp_path / str(len(structures)), summary)
        assert "could not be made" not in page.text
        structures.append(page.structure)
    assert len(structures[0]) > 500
    assert structures[0] == structures[1]


def test_a_picture_that_is_gone_leaves_its_place_and_the_reason(tmp_path, root):
    outputs = replace(_outputs(root), paths=["gone.png", *_outputs(root).paths[1:]])
    page = _page(tmp_path / "run", _summary(root, outputs={"test": outputs}))
    assert page.text.count("no such file") == 3


def test_one_figure_that_fails_is_a_note_and_the_rest_is_there(tmp_path, root, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no figure today")

    monkeypatch.setattr(accuracy, "accuracy_figure", fail)
    page = _page(tmp_path / "run", _summary(root))
    assert page.text.count("no figure today") == 1
    assert (tmp_path / "run" / "report" / "test_class_counts.png").is_file()
    monkeypatch.setattr(accuracy, "per_class", fail)
    page = _page(tmp_path / "run", _summary(root))
    assert page.text.count("no figure today") == 1
    assert "Calibration" in page.text


def test_pictures_are_bounded_and_shared_fairly_among_classes(tmp_path, root):
    classes = [f"class {number}" for number in range(150)]
    outputs = _outputs(root, classes=classes, count=2400)
    page = _page(tmp_path / "run", _summary(root, outputs={"test": outputs}, train_counts={}))
    # 100 classes have mistakes, and share what the surest answers and the least certain pictures leave.
    assert page.text.count(" of 16 wrong") == 100
    shown = len([source for source in page.values("img", "src") if "image/jpeg" in str(source)])
    # The random images are one picture.
    assert shown == 1 + 3 * 12 + 3 * 100


def test_of_many_classes_the_page_shows_the_worst_and_no_table_is_quadratic(tmp_path, root):
    classes = [f"class {number}" for number in range(210)]
    outputs = _outputs(root, classes=classes, count=360)
    page = _page(tmp_path / "run", _summary(root, outputs={"test": outputs}, train_counts={}))
    caption = "accuracy of each class, with 95 % intervals: the worst 200 of 210 classes"
    assert caption in page.text
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    [table] = [part for part in re.findall(r"<table.*?</table>", html, re.DOTALL) if "top-1 (recall)" in part]
    assert len(re.findall(r"<tr", table)) == 201
    report = tmp_path / "run" / "report"
    rows = read_table(report / "test_classes.csv")
    assert [row["class"] for row in rows] == classes
    wrong = [row["class"] for row in rows if row["top1"] and float(row["top1"]) < 1]
    assert len(wrong) < 200
    assert all(f">{name}<" in table for name in wrong)
    # It has no images.
    assert ">class 209<" not in table
    assert list(read_table(report / "test_confusion.csv")[0]) == ["class", "taken_for", "count", "of", "fraction"]


def test_a_perfect_network_has_no_mistakes_to_show(tmp_path, root):
    outputs = _outputs(root)
    outputs = replace(outputs, targets=outputs.predictions)
    page = _page(tmp_path / "run", _summary(root, outputs={"test": outputs}))
    assert "could not be made" not in page.text
    assert "No mistakes." in page.text
