"""An adapter goes on where its capabilities say so: loaded as it was saved, trained as before, with a frozen start."""

import pytest

pytest.importorskip("torch")

import torch
from matrix import RECIPES, ROWS, write_task

from lora_ns.model.adapter import add_adapter, settle_config
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import Loading, load_base
from lora_ns.model.saved_adapter import load_trainable
from lora_ns.objectives.frozen_start import FrozenStart
from lora_ns.recipe.load import load_recipe

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("base")
    write_task(found, "CAUSAL_LM")
    (found / "recipe.toml").write_text(RECIPES["CAUSAL_LM"])
    return found


def trained(model):
    return [name for name, value in model.named_parameters() if value.requires_grad and "ranknum" not in name]


def move(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.requires_grad and value.is_floating_point():
            value.data += 0.05 * torch.randn(value.shape, generator=generator)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits[:, -IDS.shape[1] :]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("keys", ROWS.values(), ids=ROWS)
def test_an_adapter_goes_on_from_its_start(folder, tmp_path, keys):
    recipe = load_recipe(folder / "recipe.toml", keys).recipe
    if recipe.peft.capabilities.continues is not True:
        pytest.skip(recipe.peft.capabilities.continues)
    base = find_recipe_base(recipe.model, folder)
    loading = Loading("CAUSAL_LM", "float32", "cpu")
    torch.manual_seed(0)
    first = add_adapter(load_base(base, loading), recipe.peft, "CAUSAL_LM", base, 10).eval()
    move(first, 1)
    first.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    settle_config(tmp_path / "adapter")
    model = load_trainable(load_base(base, loading), tmp_path / "adapter").eval()
    begun = logits(model)
    assert torch.allclose(begun, logits(first), atol=1e-4)
    assert trained(model) == trained(first)
    start = FrozenStart(model)
    move(model, 2)
    moved = logits(model)
    assert not torch.allclose(moved, begun, atol=1e-3)
    with start.in_place():
        assert torch.equal(logits(model), begun)
        assert trained(model) == []
    assert torch.equal(logits(model), moved)
    assert trained(model) == trained(first)


def test_the_start_is_not_confused_with_weights_that_autocast_keeps(folder):
    recipe = load_recipe(folder / "recipe.toml").recipe
    base = find_recipe_base(recipe.model, folder)
    bare = load_base(base, Loading("CAUSAL_LM", "bfloat16", "cpu"))
    model = add_adapter(bare, recipe.peft, "CAUSAL_LM", base).eval()
    start = FrozenStart(model)
    with torch.autocast("cpu", torch.bfloat16):
        begun = logits(model)
    move(model, 1)
    with torch.autocast("cpu", torch.bfloat16):
        moved = model(input_ids=IDS).logits
        with torch.no_grad():
            assert torch.equal(start(input_ids=IDS).logits, begun)
        moved.sum().backward()
    assert not torch.equal(moved, begun)
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
