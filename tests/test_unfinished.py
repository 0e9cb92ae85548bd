"""A prediction that was killed goes on with its answers, if they are those of the same prediction; Parquet tables."""
# ruff: noqa: F401, F811  fixtures of another file

import errno
import io
import os
import re
import shutil
import signal
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

from tests.conftest import draw
from tests.forks import Running
from tests.small_runs import describe_anew
from tests.test_predict import ask, model, pictures
from tlearn.config.compose import compose
from tlearn.data.decode import Decoder
from tlearn.data.image_paths import ImagePaths
from tlearn.errors import BadImageError, ConfigError, DataError, OutputError
from tlearn.features.own_code import UnknownCodeError
from tlearn.models.network import TransferNetwork
from tlearn.predict import _write_rows, predict
from tlearn.runs import prediction_table, unfinished
from tlearn.runs.model import load_model, save_model
from tlearn.runs.predictions import Prediction
from tlearn.runs.unfinished import Unfinished


def stop_after_two_batches() -> None:
    """Have a prediction tell when the answers to two batches are on the disk, and wait there for its end."""
    add, lines = Unfinished._add, []

    def adding(self, content):
        add(self, content)
        lines.append(content)
        if len(lines) == 3:
            print("two batches", flush=True)
            time.sleep(120)

    Unfinished._add = adding


@pytest.fixture
def interrupted(ask, monkeypatch):
    """Give a function that predicts, in batches of two, until the answers to a number of them are kept."""

    def interrupted(*given: object, batches: int = 2, **options: object) -> None:
        line, kept = unfinished._line, []

        def last(state: bytes, text: bytes) -> bytes:
            if len(kept) == batches:
                raise KeyboardInterrupt
            kept.append(text)
            return line(state, text)

        with monkeypatch.context() as patched:
            patched.setattr(unfinished, "_line", last)
            with pytest.raises(KeyboardInterrupt):
                ask(*given, batch_size=2, **options)

    return interrupted


def _taken_over(text: str) -> list[str]:
    return [line for line in text.splitlines() if "taken over" in line]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "p.csv"),
        (signal.SIGINT, "p.csv"),
        (signal.SIGTERM, "p.csv"),
        (signal.SIGKILL, "p.parquet"),
    ],
)
def test_a_killed_prediction_goes_on_and_ends_as_if_it_had_not_been(
    ask,
    tmp_path,
    model,
    pictures,
    monkeypatch,
    capfd,
    number,
    name,
):
    if name == "p.parquet":
        pytest.importorskip("pyarrow")
    (pictures / "1.png").write_bytes(b"nothing")
    options = {"topk": 2, "batch_size": 2}
    with pytest.raises(DataError):
        ask(pictures, tmp_path / f"whole{name}", **options)
    arguments = [f"run={model}", f"images={pictures}", f"output={tmp_path / name}", "topk=2", "batch_size=2"]
    started = Running(
        "predict", *arguments, "num_workers=0", "device=cpu", cwd=tmp_path, prepare=stop_after_two_batches
    )
    started.wait_for("two batches\n")
    os.kill(started.pid, number)
    assert started.end() == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    told = started.said()
    kept = tmp_path / f"{name}.partial"
    assert ("images are kept in" in told) == (number != signal.SIGKILL)
    assert kept.exists()
    assert not (tmp_path / name).exists()
    decoded = []
    read = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, source: decoded.append(source) or read(self, source))
    with pytest.raises(DataError, match=r"1 image cannot be read .*\n  .*1\.png: not an image"):
        ask(pictures, tmp_path / name, **options)
    assert _taken_over(capfd.readouterr().out) == ["taken over: 4 of 7 images from an unfinished prediction"]
    # The unreadable one is tried again, as it may be readable by now.
    assert [path.name for path in decoded] == ["1.png", "4.png", "5.png", "6.png"]
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    # Of the killed one, nothing is left, and no other prediction takes anything over.
    left = {path.name for path in tmp_path.iterdir()} - {"outputs"}
    assert left == {"new", name, f"whole{name}"}


def test_what_is_shown_of_answers_that_were_taken_over_is_the_same(
    ask,
    interrupted,
    tmp_path,
    pictures,
):
    ask(pictures, tmp_path / "whole.csv", page=str(tmp_path / "whole.html"), batch_size=2, topk=3)
    interrupted(pictures, page=str(tmp_path / "p.html"), topk=3)
    assert not (tmp_path / "p.html").exists()
    ask(pictures, page=str(tmp_path / "p.html"), batch_size=2, topk=3)
    assert (tmp_path / "p.html").read_bytes() == (tmp_path / "whole.html").read_bytes()


def _turned(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: _turned(folder / "5.png"), "taken over: 4 of 7 images from an unfinished prediction"),
        (lambda folder: _turned(folder / "3.png"), "taken over: 2 of 7 .*; the next were others, or are damaged"),
        (lambda folder: (folder / "3.png").unlink(), "taken over: 2 of 6 .*; the next were others, or are damaged"),
        (lambda folder: draw(folder / "31.png", (1, 2, 3)), "taken over: 4 of 8 images from an unfinished prediction"),
        (lambda folder: draw(folder / "00.png", (1, 2, 3)), "begun anew, .*: not the same images"),
        (lambda folder: (folder / "0.png").write_bytes(b"nothing"), "begun anew, .*: not the same images"),
        (lambda folder: [(folder / f"{n}.png").unlink() for n in (4, 5, 6)], "taken over: 4 of 4 images"),
    ],
)
def test_only_answers_to_the_same_images_are_taken_over(
    ask,
    interrupted,
    tmp_path,
    pictures,
    capsys,
    change,
    said,
):
    interrupted(pictures)
    change(pictures)
    capsys.readouterr()
    outputs = tmp_path / "p.csv", tmp_path / "whole.csv"
    for output in outputs:
        try:
            ask(pictures, output, batch_size=2)
        except DataError:
            assert (pictures / "0.png").read_bytes() == b"nothing"
    [line] = _taken_over(capsys.readouterr().out)
    assert re.match(said, line)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    "option", ["topk", "calibrated", "batch_size", "data.max_pixels", "temperature", "weights", "versions"]
)
def test_only_answers_of_the_same_prediction_are_taken_over(
    interrupted,
    tmp_path,
    model,
    pictures,
    monkeypatch,
    capsys,
    option,
):
    def command(*more: str) -> None:
        arguments = [f"run='{run}'", f"images='{pictures}'", f"output='{tmp_path / 'p.csv'}'", "device=cpu"]
        predict(compose([*arguments, "num_workers=0", *more], "predict", output_dir=tmp_path))

    run, more, name = model, [], option
    interrupted(pictures)
    if option == "temperature":
        run, name = shutil.copytree(model, tmp_path / "other"), "model"
        describe_anew(run, temperature=2.0)
    elif option == "weights":
        loaded, run, name = load_model(model), tmp_path / "other", "model"
        run.mkdir()
        with torch.no_grad():
            next(loaded.network.parameters())[0] += 1
        save_model(run, loaded.network, loaded.description)
    elif option == "versions":
        monkeypatch.setattr("tlearn.config.evaluation.package_versions", lambda: {"torch": "1.0"})
    else:
        more = [{"topk": "topk=2", "calibrated": "calibrated=false"}.get(option, f"{option}=3")]
        name = "data" if option == "data.max_pixels" else option
    capsys.readouterr()
    try:
        command(*(["batch_size=2"] if option != "batch_size" else []), *more)
    except DataError:
        assert option == "data.max_pixels"
    [line] = _taken_over(capsys.readouterr().out)
    assert line == f"begun anew, not taken over from {tmp_path / 'p.csv.partial'}: not the same {name}"


def test_where_code_cannot_be_known_nothing_is_kept_or_taken_over(ask, monkeypatch, tmp_path, pictures, capsys):
    def unknown(*_: object) -> None:
        raise UnknownCodeError("made in a notebook")

    add, writes = Unfinished._add, []

    def failing(self: Unfinished, content: bytes) -> None:
        add(self, content)
        writes.append(content)
        if len(writes) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("tlearn.config.evaluation.code_digests", unknown)
    monkeypatch.setattr(Unfinished, "_add", failing)
    with pytest.raises(KeyboardInterrupt):
        ask(pictures, batch_size=1)
    assert "kept in" not in capsys.readouterr().err
    assert not (tmp_path / "p.csv.partial").exists()


@pytest.mark.parametrize("repaired", [True, False])
def test_an_image_that_can_be_read_now_is_predicted_with_its_batch(
    ask, interrupted, tmp_path, pictures, monkeypatch, capsys, repaired
):
    names, read = sorted(path.name for path in pictures.iterdir()), Decoder.read

    def denied(self: Decoder, source: object) -> object:
        if Path(str(source)).name == names[2]:
            raise BadImageError(str(source), "cannot be read (Permission denied)")
        return read(self, source)

    ask(pictures, tmp_path / "whole.csv", batch_size=2)
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "read", denied)
        interrupted(pictures)
        capsys.readouterr()
        if not repaired:
            with pytest.raises(DataError, match="Permission denied"):
                ask(pictures, batch_size=2)
            assert _taken_over(capsys.readouterr().out) == ["taken over: 4 of 7 images from an unfinished prediction"]
            return
    ask(pictures, batch_size=2)
    [line] = _taken_over(capsys.readouterr().out)
    assert line.startswith("taken over: 2 of 7 images from an unfinished prediction")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_setting_that_is_refused_costs_no_answer(ask, interrupted, pictures, capsys):
    interrupted(pictures)
    with pytest.raises(ConfigError, match="topk=4"):
        ask(pictures, topk=4, batch_size=2)
    capsys.readouterr()
    ask(pictures, batch_size=2)
    assert _taken_over(capsys.readouterr().out) == ["taken over: 4 of 7 images from an unfinished prediction"]


def test_answers_that_were_cut_or_damaged_are_not_taken_over(
    ask,
    interrupted,
    tmp_path,
    pictures,
):
    ask(pictures, tmp_path / "whole.csv", batch_size=2)
    interrupted(pictures, batches=3)
    kept = tmp_path / "p.csv.partial"
    content = kept.read_bytes()
    ends = [number + 1 for number, byte in enumerate(content) if byte == 10]
    flipped = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in (30, ends[0] + 3, ends[1] + 60)]
    cut = [content[:size] for size in (0, 9, ends[0] - 4, ends[0], ends[1] - 1, ends[1] + 20, ends[3])]
    for damaged in (*flipped, *cut, content + b"\0" * 100):
        kept.write_bytes(damaged)
        ask(pictures, batch_size=2)
        assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        assert not kept.exists()


def test_a_full_disk_costs_no_answer(ask, tmp_path, pictures, monkeypatch, capsys):
    class Full(io.FileIO):
        writes = 0

        def write(self, data: bytes, /) -> int:
            self.writes += 1
            if self.writes > 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # The key and two lines are whole.
            return super().write(data if self.writes < 4 else data[: len(data) // 2])

    ask(pictures, tmp_path / "whole.csv", batch_size=1)
    with monkeypatch.context() as patched:
        patched.setattr(unfinished, "open_locked", lambda path: Full(path, "a+"))
        with pytest.raises(OutputError, match=r"cannot write .*p\.csv: No space left on device; free some space"):
            ask(pictures, batch_size=1)
    assert "images are kept in" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()
    ask(pictures, batch_size=1)
    assert _taken_over(capsys.readouterr().out) == ["taken over: 2 of 7 images from an unfinished prediction"]
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_of_two_predictions_of_one_table_the_second_is_refused(ask, interrupted, tmp_path, pictures):
    interrupted(pictures)
    (tmp_path / "link.csv").symlink_to("p.csv")
    before = (tmp_path / "p.csv.partial").read_bytes()
    held = Unfinished(tmp_path / "p.csv")
    for output in ("p.csv", "link.csv"):
        with pytest.raises(OutputError, match=r"another process writes .*: wait for it, or choose another output"):
            ask(pictures, tmp_path / output)
    held.leave()
    assert (tmp_path / "p.csv.partial").read_bytes() == before


def test_a_file_of_another_kind_is_not_written_to(ask, tmp_path, pictures):
    (tmp_path / "p.csv.partial").write_text("my notes", encoding="utf-8")
    with pytest.raises(OutputError, match=r"p\.csv\.partial is not an unfinished prediction: choose another"):
        ask(pictures)
    assert (tmp_path / "p.csv.partial").read_text(encoding="utf-8") == "my notes"
    (tmp_path / "q.csv.partial").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*q\.csv: "):
        ask(pictures, tmp_path / "q.csv")


@pytest.mark.parametrize("name", ["a" * 240, "漢" * 80])
def test_a_table_may_have_the_longest_name_that_a_system_takes(ask, tmp_path, pictures, name):
    assert len(ask(pictures, tmp_path / f"{name}.csv")) == 7


def test_files_without_locks_are_written_without_a_restart(ask, tmp_path, pictures, monkeypatch):
    def refuse(file: object, **_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("tlearn.locks.lock", refuse)
    assert len(ask(pictures)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "p.csv"]


def test_many_answers_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What pytest captures is kept.
    monkeypatch.setattr("tlearn.predict.warn", lambda *_: None)

    def peak(count: int) -> int:
        images = ImagePaths(f"folder/{number:09}.jpg" for number in range(count))

        def found(rest):
            for number, image in enumerate(rest):
                yield BadImageError(image, "nothing") if number % 2 else Prediction(image, [("cat", 0.5)])

        tracemalloc.start()
        with (
            unfinished.unfinished(Path("p.csv")) as answers,
            prediction_table.prediction_table(Path("p.csv"), 1) as row,
        ):
            written = _write_rows(row, answers(images, dict, 32, found), 200, None)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert written.bad == count // 2
        return most

    # The least: Python makes its table of names, into which pathlib puts each, anew now and then.
    few, many = (min(peak(count) for _ in range(3)) for count in (1000, 3000))
    assert (many - few) / 2000 < 15


def test_of_many_unreadable_images_the_error_names_the_first(ask, tmp_path, pictures, capsys):
    for number in range(25):
        (pictures / f"bad{number:02}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="25 images cannot be read and have no row in") as caught:
        ask(pictures)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  ... and 5 more, named by warnings"
    told = capsys.readouterr().err
    for number in range(25):
        assert (f"bad{number:02}.png: not an image" in str(caught.value)) == (number < 20)
        assert (f"no row: {pictures / f'bad{number:02}.png'}: not an image" in told) == (number >= 20)


class TestParquet:
    @pytest.fixture
    def parquet(self):
        """Give the module that reads Parquet."""
        return pytest.importorskip("pyarrow.parquet")

    def test_it_has_the_rows_of_csv_in_groups(self, ask, tmp_path, pictures, monkeypatch, parquet):
        monkeypatch.setattr(prediction_table, "_GROUP", 3)
        (pictures / "3.png").rename(pictures / "ü, 漢.png")
        rows = ask(pictures, topk=2)
        ask(pictures, tmp_path / "P.Parquet", topk=2)
        found = parquet.ParquetFile(tmp_path / "P.Parquet")
        assert found.metadata.num_row_groups == 3
        kinds = {one.name: str(one.type) for one in found.schema_arrow}
        of_class = {"class": "string", "probability": "double", "class_2": "string", "probability_2": "double"}
        assert kinds == {"path": "string", **of_class}
        numbers = [{key: float(v) if "prob" in key else v for key, v in row.items()} for row in rows]
        assert found.read().to_pylist() == numbers

    def test_a_table_without_rows_has_its_columns(self, ask, tmp_path, pictures, parquet):
        for path in pictures.iterdir():
            path.write_bytes(b"")
        with pytest.raises(DataError, match="7 images cannot be read"):
            ask(pictures, tmp_path / "p.parquet")
        assert parquet.read_table(tmp_path / "p.parquet").column_names == ["path", "class", "probability"]

    def test_a_name_that_is_not_text_is_refused_before_an_image_is_read(
        self,
        ask,
        tmp_path,
        pictures,
        monkeypatch,
        parquet,
    ):
        try:
            (pictures / "0.png").rename(pictures / "0\udcff.png")
        except (OSError, UnicodeError):
            pytest.skip("this file system has no such names")
        monkeypatch.setattr(TransferNetwork, "forward", lambda *_: pytest.fail("computed"))
        with pytest.raises(DataError, match=r"0\\udcff\.png' is not UTF-8, .* choose a \.csv output"):
            ask(pictures, tmp_path / "p.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["new"]

    def test_a_pipe_is_refused(self, ask, tmp_path, pictures, parquet):
        os.mkfifo(tmp_path / "p.parquet")
        with pytest.raises(ConfigError, match="is not a regular file, which Parquet needs"):
            ask(pictures, tmp_path / "p.parquet")

    def test_an_error_leaves_no_table(self, ask, tmp_path, pictures, monkeypatch, parquet):
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("tlearn.files._File.write", fail)
        with pytest.raises(OSError, match="No space left"):
            ask(pictures, tmp_path / "p.parquet")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "p.parquet.partial"]

    def test_without_the_extra_it_is_refused_before_any_work(self, ask, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ConfigError, match=r'p\.parquet is Parquet: pip install "tlearn\[parquet\]"'):
            ask(tmp_path / "nowhere", tmp_path / "p.parquet")
