"""The plan: pure, whole, with the origin of every number."""

import pytest

from lora_ns.basemodel import find_base
from lora_ns.errors import PlanError
from lora_ns.machine import Gpu, Machine
from lora_ns.plan import DataFacts, make_plan
from lora_ns.recipe.load import load_recipe

GB = 10**9
CPU = Machine("cpu", 2, True, 24 * GB, 20 * GB)


def gpu(capability, name="GPU"):
    return Machine("cpu", 8, True, 64 * GB, 60 * GB, (Gpu(0, name, 24 * GB, 23 * GB, capability, "1"),))


def plan(path, *overrides, machine=CPU, rows=100):
    loaded = load_recipe(path, ["sft.max_seq_length=128", *overrides])
    return make_plan(loaded, machine, find_base("lorans:nano", "main", [], download=False), DataFacts(rows, 10))


@pytest.mark.parametrize("total", [1, 2, 3, 7, 12, 16, 31, 64, 100])
def test_the_global_batch_is_kept_however_it_is_cut(write_recipe, total):
    made = plan(write_recipe(), f"training.global_batch_size={total}")
    assert made.per_device_train_batch_size.value * made.gradient_accumulation_steps.value == total
    assert made.global_batch_size.value == total
    assert made.global_batch_size.origin == "--set"


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(100, 1, 7), (96, 2, 12), (1, 1, 1), (33, 0.5, 2)])
def test_steps_follow_from_rows_and_epochs(write_recipe, rows, epochs, steps):
    assert plan(write_recipe(), f"training.num_train_epochs={float(epochs)}", rows=rows).max_steps.value == steps


def test_without_rows_the_steps_are_unknown(write_recipe):
    assert plan(write_recipe(), rows=None).max_steps.value is None


@pytest.mark.parametrize(("machine", "dtype"), [(CPU, "float32"), (gpu((7, 0)), "float16"), (gpu((8, 0)), "bfloat16")])
def test_the_type_follows_from_the_device(write_recipe, machine, dtype):
    assert plan(write_recipe(), machine=machine).dtype.value == dtype


@pytest.mark.parametrize(
    ("override", "machine"),
    [
        ("model.dtype=float16", CPU),
        ("model.dtype=bfloat16", gpu((7, 0))),
        ("model.attn_implementation=flash_attention_2", CPU),
        ("sft.max_seq_length=513", CPU),
    ],
)
def test_what_cannot_work_here_is_refused(write_recipe, override, machine):
    with pytest.raises(PlanError) as caught:
        plan(write_recipe(), override, machine=machine)
    assert caught.value.problems[0].where == "--set"
    assert caught.value.problems[0].remedy


def test_the_same_input_gives_the_same_plan(write_recipe):
    assert plan(write_recipe()) == plan(write_recipe())


def test_the_adapter_is_counted_from_the_shapes(write_recipe):
    assert plan(write_recipe()).adapter_parameters.value == 221_184
