"""The speed of a run, as a plan assumes it: sane for known cases, slower for more work."""

from types import SimpleNamespace

import pytest
from plans import plan_of

from lora_ns.machine.gpus import machine_with
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.model.published import published_base
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe

HERE = Machine("cpu", 8, True, 256 * 10**9, 200 * 10**9)
LLAMA = "meta-llama/Llama-3.1-8B"
RECOMPUTED = "training.gradient_checkpointing=true"
NONE = {"value": None, "origin": "computed"}


def plan(path, *overrides, gpu="H100", model=LLAMA, rows=1600):
    loaded = load_recipe(path, [f"model.name_or_path={model}", "sft.max_seq_length=512", *overrides])
    machine = machine_with(gpu, HERE) if gpu else HERE
    return plan_of(loaded, machine, published_base(loaded.recipe.model), DataFacts(rows, 0))


def test_the_rate_follows_from_the_operations_of_a_token(write_recipe):
    made = plan(write_recipe(), "training.gradient_checkpointing=false")
    linear = 8_030_261_248 - 128_256 * 4096  # without the embeddings, which are looked up
    assert made.tokens_per_second.value == pytest.approx(0.4 * 989e12 / (4 * linear), rel=0.03)
    assert "40%" in made.tokens_per_second.why
    assert "H100" in made.tokens_per_second.why


def test_duration_and_energy_follow_from_the_rate(write_recipe):
    made = plan(write_recipe(), "training.num_train_epochs=2")
    tokens = 2 * 1600 * 512
    assert made.duration_seconds.value == pytest.approx(tokens / made.tokens_per_second.value, abs=1)
    assert made.energy_wh.value == pytest.approx(made.duration_seconds.value * 700 / 3600, abs=1)


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ({"gpu": "RTX 3090"}, {"gpu": "RTX 4090"}),
        ({"overrides": [RECOMPUTED]}, {"overrides": ["training.gradient_checkpointing=false"]}),
        ({"overrides": ["sft.max_seq_length=8192"]}, {"overrides": ["sft.max_seq_length=512"]}),
        ({"overrides": ['quantization.method="bnb-4bit"', RECOMPUTED]}, {"overrides": [RECOMPUTED]}),
        ({"overrides": ['model.dtype="float32"']}, {}),
        ({"model": "meta-llama/Llama-3.1-70B"}, {}),
        ({"model": "Qwen/Qwen3-14B"}, {"model": "Qwen/Qwen3-30B-A3B"}),
    ],
    ids=["gpu", "checkpointing", "length", "4-bit", "float32", "size", "experts"],
)
def test_more_work_is_slower(write_recipe, slower, faster):
    rates = [
        plan(write_recipe(), *one.pop("overrides", ()), **one).tokens_per_second.value
        for one in (dict(slower), dict(faster))
    ]
    assert rates[0] < rates[1]


def test_processes_add_their_rates(write_recipe):
    shared = ("distributed.strategy=ddp", "distributed.num_processes=8", "training.gradient_checkpointing=true")
    one = plan(write_recipe(), "training.gradient_checkpointing=true").tokens_per_second.value
    assert plan(write_recipe(), *shared, gpu="8xH100").tokens_per_second.value == pytest.approx(8 * one, rel=0.01)


def test_a_rate_is_not_invented(write_recipe):
    assert plan(write_recipe(), gpu=None).tokens_per_second.why == "known after a run on this machine"
    gpu = Gpu(0, "Some GPU", 80 * 10**9, 79 * 10**9, (9, 0), "")
    loaded = load_recipe(write_recipe(), [f"model.name_or_path={LLAMA}"])
    machine = Machine("cpu", 8, True, 10**11, 10**11, (gpu,))
    made = plan_of(loaded, machine, published_base(loaded.recipe.model), DataFacts(100, 0))
    assert made.tokens_per_second.model_dump() == {**NONE, "why": "the rate of Some GPU is not known"}
    assert plan(write_recipe(), rows=None).duration_seconds.value is None
    assert (
        plan_of(loaded, machine, None, DataFacts(100, 0)).tokens_per_second.why
        == "known once the base is on this machine"
    )


@pytest.mark.parametrize(("keep", "size"), [(1, 1), (5, 5)])
def test_the_disk_is_that_of_the_checkpoints_that_are_kept(write_recipe, keep, size):
    made = plan(write_recipe(), f"training.save_total_limit={keep}", rows=1000)
    adapter = 4 * made.adapter_parameters.value
    assert made.disk_bytes.value == pytest.approx(adapter + size * 3 * adapter, rel=0.03)


def test_unknown_methods_leave_no_plan_without_a_size(write_recipe):
    facts = published_base(load_recipe(write_recipe(), [f"model.name_or_path={LLAMA}"]).recipe.model).facts
    loaded = load_recipe(write_recipe(), ["peft.method=oft", "peft.oft_block_size=7"])
    made = plan_of(loaded, HERE, SimpleNamespace(facts=facts), DataFacts(100, 0))
    assert (made.adapter_parameters.value, made.disk_bytes.value) == (None, None)
