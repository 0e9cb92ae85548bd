"""What TensorBoard shows, read back from its event files."""

import csv
import io
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from tlearn.analysis.outputs import Outputs
from tlearn.models.network import TransferNetwork
from tlearn.report.tensorboard import boards, parameter_table, write_embedding, write_figures, write_results


@pytest.fixture
def board(tmp_path):
    return TensorBoardLogger(tmp_path, name="", version="tensorboard", default_hp_metric=False)


def _events(board: TensorBoardLogger) -> EventAccumulator:
    board.experiment.close()
    return EventAccumulator(board.log_dir).Reload()


def test_only_tensorboards_loggers_are_boards(board, tmp_path):
    assert boards([board, CSVLogger(tmp_path)]) == [board]


def test_figures_are_shown_by_name(board, tmp_path):
    Image.new("RGBA", (6, 4), (255, 0, 0, 255)).save(tmp_path / "test_confusion.png")
    write_figures(board, [tmp_path / "test_confusion.png"])
    [shown] = _events(board).Images("figures/test_confusion")
    assert (shown.width, shown.height) == (6, 4)
    # Not encoded once more
    assert shown.encoded_image_string == (tmp_path / "test_confusion.png").read_bytes()


def test_photographs_are_shown_as_jpeg(board, tmp_path):
    Image.effect_noise((800, 500), 60).convert("RGB").save(tmp_path / "first_batch.png")
    # Lightning closes its writer at the end of a fit.
    board.experiment.close()
    write_figures(board, [tmp_path / "first_batch.png"])
    [shown] = _events(board).Images("figures/first_batch")
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        assert (image.format, image.size, (shown.width, shown.height)) == ("JPEG", (800, 500), (800, 500))


def test_settings_stand_beside_the_final_figures_and_the_parts_beside_their_parameters(board):
    network = TransferNetwork(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), nn.Linear(8, 3))
    settings = {"optimizer.lr": 0.003, "head.hidden": [4, 2], "seed": 42, "resume": None}
    write_results([board], parameter_table(network), settings, {"val/top1": 0.75})
    # Which it would write again, key by key
    assert not board.hparams
    events = _events(board)
    assert [point.value for point in events.Scalars("final/val/top1")] == [0.75]
    assert "hp_metric" not in events.Tags()["scalars"]
    tag = "_hparams_/session_start_info"
    content = events.summary_metadata[tag].plugin_data.content
    kept = HParamsPluginData.FromString(content).session_start_info.hparams
    assert kept["optimizer.lr"].number_value == 0.003
    assert kept["head.hidden"].string_value == "[4, 2]"
    text = events.Tensors("network/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| body.0 Conv2d | 1 | 8 | 0 |" in text
    assert "| head Linear | 1 | 27 | 27 |" in text
    assert "| all TransferNetwork | 3 | 35 | 27 |" in text


def _outputs(count: int, features: bool = True) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    classes = ["a\tb", "<c>\n"]
    paths = [f"{number}.jpg" for number in range(count)]
    targets, logits = torch.arange(count) % 2, torch.randn(count, 2, generator=generator)
    rows = torch.randn(count, 4, generator=generator) if features else None
    return Outputs("val", classes, Path("pictures"), paths, targets, logits, rows)


def test_the_projector_gets_features_and_names_row_by_row(board):
    outputs = _outputs(6)
    write_embedding(board, outputs)
    board.experiment.close()
    [names] = Path(board.log_dir).rglob("metadata.tsv")
    [vectors] = Path(board.log_dir).rglob("tensors.tsv")
    with names.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["class", "prediction", "path"]
    assert [row[2] for row in rows[1:]] == list(outputs.paths)
    assert {len(row) for row in rows} == {3}
    with vectors.open(encoding="utf-8") as file:
        read = torch.tensor([[float(value) for value in line.split("\t")] for line in file])
    assert torch.allclose(read, outputs.features, atol=1e-5)


def test_of_many_pictures_the_projector_gets_evenly_chosen_ones(board):
    write_embedding(board, _outputs(1201))
    board.experiment.close()
    [names] = Path(board.log_dir).rglob("metadata.tsv")
    lines = names.read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split("\t")[2] for line in lines] == [f"{number}.jpg" for number in range(0, 1201, 3)]


def test_a_run_that_is_resumed_overwrites_its_projector_in_silence(board, capsys):
    for count in (3, 5):
        write_embedding(board, _outputs(count))
    assert capsys.readouterr().out == ""
    board.experiment.close()
    [names] = Path(board.log_dir).rglob("metadata.tsv")
    assert len(names.read_text(encoding="utf-8").splitlines()) == 1 + 5


def test_without_features_there_is_no_projector(board):
    write_embedding(board, _outputs(4, features=False))
    board.experiment.close()
    assert not list(Path(board.log_dir).rglob("metadata.tsv"))
