"""The prompt of several choices is computed once; each choice has the loss that it has alone."""

import pytest

pytest.importorskip("torch")

import torch
from matrix import RECIPES, ROWS, write_task
from test_weights import LOADING, SAMPLE, move

from lora_ns.answers import loss
from lora_ns.answers.loss import choice_losses, sequence_loss
from lora_ns.model.adapter import add_adapter
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import load_base
from lora_ns.recipe.load import load_recipe
from lora_ns.table import IGNORED

PROMPT = list(range(3, 20))


def choices(*answers, prompt=PROMPT):
    return [([*prompt, *answer], [*[IGNORED] * len(prompt), *answer]) for answer in answers]


CHOICES = {
    "different": choices([30, 31], [32], [33, 34, 35]),
    "the same first tokens": choices([30, 31], [30, 32], [30, 31, 33]),
    "one choice": choices([30, 31]),
    "a prompt of one token": choices([30], [31], prompt=[3]),
    "nothing in common": [([3, 4, 5], [IGNORED, 4, 5]), ([6, 7], [IGNORED, 7])],
    "another last token of the prompt": [*choices([30]), *choices([31, 32], prompt=[*PROMPT[:-1], 99])],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("base")
    write_task(found, "CAUSAL_LM")
    (found / "recipe.toml").write_text(RECIPES["CAUSAL_LM"])
    return found


def check_alike(model, sequences):
    alone = [sequence_loss(model, ids, labels, "float32") for ids, labels in sequences]
    found = choice_losses(model, sequences, "float32")
    assert [count for _, count in found] == [count for _, count in alone]
    torch.testing.assert_close([value for value, _ in found], [value for value, _ in alone], atol=2e-5, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize(
    "keys",
    [pytest.param(keys, id=name, marks=() if name in SAMPLE else pytest.mark.matrix) for name, keys in ROWS.items()],
)
def test_choices_have_the_loss_that_they_have_alone(folder, keys):
    recipe = load_recipe(folder / "recipe.toml", keys).recipe
    base = find_recipe_base(recipe.model, folder)
    torch.manual_seed(0)
    model = add_adapter(load_base(base, LOADING), recipe.peft, "CAUSAL_LM", base, 10).eval()
    move(model, 1)
    for sequences in CHOICES.values():
        check_alike(model, sequences)


def test_the_prompt_is_computed_once(folder, monkeypatch):
    base = find_recipe_base(load_recipe(folder / "recipe.toml").recipe.model, folder)
    model = load_base(base, LOADING).eval()
    seen = []
    model.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].shape[1]), with_kwargs=True)
    choice_losses(model, CHOICES["different"], "float32")
    assert seen == [len(PROMPT) - 1, 3, 2, 4]
    monkeypatch.setattr(loss, "_cache_of", lambda *_: None)
    del seen[:]
    check_alike(model, CHOICES["different"])
    assert len(seen) == 6
