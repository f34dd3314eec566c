"""What would make a plan fit: proposals fit when they are planned, the cheapest first, and refusals are honoured."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from minimal_recipe import choosing
from plans import plan_of

from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.cuts import MOST_PROPOSALS, candidates, fit_into, memory_cuts
from lora_ns.plan.fit import USABLE_MEMORY, with_free_memory
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe

GB = 10**9
CPU = Machine("cpu", 2, True, 512 * GB, 512 * GB)
GPUS = replace(CPU, gpus=(Gpu(0, "GPU", 512 * GB, 512 * GB, (9, 0), "580"),) * 2)
SHAPES = {f"layers.{layer}.{name}": (2048, 2048) for layer in range(16) for name in ("q_proj", "v_proj")}
FACTS = BaseFacts("llama", 1_200_000_000, "BF16", 2048, 8192, 16, 128_256, 8192, SHAPES)
SHARED = ("sft.max_seq_length=1024", "training.global_batch_size=16", "training.per_device_train_batch_size=8")


def fitted(path, size, *overrides, machine=CPU):
    machine = with_free_memory(machine, size)

    def plan_with(more):
        loaded = load_recipe(path, [*SHARED, *overrides, *more])
        return plan_of(loaded, machine, SimpleNamespace(facts=FACTS), DataFacts(100, 10))

    made = plan_with(())
    recipe = load_recipe(path, [*SHARED, *overrides]).recipe
    return fit_into(size, made, made.memory_bytes.value, recipe, plan_with), plan_with


RECIPES = {
    "lora": (),
    "large rank": ("peft.lora_r=64",),
    "quantised": ("quantization.method=bnb-4bit",),
    "chosen by the plan": ("training.per_device_train_batch_size='auto'",),
    "accumulated": ("training.global_batch_size=64",),
    "two processes": ("distributed={strategy='ddp', num_processes=2}",),
    "prompt tuning": choosing("prompt-tuning"),
}


@pytest.mark.parametrize("size", [8 * GB, 12 * GB, 20 * GB])
@pytest.mark.parametrize("kind", RECIPES)
def test_proposals_fit_when_they_are_planned(write_recipe, kind, size):
    machine = GPUS if kind == "two processes" else CPU
    fit, plan_with = fitted(write_recipe(), size, *RECIPES[kind], machine=machine)
    assert fit.usable_bytes == int(USABLE_MEMORY * size)
    if fit.fits:
        assert not fit.proposals
        return
    assert 0 < len(fit.proposals) <= MOST_PROPOSALS
    whole = plan_with(()).global_batch_size.value
    _, roomy = fitted(write_recipe(), 400 * GB, *RECIPES[kind], machine=machine)  # chooses nothing to save memory
    for proposal in fit.proposals:
        made = plan_with(proposal.overrides)
        assert made.memory_bytes.value == proposal.memory_bytes <= fit.usable_bytes
        assert made.global_batch_size.value == whole
        assert len(proposal.costs) >= 1
        assert roomy(proposal.overrides).memory_bytes.value <= proposal.memory_bytes
    assert len({proposal.overrides for proposal in fit.proposals}) == len(fit.proposals)


def test_what_cannot_fit_is_told_with_the_smallest_plan(write_recipe):
    fit, plan_with = fitted(write_recipe(), GB)
    assert not fit.fits
    assert not fit.proposals
    assert fit.smallest.memory_bytes == plan_with(fit.smallest.overrides).memory_bytes.value > fit.usable_bytes
    assert fit.smallest.memory_bytes < fit.memory_bytes


def test_a_plan_that_fits_has_no_proposals(write_recipe):
    fit, _ = fitted(write_recipe(), 400 * GB)
    assert fit.fits
    assert (fit.proposals, fit.smallest) == ((), None)


def test_what_is_cut_already_is_not_proposed(write_recipe):
    done = (
        *("training.gradient_checkpointing=true", "quantization.method=bnb-4bit", "training.optim=paged_adamw_8bit"),
        *("training.per_device_train_batch_size=1", "peft.lora_r=4"),
    )
    path = write_recipe()
    _, plan_with = fitted(path, 400 * GB, *done)
    recipe = load_recipe(path, [*SHARED, *done]).recipe
    (lengths,) = [cuts for cuts in candidates(recipe, plan_with(())) if cuts]
    assert [cut.overrides for cut in lengths] == [(f"sft.max_seq_length={length}",) for length in (768, 512, 256)]
    assert list(memory_cuts(recipe, 1, checkpointing=True)) == ["lower `sft.max_seq_length`"]


def test_the_terms_add_up_to_the_memory(write_recipe):
    _, plan_with = fitted(write_recipe(), 400 * GB)
    made = plan_with(())
    assert sum(made.memory.values()) == made.memory_bytes.value
