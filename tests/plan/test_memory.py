"""The estimate of a step's memory: exact where it can be, never smaller for more work."""

from dataclasses import asdict, replace

import pytest

from lora_ns.methods import METHODS
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.estimate import MemoryEstimate, StartMemory, estimate, start_memory
from lora_ns.plan.memory.exact import ExactTerms

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, 512, {})
STEP = {
    "dtype": "bfloat16",
    "exact": ExactTerms(weights=2_000_000, adapter=4000, gradients=4000, optimizer=8000),
    "start": StartMemory(),
    "tokens": 100,
    "checkpointing": False,
    "scored_tokens": 100,
}


def step(facts=FACTS, **changes):
    return estimate(facts, **{**STEP, **changes})


def test_the_terms_of_a_step():
    layer = 2 * (18 * 64 + 8 * 128) * 3 // 2
    assert step() == MemoryEstimate(
        weights=2_000_000,
        adapter=4000,
        gradients=4000,
        optimizer=8000,
        activations=100 * 2 * layer,
        logits=100 * 1000 * (2 + 4),
    )


def test_the_total_is_the_sum_of_its_terms():
    assert step().total == sum(asdict(step()).values())


@pytest.mark.parametrize(
    "sizes",
    [
        [{"tokens": count} for count in (1, 2, 100, 10_000)],
        [{"scored_tokens": count} for count in (0, 1, 100, 10_000)],
        [{"exact": ExactTerms(size, size, size, size)} for size in (0, 1, 1000, 10**8)],
        [{"start": StartMemory(size, True)} for size in (20_000, 30_000)],
        [{"start": StartMemory(size)} for size in (10**9, 2 * 10**9)],
        [{"dtype": "bfloat16"}, {"dtype": "float32"}],
        [{"checkpointing": True}, {"checkpointing": False}],
        [{"facts": replace(FACTS, num_hidden_layers=count)} for count in (1, 2, 40)],
    ],
    ids=lambda sizes: "-".join(sizes[0]),
)
def test_more_of_anything_needs_more(sizes):
    totals = [step(**size).total for size in sizes]
    assert totals == sorted(set(totals))


def test_half_types_take_the_same():
    assert step(dtype="float16") == step(dtype="bfloat16")


def test_recomputing_one_layer_keeps_that_layer():
    one = replace(FACTS, num_hidden_layers=1)
    layer = step(one).activations
    assert step(one, checkpointing=True).activations == layer + 100 * 64 * 2


SHAPES = [(64, 64), (128, 64), (64, 128)]


def begun(start, dtype="bfloat16", on_cpu=True):
    return start_memory(METHODS["lora"](method="lora", init_lora_weights=start), SHAPES, dtype, on_cpu)


def test_a_start_holds_what_peft_computes_it_from():
    entries, decomposed = 64 * 64 + 2 * 128 * 64, 4 * 4 * 128 * 64
    common, directions = 4 * (2 * 64 * 64 + 128 * 128), 4 * 64 * (128 + 2 * 192)
    assert {name: begun(name) for name in ("default", "pissa", "lora_ga", "corda", "eva")} == {
        "default": StartMemory(),
        "pissa": StartMemory(decomposed),
        "lora_ga": StartMemory(2 * entries + decomposed, has_backward_pass=True),
        "corda": StartMemory(common + directions + decomposed),
        "eva": StartMemory(4 * 16 * 2 * (64 + 64 + 128)),
    }
    assert begun("lora_ga", "float32").size - begun("lora_ga").size == 2 * entries
    assert begun("corda", on_cpu=False).size == common + decomposed
    assert start_memory(METHODS["vera"](method="vera"), SHAPES, "float32", on_cpu=True) == StartMemory()


def test_a_start_counts_as_far_as_it_is_more_than_a_step():
    plain = step()
    assert step(start=StartMemory(plain.gradients + plain.optimizer, has_backward_pass=True)).start == 0
    assert step(start=StartMemory(plain.gradients + plain.optimizer + 5, has_backward_pass=True)).start == 5
    freed = plain.gradients + plain.optimizer + plain.activations + plain.logits
    assert step(start=StartMemory(freed + 5)).total == plain.total + 5
