"""Runs on tiny bases, built in place, for traps into which a training run can fall silently."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, set_seed

from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.train import train

RECIPE = """\
task_name = "trap"
task_type = "CAUSAL_LM"
[model]
name_or_path = "base"
dtype = "float32"
[peft]
method = "lora"
lora_r = 8
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
max_steps = 1
global_batch_size = 4
per_device_train_batch_size = 4
[sft]
max_seq_length = 256
"""
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def write_base(folder: Path, tokenizer: PreTrainedTokenizerFast, config: type = LlamaConfig, **more: Any) -> None:
    """Write a base with random weights and this tokenizer."""
    tokenizer.save_pretrained(folder / "base")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    set_seed(7)
    model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **SIZES, **ends, **more))
    model.save_pretrained(folder / "base")


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, *overrides: str, text: str = RECIPE, observer: Observer | None = None) -> RunDir:
    """Train in a folder with a base and rows, without the cache of rows."""
    (folder / "recipe.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch, Noise() as noise:
        patch.chdir(folder)
        loaded = load_recipe(folder / "recipe.toml", overrides)
        result = train(loaded, observer or SilentObserver(), noise, use_cache=False)
    return RunDir.open(Path(result.run))


def run_and_keep_trainer(folder: Path, *overrides: str) -> tuple[RunDir, Any]:
    """Train, and return the run and the trainer."""

    class Keeper(SilentObserver):
        def ready(self, trainer: Any) -> None:
            self.trainer = trainer

    keeper = Keeper()
    return run(folder, *overrides, observer=keeper), keeper.trainer


def adding_bos(tokenizer: PreTrainedTokenizerFast, bos: str) -> PreTrainedTokenizerFast:
    """The tokenizer, changed to put a beginning-of-sequence token before every text."""
    number = tokenizer.convert_tokens_to_ids(bos)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, number)]
    )
    return tokenizer


def chat(*texts: str) -> dict[str, Any]:
    """A row with alternating turns, the user's first."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]}
