"""Rows of several tensors are read as those of one."""

import torch

from tlearn.features.rows import FeatureRows


def test_one_part_and_several_give_the_same(tmp_path):
    values = torch.randn(20, 3)
    part, row = torch.arange(20) % 2, torch.arange(20) // 2
    several = FeatureRows([values[0::2], values[1::2]], part, row)
    one = FeatureRows([values], torch.zeros(20, dtype=torch.long), torch.arange(20))
    chosen = torch.tensor([5, 5, 0, 19, 4])
    assert torch.equal(several[chosen], values[chosen])
    assert torch.equal(one[chosen], values[chosen])
