"""The backbone that comes with tlearn: small, loadable, described in plain data, and documented by its own file."""

import json

import pytest
import torch
from safetensors import safe_open

from tlearn.config.compose import compose
from tlearn.config.seats import build
from tlearn.config.tree import plain
from tlearn.errors import ConfigError
from tlearn.models.backbones.tiny import SHIPPED, SmallBackbone
from tlearn.models.network import TransferNetwork

PREPROCESSING = {"resize": 32, "size": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
ARGUMENTS = {"stages_repeats": [1, 1, 1], "stages_out_channels": [8, 8, 16, 32, 64]}


def _tiny(**more):
    return build("backbone", plain(compose(["backbone=tiny"], output_dir="."))["backbone"], **more)


def test_the_shipped_file_is_small_and_says_how_it_was_trained():
    assert SHIPPED.stat().st_size <= 2_000_000
    with safe_open(SHIPPED, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe["data"]["name"] == "shapes_source"
    assert isinstance(recipe["seed"], int)
    assert recipe["figures"]["test/top1"] > 0.9
    # The experiment of today is the recipe of the file
    config = compose(["experiment=pretrain_tiny"], output_dir=".")
    assert recipe["epochs"] == config.trainer.max_epochs
    # The file is older than the choice of a pooling, and than the class's present place.
    recipe["backbone"].setdefault("pooling", "avg")
    recipe["backbone"]["_target_"] = config.backbone._target_
    for group in ("backbone", "optimizer", "data.counts", "data.draw_seed", "data.batch_size"):
        stored, now = recipe, config
        for key in group.split("."):
            stored, now = stored[key], now[key]
        assert stored == now


def test_the_shipped_weights_are_what_is_built():
    body = _tiny().build()
    again = _tiny().build()
    assert body.num_features == 512
    assert body.digest == again.digest is not None
    random = _tiny(weights=None).build()
    assert random.digest is None
    same = [torch.equal(a, b) for a, b in zip(body.module.parameters(), again.module.parameters(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(body.module.parameters(), random.module.parameters(), strict=True)]
    assert all(same)
    assert not all(other)


def test_a_skeleton_from_its_description_takes_the_same_weights():
    backbone = SmallBackbone("ShuffleNetV2", ARGUMENTS, PREPROCESSING, weights=None)
    network = TransferNetwork(backbone.build().module, torch.nn.Identity()).eval()
    described = json.loads(json.dumps(backbone.architecture()))
    skeleton = SmallBackbone.from_architecture(described).skeleton()
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    copy = TransferNetwork(skeleton.module, torch.nn.Identity())
    copy.load_state_dict(network.state_dict(), assign=True)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.eval()(images), network(images))


@pytest.mark.parametrize(
    ("name", "arguments", "weights"),
    [
        ("Nonsense", {}, None),
        ("list_models", {}, None),
        ("ShuffleNetV2", {"widths": [1]}, None),
        ("ShuffleNetV2", ARGUMENTS, "IMAGENET1K_V1"),
    ],
)
def test_what_is_no_small_network_is_refused(name, arguments, weights):
    with pytest.raises(ConfigError):
        SmallBackbone(name, arguments, PREPROCESSING, weights).build()


def test_a_model_folders_file_is_a_backbones_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    trained = {f"body.{key}": value for key, value in _tiny(weights=None).build().module.state_dict().items()}
    save_file({**trained, "head.weight": torch.rand(3, 512), "head.bias": torch.rand(3)}, tmp_path / "m.safetensors")
    body = _tiny(weights=str(tmp_path / "m.safetensors")).build()
    saved = load_file(tmp_path / "m.safetensors")
    assert torch.equal(body.module.state_dict()["conv1.0.weight"], saved["body.conv1.0.weight"])
