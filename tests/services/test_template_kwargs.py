"""Variables of the chat template are the same in training, validation, inference and evaluation."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import datasets
from plans import as_asked
from shapes import CHATML, SHAPES, make_tokenizer
from trap_runs import RECIPE, chat, run, write_base, write_rows
from typer.testing import CliRunner

from lora_ns.answers.opened import open_trained
from lora_ns.cli.app import app
from lora_ns.data.prepare import open_renderer
from lora_ns.data.prepared import preparation_key
from lora_ns.data.rows import Row
from lora_ns.errors import ModelError, RecipeError
from lora_ns.model.files import find_base
from lora_ns.objectives.text import PASSED_TO_TEMPLATES
from lora_ns.recipe.load import load_recipe
from lora_ns.services.evaluate import evaluate
from lora_ns.services.infer import prompts

THINKS = CHATML.replace(
    "{{ '<|im_start|>' + message.role + '\n' + message.content",
    "{{ '<|im_start|>' + message.role + '\n' + ('[thought]' if message.role == 'assistant' and "
    "enable_thinking is defined and not enable_thinking else '') + message.content",
).replace(
    "{{ '<|im_start|>assistant\n' }}",
    "{{ '<|im_start|>assistant\n' + ('[thought]' if enable_thinking is defined and not enable_thinking else '') }}",
)
OFF = "sft.chat_template_kwargs={enable_thinking=false}"


@pytest.fixture(autouse=True)
def base(tmp_path):
    write_base(tmp_path, make_tokenizer(replace(SHAPES["chatml"], template=THINKS)))
    write_rows(tmp_path, [chat("a", "bcd")] * 4)


@pytest.mark.parametrize("overrides", [(OFF,), ()], ids=["off", "as it is"])
def test_a_variable_of_the_template_is_the_same_everywhere(tmp_path, overrides):
    found = run(tmp_path, *overrides)
    model = open_trained(found)
    row = datasets.load_from_disk(str(found.data / "train"))[0]
    (asked,) = prompts(model, [Row("a", chat("a"))])
    assert row["input_ids"][: len(asked)] == asked
    assert ("[thought]" in model.tokenizer.decode(asked)) == bool(overrides)
    assert [label for label in row["labels"] if label != -100] == row["input_ids"][len(asked) : -1]
    arguments = ["--set", OFF] if overrides else []
    shown = CliRunner().invoke(app, ["validate", str(tmp_path / "recipe.toml"), "--show", "1", *arguments])
    assert ("[thought]«bcd" in shown.stdout) == bool(overrides)
    measured = evaluate(model, [Row("a", chat("a", "bcd"))], exact_match=False).metrics["loss"]
    other = model.manifest.recipe.objective.model_copy(
        update={"chat_template_kwargs": {"enable_thinking": bool(overrides)}}
    )
    recipe = model.manifest.recipe.model_copy(update={"objective": other})
    changed = replace(model, manifest=model.manifest.model_copy(update={"recipe": recipe}))
    assert evaluate(changed, [Row("a", chat("a", "bcd"))], exact_match=False).metrics["loss"] != measured


def test_rows_that_are_kept_are_those_of_the_same_variables(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def key(*overrides):
        loaded = load_recipe(tmp_path / "recipe.toml", overrides)
        renderer = open_renderer(as_asked(loaded), find_base("base", "main", [tmp_path], download=False))
        return preparation_key(loaded.recipe, loaded.folder, renderer.tokenizer, renderer.stops)

    assert len({key(), key(OFF), key(OFF.replace("false", "true"))}) == 3
    assert key(OFF) == key(OFF)


def test_a_variable_that_the_template_never_reads_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"does not read `enable_thinkin` .*did you mean `enable_thinking`"):
        run(tmp_path, "sft.chat_template_kwargs={enable_thinkin=false}")
    with pytest.raises(ModelError, match=r"does not read `colour` .*it reads: enable_thinking"):
        run(tmp_path, "sft.chat_template_kwargs={colour=1}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_template_without_variables_says_so(tmp_path, shape):
    write_base(tmp_path, make_tokenizer(SHAPES[shape]))
    with pytest.raises(ModelError, match="it reads: none"):
        run(tmp_path, OFF)


@pytest.mark.parametrize("name", sorted(PASSED_TO_TEMPLATES))
def test_what_the_rows_or_the_tokenizer_give_is_refused(tmp_path, name):
    (tmp_path / "recipe.toml").write_text(f"{RECIPE}chat_template_kwargs = {{ {name} = 1 }}\n")
    with pytest.raises(RecipeError, match=f"`{name}` is set by the rows or the tokenizer"):
        load_recipe(tmp_path / "recipe.toml")
