"""The estimate of a step's memory: exact where it can be, never smaller for more work."""

from dataclasses import asdict, replace

import pytest

from lora_ns.basemodel import BaseFacts
from lora_ns.memory import MemoryEstimate, estimate

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, 512, {})
STEP = {
    "dtype": "bfloat16",
    "bits": None,
    "adapter_parameters": 1000,
    "tokens": 100,
    "checkpointing": False,
    "scored_tokens": 100,
}


def step(facts=FACTS, **changes):
    return estimate(facts, **{**STEP, **changes})


def test_the_terms_of_a_step():
    layer = 2 * (18 * 64 + 8 * 128) * 3 // 2
    assert step() == MemoryEstimate(
        weights=2 * 1_000_000,
        adapter=4 * 1000,
        optimizer=12 * 1000,
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
        [{"adapter_parameters": count} for count in (0, 1, 1000, 10**8)],
        [{"bits": bits} for bits in (4, 8, None)],
        [{"dtype": "bfloat16"}, {"dtype": "float32"}],
        [{"checkpointing": True}, {"checkpointing": False}],
        [{"facts": replace(FACTS, num_hidden_layers=count)} for count in (1, 2, 40)],
        [{"facts": replace(FACTS, parameters=count)} for count in (500_000, 10**6, 10**9)],
    ],
    ids=lambda sizes: "-".join(sizes[0]),
)
def test_more_of_anything_needs_more(sizes):
    totals = [step(**size).total for size in sizes]
    assert totals == sorted(set(totals))


def test_half_types_take_the_same():
    assert step(dtype="float16") == step(dtype="bfloat16")


@pytest.mark.parametrize(("bits", "size"), [(4, 0.5), (8, 1)])
def test_a_quantised_base_keeps_its_embeddings(bits, size):
    embeddings = 2 * 1000 * 64
    assert step(bits=bits).weights == 2 * embeddings + size * (1_000_000 - embeddings)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_is_all_embeddings_is_not_quantised(bits):
    tiny = replace(FACTS, parameters=1000)
    assert step(tiny, bits=bits).weights == step(tiny).weights


def test_recomputing_one_layer_keeps_that_layer():
    one = replace(FACTS, num_hidden_layers=1)
    layer = step(one).activations
    assert step(one, checkpointing=True).activations == layer + 100 * 64 * 2
