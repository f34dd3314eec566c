"""Numbers that come from the device later are the same numbers, in the same order."""

import pytest

pytest.importorskip("torch")

import torch
from late import LateByTwo

from lora_ns.training.later import Later


@pytest.mark.parametrize("kind", [Later, LateByTwo])
def test_everything_arrives_once_and_in_order(kind):
    sent, found = kind(), []
    for number in range(7):
        sent.send(number, torch.tensor([number, 2 * number]))
        found += sent.arrived()
    found += sent.arrived(wait=True)
    assert [(what, value.tolist()) for what, value in found] == [(number, [number, 2 * number]) for number in range(7)]
    assert not list(sent.arrived(wait=True))


def test_what_is_late_arrives_without_waiting_after_a_while():
    sent, counts = LateByTwo(), []
    for number in range(5):
        sent.send(number, torch.tensor(number))
        counts.append(len(list(sent.arrived())))
    assert counts == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("norm", [1.0, float("nan"), float("inf")])
def test_a_fused_optimizer_skips_a_step_that_it_is_told_to_skip(norm):
    from lora_ns.training.trouble import _tell_optimizer

    def stepped(*norms):
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1, fused=True)
        for value in norms:
            weight.grad = torch.full_like(weight, value)
            assert _tell_optimizer(optimizer, torch.tensor(value))
            optimizer.step()
            _tell_optimizer(optimizer, None)
        assert not hasattr(optimizer, "found_inf")
        return weight.detach(), optimizer.state[weight]["exp_avg"]

    skipped = stepped(1.0, norm, 2.0)
    expected = stepped(1.0, 2.0) if norm != 1.0 else stepped(1.0, 1.0, 2.0)
    assert all(torch.equal(found, wanted) for found, wanted in zip(skipped, expected, strict=True))


def test_an_optimizer_that_is_not_fused_cannot_skip_a_step():
    from lora_ns.training.trouble import _tell_optimizer

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    assert not _tell_optimizer(optimizer, torch.tensor(float("nan")))
    assert not hasattr(optimizer, "found_inf")
