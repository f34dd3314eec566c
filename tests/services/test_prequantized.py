"""A base that is stored quantised is trained on as one that is quantised when it is loaded; or refused by its name."""

import functools
import importlib.util
import json
import shutil
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
import transformers
from packed_bases import SETTINGS, pack_nano
from plans import plan_of
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe

from lora_ns.answers.changed_files import Force
from lora_ns.cli.app import main
from lora_ns.errors import MissingError, ModelError, PlanError, RecipeError, UsageError
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.model.files import ASSETS, find_base
from lora_ns.model.load import Loading, load_base
from lora_ns.plan.plan import DataFacts
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.recipe.load import load_recipe
from lora_ns.services.merge import merge

WRITTEN = {
    "bnb-4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "bnb-8bit": {"load_in_8bit": True},
    "torchao": {},
}
SHORT = RECIPE.replace("max_steps = 6", "max_steps = 3")
MACHINE = Machine("cpu", 2, True, 24 * 10**9, 20 * 10**9)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The embedded base as others store it, made when it is asked for."""

    @functools.cache
    def make(method):
        folder = tmp_path_factory.mktemp("base") / method
        if method in SETTINGS:
            pack_nano(folder, method)
            return folder
        model = transformers.AutoModelForCausalLM.from_pretrained(
            ASSETS / "nano", dtype=torch.float32, quantization_config=settings_of(method), device_map={"": "cpu"}
        )
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(ASSETS / "nano").save_pretrained(folder)
        change_settings(folder, bnb_4bit_compute_dtype="bfloat16")  # not what it is computed in here
        return folder

    return make


def settings_of(method):
    if method == "torchao":
        quantization = pytest.importorskip("torchao.quantization")
        return transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    return transformers.BitsAndBytesConfig(**WRITTEN[method], llm_int8_skip_modules=["lm_head"])


def change_settings(folder, **changed):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = config.get("quantization_config", {}) | changed
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def gptqmodel():
    """The package, which changes the environment when it is imported: before a test looks at that."""
    return pytest.importorskip("gptqmodel", reason="GPT-QModel, which comes as source, is no test requirement")


@pytest.fixture
def all_installed(monkeypatch):
    """Plans as where every package is."""
    found = importlib.util.find_spec
    needed = {"gptqmodel", "optimum", "torchao"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name in needed or found(name, *rest))


@pytest.fixture
def none_installed(monkeypatch):
    """Plans as where none is."""
    found = importlib.util.find_spec
    absent = {"gptqmodel", "optimum", "torchao"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest))


def planned(write_recipe, folder, *overrides):
    base = find_base(str(folder), "main", [], download=False)
    return plan_of(load_recipe(write_recipe(on(folder)), overrides), MACHINE, base, DataFacts(100, 10))


def on(folder):
    return SHORT.replace("lorans:nano", str(folder))


@pytest.mark.parametrize("method", WRITTEN)
def test_a_stored_quantisation_gives_the_run_that_quantising_at_once_gives(stored, tmp_path, method):
    found = run_recipe(tmp_path, on(stored(method)), "training.output_dir=stored")
    at_once = run_recipe(tmp_path, SHORT, f"quantization.method={method}", "training.output_dir=at_once")
    manifest, expected = found.read(), at_once.read()
    assert manifest.recipe.quantization == expected.recipe.quantization
    assert any("is stored in" in note and f"`{method}`" in note for note in manifest.plan.notes)
    rows = [[json.loads(line) for line in run.metrics.read_text().splitlines()] for run in (found, at_once)]
    losses = [[row["loss"] for row in one if "loss" in row] for one in rows]
    assert losses[0] == losses[1]
    assert manifest.seal.rows
    check_merges_to_the_same(found, at_once, tmp_path)


def check_merges_to_the_same(stored, at_once, folder):
    """Merge a run over a base that is stored quantised, and one that was quantised for training, to the same bits."""
    merged, expected = (merge(run, folder / f"merged-{run.path.name}", dtype="float32") for run in (stored, at_once))
    assert merged.largest_difference < 1e-4
    is_streamed = stored.read().recipe.quantization.method != "torchao"
    assert merged.whole_model == (None if is_streamed else "the base is stored in the format of torchao")
    assert expected.whole_model == (None if is_streamed else "the base was quantised by torchao for training")
    if stored.read().recipe.quantization.method == "bnb-8bit":
        assert merged.int8_difference == pytest.approx(expected.int8_difference, rel=0.2)  # one has a token less
        assert merged.int8_divergence == pytest.approx(expected.int8_divergence, rel=0.2)  # one has a token less
    else:
        assert (merged.int8_difference, expected.int8_difference) == (None, None)
    assert "quantization_config" not in json.loads((folder / "merged-stored/config.json").read_text())
    ours, theirs = (load_file(folder / f"merged-{run.path.name}/model.safetensors") for run in (stored, at_once))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("method", [*WRITTEN, *SETTINGS])
def test_the_plan_counts_the_weights_and_not_how_they_are_packed(stored, write_recipe, all_installed, method):
    loaded = load_recipe(write_recipe(SHORT))
    whole, packed = (find_base(str(folder), "main", [], download=False) for folder in (ASSETS / "nano", stored(method)))
    assert packed.facts.parameters == whole.facts.parameters
    assert packed.facts.matrices == whole.facts.matrices
    plans = [plan_of(loaded, MACHINE, base, DataFacts(100, 10)) for base in (whole, packed)]
    assert plans[0].adapter_parameters == plans[1].adapter_parameters


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["quantization.method=bnb-8bit"],
            r'quantization.method: the base is already quantised, with `method = "bnb-4bit"` \(remove',
        ),
        (
            ["quantization.method=bnb-4bit", "quantization.bnb_4bit_quant_type=fp4"],
            r'quantization.bnb_4bit_quant_type: .* with `bnb_4bit_quant_type = "nf4"`',
        ),
        (["peft.method=loha"], r"recipe.toml:4: the base is stored in 4 bits: "),
    ],
)
def test_what_does_not_go_with_the_stored_quantisation_is_refused(stored, write_recipe, overrides, told):
    base = find_base(str(stored("bnb-4bit")), "main", [], download=False)
    with pytest.raises(RecipeError, match=told):
        plan_of(load_recipe(write_recipe(on(base.path)), overrides), MACHINE, base, DataFacts(100, 10))


def test_a_recipe_may_say_what_the_base_is(stored, write_recipe):
    base = find_base(str(stored("bnb-4bit")), "main", [], download=False)
    loaded = load_recipe(write_recipe(on(base.path)), ["quantization.method=bnb-4bit"])
    assert plan_of(loaded, MACHINE, base, DataFacts(100, 10)).adapter_parameters.value


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *(
            ({"quant_method": kind}, f"by {kind}, over which lorans does not train")
            for kind in ("fp8", "mxfp4", "compressed-tensors", "eetq", "quanto", "bitnet")
        ),
        ({"quant_method": "hqq"}, "by hqq, which the installed transformers does not load yet"),
        ({"quant_method": "gptq", "bits": 5}, "by gptq, in 5 bits, which transformers does not load"),
        ({"quant_method": "gptq", "bits": 4, "lm_head": True}, "by gptq, including its head"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "by awq, in 4 bits and the layout `gemv`"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8DynamicActivationInt8WeightConfig"}}},
            "by torchao, as Int8DynamicActivationInt8WeightConfig, whose layers have no backward pass",
        ),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
            "by torchao, as Int4WeightOnlyConfig, over which PEFT does not train",
        ),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "by torchao, as int8_weight_only"),
        (
            {"quant_method": "torchao", "quant_type": {}, "include_input_output_embeddings": True},
            "by torchao, including its embeddings",
        ),
    ],
)
def test_a_base_over_which_nothing_trains_is_refused_by_name(tmp_path, write_recipe, settings, told):
    shutil.copytree(ASSETS / "nano", tmp_path / "base")
    change_settings(tmp_path / "base", **settings)
    with pytest.raises(ModelError) as caught:
        planned(write_recipe, tmp_path / "base")
    (problem,) = caught.value.problems
    assert problem.key == "model.name_or_path"
    assert f"the base is stored quantised {told}" in problem.what
    assert problem.where.endswith("recipe.toml:4")
    assert "full precision" in problem.remedy


@pytest.mark.parametrize(("method", "extra"), [("gptq", "gptq"), ("awq", "gptq"), ("torchao", "torchao")])
def test_what_reads_a_stored_base_is_named_with_its_extra_where_it_is_missing(
    stored, write_recipe, none_installed, method, extra
):
    folder = stored(method)
    with pytest.raises(MissingError, match=rf"recipe.toml:4: a base in {method} needs `\w+`.* not installed") as caught:
        planned(write_recipe, folder)
    assert caught.value.exit_code == 3
    assert f"`pip install 'lora-ns[{extra}]'`" in str(caught.value)
    base = find_base(str(folder), "main", [], download=False)
    quantization = QUANTIZATIONS[method](method=method)
    with pytest.raises(MissingError, match=f"lora-ns.{extra}."):
        load_base(base, Loading("CAUSAL_LM", "float32", "cpu", quantization=quantization))


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["peft.method=loha"],
            "loha does not train over a base in 4 bits by {}: PEFT needs layers with weights",
        ),
        (["peft.use_dora=true"], "DoRA needs the norms of the base weights"),
        (["peft.init_lora_weights=pissa"], '"pissa" cannot decompose weights of 4 bits'),
        (["quantization.method=bnb-4bit"], "quantization.method: the base is already quantised"),
    ],
)
def test_over_packed_layers_what_computes_with_weights_is_refused(
    stored, write_recipe, all_installed, method, overrides, told
):
    with pytest.raises(RecipeError) as caught:
        planned(write_recipe, stored(method), *overrides)
    assert told.format(method) in str(caught.value)


def test_a_recipe_that_names_what_is_missing_is_not_valid(write_recipe, none_installed, capsys):
    recipe = write_recipe(SHORT + '[quantization]\nmethod = "torchao"\n')
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(recipe)])
    assert caught.value.code == 3
    assert "needs `torchao`, which is not installed (`pip install 'lora-ns[torchao]'`)" in capsys.readouterr().err


@pytest.mark.parametrize("method", SETTINGS)
def test_a_recipe_may_name_what_takes_data_to_make_only_for_a_base_that_has_it(
    stored, write_recipe, all_installed, method
):
    override = f"quantization.method={method}"
    made = planned(write_recipe, stored(method), override)
    assert made == planned(write_recipe, stored(method)).model_copy(update={"notes": made.notes})
    with pytest.raises(RecipeError, match=f"quantization.method: {method} needs calibration data, and the base is not"):
        planned(write_recipe, ASSETS / "nano", override)


def test_awq_is_computed_in_float16_on_a_gpu(stored, write_recipe, all_installed):
    machine = replace(MACHINE, gpus=(Gpu(0, "GPU", 80 * 10**9, 80 * 10**9, (9, 0), "580"),))
    base = find_base(str(stored("awq")), "main", [], download=False)
    text = on(base.path).replace('dtype = "float32"', "")
    made = plan_of(load_recipe(write_recipe(text)), machine, base, DataFacts(100, 10))
    assert made.dtype.value == "float16"
    with pytest.raises(PlanError, match="AWQ's kernels do not support bfloat16 on a GPU"):
        plan_of(load_recipe(write_recipe(text), ["model.dtype=bfloat16"]), machine, base, DataFacts(100, 10))


@pytest.mark.parametrize("method", SETTINGS)
def test_lora_trains_over_a_packed_base_and_merges_into_its_full_precision(gptqmodel, stored, tmp_path, method):
    run = run_recipe(tmp_path, on(stored(method)))
    losses = [row["eval_loss"] for row in map(json.loads, run.metrics.read_text().splitlines()) if "eval_loss" in row]
    assert losses[-1] < losses[0] - 0.1
    assert run.read().seal.largest_difference < 1e-5
    with pytest.raises(UsageError, match=f"PEFT cannot merge into a base that is stored in {method} format"):
        merge(run, tmp_path / "merged")
    told = []
    merged = merge(run, tmp_path / "merged", ASSETS / "nano", force=Force(told.append))
    assert merged.largest_difference < 1e-4
    assert "this is not the base" in told[0]
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
