"""Rows that are read without torch are those that training reads: the same ids, masks, reports and messages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import rows_alone
from services_recipes import CLASSES, RECIPE
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast
from word_tokenizer import word_tokenizer

import lora_ns
from lora_ns.model.files import ASSETS
from lora_ns.objectives import OBJECTIVE_TABLES

REPOSITORY = Path(lora_ns.__file__).parents[1]
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "cls_token": "[CLS]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
CHAT = [{"role": "user", "content": "Say plum."}, {"role": "assistant", "content": "plum"}]
PAIR = {"prompt": "Say plum.", "chosen": "plum", "rejected": "stone"}
ROWS = {
    "chats": [{"messages": [*CHAT, *CHAT][: 2 + 2 * (number % 2)]} for number in range(40)],
    "pairs": [{**PAIR, "prompt": f"Say plum {number}."} for number in range(12)],
    "judged": [{"prompt": f"Say {n}.", "completion": f"{n}", "label": n % 3 > 0} for n in range(12)],
    "prompts": [{"prompt": f"What is {n} + 1?", "answer": f"{n + 1}"} for n in range(12)],
    "texts": [{"text": "plum stone river " * (number + 1)} for number in range(12)],
    "classes": [{"text": f"{name} {number}", "label": name} for name in ("plum", "stone") for number in range(12)],
    "tags": [{"tokens": ["plums", "and", str(number)], "tags": ["B-x", "O", "O"]} for number in range(12)],
    "broken": [{"messages": CHAT}, {"messages": []}, {"messages": CHAT[::-1]}, {"other": 1}],
}
RECIPES = {
    "chat": ("chats", "sft", ""),
    "packed": ("chats", "sft", "packing = true"),
    "other-template": ("chats", "sft", 'chat_template = "chatml"'),
    "all-tokens": ("chats", "sft", 'train_on = "all"'),
    "broken": ("broken", "sft", ""),
    "text": ("texts", "sft", 'on_overflow = "truncate"'),
    "dpo": ("pairs", "dpo", ""),
    "orpo": ("pairs", "orpo", ""),
    "cpo": ("pairs", "cpo", ""),
    "reward": ("pairs", "reward", ""),
    "kto": ("judged", "kto", ""),
    "grpo": ("prompts", "grpo", 'max_completion_length = 16\n[[grpo.rewards]]\nname = "number"'),
    "distillation": ("prompts", "distillation", 'teacher = "lorans:nano"\nmax_completion_length = 16'),
    "rloo": ("prompts", "rloo", 'max_completion_length = 16\n[[rloo.rewards]]\nname = "number"'),
}
"""By name: the rows, the objective, and further lines of its table."""
SUITES = '\n[[evaluation.suites]]\nkind = "exact-match"\npath = "chats.jsonl"\n'


def write_tokenizers(folder):
    """Tokenizers of every kind: bytes, words, pieces of words, unigrams, and two without a fast form."""
    shutil.copytree(ASSETS / "nano", folder / "byte-level", ignore=shutil.ignore_patterns("*.safetensors"))
    word_tokenizer().save_pretrained(folder / "words")
    byte_level = PreTrainedTokenizerFast.from_pretrained(folder / "byte-level")
    byte_level.add_tokens(["<x>", "[y]"])
    byte_level.save_pretrained(folder / "added")
    ByT5Tokenizer().save_pretrained(folder / "bytes")
    CanineTokenizer().save_pretrained(folder / "characters")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "plum", "two", "word", "##s", "a", "##a", "don", "'", "t"]
    bert = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer(lowercase=True)
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    bert.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(tokenizer_object=bert, **SPECIAL).save_pretrained(folder / "bert")
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((one, -2.0 - n) for n, one in enumerate("▁abplumtwords"))]
    unigram = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=unigram, **ends).save_pretrained(folder / "unigram")


def write_recipes(folder):
    """A recipe of every objective, and of every form of rows."""
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.Table.from_pylist(ROWS["prompts"]).rename_columns(["prompt", "completion"])
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    with pyarrow.OSFile(str(folder / "rows.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    plain = RECIPE.replace('format = "messages"\nmax_samples = 64\nmax_eval_samples = 8\n', "")
    plain = plain.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "")

    def write(name, path, objective="sft", more="", text=plain):
        text = text.replace("lorans:quickstart/train.jsonl", path).replace("[sft]", f"[{objective}]")
        kind = "SEQ_CLS" if objective == "reward" else "CAUSAL_LM"
        (folder / f"{name}.toml").write_text(text.replace("CAUSAL_LM", kind) + more + "\n")

    for name, (rows, objective, more) in RECIPES.items():
        write(name, f"{rows}.jsonl", objective, more)
    for suffix in ("parquet", "csv", "arrow"):
        write(suffix, f"rows.{suffix}")
    write("quickstart", "lorans:quickstart/train.jsonl", text=RECIPE)
    write("stream", "chats.jsonl", text=plain.replace("[training]", "streaming = true\n[training]"))
    write("suites", "chats.jsonl", text=plain.replace("[training]", "eval_fraction = 0.25\n[training]"), more=SUITES)
    write("added", "chats.jsonl", text=plain.replace("[peft]", 'add_tokens = ["<x>"]\n[peft]'))
    for name, kind in (("classes", "SEQ_CLS"), ("tags", "TOKEN_CLS")):
        text = CLASSES.replace("classes.jsonl", f"{name}.jsonl").replace("SEQ_CLS", kind)
        (folder / f"{name}.toml").write_text(text)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What this process finds, what one without torch finds, and the modules that the latter imported."""
    folder = tmp_path_factory.mktemp("rows")
    for part in ("tokenizers", "recipes"):
        (folder / part).mkdir()
    write_tokenizers(folder / "tokenizers")
    write_recipes(folder / "recipes")
    arguments = [folder / "tokenizers", folder / "recipes", folder / "found.json"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, rows_alone.__file__, *map(str, arguments)], check=True, env=environment)
    alone = json.loads((folder / "found.json").read_text())
    return rows_alone.found_in(*arguments[:2], only_rows=False), alone["found"], set(alone["modules"])


def test_the_same_is_found_with_and_without_torch(found):
    here, alone, _ = found
    assert list(alone) == list(here)
    assert {name for name in here if alone[name] != here[name]} == set()


def test_only_the_tokenizers_are_imported(found):
    modules = found[2]
    assert not {"torch", "peft", "trl", "datasets", "pandas", "bitsandbytes", "accelerate"} & modules
    assert "transformers" in modules
    assert "lora_ns.services.validate" in modules


def test_every_objective_has_a_recipe():
    assert set(OBJECTIVE_TABLES) == {table for _, table, _ in RECIPES.values()} | {"classification"}


REWARD = """\
import torch
from transformers import LlamaForCausalLM

def short(completions, **columns):
    assert isinstance(LlamaForCausalLM, type) and issubclass(LlamaForCausalLM, torch.nn.Module)
    return [float(-len(str(completion))) for completion in completions]
"""


@pytest.mark.parametrize(
    "recipes", [["rewarded.toml"], pytest.param(["chat.toml", "rewarded.toml"], marks=pytest.mark.matrix)], ids=" ".join
)
def test_a_reward_function_may_use_torch_and_the_models_of_transformers(tmp_path, recipes):
    write_recipes(tmp_path)
    (tmp_path / "reward.py").write_text(REWARD)
    text = (tmp_path / "grpo.toml").read_text().replace('name = "number"', 'python = "reward.py:short"')
    text = text.replace("[[grpo.rewards]]", "allow_code = true\n[[grpo.rewards]]")
    (tmp_path / "rewarded.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "lora_ns", "validate", *recipes, "--data"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
