"""A base that is stored quantised is trained on as one that is quantised when it is loaded; or refused by its name."""

import json
import shutil

import pytest
import torch
import transformers
from services_recipes import RECIPE, run_recipe

from lora_ns.basemodel import ASSETS, find_base
from lora_ns.errors import ModelError, RecipeError
from lora_ns.machine import Machine
from lora_ns.plan import DataFacts, make_plan
from lora_ns.recipe.load import load_recipe
from lora_ns.services.merge import merge

WRITTEN = {
    "bnb-4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "bnb-8bit": {"load_in_8bit": True},
}
SHORT = RECIPE.replace("max_steps = 6", "max_steps = 3")
MACHINE = Machine("cpu", 2, True, 24 * 10**9, 20 * 10**9)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The embedded base as bitsandbytes stores it, whose settings have another type to compute in."""
    folders = {}
    for method, settings in WRITTEN.items():
        folder = folders[method] = tmp_path_factory.mktemp("base") / method
        quantised = transformers.BitsAndBytesConfig(**settings, llm_int8_skip_modules=["lm_head"])
        model = transformers.AutoModelForCausalLM.from_pretrained(
            ASSETS / "nano", dtype=torch.float32, quantization_config=quantised, device_map={"": "cpu"}
        )
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(ASSETS / "nano").save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["bnb_4bit_compute_dtype"] = "bfloat16"
        (folder / "config.json").write_text(json.dumps(config))
    return folders


def on(folder):
    return SHORT.replace("lorans:nano", str(folder))


@pytest.mark.parametrize("method", WRITTEN)
def test_a_stored_quantisation_gives_the_run_that_quantising_at_once_gives(stored, tmp_path, method):
    found = run_recipe(tmp_path, on(stored[method]), "training.output_dir=stored")
    at_once = run_recipe(tmp_path, SHORT, f"quantization.method={method}", "training.output_dir=at_once")
    manifest, expected = found.read(), at_once.read()
    assert manifest.recipe.quantization == expected.recipe.quantization
    assert any("is stored in" in note and f"`{method}`" in note for note in manifest.plan.notes)
    losses = [[row["loss"] for row in map(json.loads, run.metrics.open()) if "loss" in row] for run in (found, at_once)]
    assert losses[0] == losses[1]
    assert manifest.seal.rows
    assert merge(found, tmp_path / "merged").largest_difference < 1e-4
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())


@pytest.mark.parametrize("method", WRITTEN)
def test_the_plan_counts_the_weights_and_not_how_they_are_packed(stored, write_recipe, method):
    loaded = load_recipe(write_recipe(SHORT))
    whole, packed = (find_base(str(folder), "main", [], download=False) for folder in (ASSETS / "nano", stored[method]))
    assert packed.facts.parameters == whole.facts.parameters
    assert packed.facts.matrices == whole.facts.matrices
    plans = [make_plan(loaded, MACHINE, base, DataFacts(100, 10)) for base in (whole, packed)]
    assert plans[0].adapter_parameters == plans[1].adapter_parameters


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["quantization.method=bnb-8bit"],
            r'quantization.method: the base is stored quantised already, with `method = "bnb-4bit"` \(remove',
        ),
        (
            ["quantization.method=bnb-4bit", "quantization.bnb_4bit_quant_type=fp4"],
            r'quantization.bnb_4bit_quant_type: .* with `bnb_4bit_quant_type = "nf4"`',
        ),
        (["peft.method=loha"], r"recipe.toml:4: the base is stored in 4 bits: "),
    ],
)
def test_what_does_not_go_with_the_stored_quantisation_is_refused(stored, write_recipe, overrides, told):
    base = find_base(str(stored["bnb-4bit"]), "main", [], download=False)
    with pytest.raises(RecipeError, match=told):
        make_plan(load_recipe(write_recipe(on(base.path)), overrides), MACHINE, base, DataFacts(100, 10))


def test_a_recipe_may_say_what_the_base_is(stored, write_recipe):
    base = find_base(str(stored["bnb-4bit"]), "main", [], download=False)
    loaded = load_recipe(write_recipe(on(base.path)), ["quantization.method=bnb-4bit"])
    assert make_plan(loaded, MACHINE, base, DataFacts(100, 10)).adapter_parameters.value


@pytest.mark.parametrize("kind", ["gptq", "awq", "hqq", "torchao", "fp8", "mxfp4"])
def test_a_base_that_others_quantised_is_refused_by_name(tmp_path, write_recipe, kind):
    shutil.copytree(ASSETS / "nano", tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": kind}}))
    base = find_base("base", "main", [tmp_path], download=False)
    with pytest.raises(ModelError, match=f"the base is stored quantised by {kind}, over which nothing here trains"):
        make_plan(load_recipe(write_recipe(on("base"))), MACHINE, base, DataFacts(100, 10))
