"""Rows of several tensors are read as those of one."""

import torch

from tlearn.features.datamodule import FeatureDataset
from tlearn.features.rows import FeatureRows


def test_one_part_and_several_give_the_same(tmp_path):
    values = torch.randn(20, 3)
    part, row = torch.arange(20) % 2, torch.arange(20) // 2
    several = FeatureRows([values[0::2], values[1::2]], part, row)
    one = FeatureRows([values], torch.zeros(20, dtype=torch.long), torch.arange(20))
    chosen = torch.tensor([5, 5, 0, 19, 4])
    assert torch.equal(several[chosen], values[chosen])
    assert torch.equal(one[chosen], values[chosen])


def test_all_rows_are_read_in_the_order_in_which_they_lie():
    values = torch.randn(20, 3)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    rows = FeatureRows([values[0::2], values[1::2]], shuffled % 2, shuffled // 2)
    order = rows.in_storage_order()
    assert torch.equal(rows.chosen(order)[:], torch.cat([values[0::2], values[1::2]]))
    assert torch.equal(rows.chosen(order)[5:9], rows[order[5:9]])
    dataset = FeatureDataset([rows], list(range(20)), [""] * 20)
    read, targets, indices = dataset[None, 0]
    assert torch.equal(read[:], rows[indices])
    assert torch.equal(targets, indices)
