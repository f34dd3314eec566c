"""In a fresh process, from the run alone, inference asks with the tokens of the training row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from shapes import SHAPES, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import lora_ns
from lora_ns.engine.callbacks import SilentObserver
from lora_ns.engine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.services.train import train

RECIPE = """\
task_name = "parity"
task_type = "CAUSAL_LM"
[model]
name_or_path = "base"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
max_steps = 1
"""
TURNS = [
    {"role": "user", "content": "Name a fruit."},
    {"role": "assistant", "content": "A plum, of course."},
    {"role": "user", "content": "Another  one?"},
    {"role": "assistant", "content": "Größe 12 🙂"},
]
ASK = """\
import json, sys
from pathlib import Path
from lora_ns.rows import Row
from lora_ns.rundir import RunDir
from lora_ns.services.infer import prompts
from lora_ns.services.trained import open_trained
asked = {}
for folder in sys.argv[1:]:
    trained = open_trained(RunDir.open(Path(folder) / "run"))
    turns = json.loads((Path(folder) / "rows.jsonl").read_text().splitlines()[0])["messages"]
    (asked[folder],) = prompts(trained, [Row("a", {"messages": turns[:-1]})])
print(json.dumps(asked))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one step for each family of templates."""
    found = {}
    patch = pytest.MonkeyPatch()
    for name, shape in SHAPES.items():
        folder = found[name] = tmp_path_factory.mktemp(name)
        tokenizer = make_tokenizer(shape)
        tokenizer.save_pretrained(folder / "base")
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder / "base")
        (folder / "rows.jsonl").write_text((json.dumps({"messages": TURNS}) + "\n") * 4)
        (folder / "recipe.toml").write_text(RECIPE)
        patch.chdir(folder)
        with Noise() as noise:
            train(load_recipe(folder / "recipe.toml"), SilentObserver(), noise)
    patch.undo()
    return found


@pytest.fixture(scope="module")
def asked(runs):
    """What a fresh process feeds to each of the models."""
    environment = {**os.environ, "PYTHONPATH": str(Path(lora_ns.__file__).parent.parent)}
    command = [sys.executable, "-c", ASK, *map(str, runs.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SHAPES)
def test_a_fresh_process_asks_with_the_tokens_of_the_training_row(runs, asked, name):
    shape, folder = SHAPES[name], runs[name]
    rows = datasets.load_from_disk(str(folder / "run/data/train"))
    row = rows[1] if shape.splits else rows[0]
    prompt = asked[str(folder)]
    answer = make_tokenizer(shape)(shape.answer(TURNS[-1]["content"]), add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(prompt) + len(answer)] == [*prompt, *answer]
    assert row["labels"][len(prompt) : len(prompt) + len(answer)] == answer
    assert row["labels"][len(prompt) - 1] == -100
    settings = json.loads((folder / "run/adapter/generation_config.json").read_text())
    assert answer[-1] in settings["eos_token_id"]
    assert settings.get("pad_token_id") not in settings["eos_token_id"]
