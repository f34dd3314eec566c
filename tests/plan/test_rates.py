"""Learning rates and ranks that a recipe starts from, and what is said of settings far from what works."""

from types import SimpleNamespace

import pytest

from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.methods.lora import Lora
from lora_ns.objectives import objective_of
from lora_ns.plan.rates import (
    FAR,
    LARGE_BATCH,
    batch_note,
    prior_rate,
    rank_note,
    rate_note,
    scale_note,
    targets_note,
)


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
    assert lowest <= objective_of(task).usual_rate(LORA_RATE, width) <= highest


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"])
def test_wider_bases_take_lower_rates_and_none_is_out_of_reach(task):
    rates = [
        objective_of(task).usual_rate(LORA_RATE, width) for width in (64, 192, 384, 768, 1024, 2048, 4096, 8192, 65_536)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3
    assert rates[-1] == 5e-5


def test_other_methods_and_unknown_bases_keep_the_typical_rate():
    assert objective_of("SEQ_CLS").usual_rate(3e-2, 384) == 3e-2
    assert objective_of("SEQ_CLS").usual_rate(LORA_RATE, None) == LORA_RATE


@pytest.mark.parametrize(("times", "is_far"), [(1, False), (FAR, False), (1 / FAR, False), (5, True), (1 / 5, True)])
def test_a_rate_far_from_the_usual_one_gets_a_note(times, is_far):
    assert (rate_note(2e-4 * times, 2e-4) is not None) == is_far


@pytest.mark.parametrize(("width", "published"), [(2048, 4.9e-4), (4096, 2.9e-4), (8192, 1.7e-4), (192, 3.1e-3)])
def test_a_search_begins_at_the_published_fit_for_text_with_lora(width, published):
    facts = SimpleNamespace(hidden_size=width)
    recipe = SimpleNamespace(objective=objective_of("CAUSAL_LM")(), peft=Lora(method="lora"))
    assert prior_rate(recipe, facts) == published
    usual = objective_of("CAUSAL_LM").usual_rate(LORA_RATE, width)
    assert usual / FAR <= published <= usual * FAR  # the default gets no note


def test_other_tasks_begin_at_the_usual_rate():
    facts = SimpleNamespace(hidden_size=768)
    recipe = SimpleNamespace(objective=objective_of("SEQ_CLS")(), peft=Lora(method="lora"))
    assert prior_rate(recipe, facts) == objective_of("SEQ_CLS").usual_rate(LORA_RATE, 768)


def test_large_steps_of_text_get_a_note():
    assert batch_note(objective_of("CAUSAL_LM")(), LARGE_BATCH) is None
    assert batch_note(objective_of("SEQ_CLS")(), 10 * LARGE_BATCH) is None
    assert "65 rows" in (batch_note(objective_of("CAUSAL_LM")(), LARGE_BATCH + 1) or "")


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
    assert (targets_note(objective_of(task)(), targets) is not None) == is_told


@pytest.mark.parametrize("width", [None, 0, 64, 384, 768, 4096])
def test_the_usual_rank_is_the_published_one(width):
    assert objective_of("CAUSAL_LM").rank_for(width) == 16
    assert objective_of("SEQ_CLS").rank_for(width) == objective_of("TOKEN_CLS").rank_for(width) == 8


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"])
def test_no_usual_rank_is_above_a_quarter_of_the_width(task):
    for width in range(4, 200):
        rank = objective_of(task).rank_for(width)
        assert rank % 2 == 0
        assert rank == 2 or rank <= width // 4
        assert rank_note("peft.lora_r", rank, width) is None


@pytest.mark.parametrize(
    ("rank", "width", "is_told"),
    [(32, 64, False), (33, 64, True), (32, 65, False), (512, None, False), (512, 0, False)],
)
def test_a_rank_above_half_of_the_width_gets_a_note(rank, width, is_told):
    note = rank_note("peft.lora_r", rank, width)
    assert (note is not None) == is_told
    assert note is None or "(write at most 32)" in note


@pytest.mark.parametrize(
    ("alpha", "rank", "is_stabilised", "is_told"),
    [
        (32, 16, False, False),
        (16, 8, False, False),
        (512, 64, False, False),  # 4 times the scale
        (513, 64, False, True),
        (129, 16, False, True),
        (128, 16, False, False),
        (128, 1, False, False),  # 4 times the alpha
        (2, 4, False, False),  # a quarter of the scale
        (1.9, 4, False, True),
        (16, 64, False, False),  # QLoRA
        (32, 512, False, False),  # Schulman et al.
        (32, 16, True, False),
        (64, 64, True, False),  # PEFT's benchmark
        (129, 256, True, True),
        (1, 16, True, True),
    ],
)
def test_a_scale_far_from_the_usual_one_gets_a_note(alpha, rank, is_stabilised, is_told):
    assert (scale_note(alpha, rank, is_stabilised) is not None) == is_told
