"""Recipes that `lorans init` starts from, and the folder that it writes: every line of a recipe has a comment."""

from __future__ import annotations

import functools
import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import Formatter
from typing import Any

from lora_ns.objectives import objective_of
from lora_ns.recipe.keys import UNIONS, as_toml, tag_of
from lora_ns.recipe.objective_tables import json_schema, kinds_of, top_level
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
        "teach the built-in model to spell backwards; nothing to download",
        "CAUSAL_LM",
        "lorans:nano",
        peft={"method": "lora", "lora_r": 16, "lora_alpha": 32},
        dataset={
            "path": "lorans:quickstart/train.jsonl",
            "eval_path": "lorans:quickstart/eval.jsonl",
            "format": "messages",
        },
        training={
            "output_dir": _OUTPUT,
            "num_train_epochs": 3,
            "global_batch_size": 32,
            "learning_rate": 0.003,
            "warmup_ratio": 0.1,
        },
        sft={"max_seq_length": 128},
        generation={"max_new_tokens": 16, "batch_size": 50},
        evaluation={"exact_match": True, "group_by": "group"},
    ),
    "dpo": _start(
        "teach the built-in model to prefer short answers; nothing to download",
        "CAUSAL_LM",
        "lorans:nano",
        peft={"method": "lora"},
        dataset={"path": "lorans:preferences/train.jsonl", "eval_path": "lorans:preferences/eval.jsonl"},
        training={
            "output_dir": _OUTPUT,
            "num_train_epochs": 2,
            "global_batch_size": 32,
            "learning_rate": 0.002,
            "warmup_ratio": 0.1,
        },
        dpo={"beta": 0.5, "loss_type": ["sigmoid", "sft"], "max_seq_length": 128},
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
        "a minimal recipe for your own rows",
        "CAUSAL_LM",
        "lorans:nano",
        peft={"method": "lora"},
        dataset={"path": "train.jsonl", "eval_fraction": 0.05},
        training={"output_dir": _OUTPUT},
        sft={"max_seq_length": 512},
    ),
}
"""The recipes to start from, by name."""


BARE = Start(
    "a minimal recipe",
    {
        "task_type": "CAUSAL_LM",
        "model": {"name_or_path": "lorans:nano"},
        "peft": {"method": "lora"},
        "dataset": {},
        "training": {"output_dir": _OUTPUT},
    },
)
"""The recipe that is fitted to your rows if you name none to start from."""


def write_recipe(
    start: Start, task_name: str, model: str | None = None, data: str | None = None, method: str | None = None
) -> str:
    """Write a recipe as TOML, with the description of every key beside it.

    Args:
        start: the recipe to start from.
        task_name: name of the task; invalid characters become `-`.
        model: base model, if not that of `start`.
        data: training file, if not that of `start`; a fraction of its rows is used for evaluation.
        method: PEFT method, if not that of `start`, with its defaults and its typical learning rate.
    """
    tables = _tables(start, model, data, method)
    lines = [
        "#:schema ./recipe.schema.json",
        "",
        *_keys(Recipe, {"task_name": task_name_of(task_name), "task_type": tables["task_type"]}),
    ]
    task_type = tables.pop("task_type")
    for table in (name for name in top_level() if tables.get(name)):
        values = tables[table]
        if kinds_of(table):
            model_class: Any = objective_of(task_type, [table])
        elif table in UNIONS:
            model_class = UNIONS[table][values[tag_of(table)]]
        else:
            model_class = Recipe.model_fields[table].annotation
        lines += ["", f"[{table}]", *_keys(model_class, values)]
    return "\n".join(lines) + "\n"


def task_name_of(name: str) -> str:
    """Turn a name into a valid `task_name`: invalid characters become `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "task"


def write_folder(
    start: Start, task_name: str, model: str | None = None, data: str | None = None, method: str | None = None
) -> dict[str, str]:
    """Return the files of a new folder by name; the arguments are those of `write_recipe`.

    If the recipe reads a JSON Lines file beside it, that file contains a few example rows to replace.
    """
    files = {
        "recipe.toml": write_recipe(start, task_name, model, data, method),
        "recipe.schema.json": _schema(),
        ".gitignore": "outputs/\n",
    }
    tables = _tables(start, model, data, method)
    named = tables["dataset"].get("path", "")
    path = PurePath(named if isinstance(named, str) else "")
    is_beside = not path.is_absolute() and ":" not in str(path) and ".." not in path.parts
    stub = path.suffix == ".jsonl" and is_beside and not glob.has_magic(str(path))
    if stub:
        files[str(path)] = "".join(json.dumps(row) + "\n" for row in _rows(tables))
    files["README.md"] = _readme(task_name, tables, str(path) if stub else None)
    return files


def _tables(start: Start, model: str | None, data: str | None, method: str | None) -> dict[str, Any]:
    tables = dict(start.tables)
    if model is not None:
        tables["model"] = {"name_or_path": model}
    if method is not None:
        tables = with_method(tables, method)
    if data is not None:
        kept = {key: value for key, value in tables["dataset"].items() if key.endswith("_template") or key == "format"}
        tables["dataset"] = {"path": data, "eval_fraction": 0.05, **kept}
    return tables


@functools.cache
def _schema() -> str:
    """Return the JSON Schema of recipes as a file. Cached, because it takes longer than everything else here."""
    return json.dumps(json_schema(), indent=2) + "\n"


def with_method(tables: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Change the PEFT method of some tables, with its defaults and its typical learning rate."""
    if method == tables["peft"]["method"]:
        return dict(tables)
    training = {key: value for key, value in tables["training"].items() if key != "learning_rate"}
    return {**tables, "peft": {"method": method, **_EXAMPLES.get(method, {})}, "training": training}


_EXAMPLES: Mapping[str, dict[str, Any]] = {"trainable-tokens": {"token_indices": [0]}}
"""Keys of methods that have no default, with an example value."""


def _rows(tables: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Example rows that the recipe can read: with the columns of its templates, or the simplest ones of its task."""
    dataset = tables["dataset"]
    asked, answered = (_columns(dataset.get(f"{side}_template", f"{{{side}}}"))[0] for side in ("prompt", "completion"))
    return objective_of(tables["task_type"], tables).starter_rows(asked, answered)


def _columns(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field]


def _readme(task_name: str, tables: Mapping[str, Any], stub: str | None) -> str:
    run = tables["training"]["output_dir"]
    rows = f"`{stub}` contains a few example rows. Replace them with your own.\n\n" if stub else ""
    ask = f'lorans infer {run} --input "What is 2 + 3?"'
    if objective_of(tables["task_type"], tables).answers != "text":
        ask = f"lorans infer {run} --input-file rows.jsonl --output-file classes.jsonl"
    return f"""\
# {task_name}

Fine-tuning of `{tables["model"]["name_or_path"]}`, described by `recipe.toml`. Every line there has a comment.

{rows}Run these commands in this folder:

```bash
lorans validate recipe.toml        # check the recipe: every error at once, with its line
lorans plan recipe.toml            # show every number that the run will use, and its origin
lorans train recipe.toml           # train the adapter
{ask}
lorans merge {run} --output merged
```

| file | content |
|---|---|
| `recipe.toml` | the recipe: model, method, data and training |
| `recipe.schema.json` | the JSON Schema of recipes, so that your editor completes and checks keys |
| `{run}/adapter` | the trained adapter, in PEFT's format |
| `{run}` | also the metrics, the log, and a manifest that records model, data and versions |
"""


def _keys(model: Any, values: Mapping[str, Any]) -> list[str]:
    written = [(f"{_bare(key)} = {as_inline(value)}", model.described(key)) for key, value in values.items()]
    width = min(48, max(len(text) for text, _ in written))
    return [f"{text:<{width}}  # {description}" for text, description in written]


def as_inline(value: Any) -> str:
    """Write a value as TOML in one line, tables in braces."""
    if isinstance(value, Mapping):
        parts = ", ".join(f"{_bare(key)} = {as_inline(part)}" for key, part in value.items())
        return f"{{ {parts} }}" if parts else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_inline, value))}]"
    return as_toml(value)


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else as_toml(key)
