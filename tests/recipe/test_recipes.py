"""Every recipe that is shipped loads and plans, and so does everything that `init` writes."""

import json
import math
import shutil
from pathlib import Path

import pytest
from plans import plan_with_deepspeed

from lora_ns.data.files.read import read_rows
from lora_ns.errors import UsageError
from lora_ns.formats import Columns, detect
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.methods import METHODS
from lora_ns.model.files import find_base
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.methods_page import page
from lora_ns.recipe.reference import reference
from lora_ns.recipe.starters import STARTS, write_folder, write_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
MACHINE = Machine("cpu", 2, True, 24 * 10**9, 20 * 10**9)
GPU = Gpu(0, "GPU", 80 * 10**9, 80 * 10**9, (9, 0), "580")
FOUR_GPUS = Machine("cpu", 16, True, 10**12, 10**12, gpus=(GPU,) * 4)


def test_the_recipes_are_found():
    assert len(RECIPES) >= 34


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_shipped_recipe_loads_and_plans(path):
    loaded = load_recipe(path)
    base = find_base(loaded.recipe.model.name_or_path, "main", [], download=False)
    is_alone = loaded.recipe.distributed.strategy == "none"
    plan = plan_with_deepspeed(loaded, MACHINE if is_alone else FOUR_GPUS, base, DataFacts(1000, 10))
    assert plan.max_steps.value
    parts = (plan.per_device_train_batch_size, plan.gradient_accumulation_steps, plan.world_size)
    assert plan.global_batch_size.value == math.prod(part.value for part in parts)
    assert plan.world_size.value == (1 if is_alone else 4 * loaded.recipe.distributed.num_nodes)


CONFIGS = RECIPES[0].parents[1] / "distributed" / "configs"
PRESETS = {
    "multi_gpu": {"strategy": "ddp"},
    "fsdp2": {"strategy": "fsdp"},
    "zero1": {"strategy": "deepspeed", "zero_stage": 1},
    "zero2": {"strategy": "deepspeed"},
    "zero2_offload": {"strategy": "deepspeed", "offload_optimizer": "cpu"},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
    "zero3_offload": {
        "strategy": "deepspeed",
        "zero_stage": 3,
        "offload_optimizer": "cpu",
        "offload_param": "cpu",
    },
}
OF_DEEPSPEED = {
    "ds_zero2": ("gsm8k-zero3", ["distributed.zero_stage=2"]),
    "ds_zero3": ("gsm8k-zero3", []),
    "ds_zero3_offload": ("gsm8k-zero3", ["distributed.offload_optimizer=cpu", "distributed.offload_param=cpu"]),
}


def test_every_preset_is_held_by_a_test():
    assert {file.name for file in CONFIGS.iterdir()} == {f"{name}.yaml" for name in PRESETS} | {
        f"{name}.json" for name in OF_DEEPSPEED
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_of_accelerates_joins_a_recipe_without_a_word(write_recipe, minimal, name):
    path = write_recipe(f'{minimal}\n[distributed]\naccelerate_config = "{CONFIGS / name}.yaml"\n')
    loaded = load_recipe(path)
    said = loaded.recipe.distributed.model_dump(exclude_defaults=True, exclude={"accelerate_config"})
    assert (said, loaded.notes) == (PRESETS[name], ())
    plan = plan_with_deepspeed(loaded, FOUR_GPUS, None, DataFacts(1000, 10))
    assert (plan.world_size.value, plan.dtype.value) == (4, "bfloat16")
    assert bool(plan.deepspeed) == ("zero" in name)


@pytest.mark.parametrize("name", OF_DEEPSPEED)
def test_a_preset_of_deepspeeds_adds_to_a_recipe_and_leaves_nothing_open(name):
    recipe, overrides = OF_DEEPSPEED[name]
    own = f"distributed.deepspeed_config={CONFIGS / name}.json"
    alone, joined = (
        plan_with_deepspeed(loaded, FOUR_GPUS, None, DataFacts(1000, 10)).deepspeed
        for loaded in (load_recipe(CONFIGS.parent / f"{recipe}.toml", [*overrides, *more]) for more in ([], [own]))
    )
    assert {
        **joined,
        **alone,
        "zero_optimization": {**joined["zero_optimization"], **alone["zero_optimization"]},
    } == joined
    assert joined["zero_optimization"]["overlap_comm"] is True
    assert "auto" not in json.dumps(joined).replace("torch_autocast", "")


@pytest.mark.parametrize("name", STARTS)
def test_what_init_writes_is_a_recipe_with_a_word_on_every_key(tmp_path, name):
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(STARTS[name], "my task"))
    assert load_recipe(path).recipe.task_name == "my-task"
    keys = [line for line in path.read_text().splitlines() if " = " in line]
    assert [line for line in keys if not line.partition("  # ")[2].strip()] == []


def test_init_takes_another_model_and_other_data(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(STARTS["gsm8k"], "t", model="a/b", data="rows.jsonl"))
    recipe = load_recipe(path).recipe
    assert (recipe.model.name_or_path, recipe.dataset.path, recipe.dataset.eval_fraction) == ("a/b", "rows.jsonl", 0.05)
    assert recipe.dataset.prompt_template


@pytest.mark.parametrize("kind", ["no config", "adapter", "no weights"])
def test_a_folder_that_is_no_base_is_refused(tmp_path, kind):
    source = find_base("lorans:nano", "main", [], download=False).path
    shutil.copytree(source, tmp_path / "base")
    if kind == "no weights":
        (tmp_path / "base/model.safetensors").unlink()
    else:
        (tmp_path / "base/config.json").unlink()
    if kind == "adapter":
        (tmp_path / "base/adapter_config.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        find_base("base", "main", [tmp_path], download=False)
    assert caught.value.problems[0].remedy


def test_another_weight_is_another_fingerprint(tmp_path):
    base = find_base("lorans:nano", "main", [], download=False)
    shutil.copytree(base.path, tmp_path / "base")
    copy = find_base("base", "main", [tmp_path], download=False)
    assert copy.fingerprint == base.fingerprint
    file = tmp_path / "base/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert find_base("base", "main", [tmp_path], download=False).fingerprint != base.fingerprint


@pytest.mark.parametrize(
    "data", [None, "rows.jsonl", "data/rows.jsonl", "/elsewhere/rows.jsonl", "rows.parquet", "data/*.jsonl"]
)
@pytest.mark.parametrize("name", STARTS)
def test_init_shows_rows_that_the_recipe_can_read_if_it_reads_a_file_beside_it(tmp_path, name, data):
    files = write_folder(STARTS[name], "t", data=data)
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    recipe = load_recipe(tmp_path / "recipe.toml").recipe
    stubs = set(files) - {"recipe.toml", "recipe.schema.json", "README.md", ".gitignore"}
    beside = data in ("rows.jsonl", "data/rows.jsonl") or (data is None and name == "template")
    assert stubs == ({recipe.dataset.path} if beside else set())
    for stub in stubs:
        rows = read_rows(tmp_path / stub)
        columns = Columns(**{key: getattr(recipe.dataset, key) for key in Columns.__dataclass_fields__})
        form, _ = detect(columns, list(rows[0].values), rows[0].values, recipe.objective.examples)
        assert all(form.example(row.values) for row in rows)
        assert stub in files["README.md"]
    assert f"`{recipe.training.output_dir}`" in files["README.md"]


@pytest.mark.parametrize("method", METHODS)
def test_init_takes_another_method(tmp_path, method):
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(STARTS["quickstart"], "t", method=method))
    assert load_recipe(path).recipe.peft.method == method


def test_the_reference_is_what_the_tables_say():
    written = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text()
    assert written == reference(), "python -m lora_ns.recipe.reference > docs/recipe.md"


def test_the_page_of_methods_is_what_the_table_says():
    written = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    assert written == page(), "python -m lora_ns.recipe.methods_page > docs/methods.md"


SHIPPED = {
    "quickstart": "nano/quickstart.toml",
    "dpo": "nano/dpo.toml",
    "gsm8k": "mistral-7b/gsm8k-qlora.toml",
    "metamath": "llama-2-7b/metamath-lora.toml",
    "code-feedback": "deepseek-coder-6.7b/code-feedback-qlora.toml",
    "glue-mrpc": "roberta-base/glue-mrpc-lora.toml",
    "template": "template.toml",
}


def test_every_start_of_init_is_shipped():
    assert set(SHIPPED) == set(STARTS)


@pytest.mark.parametrize("name", SHIPPED)
def test_init_starts_from_the_shipped_recipe(tmp_path, name):
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(STARTS[name], "t"))
    start, shipped = (load_recipe(file).recipe.model_dump() for file in (path, RECIPES[0].parents[1] / SHIPPED[name]))
    for recipe in (start, shipped):
        del recipe["task_name"], recipe["training"]["output_dir"]
    assert start == shipped
