import pytest
import torch
from torch import nn

from tlearn.errors import ConfigError
from tlearn.models.heads import linear, mlp


def test_linear_head_gives_one_logit_a_class():
    assert linear(8, 3)(torch.zeros(2, 8)).shape == (2, 3)


def test_mlp_head_has_activation_and_dropout_after_each_hidden_layer():
    head = mlp(8, 3, hidden=[16, 4], dropout=0.4, activation="GELU")
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Dropout] * 2 + [nn.Linear]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.4, 0.4]
    assert head(torch.zeros(2, 8)).shape == (2, 3)


def test_mlp_head_without_hidden_layers_is_linear():
    assert [type(layer) for layer in mlp(8, 3, hidden=())] == [nn.Linear]


@pytest.mark.parametrize(
    "activation", ["relu", "functional", "Linear", "Parameter", "Nope", "__name__", "ModuleList", "Module"]
)
def test_what_is_no_activation_is_refused_by_name(activation):
    with pytest.raises(ConfigError, match=f"head.activation={activation}"):
        mlp(8, 3, activation=activation)
