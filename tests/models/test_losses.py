import torch
from torch.nn import functional as F

from tlearn.models.losses import cross_entropy

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
TARGETS = torch.tensor([0, 1])


def test_loss_is_the_cross_entropy_of_logits():
    assert cross_entropy()(LOGITS, TARGETS) == F.nll_loss(F.log_softmax(LOGITS, dim=1), TARGETS)


def test_smoothing_and_class_weights_reach_the_loss():
    expected = F.cross_entropy(LOGITS, TARGETS, torch.tensor([1.0, 2.0, 0.0]), label_smoothing=0.1)
    assert cross_entropy(label_smoothing=0.1, weight=[1, 2, 0])(LOGITS, TARGETS) == expected


def test_class_weights_move_with_the_loss():
    assert cross_entropy(weight=[1, 2]).to("meta").weight.is_meta
