"""The estimate of a step's memory: exact where it can be, never smaller for more work."""

from dataclasses import asdict, replace

import pytest

from lora_ns.methods import METHODS
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.activations import LARGE, Kept, Step, kept_bytes, layer_bytes
from lora_ns.plan.memory.allocator import LIBRARIES_ON_CPU, LIBRARIES_ON_GPU, held_bytes
from lora_ns.plan.memory.estimate import MemoryEstimate, Scoring, StartMemory, estimate, start_memory
from lora_ns.plan.memory.exact import ExactTerms

FACTS = BaseFacts(
    "llama", 1_000_000, "BF16", 64, 128, 2, 1000, 512, {}, settings={"num_attention_heads": 4, "num_key_value_heads": 2}
)
LORA = METHODS["lora"](method="lora", lora_r=16)
STEP = {
    "exact": ExactTerms(weights=2_000_000, adapter=4000, gradients=4000, optimizer=8000),
    "peft": LORA,
    "start": StartMemory(),
    "step": Step(4, 25, "bfloat16", "sdpa"),
    "checkpointing": False,
    "scoring": Scoring(100, 1024),
    "on_cpu": True,
}


def step(facts=FACTS, **changes):
    return estimate(facts, **{**STEP, **changes})


def test_the_terms_of_a_step():
    layer = 100 * (12 * 64 + 4 * 64 + 8 * 128 + 4 * 32 + 14 * 16 + 4 * 4 + 8) + 2 * 4 * 25 * 25
    logits = 100 * (1000 * (2 + 8) + 64 * 2)
    assert step() == MemoryEstimate(
        weights=2_000_000,
        adapter=4000,
        gradients=4000,
        optimizer=8000,
        activations=2 * layer,
        logits=logits,
        transient=round(0.35 * 2 * layer) + 2 * (2 * 1000 * 64),
        runtime=LIBRARIES_ON_CPU,
    )


def test_a_backward_pass_without_logits_has_temporary_tensors_of_its_own():
    silent = step(scoring=Scoring(0))
    kept, layer = kept_bytes(FACTS, LORA, STEP["step"], False)
    assert silent.logits == 0
    assert silent.activations + silent.transient == held_bytes(kept, layer, 2, False, True, in_half=True)[1]


def test_a_gpu_keeps_the_same_and_holds_less():
    here, there = step(), step(on_cpu=False)
    assert (there.activations, there.logits) == (here.activations, here.logits)
    assert there.transient < here.transient
    assert there.runtime == LIBRARIES_ON_GPU


def test_large_tensors_leave_no_gaps():
    small, large = Kept(LARGE, 0), Kept(0, LARGE)
    assert held_bytes(large, large, 2, False, True)[0] == LARGE < held_bytes(small, small, 2, False, True)[0]


@pytest.mark.parametrize(
    ("changes", "has_mask"),
    [
        ({}, True),
        ({"rows": 1}, False),
        ({"is_even": True}, False),
        ({"rows": 1, "is_packed": True}, True),
        ({"attention": "flash_attention_2"}, False),
    ],
)
def test_each_layer_keeps_a_mask_if_rows_are_padded_or_packed(changes, has_mask):
    found = replace(STEP["step"], **changes)
    assert found.has_mask is has_mask
    plain = layer_bytes(FACTS, LORA, replace(found, rows=1, length=found.tokens, is_packed=False)).total
    assert layer_bytes(FACTS, LORA, found).total == plain + has_mask * 2 * found.tokens * found.length


def test_logits_of_all_positions_are_in_memory_only_if_they_are_computed_at_once():
    few, many = (step(scoring=Scoring(1_000_000, size)).logits for size in (1024, None))
    trained = step(scoring=Scoring(1_000_000, 1024, is_recomputed=True)).logits
    assert few == 1024 * 1000 * (2 + 8) + 1_000_000 * 64 * 2 < many
    assert trained == 1024 * 1000 * 18 + 1_000_000 * 64 * 2


def test_the_total_is_the_sum_of_its_terms():
    assert step().total == sum(asdict(step()).values())


@pytest.mark.parametrize(
    "sizes",
    [
        [{"step": replace(STEP["step"], rows=count)} for count in (1, 2, 100)],
        [{"step": replace(STEP["step"], length=count)} for count in (1, 2, 100, 10_000)],
        [
            {"step": replace(STEP["step"], attention=name, length=1000)}
            for name in ("flash_attention_2", "sdpa", "eager")
        ],
        [{"scoring": Scoring(count, 1024)} for count in (10, 100, 10_000)],
        [{"scoring": Scoring(count)} for count in (1000, 10_000)],
        [{"peft": METHODS["lora"](method="lora", lora_r=rank)} for rank in (1, 8, 64)],
        [{"peft": METHODS["lora"](method="lora", lora_dropout=part)} for part in (0.0, 0.1)],
        [{"exact": ExactTerms(size, size, size, size)} for size in (0, 1, 1000, 10**8)],
        [{"start": StartMemory(size, True)} for size in (20_000, 30_000)],
        [{"start": StartMemory(size)} for size in (10**9, 2 * 10**9)],
        [{"step": replace(STEP["step"], dtype=name)} for name in ("bfloat16", "float32")],
        [{"facts": replace(FACTS, num_hidden_layers=24), "checkpointing": flag} for flag in (True, False)],
        [{"facts": replace(FACTS, num_hidden_layers=count)} for count in (1, 2, 40)],
    ],
    ids=lambda sizes: "-".join(sizes[0]),
)
def test_more_of_anything_needs_more(sizes):
    totals = [step(**size).total for size in sizes]
    assert totals == sorted(set(totals))


def test_half_types_take_the_same():
    assert step(step=replace(STEP["step"], dtype="float16")) == step()


def test_recomputing_one_layer_keeps_that_layer():
    one = replace(FACTS, num_hidden_layers=1)
    layer = step(one).activations
    assert step(one, checkpointing=True).activations == layer + 100 * 64 * 2


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "bert", "gpt2", "a family of tomorrow"])
def test_every_family_keeps_something_for_all_methods(kind):
    facts = replace(FACTS, model_type=kind)
    for name in ("lora", "vera", "prompt-tuning", "ia3"):
        assert layer_bytes(facts, METHODS[name].model_validate({"method": name}), STEP["step"]).total > 0


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


@pytest.mark.parametrize(("kernel", "bytes_of_a_score"), [("products", 2), ("sdpa", 0)])
def test_short_rows_keep_the_probabilities_of_their_products(kernel, bytes_of_a_score):
    few, many = (layer_bytes(FACTS, LORA, Step(1, size, "bfloat16", kernel)).total for size in (100, 200))
    assert many - 2 * few == bytes_of_a_score * 4 * (200**2 - 2 * 100**2)
