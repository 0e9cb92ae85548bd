"""Canaries: each coupling to what another library keeps private, or only says in words, fails here when it breaks."""

import ast
import atexit
import inspect
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
import torchvision
from hydra._internal.utils import get_args_parser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch import strategies
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors import accelerator_connector
from lightning.pytorch.utilities import argparse
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric

import tlearn
from tests.conftest import REPOSITORY, draw
from tlearn.config.signatures import _HARMLESS, parameters
from tlearn.config.tree import compose_unchecked
from tlearn.data.sources.torchvision import _LAYOUTS

PACKAGE = Path(tlearn.__file__).resolve().parent
PLUGINS = sorted((PACKAGE.parent / "hydra_plugins").glob("*.py"))
# Every private name of another library that the package uses
PRIVATE = {
    "hydra._internal.utils",
    "hydra._internal.core_plugins.basic_launcher",
    "omegaconf._utils",
    "lightning.pytorch.strategies.launchers._SubprocessScriptLauncher",
    "threading._shutdown",
    "atexit._run_exitfuncs",
    "os._exit",
    "_config",
    "_configure_launcher",
    "_apply",
    "_metadata",
    "_labels",
    "_average_model",
    "_get_file_writer",
    "_signal_connector",
    "_slurm_sigusr_handler_fn",
    "_accelerator_connector",
    "_broadcast_sigterm_tensor",
    "_every_n_epochs",
    "_every_n_train_steps",
    "_train_time_interval",
    "_save_on_train_epoch_end",
}
# Looks private, and is public or our own
PUBLIC = {"_replace", "_entry", "_member", "_target_"}


def _private_names(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("tlearn"):
            if any(part.startswith("_") and part != "__future__" for part in node.module.split(".")):
                found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_")}
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and node.attr not in PUBLIC:
                known = owner in ("os", "threading", "atexit")
                found.add(f"{owner}.{node.attr}" if known else node.attr)
    return found


def test_no_other_private_name_is_used():
    assert set().union(*(_private_names(file) for file in [*PACKAGE.rglob("*.py"), *PLUGINS])) == PRIVATE


def test_contributing_lists_every_coupling():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in PRIVATE if f"`{name.rpartition('.')[2]}`" not in text and f"`{name}`" not in text] == []
    tests = {name for name in globals() if name.startswith("test_")}
    listed = set(re.findall(r"`(test_\w+)`", text.partition("## Couplings")[2]))
    assert listed
    assert listed <= tests


def test_hydra_parses_a_command_line_apart_from_running_it():
    arguments = get_args_parser().parse_args(["-m", "--config-dir", "mine", "seed=1"])
    assert (arguments.multirun, arguments.config_dir, arguments.overrides) == (True, "mine", ["seed=1"])
    assert {"help", "hydra_help", "cfg", "info", "shell_completion", "config_name", "config_path"} <= vars(
        arguments
    ).keys()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sed=1", r"Could not override 'sed'"),
        ("seed=1,2", r"Ambiguous value for argument 'seed=1,2'"),
        ("seed=range(1,3)", r"Sweep parameters 'seed=range\(1,3\)'"),
        ("backbone=3", r"Config group override|Unsupported item value in defaults"),
    ],
)
def test_hydra_says_what_is_wrong_with_an_override_in_these_words(override, words):
    with pytest.raises((ConfigCompositionException, ValueError), match=words):
        compose_unchecked([override])


def test_hydra_names_the_key_of_what_cannot_be_built():
    node = OmegaConf.create({"loss": {"_target_": "torch.nn.Linear", "wide": 3}})
    with pytest.raises(InstantiationException, match=r"full_key: loss"):
        instantiate(node.loss)


def test_omegaconf_says_that_a_key_is_not_in_the_structure():
    node = OmegaConf.create({"seed": 1})
    OmegaConf.set_struct(node, True)
    with pytest.raises(Exception, match="is not in struct") as caught:
        _ = node.sead
    assert caught.value.full_key == "sead"


def test_the_interpreter_can_be_wound_up_by_hand():
    assert callable(threading._shutdown)
    assert callable(atexit._run_exitfuncs)


def test_lightning_starts_further_processes_where_we_replace_it():
    launcher = inspect.getsource(_SubprocessScriptLauncher.launch)
    assert "self._call_children_scripts()" in launcher
    assert list(inspect.signature(_SubprocessScriptLauncher).parameters) == [
        "cluster_environment",
        "num_processes",
        "num_nodes",
    ]
    assert callable(_SubprocessScriptLauncher._check_can_spawn_children)
    connector = inspect.getsource(accelerator_connector)
    assert "self.strategy._configure_launcher()" in connector
    assert "not self.strategy.launcher.is_interactive_compatible" in connector
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategies.DDPStrategy(), logger=False)
    assert isinstance(trainer.strategy._launcher, _SubprocessScriptLauncher)
    assert trainer.strategy.launcher is trainer.strategy._launcher
    assert trainer.strategy._launcher.procs == []


def test_lightning_decorates_the_trainer_with_what_changes_no_keyword():
    assert all(inspect.isfunction(getattr(argparse, name)) for name in _HARMLESS)
    assert list(parameters("lightning.pytorch.Trainer")) == list(inspect.signature(Trainer).parameters)


def test_lightning_takes_callbacks_and_epochs_that_are_set_later():
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    assert isinstance(trainer.callbacks, list)
    trainer.fit_loop.max_epochs = 3
    assert trainer.max_epochs == 3


def test_lightning_registers_its_signal_handlers_here_and_stores_a_loop_under_these_names():
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert callable(trainer._signal_connector.register_signal_handlers)
    # In a job of SLURM
    assert isinstance(trainer._accelerator_connector.cluster_environment, ClusterEnvironment)
    assert SLURMEnvironment().auto_requeue
    queue_again = inspect.getsource(trainer._signal_connector._slurm_sigusr_handler_fn)
    assert "self.trainer.save_checkpoint(hpc_save_path)" in queue_again
    assert "for logger in self.trainer.loggers:" in queue_again
    stored = trainer.fit_loop.state_dict()
    assert stored["epoch_loop.batch_progress"]["current"].keys() == {"ready", "completed", "started", "processed"}
    assert stored["epoch_loop.state_dict"].keys() >= {"_batches_that_stepped"}
    loop = trainer.fit_loop.epoch_loop
    assert loop.restarting is False
    # Before 2.6 no batch asked other processes.
    assert ("broadcast" in inspect.getsource(loop.advance)) == callable(
        getattr(loop, "_broadcast_sigterm_tensor", None)
    )


def test_lightning_keeps_an_average_of_weights_under_these_names():
    averaging, layer, checkpoint = EMAWeightAveraging(), LightningModule(), {"state_dict": {"trained": 1}}
    averaging.setup(None, layer, "fit")
    assert averaging._average_model.module is not layer
    averaging.on_save_checkpoint(None, layer, checkpoint)
    assert checkpoint["current_model_state"] == {"trained": 1}


def test_lightning_turns_interruptions_into_these_exceptions():
    from lightning.pytorch.trainer import call
    from lightning.pytorch.utilities import exceptions

    assert "KeyboardInterrupt" in inspect.getsource(call._call_and_handle_interrupt)
    assert issubclass(exceptions.SIGTERMException, SystemExit)


class _Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("spoilt")


def test_torch_wraps_an_error_of_a_loader_worker_in_its_trace():
    with pytest.raises(ValueError, match="Original Traceback") as caught:
        list(DataLoader(_Broken(), num_workers=1))
    assert str(caught.value).rstrip().endswith("spoilt")


def test_torch_says_in_these_words_that_a_worker_was_terminated():
    source = inspect.getsource(torch.utils.data._utils.signal_handling)
    assert "_error_if_any_worker_fails" in source
    assert signal.strsignal(signal.SIGTERM) == "Terminated"
    assert b"killed by signal: " in Path(torch._C.__file__).with_name("lib").joinpath("libtorch_python.so").read_bytes()


def test_torch_refuses_a_single_image_for_batch_norm_in_these_words():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(4).train()(torch.zeros(1, 4))


def test_torch_keeps_the_versions_of_layers_beside_a_state_dict():
    state = nn.BatchNorm2d(2).state_dict()
    assert state._metadata[""]["version"] == 2


def test_torch_opens_the_writer_of_events_again_by_this_name(tmp_path):
    writer = SummaryWriter(tmp_path)
    assert writer._get_file_writer() is writer.file_writer
    writer.close()
    assert writer.file_writer is None
    assert writer._get_file_writer() is writer.file_writer
    writer.close()


def test_torch_and_torchmetrics_move_and_convert_by_one_method():
    seen = []

    class Noted(nn.Linear):
        def _apply(self, fn, recurse=True):
            seen.append(fn(torch.zeros(1)).dtype)
            return super()._apply(fn, recurse)

    nn.Sequential(Noted(1, 1)).to(torch.bfloat16).half().to("cpu")
    assert seen == [torch.bfloat16, torch.float16, torch.float32]
    assert MeanMetric()._apply(lambda tensor: tensor.double()).weight.dtype == torch.float64


def test_torch_names_the_code_that_it_refuses_to_load(tmp_path):
    torch.save({"path": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(Exception, match=r"GLOBAL \S+"):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_torch_loads_the_weights_of_a_builder_by_a_method_that_can_be_replaced():
    source = inspect.getsource(torchvision.models.resnet._resnet)
    assert "load_state_dict(weights.get_state_dict(" in source


def test_torchvision_decodes_jpeg_by_an_operator(tmp_path):
    content = torch.frombuffer(bytearray(draw(tmp_path / "a.jpg", (200, 30, 30)).read_bytes()), dtype=torch.uint8)
    assert torch.ops.image.decode_jpeg(content, 3).shape == (3, 32, 40)


def test_torchvision_keeps_files_and_labels_of_its_data_sets_under_these_names():
    for dataset, layout in _LAYOUTS.items():
        if layout.splits:
            source = inspect.getsource(getattr(torchvision.datasets, dataset))
            assert f"self.{layout.files}" in source, dataset
            assert "self._labels" in source, dataset


def test_pillow_lists_readers_and_their_first_bytes(tmp_path):
    Image.init()
    reader, accepts = Image.OPEN["PNG"]
    assert callable(reader)
    assert accepts(draw(tmp_path / "a.png", (1, 2, 3)).read_bytes()[:16])
    with Image.open(tmp_path / "a.png") as image:
        assert image.tile[0][3] == "RGB"


def test_timm_lists_what_cannot_be_traced():
    pytest.importorskip("timm")
    models = sys.modules["timm.models"]
    assert callable(models.get_notrace_modules)
    assert callable(models.get_notrace_functions)


def test_lightning_keeps_when_a_checkpoint_is_saved_under_these_names():
    saved = ModelCheckpoint(every_n_epochs=3, save_on_train_epoch_end=True)
    assert (saved._every_n_epochs, saved._every_n_train_steps, saved._train_time_interval) == (3, 0, None)
    assert saved._save_on_train_epoch_end is True
