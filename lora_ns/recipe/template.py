"""What `lorans init` writes: a recipe to start from, each of its lines with the field's own description."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.recipe.explain import UNIONS
from lora_ns.recipe.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A recipe to start from."""

    summary: str
    tables: Mapping[str, Any]


def _start(summary: str, task_type: str, model: str, **tables: Any) -> Start:
    return Start(summary, {"task_type": task_type, "model": {"name_or_path": model}, **tables})


_QLORA = {"method": "bnb-4bit"}
_OUTPUT = "outputs/run"

STARTS: Mapping[str, Start] = {
    "quickstart": _start(
        "the model inside the package learns to spell backwards; no download",
        "CAUSAL_LM",
        "lorans:nano",
        peft={"method": "lora", "lora_r": 16, "lora_alpha": 32},
        dataset={
            "path": "lorans:quickstart/train.jsonl",
            "eval_path": "lorans:quickstart/eval.jsonl",
            "format": "messages",
        },
        training={"output_dir": _OUTPUT, "num_train_epochs": 4, "global_batch_size": 32, "learning_rate": 0.005},
        sft={"max_seq_length": 128},
        generation={"max_new_tokens": 16, "batch_size": 50},
        evaluation={"exact_match": True, "group_by": "group"},
    ),
    "gsm8k": _start(
        "grade-school mathematics with a 4-bit Mistral 7B",
        "CAUSAL_LM",
        "mistralai/Mistral-7B-v0.1",
        quantization=_QLORA,
        peft={"method": "lora", "lora_r": 32, "lora_alpha": 64, "lora_dropout": 0.05},
        dataset={
            "name": "openai/gsm8k",
            "subset": "main",
            "eval_split": "test",
            "prompt_template": "Question: {question}\nAnswer:",
            "completion_template": " {answer}",
        },
        training={
            "output_dir": _OUTPUT,
            "num_train_epochs": 3,
            "global_batch_size": 64,
            "optim": "paged_adamw_8bit",
        },
    ),
    "metamath": _start(
        "MetaMathQA with Llama 2 7B",
        "CAUSAL_LM",
        "meta-llama/Llama-2-7b-hf",
        peft={"method": "lora", "lora_r": 16, "lora_alpha": 32},
        dataset={
            "name": "meta-math/MetaMathQA",
            "prompt_template": "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{query}\n\n### Response:",
            "completion_template": " {response}",
            "eval_fraction": 0.005,
        },
        training={"output_dir": _OUTPUT, "global_batch_size": 128},
        sft={"on_overflow": "drop"},
    ),
    "code-feedback": _start(
        "Code-Feedback with a 4-bit DeepSeek-Coder 6.7B",
        "CAUSAL_LM",
        "deepseek-ai/deepseek-coder-6.7b-instruct",
        quantization=_QLORA,
        peft={"method": "lora", "lora_r": 16, "lora_alpha": 32},
        dataset={
            "name": "m-a-p/CodeFeedback-Filtered-Instruction",
            "format": "messages",
            "prompt_template": "{query}",
            "completion_template": "{answer}",
            "eval_fraction": 0.01,
        },
        training={"output_dir": _OUTPUT, "global_batch_size": 64},
        sft={"max_seq_length": 2048, "on_overflow": "drop"},
    ),
    "glue-mrpc": _start(
        "paraphrases of GLUE with RoBERTa",
        "SEQ_CLS",
        "FacebookAI/roberta-base",
        peft={"method": "lora", "lora_r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]},
        dataset={"name": "nyu-mll/glue", "subset": "mrpc", "eval_split": "validation"},
        training={"output_dir": _OUTPUT, "num_train_epochs": 10, "global_batch_size": 32, "learning_rate": 0.0004},
    ),
    "template": _start(
        "your own rows, with the least that a recipe needs",
        "CAUSAL_LM",
        "lorans:nano",
        peft={"method": "lora"},
        dataset={"path": "train.jsonl", "eval_fraction": 0.05},
        training={"output_dir": _OUTPUT},
        sft={"max_seq_length": 512},
    ),
}
"""The recipes to start from, by name."""


def write_recipe(
    start: Start, task_name: str, model: str | None = None, data: str | None = None, method: str | None = None
) -> str:
    """A recipe as TOML, with the description of every key beside it.

    Args:
        start: what to start from.
        task_name: the name of the task; characters that a name cannot have become `-`.
        model: another base.
        data: another training file; then the evaluation rows are a share of it.
        method: another PEFT method, with its defaults and its typical learning rate.
    """
    tables = dict(start.tables)
    if model is not None:
        tables["model"] = {"name_or_path": model}
    if method is not None and method != tables["peft"]["method"]:
        tables["peft"] = {"method": method}
        tables["training"] = {key: value for key, value in tables["training"].items() if key != "learning_rate"}
    if data is not None:
        kept = {key: value for key, value in tables["dataset"].items() if key.endswith("_template") or key == "format"}
        tables["dataset"] = {"path": data, "eval_fraction": 0.05, **kept}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", task_name).strip("-._") or "task"
    lines = [
        "#:schema ./recipe.schema.json",
        "",
        *_keys(Recipe, {"task_name": name, "task_type": tables.pop("task_type")}),
    ]
    for table in (field for field in Recipe.model_fields if field in tables):
        values = tables[table]
        model_class: Any = UNIONS[table][values["method"]] if table in UNIONS else Recipe.model_fields[table].annotation
        lines += ["", f"[{table}]", *_keys(model_class, values)]
    return "\n".join(lines) + "\n"


def _keys(model: Any, values: Mapping[str, Any]) -> list[str]:
    written = [
        (f"{key} = {json.dumps(value, ensure_ascii=False)}", model.model_fields[key].description)
        for key, value in values.items()
    ]
    width = min(48, max(len(text) for text, _ in written))
    return [f"{text:<{width}}  # {description}" for text, description in written]
