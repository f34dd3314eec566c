"""Tokens that a recipe adds: they are learned, written, reloaded and merged, with a base that ties its head or not."""

import functools
import json

import pytest

pytest.importorskip("torch")

import torch
import transformers
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file
from services_recipes import check_resumes_to_the_same_bits
from shapes import SHAPES, make_tokenizer
from strategies import STRATEGIES, check_trained, drive, offered, prepared
from trap_runs import RECIPE, chat, run, write_base, write_rows

from lora_ns.answers.opened import open_trained
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError, PlanError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.generation import Generation
from lora_ns.services.infer import infer
from lora_ns.services.merge import merge

ADDED = 'model.add_tokens=["<yes>", "<no>"]'
STEPS = ("training.max_steps=40", "training.learning_rate=5e-3", "training.warmup_steps=0")
ROWS = [chat("plum", "<yes>"), chat("stone", "<no>"), chat("ripe plum", "<yes>"), chat("grey stone", "<no>")]


def write_folder(folder, is_tied):
    folder.mkdir(exist_ok=True)
    write_base(folder, make_tokenizer(SHAPES["chatml-marked"]), tie_word_embeddings=is_tied, initializer_range=0.2)
    write_rows(folder, ROWS)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path):
    write_folder(tmp_path, request.param)
    return tmp_path


def test_new_tokens_are_written_reloaded_and_merged(folder, tmp_path):
    found = run(folder, ADDED, *STEPS)
    manifest = found.read()
    assert len(manifest.added_tokens) == 2
    assert manifest.seal.largest_difference < 1e-6
    trained = open_trained(found)
    assert trained.tokenizer.convert_ids_to_tokens(manifest.added_tokens) == ["<yes>", "<no>"]
    asked = [Row("here", {"messages": row["messages"][:1]}) for row in ROWS]
    answers = infer(trained, asked, Generation(max_new_tokens=2)).rows
    assert [next(iter(answer["output"].split())) for answer in answers] == ["<yes>", "<no>"] * 2
    assert merge(found, tmp_path / "merged").largest_difference < 1e-5
    check_merged(tmp_path / "merged", trained)


def check_merged(folder, trained):
    """The merged folder is a model like any other, with rows for the new tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("plum <yes>", return_tensors="pt")
    assert ids["input_ids"].max() < model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, trained.model(**ids).logits, atol=1e-4, rtol=1e-4)


def test_the_adapter_has_rows_and_no_whole_matrix(folder):
    found = run(folder, ADDED)
    saved = load_file(found.adapter / WEIGHTS)
    rows = {name: value for name, value in saved.items() if "trainable_tokens" in name}
    tied = json.loads((folder / "base/config.json").read_text())["tie_word_embeddings"]
    assert len(rows) == (1 if tied else 2)
    assert {value.shape[0] for value in rows.values()} == {2}


def test_training_is_the_same_after_an_interruption(folder):
    found = run(folder, ADDED, "training.max_steps=4", "training.save_steps=2")
    check_resumes_to_the_same_bits(found, 4)


EIGHT = ("training.max_steps=8", "training.save_steps=4", "training.per_device_train_batch_size=2")
ALSO_HELD_OUT = ("dataset.eval_path=rows.jsonl", "dataset.max_eval_samples=3", "training.per_device_eval_batch_size=2")


def run_for_two(folder, is_tied, *overrides):
    """One of two processes has nothing to predict in the last batch of the evaluation."""
    write_folder(folder, is_tied)
    return run(folder, ADDED, "peft.trainable_token_indices=[5, 6]", *EIGHT, *ALSO_HELD_OUT, *overrides)


def prepare_two(folder, is_tied, strategy="ddp"):
    """A run of two processes up to the point where they would be started."""
    processes = (*STRATEGIES[strategy], "distributed.num_processes=2")
    return prepared(functools.partial(run_for_two, folder, is_tied, *processes))


def check_two(two, folder, is_tied):
    """Hold a run of two processes, which was interrupted, to one process that trains in the folder."""
    one = run_for_two(folder, is_tied)
    expected, got = load_file(one.adapter / WEIGHTS), load_file(two.adapter / WEIGHTS)
    at_once = load_file(two.path / AS_TRAINED_AT_ONCE / WEIGHTS)
    assert any("trainable_tokens" in name for name in expected)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
        assert torch.equal(got[name], at_once[name])
    assert two.read().metrics["eval_loss"] == pytest.approx(one.read().metrics["eval_loss"], abs=1e-4)


@pytest.mark.cluster
@pytest.mark.skipif("zero2" not in offered(), reason="needs DeepSpeed")
def test_two_processes_of_zero_train_the_rows_of_one(tmp_path):
    runs = {is_tied: prepare_two(tmp_path / f"two-{is_tied}", is_tied, "zero2") for is_tied in (True, False)}
    drive([f"+{two.path}" for two in runs.values()])
    for is_tied, two in runs.items():
        check_trained(two)
        check_two(two, tmp_path / f"one-{is_tied}", is_tied)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("model.add_tokens=['<yes>', '<yes>']",), "model.add_tokens: `<yes>` is given twice"),
        ((ADDED, "peft.method=ia3"), "ia3 does not train the rows of new tokens"),
        (('model.add_tokens=["plum", "a"]',), "model.add_tokens: `a` is already token"),
        (("peft.trainable_token_indices=[9999]",), "peft.trainable_token_indices: 9999 is not a token of the base"),
    ],
)
def test_what_cannot_be_added_is_told(tmp_path, overrides, told):
    write_base(tmp_path, make_tokenizer(SHAPES["chatml-marked"]))
    write_rows(tmp_path, ROWS)
    with pytest.raises(LoransError) as caught:
        run(tmp_path, *overrides, text=RECIPE.replace("lora_r = 8\n", ""))
    assert told in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_of_a_head_whose_logits_are_changed_afterwards_are_refused(tmp_path):
    write_base(tmp_path, make_tokenizer(SHAPES["chatml-marked"]), transformers.Gemma2Config, head_dim=16)
    write_rows(tmp_path, ROWS)
    with pytest.raises(PlanError, match="rescales the logits of its head"):
        run(tmp_path, ADDED)
