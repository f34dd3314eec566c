"""DeepSpeed's configuration: from the recipe alone, and joined with one of the user's own."""

import json
from types import SimpleNamespace

import pytest
from plans import plan_of, plan_with_deepspeed

from lora_ns.errors import UsageError
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.deepspeed import with_deepspeed
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)
ZERO = ("distributed.strategy=deepspeed", "distributed.num_processes=2", "training.per_device_train_batch_size=2")


def settings(path, *overrides):
    loaded = load_recipe(path, [*ZERO, *overrides])
    return plan_with_deepspeed(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(160, 10)).deepspeed


def joined_with(write_recipe, tmp_path, own, *overrides):
    (tmp_path / "own.json").write_text(own if isinstance(own, str) else json.dumps(own))
    return settings(write_recipe(), "distributed.deepspeed_config=own.json", *overrides)


def told(*arguments):
    with pytest.raises(UsageError) as caught:
        joined_with(*arguments)
    return [str(problem) for problem in caught.value.problems]


def test_the_numbers_are_the_plans(write_recipe):
    assert settings(write_recipe()) == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 2},
    }


def test_processes_that_share_rows_count_them_as_often(write_recipe):
    found = settings(write_recipe(), "distributed.context_parallel_size=2")
    numbers = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [found[name] for name in numbers] == [32, 2, 8]


def test_another_strategy_has_no_configuration(write_recipe):
    loaded = load_recipe(write_recipe())
    plan = plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(160, 10))
    assert with_deepspeed(loaded.recipe, loaded.folder, plan) is plan


def test_what_is_kept_elsewhere_is_said(write_recipe):
    found = settings(
        write_recipe(),
        "distributed.zero_stage=3",
        "distributed.offload_optimizer=cpu",
        "distributed.offload_param=nvme",
        "distributed.nvme_path=/fast",
        "model.dtype=bfloat16",
    )
    assert found["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "offload_param": {"device": "nvme", "pin_memory": False, "nvme_path": "/fast"},
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    assert found["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


PRESET = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    "zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto"},
    "steps_per_print": 50,
}


def test_a_preset_that_leaves_things_open_takes_the_recipes_values(write_recipe, tmp_path):
    found = joined_with(write_recipe, tmp_path, PRESET)
    assert found == {
        **settings(write_recipe()),
        "zero_optimization": {"stage": 2, "overlap_comm": True},
        "steps_per_print": 50,
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"train_batch_size": 32}, "`train_batch_size` is 32, but the recipe (`training.global_batch_size`) says 16"),
        (
            {"zero_optimization": {"stage": 3}},
            "`zero_optimization.stage` is 3, but the recipe (`distributed.zero",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            '`zero_optimization.offload_optimizer.device` is "cpu", but the recipe (`distributed.offload_optimizer`)',
        ),
        ({"bf16": {"enabled": True}}, "`bf16` cannot be set in this file (remove it, and write `model.dtype`)"),
        ({"optimizer": {"type": "Adam", "params": {"lr": 1e-3}}}, "`optimizer` cannot be set in this file"),
        ("{", "not JSON"),
        ("[]", "write a JSON object"),
    ],
)
def test_what_contradicts_the_recipe_is_an_error(write_recipe, tmp_path, own, expected):
    (problem,) = told(write_recipe, tmp_path, own)
    assert expected in problem
    assert "own.json" in problem


def test_every_contradiction_is_told(write_recipe, tmp_path):
    assert len(told(write_recipe, tmp_path, {"train_batch_size": 32, "gradient_clipping": 3.0, "fp16": {}})) == 3


def test_a_file_that_is_not_there_is_told(write_recipe):
    with pytest.raises(UsageError, match=r"distributed.deepspeed_config: .*gone.json cannot be read"):
        settings(write_recipe(), "distributed.deepspeed_config=gone.json")


@pytest.mark.parametrize(
    ("own", "line", "variable"),
    [
        ({"comet": {"api_key": "any-value"}}, 3, "an environment variable"),
        ({"wandb": {"team": "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8x"}}, 3, "HF_TOKEN"),
        ({"tags": ["https://me:any-value@example.org"]}, 3, "that its library reads"),
    ],
)
def test_a_secret_in_the_file_is_refused_before_it_is_copied(write_recipe, tmp_path, own, line, variable):
    (found,) = told(write_recipe, tmp_path, json.dumps(own, indent=2))
    place, secret = str(tmp_path / "own.json"), ("any-value", "hf_")
    assert found.startswith(f"{place}:{line}: ")
    assert variable in found
    assert not any(part in found for part in secret)
