"""One load serves a run, its base and its checkpoints: each answers as if it had been loaded alone."""

import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from matrix import RECIPES, ROWS, write_task

from lora_ns.answers import weights
from lora_ns.answers.opened import Trained
from lora_ns.answers.weights import ADAPTER, BASE, Weights
from lora_ns.model.adapter import add_adapter, settle_config
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import Loading, load_base
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.recipe.load import load_recipe

IDS = torch.arange(3, 40)[None]
SAMPLE = (
    "lora",
    "lora, KaSA",
    'lora, "pissa"',
    'lora, "eva"',
    "adalora",
    "ia3",
    "vera",
    "prompt-tuning",
    "prefix-tuning",
)
LOADING = Loading("CAUSAL_LM", "float32", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("base")
    write_task(found, "CAUSAL_LM")
    (found / "recipe.toml").write_text(RECIPES["CAUSAL_LM"])
    return found


@pytest.fixture(scope="module")
def base(folder):
    return find_recipe_base(load_recipe(folder / "recipe.toml").recipe.model, folder)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits[:, -IDS.shape[1] :]


def move(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.requires_grad and value.is_floating_point():
            value.data += 0.05 * torch.randn(value.shape, generator=generator)


def save(model, folder):
    model.save_pretrained(folder, save_embedding_layers=False)
    settle_config(folder)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize(
    "keys",
    [pytest.param(keys, id=name, marks=() if name in SAMPLE else pytest.mark.matrix) for name, keys in ROWS.items()],
)
def test_base_checkpoint_and_adapter_answer_as_if_loaded_alone(folder, base, tmp_path, monkeypatch, keys):
    recipe = load_recipe(folder / "recipe.toml", keys).recipe
    torch.manual_seed(0)
    model = add_adapter(load_base(base, LOADING), recipe.peft, "CAUSAL_LM", base, 10).eval()
    move(model, 1)
    save(model, tmp_path / "checkpoint-1")
    move(model, 2)
    save(model, tmp_path / "adapter")
    alone = {
        BASE: logits(load_base(base, LOADING).eval()),
        str(tmp_path / "checkpoint-1"): logits(load_adapter(load_base(base, LOADING), tmp_path / "checkpoint-1")),
        ADAPTER: logits(load_adapter(load_base(base, LOADING), tmp_path / "adapter")),
    }
    assert not torch.allclose(alone[ADAPTER], alone[BASE], atol=1e-3)
    monkeypatch.setattr(weights, "loading_of", lambda _: LOADING)
    monkeypatch.setattr(weights, "load_whole_base", lambda *asked: load_base(*asked[2:]))
    run, manifest = SimpleNamespace(adapter=tmp_path / "adapter"), SimpleNamespace(recipe=recipe)
    loaded = load_adapter(load_base(base, LOADING), tmp_path / "adapter")
    shared = Weights(Trained(run, manifest, base, None, loaded))
    for name in (*alone, BASE, ADAPTER):
        with shared.using(name) as trained:
            torch.testing.assert_close(logits(trained.model), alone[name], atol=1e-5, rtol=1e-4)
    with shared.using(str(tmp_path / "checkpoint-1")):
        pass
    shared.restore()
    assert torch.equal(logits(loaded), alone[ADAPTER])
    shutil.rmtree(tmp_path)
