"""tlearn from Python: the same runs as on the command line, and models that take images in any form."""

import asyncio
import contextlib
import importlib
import itertools
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from torch import Tensor

import tlearn
from tests.conftest import COLOURS, draw
from tests.forks import Running
from tests.small_runs import overrides, program, write_weights
from tlearn.analysis.outputs import compute_metrics
from tlearn.config.interpreter import borrowed_interpreter
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import BadImageError, CheckpointError, ConfigError, DataError, OutputError, TlearnError
from tlearn.runs.classifier import Classifier
from tlearn.runs.predictions import Prediction, Predictions


@pytest.mark.parametrize("place", [None, 3, "", ["outputs"]])
def test_what_is_no_path_is_refused_in_one_line(place):
    for opened in (tlearn.load_model, tlearn.Run):
        with pytest.raises(ConfigError, match="is not a folder: expected that of a run or a model, such as"):
            opened(place)


def test_a_package_to_trust_that_cannot_be_found_is_refused():
    with pytest.raises(ConfigError, match=r"^trust names mylba, and there is no such package: correct it"):
        tlearn.load_model("anywhere", trust=["mylba"])


@pytest.mark.parametrize("seed", ["1,2", "range(1,3)", "choice(1,2)"])
def test_a_sweep_is_for_the_command_line(seed):
    with pytest.raises(ConfigError) as caught:
        tlearn.fit([f"seed={seed}"])
    assert str(caught.value).startswith(
        f"seed={seed} gives several values, and one run takes one: a sweep is python -m "
    )
    assert "\n" not in str(caught.value)


class Trained:
    """A run that all tests share, with its data and weights."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "pictures"
        for split, count in (("train", 8), ("val", 4), ("test", 4)):
            for number in range(count):
                for name, colour in COLOURS.items():
                    path = self.data / split / name / f"{number}.jpg"
                    draw(path, colour, seed=number)
        self.weights = write_weights(root / "w.pth")
        self.numbers = itertools.count()
        self.run = self.fit()

    def fit(self, *more: str) -> tlearn.Run:
        folder = f"hydra.run.dir='{self.root}/runs/{next(self.numbers)}'"
        return tlearn.fit([*overrides(self.data, self.weights, folder, *more), "quiet=true"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def model(trained) -> Classifier:
    return trained.run.model(device="cpu")


@pytest.fixture
def files(trained) -> list[Path]:
    return sorted((trained.data / "test").rglob("*.jpg"))


def run_script(script: Path) -> None:
    """Be a Python that runs a script from its folder, and end."""
    sys.argv, sys.orig_argv = [str(script)], [sys.executable, str(script)]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    sys.exit()


def run_cell(file: Path) -> None:
    """Be an IPython that runs a file of cells, and end."""
    from IPython import start_ipython

    sys.argv = ["ipython"]
    sys.orig_argv = [sys.executable, "-m", "IPython"]
    sys.exit(start_ipython(["--no-banner", str(file)]))


class TestModule:
    def test_it_is_light_until_it_is_used(self):
        code = (
            "import sys, tlearn; assert tlearn.errors.ConfigError; assert not {'torch', 'hydra'} & set(sys.modules);"
            "assert set(dir(tlearn)) >= {'fit', 'load_model', 'compose', 'Run', 'errors'};"
            "tlearn.compose(['seed=1']); assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def test_a_star_imports_what_it_has_and_a_program_stays_a_module(self):
        exec("from tlearn import *", names := {})
        assert {"fit", "load_model", "Run"} <= names.keys()
        assert importlib.import_module("tlearn.train") is tlearn.train

    def test_what_it_has_not_is_an_attribute_error(self):
        assert not hasattr(tlearn, "fitt")


class TestFit:
    def test_a_run_is_that_of_the_command_line_and_prints_the_same(self, trained, tmp_path, capsys):
        told = [*overrides(trained.data, trained.weights), f"hydra.run.dir={tmp_path / 'run'}"]
        done = program("train", *told, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        here = tlearn.fit([*told, f"hydra.run.dir={tmp_path / 'here'}"])
        out = capsys.readouterr().out
        assert "epoch 1/1" in out
        assert out.splitlines()[-1] == str(here.folder)
        there = tlearn.Run(tmp_path / "run")
        usual = {key: value for key, value in there.metrics.items() if not key.startswith("time/")}
        assert {key: here.metrics[key] for key in usual} == usual
        assert {path.name for path in here.folder.iterdir()} == {path.name for path in there.folder.iterdir()}
        assert (here.folder / ".hydra" / "overrides.yaml").is_file()
        assert here.metrics == json.loads((here.folder / "metrics.json").read_text(encoding="utf-8"))

    def test_a_run_has_what_it_left(self, trained, tmp_path):
        assert trained.run.report is None
        assert "val top-1" in repr(trained.run)
        assert str(trained.run.folder) in repr(trained.run)
        written = trained.fit("report=default")
        assert written.report == written.folder / "report.html"
        assert written.report.is_file()
        with pytest.raises(CheckpointError, match=r"holds no finished run \(metrics.json\)"):
            tlearn.Run(tmp_path)

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_outputs_are_measured_again(self, trained, split, capsys):
        outputs = trained.run.outputs(split)
        assert len(outputs) == {"train": 24, "val": 12, "test": 12}[split]
        assert (outputs.split, outputs.features) == (split, None)
        if split != "train":
            again = {f"{split}/{name}": value for name, value in compute_metrics(outputs).items()}
            assert again == pytest.approx({name: trained.run.metrics[name] for name in again}, abs=1e-5)
        optimistic = "the model was trained on the train images: their metrics are optimistic\n"
        assert capsys.readouterr().out == (optimistic if split == "train" else "")

    def test_outputs_of_images_that_a_refit_trained_on_say_so(self, trained, capsys):
        run = trained.fit("module=full_batch", "optimizer=none")
        capsys.readouterr()
        run.outputs("test")
        assert capsys.readouterr().out == ""
        run.outputs("val")
        assert "the model was trained on the val images" in capsys.readouterr().out

    def test_features_are_kept_where_asked_and_a_split_that_is_not_there_is_refused(self, trained, model):
        outputs = trained.run.outputs("val", features=True)
        assert torch.allclose(model.network.head(outputs.features), outputs.logits, atol=1e-5)
        with pytest.raises(ConfigError, match="split=valid: expected one of train, val, test"):
            trained.run.outputs("valid")

    @pytest.mark.parametrize(
        ("more", "kind", "message"),
        [
            (["optimizer.lr=-1"], ConfigError, "optimizer.lr=-1: expected a number > 0"),
            (["data.root=nowhere"], DataError, "nowhere"),
            (["backbone.weights=none.pth"], CheckpointError, "there is no weights file"),
            (["finetune=partial", "finetune.stages=[layer9]"], ConfigError, "stage 'layer9' is not a part of the body"),
            (["+trainer.wrong=1"], ConfigError, "trainer"),
            (["hydra.run.dir=a/file/run"], OutputError, "cannot write"),
            (["-m"], ConfigError, "run a sweep as a loop"),
        ],
        ids=str,
    )
    def test_errors_are_exceptions_with_the_message_of_the_command_line(
        self, trained, tmp_path, monkeypatch, more, kind, message
    ):
        told = [*overrides(trained.data, trained.weights, f"hydra.run.dir={tmp_path / 'one'}"), *more]
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").touch()
        with pytest.raises(kind) as caught:
            tlearn.fit(told)
        assert message in str(caught.value)
        # Frames of Hydra would bury it in a notebook.
        assert len(caught.traceback) < 6
        # Of the others, it is asked in tests/config/test_answers.py.
        if kind is OutputError:
            done = program("train", *[one.replace("/one", "/two") for one in told], cwd=tmp_path)
            assert done.stderr.strip().endswith(f"tlearn: error: {str(caught.value).replace('/one', '/two')}")
            assert done.returncode == kind.exit_status

    def test_an_error_has_its_frames_where_asked(self, trained, monkeypatch):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(ConfigError) as caught:
            trained.fit(
                "+callbacks.own={_target_:lightning.pytorch.callbacks.LearningRateMonitor,logging_interval:never}"
            )
        assert "InstantiationException" in str(caught.getrepr(chain=True))

    def test_a_bug_stays_what_it_is(self, trained, monkeypatch):
        monkeypatch.setattr("tlearn.report.terminal.show_result", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            trained.fit()
        assert caught.traceback[-1].name == "<lambda>"

    def test_an_interruption_stays_itself_and_the_run_can_go_on(self, trained, monkeypatch, capsys):
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("tlearn.training.module.TransferModule.on_validation_epoch_end", interrupted, raising=False)
            with pytest.raises(KeyboardInterrupt):
                trained.fit("trainer.max_epochs=2")
        assert "tlearn: interrupted" in capsys.readouterr().err

    def test_a_finished_run_goes_on(self, trained):
        run = trained.fit("callbacks.early_stopping=null")
        again = tlearn.fit([f"resume='{run.folder}'", "trainer.max_epochs=2"])
        assert again.folder == run.folder
        assert (run.folder / "train.log").read_text(encoding="utf-8").count("epoch 2/2") == 1

    @pytest.mark.parametrize("more", [(), ("backbone.weights=none.pth",), ("optimizer.lr=-1",)], ids=str)
    def test_the_process_and_its_random_numbers_stay_as_they_were(self, trained, more):
        def state() -> tuple[object, ...]:
            handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            return sys.argv, list(sys.argv), os.getcwd(), dict(os.environ), handlers, HydraConfig.initialized()

        def drawn() -> tuple[float, ...]:
            return random.random(), np.random.rand(), torch.rand(()).item()

        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        expected = drawn()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        before = state()
        with contextlib.suppress(TlearnError):
            trained.fit(*more)
        assert state() == before
        assert drawn() == expected

    def test_threads_take_turns_beside_a_running_loop(self, trained):
        runs: list[tlearn.Run] = []

        async def fit(seed: int) -> None:
            await asyncio.to_thread(lambda: runs.append(trained.fit(f"seed={seed}")))

        async def both() -> None:
            await asyncio.gather(fit(1), fit(2))
            runs.append(trained.fit("seed=1"))

        asyncio.run(both())
        seeds = sorted(json.loads((run.folder / "model" / "model.json").read_text())["config"]["seed"] for run in runs)
        assert seeds == [1, 1, 2]

    @pytest.mark.slow
    def test_two_processes_find_own_code_and_do_not_run_the_script_or_notebook_again(self, trained, tmp_path):
        told = [*overrides(trained.data, trained.weights), "trainer=ddp_cpu", "head=mine"]
        (tmp_path / "conf" / "head").mkdir(parents=True)
        mine = "defaults: [linear]\nbuild: {_target_: mine.Head}\n"
        (tmp_path / "conf" / "head" / "mine.yaml").write_text(mine, encoding="utf-8")
        code = "from torch import nn\nclass Head(nn.Linear):\n    pass\n"
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
        script = tmp_path / "script.py"
        script.write_text(
            # What tells Lightning that it is a notebook
            "print('the script')\nimport sys\nsys.ps1 = '>'\nimport tlearn\n"
            f"print(tlearn.fit({told!r}, config_dir='conf'))\n",
            encoding="utf-8",
        )
        started = Running("train", cwd=tmp_path, prepare=partial(run_script, script))
        assert started.end() == 0, started.said()
        printed = started.said()
        assert printed.count("the script") == 1
        assert printed.count("test top-1") == 2, "once as it is measured, once by repr"


class TestPredict:
    def test_every_form_of_an_image_gives_the_same(self, model, files):
        path = files[0]
        with Image.open(path) as opened:
            array = np.asarray(opened.convert("RGB"))
            forms = [str(path), path, opened.copy(), array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
            found = [model.predict(form) for form in (*forms, opened)]
        assert all(isinstance(one, Prediction) for one in found)
        assert all(one.best == found[0].best for one in found[1:])
        several = model.predict(forms)
        assert isinstance(several, Predictions)
        assert len(several) == 5
        for one in several:
            assert dict(one.best) == pytest.approx(dict(found[0].best), abs=1e-5)
        assert found[1].image == path

    def test_it_is_what_the_program_predicts(self, trained, model, files, tmp_path):
        done = program("predict", f"run='{trained.run.folder}'", f"images='{trained.data / 'test'}'", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = [line.split(",") for line in (tmp_path / "predictions.csv").read_text().splitlines()[1:]]
        for given in (trained.data / "test", str(trained.data / "test" / "*" / "*.jpg"), files, iter(files)):
            found = model.predict(given)
            assert [[str(one.image), one.label, f"{one.probability:.6f}"] for one in found] == rows

    def test_odd_images_are_converted_as_their_files_are(self, model, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4)).astype(np.uint8)
        rgb, exif = Image.fromarray(noise[..., :3]), Image.Exif()
        exif[274] = 6
        rgb.save(tmp_path / "turned.jpg", exif=exif)
        Image.fromarray(noise).save(tmp_path / "clear.png")
        rgb.quantize(8).save(tmp_path / "palette.gif")
        rgb.convert("CMYK").save(tmp_path / "print.tif")
        Image.fromarray(noise[..., 0] // 17 * 17).save(tmp_path / "grey.png", bits=4, transparency=5)
        for path in sorted(tmp_path.iterdir()):
            with Image.open(path) as unread, Image.open(path) as read:
                of_file = model.logits(path)
                assert torch.equal(model.logits(unread), of_file), path
                # A second time, now that its pixels are in memory
                assert torch.equal(model.logits(unread), of_file), path
                if path.name != "grey.png":
                    read.load()
                    assert torch.equal(model.logits(read), of_file), path

    def test_grey_mirrored_and_locked_arrays(self, model):
        grey = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
        colour = np.stack([grey] * 3, axis=2)
        assert torch.equal(model.logits(grey), model.logits(colour))
        assert torch.equal(model.logits(colour[:, ::-1, ::-1]), model.logits(colour[:, ::-1].copy()))
        colour.flags.writeable = False
        assert torch.equal(model.logits(colour), model.logits(grey))

    def test_a_batch_is_many(self, model):
        batch = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3)).astype(np.uint8)
        expected = model.logits(list(batch))
        assert expected.shape == (5, 3)
        assert torch.allclose(model.logits(batch), expected, atol=1e-5)
        assert torch.allclose(model.logits(torch.from_numpy(batch).permute(0, 3, 1, 2)), expected, atol=1e-5)
        assert len(model.predict(batch[:1])) == 1

    def test_features_logits_and_input_belong_together(self, trained, model, files):
        features, logits = model.features(files), model.logits(files)
        assert (features.shape, logits.shape) == ((12, 1024), (12, 3))
        assert (features.dtype, features.device.type) == (torch.float32, "cpu")
        assert model.features(files[0]).shape == (1, 1024)
        with torch.no_grad():
            assert torch.allclose(model.network.head(features), logits, atol=1e-5)
            own = model.network(torch.stack([model.transform(path) for path in files]))
        assert torch.allclose(own, logits, atol=1e-5)
        by_hand = Transform(model.description["preprocessing"])(Decoder()(files[0]))
        assert torch.equal(model.transform(files[0]), by_hand)
        # They can be trained on.
        torch.nn.Linear(1024, 2)(features).sum().backward()

    @pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"batch_size": 3, "num_workers": 1}])
    def test_how_images_are_loaded_changes_nothing(self, model, files, options):
        assert torch.allclose(model.logits(files, **options), model.logits(files), atol=1e-3)

    def test_classes_named_and_temperature(self, model, files, trained):
        assert model.classes == sorted(COLOURS)
        assert len(model.predict(files[0]).best) == 3
        assert len(model.predict(files[0], topk=1).best) == 1
        logits = model.logits(files[0])[0]
        for calibrated, temperature in ((True, model.temperature), (False, 1.0)):
            shares = (logits / temperature).softmax(0)
            found = dict(model.predict(files[0], calibrated=calibrated).best)
            assert [found[name] for name in model.classes] == pytest.approx(shares.tolist(), abs=1e-6)

    def test_the_network_of_a_training_of_your_own_stays_in_its_mode(self, model, files):
        torch.manual_seed(3)
        expected, state = model.logits(files), torch.get_rng_state()
        model.network.train()
        try:
            assert torch.equal(model.logits(files), expected)
            assert model.network.head.training
        finally:
            model.network.eval()
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "no images: expected a path"),
            ("", "an empty path: expected a path"),
            (["a.jpg", ""], "image 1: an empty path: expected"),
            (np.zeros((4, 4, 3), np.float32), "an array [4, 4, 3] of float32: expected a path"),
            (np.zeros((3, 4, 4), np.uint8), "an array [3, 4, 4] of uint8: expected"),
            (np.zeros((4, 4, 4), np.uint8), "an array [4, 4, 4] of uint8: expected"),
            (np.zeros((0, 4, 3), np.uint8), "an array [0, 4, 3] of uint8: expected"),
            (np.zeros(3, np.uint8), "an array [3] of uint8: expected"),
            (torch.zeros(3, 4, 4), "a tensor [3, 4, 4] of float32: expected"),
            (torch.zeros(4, 4, 3, dtype=torch.uint8), "a tensor [4, 4, 3] of uint8: expected"),
            ([np.zeros((4, 4, 3), np.uint8), 3], "image 1: a int: expected"),
            (None, "a NoneType: expected"),
            (b"bytes", "a bytes: expected"),
            ({"a.jpg": 1}, "a dict: expected"),
            (Image.new("RGB", (0, 4)), "an image without pixels"),
            ("nowhere.jpg", "images=nowhere.jpg: no images there"),
            (["nowhere.jpg"], "nowhere.jpg: no such file"),
            ([Image.new("I;16", (4, 4))], "image 0: deeper than 8 bits"),
        ],
        ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
    )
    def test_what_is_not_an_image_is_one_plain_error(self, model, images, message):
        for use in (model.predict, model.logits, model.features):
            with pytest.raises(DataError) as caught:
                use(images)
            assert str(caught.value).startswith(message)
            assert "\n" not in str(caught.value)

    def test_all_images_that_cannot_be_read_are_named(self, model, files, tmp_path):
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(DataError) as caught:
            model.predict([files[0], tmp_path / "a.jpg", tmp_path / "b.jpg"])
        assert all(str(tmp_path / name) in str(caught.value) for name in ("a.jpg", "b.jpg"))
        with pytest.raises(BadImageError) as one:
            model.predict([files[0], tmp_path / "a.jpg"])
        assert one.value.path == str(tmp_path / "a.jpg")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"topk": 4}, "topk=4: the model knows 3 classes"),
            ({"topk": 0}, "topk=0: expected a whole number >= 1"),
            ({"batch_size": 0}, "batch_size=0: expected a whole number >= 1"),
            ({"num_workers": -1}, "num_workers=-1: expected a whole number >= 0 or null"),
        ],
    )
    def test_arguments_are_checked(self, model, files, options, message):
        with pytest.raises(ConfigError, match=message):
            model.predict(files, **options)

    def test_the_device_is_checked(self, trained):
        assert next(tlearn.load_model(trained.run.folder, device="cpu").network.parameters()).device.type == "cpu"
        with pytest.raises(ConfigError, match="device=gpu: expected one of auto, cpu, cuda"):
            tlearn.load_model(trained.run.folder, device="gpu")

    def test_a_prediction_shows_itself(self, model, files, tmp_path):
        one, several = model.predict(files[0]), model.predict([np.asarray(Image.open(files[0])), *files])
        assert repr(one) == f"{one.label} {100 * one.probability:.1f} % ({files[0]})"
        assert repr(several).count("\n") == 12
        assert str(files[-1]) in repr(several)
        for shown, largest in ((one, 30_000), (several, 400_000)):
            png = shown._repr_png_()
            assert png.startswith(b"\x89PNG")
            assert len(png) < largest
        wide, high = Image.open(files[0]).size
        assert wide > high, "the drawing keeps its shape"

    def test_a_copied_model_is_opened(self, trained, model, files, tmp_path):
        (tmp_path / "model").mkdir()
        for path in (trained.run.folder / "model").iterdir():
            (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
        assert torch.equal(tlearn.load_model(tmp_path / "model", device="cpu").logits(files), model.logits(files))
        with pytest.raises(CheckpointError, match="holds no model"):
            tlearn.load_model(trained.data)
        assert "3 classes" in repr(model)


def test_a_program_of_another_thread_waits_for_its_turn():
    entered, free = threading.Event(), threading.Event()

    def other() -> None:
        with borrowed_interpreter(["other"]):
            entered.set()
            free.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    threading.Timer(0.1, free.set).start()
    with borrowed_interpreter(["mine"]):
        assert free.is_set()
        assert sys.argv[1:] == ["mine"]
    thread.join()


def test_input_of_a_tensor_is_not_changed(model):
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    before: Tensor = image.clone()
    model.logits(image)
    model.transform(image)
    assert torch.equal(image, before)


@pytest.mark.slow
def test_a_notebook_runs_the_program_by_its_magic(trained, tmp_path):
    pytest.importorskip("IPython")
    told = " ".join(overrides(trained.data, trained.weights))
    (tmp_path / "cell.ipy").write_text(f"%run -m tlearn.train {told}\n%run -m tlearn.train {told} seed=2\n")
    started = Running(
        "train", cwd=tmp_path, prepare=partial(run_cell, tmp_path / "cell.ipy"), IPYTHONDIR=str(tmp_path / "ipython")
    )
    assert started.end() == 0, started.said()
    assert len(list(tmp_path.glob("outputs/train/*/*/metrics.json"))) == 2, started.said()
