import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from tests.models.families import FAMILIES, body_of, images_for
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.graph.fold import fold


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


class Branching(nn.Module):
    """Layers that cannot be folded: outputs used twice, layers called twice."""

    def __init__(self):
        super().__init__()
        self.once, self.twice, self.shared = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, images):
        once = self.once(images)
        values = self.norms[0](once) + once
        values = self.norms[1](self.shared(values)) + self.shared(images)
        return self.norms[2](self.twice(values)) + self.norms[2](images)


def outputs(module, images):
    with torch.no_grad():
        return copy.deepcopy(module).eval()(images)


# alexnet and squeezenet1_1 speak for those without BatchNorm.
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"convnext_tiny", "swin_t", "swin_v2_t", "vit_b_32"}))
def test_a_folded_body_computes_the_same(name):
    body, images = body_of(name).train(), images_for(name)
    state = copy.deepcopy(body.state_dict())
    exact = copy.deepcopy(body).double()
    expected = outputs(exact, images.double())
    torch.testing.assert_close(fold(exact)(images.double()), expected, rtol=1e-9, atol=1e-9)
    # Random networks magnify every rounding, so their own error is the measure in single precision.
    found = (fold(body)(images), outputs(body, images))
    errors = [(features - expected).abs().max() / expected.abs().max() for features in found]
    assert errors[0] <= max(3 * errors[1], 3e-6)
    assert body.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in body.state_dict().items())
    assert all(parameter.requires_grad for parameter in body.parameters())


@pytest.mark.shared
def test_with_real_weights_a_folded_body_gives_the_same_features(shared):
    body = TorchvisionBackbone("mobilenet_v2", str(shared / "weights" / "mobilenet_v2.pth")).build().module
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = outputs(body, images)
    assert (fold(body)(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["efficientnet_b0", "googlenet", "mobilenet_v2", "regnet_y_400mf", "resnet18"])
def test_no_norm_is_left_where_each_follows_a_convolution(name):
    body = body_of(name)
    folded = fold(body)
    assert norms(body)
    assert norms(folded) == []
    assert not [layer for layer in folded.modules() if isinstance(layer, nn.Dropout | nn.Identity)]


def test_a_folded_body_is_for_inference():
    folded = fold(body_of("resnet18"))
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(module.training for module in folded.modules())
    weights = [layer.weight for layer in folded.modules() if isinstance(layer, nn.Conv2d)]
    assert len(weights) == 20
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_norms_that_serve_more_than_one_use_are_kept():
    module = Branching().eval()
    for norm in module.norms:
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.randn(2, 3, 4, 4)
    folded = fold(module)
    assert len(norms(folded)) == 3
    torch.testing.assert_close(folded(images), module(images).detach())


class Choosing(nn.Sequential):
    """A forward pass that cannot be traced."""

    def forward(self, images):
        return super().forward(images) if images.sum() > 0 else images


def test_what_cannot_be_traced_is_copied_as_it_is():
    module = Choosing(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    images = torch.ones(2, 3, 4, 4)
    copied = fold(module)
    assert len(norms(copied)) == 1
    assert torch.equal(copied(images), copy.deepcopy(module).eval()(images).detach())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert module.training


class Placed(nn.Sequential):
    """A body that asks for a device: that of a buffer, which a trace takes for a constant, or of its input."""

    def __init__(self, of_buffer):
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.register_buffer("scale", torch.tensor(2.0))
        self.of_buffer = of_buffer

    def forward(self, images):
        place = (self.scale if self.of_buffer else images).device
        return super().forward(images.to(place)) + torch.arange(4, device=place)[:, None, None]


@pytest.mark.parametrize(("of_buffer", "left"), [(True, 1), (False, 0)])
def test_a_folded_body_computes_where_it_is_moved_to(of_buffer, left):
    body, images = Placed(of_buffer), torch.rand(2, 3, 4, 4)
    folded = fold(body)
    assert len(norms(folded)) == left
    torch.testing.assert_close(folded(images), outputs(body, images))
    # Stands for a GPU: it refuses tensors of others as one does.
    assert folded.to("meta")(images.to("meta")).is_meta


def test_a_network_of_timm_that_asks_a_buffer_for_its_device_computes_where_it_is_moved_to():
    pytest.importorskip("timm")
    body = TimmBackbone("vit_small_patch16_dinov3", None).build().module
    assert fold(body).to("meta")(torch.rand(1, 3, 64, 64, device="meta")).is_meta


def test_a_folded_body_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        for body in (body_of("resnet18"), Choosing(nn.Conv2d(3, 4, 1)), Placed(True)):
            folded = fold(body)
            weights = [weakref.ref(tensor) for tensor in folded.state_dict(keep_vars=True).values()]
            del folded
            assert [weight() for weight in weights] == [None] * len(weights)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_networks_of_timm_are_folded_too(name):
    pytest.importorskip("timm")
    backbone = TimmBackbone(name, None)
    body, size = backbone.build().module.double(), backbone.preprocessing()["size"]
    for norm in norms(body):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    images = torch.randn(1, 3, size, size, dtype=torch.double)
    folded = fold(body)
    torch.testing.assert_close(folded(images), outputs(body, images), rtol=1e-9, atol=1e-9)
    assert norms(folded) == []


class Tripled(nn.Identity):
    def forward(self, values):
        return 3 * values


class Unusual(nn.Module):
    """Layers that look like others: an Identity that is none, weights made by a hook, a Dropout called by keyword."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)
        self.tripled, self.dropout = Tripled(), nn.Dropout()

    def forward(self, images):
        return self.dropout(input=self.tripled(self.norm(self.convolution(images))))


def test_what_only_looks_like_a_known_layer_computes_the_same():
    body, images = Unusual(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs(body, images)
    folded = fold(body.requires_grad_(False).eval())
    assert len(norms(folded)) == 1
    torch.testing.assert_close(folded(images), body(images))
