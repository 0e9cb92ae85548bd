import threading

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, Swin_T_Weights, resnet18

from tlearn.models.backbones import without_weights as assembly


def test_assembling_draws_no_random_numbers_and_takes_no_memory():
    before = torch.get_rng_state()
    classifier = assembly.assemble("swin_t", Swin_T_Weights.DEFAULT).classifier
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in classifier.state_dict().values())


def test_assembling_gives_torchvision_its_own_methods_back():
    load, get = nn.Module.load_state_dict, ResNet18_Weights.get_state_dict
    assembly.assemble("resnet18", ResNet18_Weights.DEFAULT)
    assert nn.Module.load_state_dict is load
    assert ResNet18_Weights.DEFAULT.get_state_dict.__func__ is get


def test_other_threads_can_load_while_a_classifier_is_assembled(monkeypatch):
    layer, state = nn.Linear(1, 1), {"weight": torch.full((1, 1), 7.0), "bias": torch.zeros(1)}

    def builder(**arguments):
        thread = threading.Thread(target=layer.load_state_dict, args=(state,))
        thread.start()
        thread.join()
        return resnet18(**arguments)

    monkeypatch.setattr(assembly, "get_model_builder", lambda name: builder)
    assembly.assemble("resnet18", ResNet18_Weights.DEFAULT)
    assert layer.weight.item() == 7
