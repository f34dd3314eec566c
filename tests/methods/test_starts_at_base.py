"""A new adapter leaves the base unchanged exactly where its capabilities say so."""

import pytest

pytest.importorskip("torch")

import torch
from matrix import RECIPES, ROWS, write_task

from lora_ns.model.adapter import add_adapter
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import Loading, load_base
from lora_ns.recipe.load import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("base")
    write_task(found, "CAUSAL_LM")
    (found / "recipe.toml").write_text(RECIPES["CAUSAL_LM"])
    return found


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("keys", ROWS.values(), ids=ROWS)
def test_a_new_adapter_is_the_base_where_the_method_says_so(folder, keys):
    recipe = load_recipe(folder / "recipe.toml", keys).recipe
    base = find_recipe_base(recipe.model, folder)
    ids = torch.arange(3, 40)[None]
    torch.manual_seed(0)
    bare = load_base(base, Loading("CAUSAL_LM", "float32", "cpu"))
    model = add_adapter(bare, recipe.peft, "CAUSAL_LM", base, 10).eval()
    with torch.no_grad():
        adapted = model(input_ids=ids).logits[:, -ids.shape[1] :]
        with model.disable_adapter():
            alone = model(input_ids=ids).logits
    difference = float((adapted - alone).abs().max() / alone.abs().max())
    assert (difference < 1e-5) == (recipe.peft.capabilities.starts_at_base is True)
