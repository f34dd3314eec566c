"""Reading a recipe: every problem at once, each with its place and what to write instead."""

from pathlib import Path

import pytest
from conftest import MINIMAL

from lora_ns.errors import RecipeError
from lora_ns.recipe.explain import known_keys
from lora_ns.recipe.load import load_recipe


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return [str(problem).replace(str(path), "recipe.toml") for problem in caught.value.problems]


def test_the_minimal_recipe_is_read(write_recipe):
    recipe = load_recipe(write_recipe()).recipe
    assert recipe.peft.method == "lora"
    assert recipe.max_seq_length == 1024


def test_a_missing_file_is_named(tmp_path):
    assert problems(tmp_path / "none.toml") == ["recipe.toml: no such file (`lorans init NAME` writes one)"]


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[t]\n[t]\n", 2), ("x", 1), ("a = 1\na = 2", 2)]
)
def test_what_is_not_toml_is_located(write_recipe, text, line):
    (told,) = problems(write_recipe(text))
    assert told.startswith(f"recipe.toml:{line}: not TOML: ")


def test_five_mistakes_are_five_located_problems(write_recipe):
    text = MINIMAL + "lr = 0.1\nlearning_rate = nan\nglobal_batch_size = 8\ngradient_accumulation_steps = 2\n"
    text = text.replace('method = "lora"', 'method = "lora"\nlora_alfa = 3\nlora_r = true')
    assert problems(write_recipe(text)) == [
        "recipe.toml:9: peft.lora_alfa: unknown key (did you mean `lora_alpha`?)",
        "recipe.toml:10: peft.lora_r: got true (expected a whole number from 1)",
        "recipe.toml:17: training.lr: unknown key (it is called `training.learning_rate` here)",
        "recipe.toml:18: training.learning_rate: got NaN (expected a number above 0)".replace("NaN", "nan"),
        "recipe.toml:20: training.gradient_accumulation_steps: `global_batch_size` and `gradient_accumulation_steps` "
        "both say how large a batch is (keep `global_batch_size`)",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lora_r = -1", "peft.lora_r: got -1 (expected a whole number from 1)"),
        ("lora_r = 1.5", "peft.lora_r: got 1.5 (expected a whole number from 1)"),
        ("lora_dropout = inf", "peft.lora_dropout: got inf (expected a number from 0 below 1)"),
        ("r = 8", "peft.r: unknown key (it is called `peft.lora_r` here)"),
        (
            "num_virtual_tokens = 8",
            "peft.num_virtual_tokens: unknown key "
            "(`num_virtual_tokens` belongs to prefix-tuning and prompt-tuning, and the method is lora)",
        ),
        ("seed = 1", "peft.seed: unknown key (`seed` belongs in `[training]`)"),
    ],
)
def test_a_wrong_key_says_what_to_write(write_recipe, line, told):
    assert problems(write_recipe(MINIMAL.replace('method = "lora"', f'method = "lora"\n{line}'))) == [
        f"recipe.toml:9: {told}"
    ]


def test_an_unknown_method_names_the_close_one(write_recipe):
    assert problems(write_recipe(MINIMAL.replace('"lora"', '"lorra"'))) == [
        'recipe.toml:8: peft.method: got "lorra" (did you mean `lora`? one of: lora, ia3, prefix-tuning, prompt-tuning)'
    ]


def test_a_missing_table_says_what_to_add(write_recipe):
    assert problems(write_recipe(MINIMAL.replace("[peft]\nmethod", "[peft_]\nmethod")))[0].startswith(
        "recipe.toml: peft: required"
    )


def test_overrides_are_merged_before_the_check(write_recipe):
    loaded = load_recipe(write_recipe(), ["training.seed=7", "model.dtype=float32", 'peft.target_modules=["q_proj"]'])
    assert (loaded.recipe.training.seed, loaded.recipe.model.dtype) == (7, "float32")
    assert loaded.recipe.peft.target_modules == ("q_proj",)
    assert [loaded.origin(f"training.{key}") for key in ("seed", "output_dir", "optim")] == [
        "--set",
        "recipe",
        "default",
    ]


def test_a_wrong_override_is_located(write_recipe):
    assert problems(write_recipe(), "training.sed=1") == ["--set: training.sed: unknown key (did you mean `seed`?)"]


BROKEN = {
    "both sources": 'dataset.name="a/b"',
    "hub keys": 'dataset.subset="main"',
    "divide": "training.global_batch_size=16 training.per_device_train_batch_size=3",
    "length": "training.max_steps=3 training.num_train_epochs=2",
    "warm-up": "training.warmup_steps=3 training.warmup_ratio=0.1",
    "templates together": 'dataset.prompt_template="a"',
    "template form": 'dataset.prompt_template="{a.b}" dataset.completion_template="c"',
    "system turn": 'dataset.system_template="s"',
    "task tables": "classification.max_seq_length=8",
    "task format": 'dataset.format="classification"',
    "packing": 'peft.method="prompt-tuning" sft.packing=true',
    "checkpointing": 'peft.method="prefix-tuning" training.gradient_checkpointing=true',
    "remote code": "model.trust_remote_code=true",
    "prompt text": 'peft.method="prompt-tuning" peft.prompt_tuning_init="TEXT"',
    "ia3 targets": 'peft.method="ia3" peft.target_modules=["k_proj"]',
    "start": 'quantization.method="bnb-4bit" peft.init_lora_weights="pissa"',
    "exact match": "evaluation.exact_match=true",
    "exact match keys": 'evaluation.group_by="a"',
    "training extra": "training.extra.no_such_field=1",
    "training extra own": "training.extra.seed=1",
    "peft extra": "peft.extra.no_such_field=1",
}


@pytest.mark.parametrize("overrides", BROKEN.values(), ids=BROKEN)
def test_a_rule_between_keys_is_one_problem(write_recipe, overrides):
    if "extra.no_such" in overrides:
        pytest.importorskip("transformers")
    assert len(problems(write_recipe(), *overrides.split(" "))) == 1


@pytest.mark.parametrize("key", sorted(known_keys()))
def test_every_misspelt_key_gets_a_suggestion(write_recipe, key):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), [f"{key}x=1"])
    told = next(problem for problem in caught.value.problems if f"{key}x" in problem.what)
    assert told.remedy


def test_a_recipe_cannot_be_changed(write_recipe):
    recipe = load_recipe(write_recipe()).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.seed = 3
