"""The order of the rows: each one once, like lengths together, batches in no order of their length."""

import pytest

pytest.importorskip("torch")

import torch

from lora_ns.training.sampler import sampler_class


def sampled(lengths, batch_size, seed=1, epoch=0):
    sampler = sampler_class()(batch_size, lengths=lengths)
    sampler.seed = seed
    sampler.set_epoch(epoch)
    rows = list(sampler)
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def some_lengths(count):
    return torch.randint(5, 200, (count,), generator=torch.Generator().manual_seed(4)).tolist()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 100, 1000])
def test_every_row_comes_once_and_the_longest_first(count):
    lengths = some_lengths(count)
    batches = sampled(lengths, 8)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(len(batch) == 8 for batch in batches[:-1])
    assert max(lengths) in [lengths[row] for row in batches[0]]


def test_batches_are_of_like_length_and_come_in_no_order_of_it():
    lengths = some_lengths(2000)
    batches = [[lengths[row] for row in batch] for batch in sampled(lengths, 8)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    means = torch.tensor([sum(batch) / len(batch) for batch in batches])
    following = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(following) < 0.2


def test_the_order_follows_from_seed_and_epoch_alone():
    lengths = some_lengths(100)
    first = sampled(lengths, 8)
    torch.manual_seed(99)
    assert sampled(lengths, 8) == first
    assert sampled(lengths, 8, epoch=1) != first
    assert sampled(lengths, 8, seed=2) != first
