"""Rows in parts: what each process is given of them, and which bases can be divided."""

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from lora_ns.errors import PlanError
from lora_ns.parallel.context import RowPart, check_heads

ROWS = {
    "input_ids": torch.arange(24).reshape(2, 12),
    "attention_mask": torch.tensor([[1] * 12, [1] * 7 + [0] * 5]),
    "labels": torch.tensor([[-100] * 4 + list(range(4, 12)), [-100, *range(13, 19), *[-100] * 5]]),
}


def parts_of(count):
    return [RowPart(lambda _: dict(ROWS), number, count)([]) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_the_parts_together_are_the_row(count):
    parts = parts_of(count)
    joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    assert all(torch.equal(joined[name], ROWS[name]) for name in ("input_ids", "attention_mask"))
    assert joined["position_ids"].tolist() == [list(range(12))] * 2
    assert torch.equal(joined["shift_labels"][:, :-1], ROWS["labels"][:, 1:])
    assert {part["input_ids"].shape for part in parts} == {(2, 12 // count)}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_parts_have_as_many_labels_as_the_row(count):
    found = sum(int((part["shift_labels"] != -100).sum()) for part in parts_of(count))
    assert found == int((ROWS["labels"][:, 1:] != -100).sum())


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def told(config, parts):
    with pytest.raises(PlanError) as caught:
        check_heads(SimpleNamespace(config=config), parts)
    return str(caught.value)


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**HEADS), MistralConfig(**HEADS, sliding_window=None), Qwen2Config(**HEADS), Qwen3Config(**HEADS)],
    ids=lambda config: config.model_type,
)
def test_heads_are_divided_where_they_divide(config):
    check_heads(SimpleNamespace(config=config), 2)
    expected = "distributed.context_parallel_size: the base has 4 attention heads and 2 key-value heads, which 4"
    assert told(config, 4).startswith(expected)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (MistralConfig(**HEADS, sliding_window=8), "mistral with a sliding window is not supported"),
        (Qwen2Config(**HEADS, use_sliding_window=True, max_window_layers=1), "qwen2 with a sliding window is not"),
        (Gemma2Config(**HEADS), "gemma2 with a sliding window is not supported"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_attention_that_sees_less_than_every_earlier_position_is_refused(config, what):
    assert what in told(config, 2)
    check_heads(SimpleNamespace(config=config), 1)
