import sys

import pytest
import torch

from tlearn.errors import CheckpointError, ConfigError, DownloadError
from tlearn.models.backbones.timm import TimmBackbone

timm = pytest.importorskip("timm")

# timm's own test models: a network in miniature, with weights.
SMALL = "test_resnet"


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'pip install "tlearn\[timm\]"'):
        TimmBackbone(SMALL)


@pytest.mark.parametrize("name", ["resnet19", "hf-hub:someone/resnet18", "local-dir:/tmp"])
def test_an_unknown_name_is_answered_with_the_three_closest(name):
    with pytest.raises(ConfigError, match=r"the closest are \w+, \w+, \w+$"):
        TimmBackbone(name)


def test_unknown_tags_and_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"resnet18\.nope has a tag"):
        TimmBackbone("resnet18.nope")
    with pytest.raises(ConfigError, match=r"IMAGENET1K_V1 is unknown: with timm it is DEFAULT, a file or null"):
        TimmBackbone("resnet18", "IMAGENET1K_V1")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/none.pth"):
        TimmBackbone("resnet18", str(tmp_path / "none.pth"))


def test_preprocessing_and_categories_are_those_of_the_weights():
    backbone = TimmBackbone("resnet18.a1_in1k")
    assert backbone.preprocessing() == {
        "resize": 235,
        "size": 224,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert len(backbone.categories()) == 1000
    assert TimmBackbone("resnet18", None).categories() is None


@pytest.mark.parametrize("name", [SMALL, "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("replace", ["classifier", "last", "nothing"])
def test_bodies_give_features_of_the_width_they_say(name, replace):
    backbone = TimmBackbone(name, None)
    body = backbone.build(replace)
    size = backbone.preprocessing()["size"]
    assert body.module(torch.zeros(2, 3, size, size)).shape == (2, body.num_features)
    assert body.digest is None
    assert (replace == "nothing") == (body.num_features == 1000)


@pytest.mark.parametrize("name", [SMALL, "test_vit", "test_convnext"])
def test_a_file_with_another_number_of_classes_is_loaded(tmp_path, name):
    state = timm.create_model(name, num_classes=7).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    body = TimmBackbone(name, str(tmp_path / "mine.pth")).build()
    loaded = body.module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert len(body.digest) == 64


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="not a test_resnet state dict"):
        TimmBackbone(SMALL, str(tmp_path / "mine.pth")).build()


def test_a_skeleton_takes_a_saved_body_whole():
    backbone = TimmBackbone("test_vit_relpos", None)
    saved = backbone.build()
    again = TimmBackbone.from_architecture(backbone.architecture()).skeleton()
    again.module.load_state_dict(saved.module.state_dict(), assign=True)
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(again.module.eval()(images), saved.module.eval()(images))


def test_a_description_holds_the_complete_name_and_no_file(tmp_path):
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "mine.pth")
    description = TimmBackbone(SMALL, str(tmp_path / "mine.pth")).architecture()
    assert description == {"library": "timm", "name": f"{SMALL}.r160_in1k", "weights": None, "pooling": "avg"}
    default = TimmBackbone(SMALL).architecture()
    assert TimmBackbone.from_architecture(default).architecture() == default | {"weights": "DEFAULT"}


def test_weights_of_timm_are_asked_for_without_a_classifier(monkeypatch):
    create, asked = timm.create_model, []

    def create_model(name, pretrained=False, **arguments):
        asked.append((name, pretrained, arguments))
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_model)
    body = TimmBackbone(SMALL).build()
    assert asked == [(SMALL, True, {"num_classes": 0})]
    assert len(body.digest) == 64


def test_weights_that_cannot_be_fetched_are_answered_with_the_ways_around(monkeypatch):
    def create_model(name, pretrained=False, **arguments):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(
        DownloadError, match=r"weights of test_resnet \(no network\): set backbone.weights to a file or nu"
    ):
        TimmBackbone(SMALL).build()


def test_unknown_replace_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"head.replace=all: expected one of classifier, last, nothing"):
        TimmBackbone(SMALL, None).skeleton("all")


def test_timm_pools_by_its_own_means_with_the_same_weights(tmp_path):
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "mine.pth")
    images = torch.randn(2, 3, 160, 160)
    found = {}
    for pooling in ("avg", "max", "avgmax"):
        body = TimmBackbone(SMALL, str(tmp_path / "mine.pth"), pooling).build()
        with torch.no_grad():
            found[pooling] = body.module.eval()(images)
        assert found[pooling].shape == (2, body.num_features)
    torch.testing.assert_close(found["avgmax"], torch.cat((found["avg"], found["max"]), 1))
    assert (found["max"] > found["avg"]).any()


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("test_vit", "max"), ("test_vit", "avgmax"), ("test_convnext", "avgmax"), ("mobilenetv3_small_050", "avgmax")],
)
def test_what_timm_cannot_pool_with_the_same_weights_is_refused(name, pooling):
    with pytest.raises(ConfigError, match=rf"backbone\.pooling={pooling}.* {name}.*; take avg"):
        TimmBackbone(name, None, pooling).skeleton()


def test_looking_for_a_pooling_changes_no_random_weights():
    bodies = []
    for pooling in ("avg", "max"):
        torch.manual_seed(0)
        bodies.append(TimmBackbone(SMALL, None, pooling).build().module.state_dict())
    assert all(torch.equal(tensor, bodies[1][key]) for key, tensor in bodies[0].items())
