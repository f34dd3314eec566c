"""Recipes of the first design: keys by the names of today and by their old ones."""

from pathlib import Path

import pytest

from lora_ns.errors import UsageError
from lora_ns.importers.registry import importer_for
from lora_ns.importers.source import parse_source

BASE = """\
task_name: "t"
task_type: "CAUSAL_LM"
model: {name_or_path: some/base}
peft: {method: lora}
training: {output_dir: out}
dataset: {path: rows.jsonl}
"""


@pytest.mark.parametrize(
    ("table", "line", "key", "value"),
    [
        ("training", "learning_rate: 2e-4", "training.learning_rate", 2e-4),
        ("training", "warmup_steps: 5", "training.warmup_steps", 5),
        ("training", "lr: 1.0e-4", "training.learning_rate", 1e-4),
        ("training", "report_to: wandb", "tracking.report_to", ["wandb"]),
        ("training", "bf16: true", "model.dtype", "bfloat16"),
        ("training", "max_seq_length: 512", "sft.max_seq_length", 512),
        ("training", "extra: {adam_epsilon: 1.0e-6}", "training.extra", {"adam_epsilon": 1e-6}),
        ("peft", "r: 32", "peft.lora_r", 32),
        ("peft", "target_modules: [q_proj]", "peft.target_modules", ["q_proj"]),
        ("model", "torch_dtype: torch.bfloat16", "model.dtype", "bfloat16"),
        ("model", "load_in_4bit: true", "quantization.method", "bnb-4bit"),
        ("quantization", "load_in_8bit: true", "quantization.method", "bnb-8bit"),
        ("dataset", "validation_file: held.jsonl", "dataset.eval_path", "held.jsonl"),
        ("dataset", "columns: {question: q}", "dataset.columns", {"question": "q"}),
        ("sft", "max_length: 512", "sft.max_seq_length", 512),
        ("sft", "packing: 'true'", "sft.packing", True),
    ],
)
def test_a_key_has_its_name_of_today(translate, table, line, key, value):
    kept = [text for text in BASE.splitlines() if not text.startswith(f"{table}:")]
    translation = translate("\n".join([*kept, f"{table}:", f"  {line}"]))
    assert translation.tool == "lorans"
    assert translation.recipe[key] == value
    found = [one for one in translation.outcomes if one.key.startswith(f"{table}.{line.partition(':')[0]}")]
    assert {one.fate for one in found} == {"mapped"}
    assert all(key in one.recipe for one in found)


def test_two_names_of_one_key_are_refused(translate):
    translation = translate(BASE.replace("{method: lora}", "{method: lora, r: 8, lora_r: 16}"))
    assert [outcome.key for outcome in translation.refused] == ["peft.lora_r"]


def test_what_is_no_table_leaves_no_recipe(translate):
    assert translate(BASE.replace("{method: lora}", "lora"), "lorans").is_fatal


def test_a_model_alone_is_no_recipe():
    with pytest.raises(UsageError, match="torchtune"):
        importer_for(parse_source(Path("x.yaml"), "model: {a: 1}\ntokenizer: {}\ncheckpointer: {}\n"))
