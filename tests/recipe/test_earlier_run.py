"""`[peft]` of a recipe that goes on from another run: it comes from the run, and what is written must agree."""

import json

import pytest

from lora_ns.errors import RecipeError
from lora_ns.methods import METHODS
from lora_ns.recipe.load import load_recipe

START = 'model.init_adapter="earlier"'


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """Writes the manifest of a run, as far as a recipe reads it."""
    monkeypatch.chdir(tmp_path)

    def write(saved=None, **peft):
        folder = tmp_path / "earlier"
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        method = METHODS[peft.setdefault("method", "lora")].model_validate_json(json.dumps(peft))
        recorded = {"recipe": {"peft": method.model_dump(mode="json"), "model": {}}}
        (folder / "manifest.json").write_text(json.dumps(recorded))
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(saved or {}))
        return method

    return write


def without_peft(path):
    path.write_text(path.read_text().replace('[peft]\nmethod = "lora"\n', ""))
    return path


@pytest.mark.parametrize(
    "peft",
    [
        {"lora_r": 4, "lora_alpha": 8.0, "use_dora": True, "target_modules": ["q_proj", "v_proj"]},
        {"method": "ia3"},
        {"method": "oft", "oft_block_size": 4},
        {"method": "vera", "r": 16},
    ],
)
def test_the_table_is_that_of_the_run(write_recipe, earlier, peft):
    method = earlier(**peft)
    loaded = load_recipe(without_peft(write_recipe()), [START])
    assert loaded.recipe.peft == method
    assert loaded.origin("peft.method") == "init_adapter"


def test_how_it_is_trained_is_up_to_the_recipe(write_recipe, earlier):
    earlier(lora_r=4, lora_dropout=0.2, loraplus_lr_ratio=4.0, init_lora_weights="gaussian")
    loaded = load_recipe(without_peft(write_recipe()), [START, "peft.lora_dropout=0.1"])
    peft = loaded.recipe.peft
    assert (peft.lora_r, peft.lora_dropout, peft.loraplus_lr_ratio, peft.init_lora_weights) == (4, 0.1, None, "default")


@pytest.mark.parametrize("start", ["pissa", "eva"])
def test_ranks_are_those_of_the_saved_adapter(write_recipe, earlier, start):
    saved = {"r": 8, "lora_alpha": 16, "rank_pattern": {"model.layers.0.mlp.up_proj": 3}}
    earlier(saved, lora_r=4, lora_alpha=8.0, init_lora_weights=start)
    peft = load_recipe(without_peft(write_recipe()), [START]).recipe.peft
    assert (peft.lora_r, peft.lora_alpha, peft.rank_pattern) == (8, 16, saved["rank_pattern"])


WRONG = {
    "another rank": (
        ["peft.lora_r=32"],
        "peft.lora_r: the adapter of earlier has 4, and the recipe says 32 (remove it: the adapter decides)",
    ),
    "another form": (["peft.use_dora=true"], "the adapter of earlier has false, and the recipe says true"),
    "another method": (["peft.method=ia3"], 'the adapter of earlier has "lora", and the recipe says "ia3"'),
    "an initialisation": (
        ["peft.init_lora_weights=pissa"],
        "peft.init_lora_weights: `init_lora_weights` has no effect: the adapter is that of earlier (remove it)",
    ),
    "both": (['model.base_adapters=["earlier"]'], "earlier is also the `init_adapter`"),
    "twice": (['model.base_adapters=["a", "a"]'], "a is given twice (remove one of them)"),
    "few bits": (
        ['model.base_adapters=["a"]', "quantization.method=bnb-4bit"],
        "merging into weights of 4 bits would round them",
    ),
    "shards": (["distributed.strategy=fsdp"], 'with the strategies "none" and "ddp" only, not with "fsdp"'),
    "shards below": (
        ['model.base_adapters=["a"]', "distributed.strategy=fsdp"],
        'with the strategies "none" and "ddp" only, not with "fsdp"',
    ),
}


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_what_contradicts_it_is_one_message(write_recipe, earlier, overrides, message):
    earlier(lora_r=4)
    start = [] if any('"a"' in override for override in overrides) else [START]
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), [*start, *overrides])
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


@pytest.mark.parametrize("method", ["prompt-tuning", "adalora", "p-tuning"])
def test_an_adapter_that_cannot_go_on_is_refused(write_recipe, earlier, method):
    earlier(method=method)
    with pytest.raises(RecipeError, match=f"{method} cannot be trained further: PEFT"):
        load_recipe(without_peft(write_recipe()), [START])


def test_without_the_run_its_table_is_unknown(write_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = without_peft(write_recipe())
    with pytest.raises(RecipeError, match=r"model.init_adapter: no such run directory: .*earlier") as caught:
        load_recipe(path, [START])
    assert len(caught.value.problems) == 1
    path.write_text(path.read_text() + '\n[peft]\nmethod = "lora"\n')
    assert load_recipe(path, [START]).recipe.peft.method == "lora"  # for another machine


def test_a_resumed_run_knows_the_table_when_the_earlier_one_is_gone(write_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = METHODS["lora"](lora_r=4, lora_alpha=8.0, use_dora=True, method="lora")
    own = {"recipe": {"peft": method.model_dump(mode="json"), "model": {"init_adapter": "earlier"}}}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "manifest.json").write_text(json.dumps(own))
    loaded = load_recipe(without_peft(write_recipe()), [START, "training.output_dir=own"])
    assert loaded.recipe.peft == method
