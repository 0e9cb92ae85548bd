import re
import socket
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from tlearn import download
from tlearn.errors import CheckpointError, ConfigError, DownloadError
from tlearn.models.backbones import torchvision as torchvision_backbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture
def small_weights(tmp_path):
    """Give a state dict of a small classifier with 7 classes, and its file."""
    torch.manual_seed(1)
    state = getattr(torchvision.models, SMALL)(num_classes=7).state_dict()
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    return state, path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Keep what would be downloaded out of the user's own cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def assert_loaded(body, state):
    loaded = body.module.state_dict()
    assert all(not tensor.is_meta for tensor in [*body.module.parameters(), *body.module.buffers()])
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


def features(body, images):
    with torch.no_grad():
        return body.module.eval()(images)


@pytest.mark.parametrize("name", ["resnet19", "ResNet18", "fasterrcnn_resnet50_fpn", ""])
def test_an_unknown_name_is_answered_with_the_three_closest(name):
    with pytest.raises(ConfigError, match=r"the closest are \w+, \w+, \w+$"):
        TorchvisionBackbone(name)
    with pytest.raises(ConfigError, match="resnet18"):
        TorchvisionBackbone("resnet19")


def test_unknown_weights_are_answered_with_those_there_are():
    with pytest.raises(
        ConfigError, match="IMAGENET1K_V3 is unknown for resnet50; it has IMAGENET1K_V1, IMAGENET1K_V2, D"
    ):
        TorchvisionBackbone("resnet50", "IMAGENET1K_V3")


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors", "PTH"])
def test_a_missing_weights_file_is_named_at_once(tmp_path, ending):
    with pytest.raises(CheckpointError, match=f"no.*{tmp_path}/none.{ending}"):
        TorchvisionBackbone(SMALL, str(tmp_path / f"none.{ending}"))


def test_preprocessing_is_that_of_the_weights():
    first = TorchvisionBackbone("vit_b_16", "IMAGENET1K_V1").preprocessing()
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert first == {"resize": 256, "size": 224, "interpolation": "bilinear", **imagenet}
    swag = TorchvisionBackbone("vit_b_16", "IMAGENET1K_SWAG_E2E_V1").preprocessing()
    assert swag == {"resize": 384, "size": 384, "interpolation": "bicubic", **imagenet}
    caffe = TorchvisionBackbone("vgg16", "IMAGENET1K_FEATURES").preprocessing()
    assert caffe["mean"] != imagenet["mean"]
    assert TorchvisionBackbone("inception_v3").preprocessing()["size"] == 299


def test_random_weights_and_unknown_files_are_prepared_like_the_default(small_weights):
    default = TorchvisionBackbone("vit_h_14").preprocessing()
    assert TorchvisionBackbone("vit_h_14", None).preprocessing() == default
    assert default["size"] == 518
    assert TorchvisionBackbone("vit_h_14", None).skeleton().module.image_size == 518
    backbone = TorchvisionBackbone(SMALL, str(small_weights[1]))
    assert backbone.preprocessing() == TorchvisionBackbone(SMALL).preprocessing()
    assert backbone.categories() is None
    assert TorchvisionBackbone(SMALL, None).categories() is None


def test_a_file_of_torchvision_itself_is_known_by_its_hash(small_weights, monkeypatch):
    entry = torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
    digest = entry.url[-12:-4] + "0" * 56
    monkeypatch.setattr(torchvision_backbone, "sha256_of", lambda path: digest)
    backbone = TorchvisionBackbone("vit_b_16", str(small_weights[1]))
    assert backbone.preprocessing()["size"] == 384
    assert backbone.categories() == entry.meta["categories"]
    assert backbone.architecture()["weights"] == "IMAGENET1K_SWAG_E2E_V1"
    assert backbone.skeleton().module.image_size == 384


def test_every_entry_of_torchvision_has_a_hash_in_its_name():
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            assert torchvision_backbone._sha256_in(entry.url), entry.url


def test_categories_are_those_of_the_weights():
    assert TorchvisionBackbone("resnet18").categories()[:2] == ["tench", "goldfish"]
    assert TorchvisionBackbone("vgg16", "IMAGENET1K_FEATURES").categories() is None


def test_constructing_and_describing_builds_and_fetches_nothing(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(torchvision_backbone, "assemble", never)
    monkeypatch.setattr(torchvision_backbone, "fetch", never)
    backbone = TorchvisionBackbone("regnet_y_128gf")
    backbone.preprocessing(), backbone.categories(), backbone.architecture()


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("resnet50", "DEFAULT", ("IMAGENET1K_V2", "IMAGENET1K_V2")),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", ("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_E2E_V1")),
        ("resnet18", None, (None, "IMAGENET1K_V1")),
    ],
)
def test_a_backbone_comes_back_from_its_description(name, weights, expected):
    backbone = TorchvisionBackbone(name, weights)
    description = backbone.architecture()
    assert (description["weights"], description["variant"]) == expected
    again = TorchvisionBackbone.from_architecture(description)
    assert again.architecture() == description
    assert again.preprocessing() == backbone.preprocessing()
    assert again.categories() == backbone.categories()
    shapes = [
        {key: tensor.shape for key, tensor in one.skeleton().module.state_dict().items()} for one in (backbone, again)
    ]
    assert shapes[0] == shapes[1]


def test_a_backbone_from_a_file_comes_back_without_the_file(small_weights):
    description = TorchvisionBackbone(SMALL, str(small_weights[1])).architecture()
    small_weights[1].unlink()
    again = TorchvisionBackbone.from_architecture(description)
    assert again.architecture() == description == {
        "library": "torchvision", "name": SMALL, "weights": None, "variant": "IMAGENET1K_V1", "pooling": "avg",
    }  # fmt: skip


def test_a_description_can_name_no_file(small_weights):
    description = TorchvisionBackbone(SMALL).architecture()
    with pytest.raises(ConfigError, match="unknown"):
        TorchvisionBackbone.from_architecture(description | {"weights": str(small_weights[1])})


def test_random_weights_follow_the_seed():
    def build(seed):
        torch.manual_seed(seed)
        return TorchvisionBackbone(SMALL, None).build()

    first, again, other = build(3), build(3), build(4)
    assert_loaded(first, again.module.state_dict())
    assert not torch.equal(first.module.conv1[0].weight, other.module.conv1[0].weight)
    assert first.digest is None
    assert features(first, torch.randn(2, 3, 64, 64)).shape == (2, first.num_features)


@pytest.mark.parametrize("replace", ["classifier", "last"])
def test_a_file_with_another_number_of_classes_is_loaded(small_weights, replace):
    state, path = small_weights
    body = TorchvisionBackbone(SMALL, str(path)).build(replace)
    assert_loaded(body, state)
    assert body.digest == torchvision_backbone.sha256_of(path)


def test_a_file_with_another_classifier_is_loaded(small_weights):
    state, path = small_weights
    for key in ("fc.weight", "fc.bias"):
        state[key.replace("fc", "fc.3")] = state.pop(key)
    torch.save(state, path)
    assert_loaded(TorchvisionBackbone(SMALL, str(path)).build(), state)


def test_keeping_the_logits_needs_the_files_own_classifier(small_weights):
    backbone = TorchvisionBackbone(SMALL, str(small_weights[1]))
    with pytest.raises(CheckpointError, match=f"not a {SMALL} state dict.*\n  size mismatch for fc.weight"):
        backbone.build("nothing")


def test_weights_go_on_from_what_the_file_held_and_can_be_trained(small_weights):
    _, path = small_weights
    body = TorchvisionBackbone(SMALL, str(path)).build()
    before = path.read_bytes()
    torch.optim.SGD(body.module.parameters(), lr=0.1)
    with torch.no_grad():
        for tensor in [*body.module.parameters(), *body.module.buffers()]:
            tensor.add_(1)
    assert path.read_bytes() == before
    body.module.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in body.module.parameters())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("conv1.0.weight"),
        lambda state: state.update({"stage4.9.weight": torch.zeros(1)}),
        lambda state: state.update({"conv1.0.weight": torch.zeros(24, 3, 5, 5)}),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_file_of_another_network_is_refused_in_a_few_lines(small_weights, spoil):
    state, path = small_weights
    spoil(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        TorchvisionBackbone(SMALL, str(path)).build()
    message = str(caught.value)
    assert f"{path} is not a {SMALL} state dict" in message
    assert ", ".join(list(state)[:3]) in message
    assert len(message.splitlines()) == 2


def test_the_many_problems_of_a_wrong_file_are_counted(small_weights):
    with pytest.raises(CheckpointError, match=r"and \d+ more") as caught:
        TorchvisionBackbone("alexnet", str(small_weights[1])).build("last")
    assert len(str(caught.value).splitlines()) == 5


def test_weights_with_nan_are_refused_by_key(small_weights):
    state, path = small_weights
    state["conv1.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"NaN in conv1\.0\.weight"):
        TorchvisionBackbone(SMALL, str(path)).build()


def test_old_densenet_keys_are_renamed(tmp_path):
    classifier = torchvision.models.densenet121(num_classes=3)
    old = OrderedDict()
    for key, tensor in classifier.state_dict().items():
        # Files of that time know no num_batches_tracked.
        if not key.endswith("num_batches_tracked"):
            old[re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", key)] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    body = TorchvisionBackbone("densenet121", str(tmp_path / "old.pth")).build()
    assert_loaded(body, classifier.state_dict())


def test_an_old_file_without_versions_is_brought_up_to_date(tmp_path):
    classifier = torchvision.models.mnasnet0_5(num_classes=3)
    state = {key: value for key, value in classifier.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "old.pth")
    body = TorchvisionBackbone("mnasnet0_5", str(tmp_path / "old.pth")).build()
    assert_loaded(body, classifier.state_dict())


def test_a_file_of_the_first_mnasnet_is_refused(tmp_path):
    state = torchvision.models.mnasnet0_5(num_classes=3).state_dict()
    state._metadata[""]["version"] = 1
    for key in [key for key in state if key.startswith("layers.")]:
        # The stem of the first version had more channels.
        if key.split(".")[1] in ("0", "1", "3", "4", "6", "7", "8"):
            del state[key]
    old = torchvision.models.mnasnet1_0(num_classes=3).state_dict()
    state.update({key: old[key] for key in old if key.split(".")[1] in ("0", "1", "3", "4", "6", "7", "8")})
    torch.save(state, tmp_path / "old.pth")
    with (
        pytest.warns(UserWarning, match="MNASNet"),
        pytest.raises(CheckpointError, match="is not a mnasnet0_5 state dict"),
    ):
        TorchvisionBackbone("mnasnet0_5", str(tmp_path / "old.pth")).build()


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_equal_torchvisions_own_up_to_the_classifier(tmp_path, name, size):
    torch.manual_seed(0)
    arguments = {"weights": None, "init_weights": False, "aux_logits": True, "transform_input": True}
    expected = getattr(torchvision.models, name)(**arguments)
    torch.save(expected.state_dict(), tmp_path / "mine.pth")
    expected.fc = nn.Identity()
    body = TorchvisionBackbone(name, str(tmp_path / "mine.pth")).build()
    images = torch.randn(2, 3, size, size)
    assert torch.equal(features(body, images), expected.eval()(images).detach())
    assert body.module.train()(images).shape == (2, body.num_features)


def test_weights_are_fetched_into_the_folder_that_torch_hub_uses(small_weights, hub, monkeypatch):
    asked = []

    def fetch(url, path, *, sha256=None, what):
        asked.append((url, path, sha256))
        return small_weights[1]

    monkeypatch.setattr(torchvision_backbone, "fetch", fetch)
    body = TorchvisionBackbone(SMALL).build()
    name = "shufflenetv2_x0.5-f707e7126e.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", hub / name, "f707e7126e")]
    assert_loaded(body, small_weights[0])
    assert body.digest == torchvision_backbone.sha256_of(small_weights[1])


def test_weights_that_cannot_be_fetched_are_named_with_url_and_path(hub, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(
        torchvision_backbone,
        "fetch",
        lambda url, path, **rest: download.fetch(url.replace("https://download.pytorch.org", address), path, **rest),
    )
    with pytest.raises(DownloadError) as caught:
        TorchvisionBackbone("resnet18").build()
    message = str(caught.value)
    assert "the weights of resnet18" in message
    assert f"{address}/models/resnet18-f37072fd.pth" in message
    assert str(hub / "resnet18-f37072fd.pth") in message


@pytest.mark.shared
def test_real_weights_give_the_features_of_torchvisions_own_network(shared):
    path = shared / "weights" / "mobilenet_v2.pth"
    expected = torchvision.models.mobilenet_v2()
    expected.load_state_dict(torch.load(path, weights_only=True))
    expected.classifier = nn.Identity()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = expected.eval()(images)
    found = features(TorchvisionBackbone("mobilenet_v2", str(path)).build(), images)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
