"""Batches: every picture, equally many per process, none alone, and all of it a function of seed and epoch."""

from collections import Counter
from itertools import chain, product

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, Dataset

from tlearn.data.sampling import EvaluationSampler, TrainBatches, TrainSampler, draw_seed


def order(count: int = 50, seed: int = 0, epoch: int = 0, **more) -> list[tuple[int, int]]:
    sampler = TrainSampler(count, seed, **more)
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(count: int, batch_size: int, rank: int, world_size: int, epoch: int = 0) -> TrainBatches:
    sampler = TrainSampler(count, 0, rank=rank, world_size=world_size)
    sampler.set_epoch(epoch)
    return TrainBatches(sampler, batch_size)


@pytest.mark.parametrize("world_size", range(1, 5))
def test_every_picture_comes_in_every_epoch_and_every_process_gets_as_many(world_size):
    for count, batch_size, epoch in product(range(1, 13), range(1, 7), (0, 1)):
        ranks = [list(batches(count, batch_size, rank, world_size, epoch)) for rank in range(world_size)]
        indices = [index for index, _ in chain.from_iterable(chain.from_iterable(ranks))]
        times = Counter(indices)
        where = (count, batch_size, epoch)
        assert set(times) == set(range(count)), where
        # Filled up with as few as can be, as evenly as can be
        assert len(indices) == -(-count // world_size) * world_size, where
        assert max(times.values()) - min(times.values()) <= 1, where
        assert len({tuple(map(len, one)) for one in ranks}) == 1, where


@pytest.mark.parametrize("world_size", range(1, 5))
def test_no_batch_is_of_one_picture_where_there_are_more(world_size):
    for count, batch_size, rank in product(range(1, 13), range(1, 7), range(world_size)):
        made = batches(count, batch_size, rank, world_size)
        sizes = [len(batch) for batch in made]
        where = (count, batch_size, rank)
        assert len(made) == len(sizes), where
        assert all(size == batch_size for size in sizes[:-1]), where
        assert 1 <= sizes[-1] <= batch_size + 1, where
        if batch_size > 1 and sum(sizes) > 1:
            assert min(sizes) > 1, where


def test_one_picture_per_batch_stays_possible():
    assert [len(batch) for batch in batches(5, 1, 0, 1)] == [1] * 5


def test_equal_seeds_and_epochs_give_equal_orders_and_augmentations():
    assert order(seed=3, epoch=2) == order(seed=3, epoch=2)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}], ids=["seed", "epoch"])
def test_another_seed_or_epoch_gives_another_order_and_other_augmentations(other):
    first, second = order(), order(**other)
    assert [index for index, _ in first] != [index for index, _ in second]
    assert not {draw for _, draw in first} & {draw for _, draw in second}


def test_an_augmentation_does_not_depend_on_the_number_of_processes():
    alone = dict(order(count=12))
    shared = [dict(order(count=12, rank=rank, world_size=3)) for rank in range(3)]
    assert shared[0] | shared[1] | shared[2] == alone


def test_an_epoch_does_not_depend_on_those_before():
    sampler = TrainSampler(20, 0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        last = list(sampler)
    assert last == order(count=20, epoch=2)


def test_seeds_of_augmentations_suit_a_generator_of_torch():
    seeds = {draw_seed(seed, epoch, index) for seed, epoch, index in product((0, 42), range(5), range(-1, 50))}
    assert len(seeds) == 2 * 5 * 51
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_weights_make_classes_equally_frequent():
    # 90 pictures of one class, 10 of the other
    weights = [1 / 90] * 90 + [1 / 10] * 10
    drawn = [index for epoch in range(20) for index, _ in order(100, epoch=epoch, weights=weights)]
    rare = sum(index >= 90 for index in drawn)
    assert len(drawn) == 2000
    # 1000 expected; five standard deviations are 112
    assert 888 < rare < 1112


def test_a_picture_without_weight_is_never_drawn():
    drawn = {index for index, _ in order(20, weights=[0.0] * 10 + [1.0] * 10)}
    assert drawn <= set(range(10, 20))


def test_weighted_processes_share_one_drawing():
    weights = [float(number + 1) for number in range(12)]
    ranks = [order(12, weights=weights, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(order(12, weights=weights))


def test_a_picture_that_is_drawn_again_is_augmented_in_another_way():
    draws = order(20, weights=[1.0] + [0.0] * 19)
    assert {index for index, _ in draws} == {0}
    assert len({draw for _, draw in draws}) == 20


def test_batches_take_their_epoch_from_who_asks_them_or_their_sampler():
    asked, by_sampler = batches(20, 4, 0, 1), batches(20, 4, 0, 1, epoch=3)
    first = list(asked)
    asked.set_epoch(3)
    assert list(asked) == list(by_sampler) != first


class Rows(Dataset):
    """Give a row for a draw, or the rows of a whole batch of draws."""

    def __getitem__(self, item: tuple[int, int] | list[tuple[int, int]]) -> torch.Tensor:
        return torch.ones(32) if isinstance(item, tuple) else torch.ones(len(item), 32)


@pytest.mark.parametrize("whole", [False, True], ids=["batch_sampler", "sampler"])
# What the trainer says of workers and of its own dependencies
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_sets_each_epoch_once_in_either_place_of_a_loader(whole, monkeypatch, tmp_path):
    made, calls, original = batches(6, 2, 0, 1), [], TrainSampler.set_epoch
    monkeypatch.setattr(TrainSampler, "set_epoch", lambda self, epoch: (calls.append(epoch), original(self, epoch)))
    loader = DataLoader(Rows(), **({"sampler": made, "batch_size": None} if whole else {"batch_sampler": made}))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        limit_val_batches=0,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(BoringModel(), loader)
    assert calls == [0, 1, 2]
    assert trainer.global_step == 9


@pytest.mark.parametrize("world_size", range(1, 5))
def test_evaluation_gives_each_picture_to_one_process(world_size):
    for count in range(13):
        parts = [EvaluationSampler(count, rank, world_size) for rank in range(world_size)]
        assert sorted(chain(*parts)) == list(range(count))
        for part in parts:
            assert len(part) == len(list(part))
            assert list(part) == sorted(part)
