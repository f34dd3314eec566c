"""Learning rates that a recipe starts from, and what is said of settings far from what works."""

import pytest

from lora_ns.capabilities import LORA_RATE
from lora_ns.rates import FAR, LARGE_BATCH, batch_note, rate_note, targets_note, usual_rate


@pytest.mark.parametrize(
    ("task", "width", "published"),
    [
        ("CAUSAL_LM", 4096, (2e-4, 2e-4)),  # QLoRA, 7B
        ("CAUSAL_LM", 8192, (1e-4, 1e-4)),  # QLoRA, 65B
        ("SEQ_CLS", 768, (4e-4, 5e-4)),  # LoRA, RoBERTa-base
        ("SEQ_CLS", 1024, (2e-4, 4e-4)),  # LoRA, RoBERTa-large
        ("TOKEN_CLS", 384, (1e-3, 1e-3)),
    ],
)
def test_the_usual_rate_is_the_published_one(task, width, published):
    lowest, highest = published
    assert lowest <= usual_rate(LORA_RATE, task, width) <= highest


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"])
def test_wider_bases_take_lower_rates_and_none_is_out_of_reach(task):
    rates = [usual_rate(LORA_RATE, task, width) for width in (64, 192, 384, 768, 1024, 2048, 4096, 8192, 65_536)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3
    assert rates[-1] == 5e-5


def test_other_methods_and_unknown_bases_keep_the_typical_rate():
    assert usual_rate(3e-2, "SEQ_CLS", 384) == 3e-2
    assert usual_rate(LORA_RATE, "SEQ_CLS", None) == LORA_RATE


@pytest.mark.parametrize(("times", "is_far"), [(1, False), (FAR, False), (1 / FAR, False), (5, True), (1 / 5, True)])
def test_a_rate_far_from_the_usual_one_gets_a_note(times, is_far):
    assert (rate_note(2e-4 * times, 2e-4) is not None) == is_far


def test_large_steps_of_text_get_a_note():
    assert batch_note("CAUSAL_LM", LARGE_BATCH) is None
    assert batch_note("SEQ_CLS", 10 * LARGE_BATCH) is None
    assert "65 rows" in (batch_note("CAUSAL_LM", LARGE_BATCH + 1) or "")


@pytest.mark.parametrize(
    ("task", "targets", "is_told"),
    [
        ("CAUSAL_LM", ("q_proj", "v_proj"), True),
        ("CAUSAL_LM", ("model.layers.0.self_attn.q_proj",), True),
        ("CAUSAL_LM", ("q_proj", "down_proj"), False),
        ("CAUSAL_LM", "all-linear", False),
        ("SEQ_CLS", ("query", "value"), False),
    ],
)
def test_the_attention_alone_gets_a_note_for_text(task, targets, is_told):
    assert (targets_note(task, targets) is not None) == is_told
