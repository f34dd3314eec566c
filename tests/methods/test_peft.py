"""What holds for every PEFT method of the recipe."""

import json

import pytest
from minimal_recipe import choosing

from lora_ns.errors import RecipeError
from lora_ns.methods import METHODS
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.upstream import peft_config_fields

NEEDED = {"trainable-tokens": {"token_indices": [5, 6, 7]}}
"""Keys of methods that have no default."""


def extra_of(name):
    """A field of a method's PEFT configuration that the recipe has no key for."""
    model = METHODS[name]
    known = peft_config_fields(model.config_file, model.config_class, model.parents) or {"fan_in_fan_out"}
    fields = ("fan_in_fan_out", "exclude_modules", "token_dim", "init_weights")
    return next(field for field in fields if field in known and field not in model.model_fields), True


needs_peft = pytest.mark.skipif(
    peft_config_fields("config.py", "PeftConfig") is None, reason="reads the installed peft"
)


def read(name, **keys):
    return METHODS[name].model_validate_json(json.dumps({"method": name, **NEEDED.get(name, {}), **keys}))


def test_the_methods_are_named_by_their_tag():
    assert {name: (read(name).tag(), read(name).method) for name in METHODS} == {name: (name, name) for name in METHODS}


@needs_peft
@pytest.mark.parametrize("name", METHODS)
def test_the_translation_uses_fields_of_the_installed_configuration(name):
    method = read(name)
    assert (
        set(method.to_kwargs()) - peft_config_fields(method.config_file, method.config_class, method.parents) == set()
    )


@pytest.mark.parametrize("name", METHODS)
def test_an_extra_field_is_passed_on_beside_the_others(name):
    key, value = extra_of(name)
    assert read(name, extra={key: value}).to_kwargs() == {**read(name).to_kwargs(), key: value}


@pytest.mark.parametrize("name", METHODS)
def test_an_extra_field_is_accepted_by_the_recipe(write_recipe, name):
    key, value = extra_of(name)
    loaded = load_recipe(write_recipe(), [*choosing(name), f"peft.extra.{key}={json.dumps(value)}"])
    assert loaded.recipe.peft.extra == {key: value}


@needs_peft
@pytest.mark.parametrize("name", METHODS)
def test_an_extra_field_that_peft_does_not_have_is_refused(write_recipe, name):
    key, value = extra_of(name)
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), [*choosing(name), f"peft.extra.{key}x={json.dumps(str(value))}"])
    told = f"peft.extra.{key}x: the installed `{METHODS[name].config_class}` has no field `{key}x`"
    assert str(caught.value) == f"--set: {told} (did you mean `{key}`?)"


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in METHODS for field in [*read(name).to_kwargs(), "task_type", "peft_type"]],
)
def test_an_extra_field_that_the_recipe_decides_is_refused(write_recipe, name, field):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), [*choosing(name), f"peft.extra.{field}=1"])
    told = f"peft.extra.{field}: `{field}` is set by the recipe's own keys"
    assert str(caught.value) == f"--set: {told} (remove it)"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_when_to_take_it_and_what_does_not_work(name):
    capabilities = METHODS[name].capabilities
    fields = ("merge", "packing", "gradient_checkpointing", "nf4", "int8", "torchao", "gptq", "resume")
    reasons = [getattr(capabilities, field) for field in fields]
    assert METHODS[name].advice
    assert [reason for reason in reasons if not reason] == []
    assert 0 < capabilities.typical_learning_rate < 1


def test_lora_by_default_is_rank_16_on_all_linear_layers():
    assert read("lora").to_kwargs() == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "modules_to_save": None,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "kasa_config": None,
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "exclude_modules": None,
        "target_parameters": None,
        "trainable_token_indices": None,
    }


@pytest.mark.parametrize(("alpha", "written"), [(32, "32"), (32.0, "32"), (0.5, "0.5"), (1e15, "1000000000000000")])
def test_alpha_reaches_peft_as_a_whole_number_where_it_is_one(alpha, written):
    assert json.dumps(read("lora", lora_alpha=alpha).to_kwargs()["lora_alpha"]) == written


@pytest.mark.parametrize(("key", "value"), [("target_modules", ["q"]), ("layers_to_transform", [0, 3])])
def test_lists_reach_peft_as_lists(key, value):
    assert read("lora", **{key: value}).to_kwargs()[key] == value


def test_the_other_methods_by_default():
    assert [read(name).to_kwargs() for name in ("ia3", "prefix-tuning", "prompt-tuning")] == [
        {"target_modules": None, "feedforward_modules": None, "modules_to_save": None},
        {"num_virtual_tokens": 20},
        {"num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB", "prompt_tuning_init_text": None},
    ]
