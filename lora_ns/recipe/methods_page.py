"""Table of PEFT methods for `lorans methods`; `python -m lora_ns.recipe.methods_page` prints `docs/methods.md`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping

from lora_ns.methods import METHODS, REFUSED, REFUSED_STARTS, PeftMethod

QUESTIONS: Mapping[str, str] = {
    "merge": "merge",
    "convertible": "to LoRA",
    "classifier": "classes",
    "token_classification": "tags",
    "nf4": "4-bit",
    "int8": "8-bit",
    "torchao": "torchao",
    "gptq": "GPTQ",
    "packing": "packing",
    "gradient_checkpointing": "checkpointing",
    "resume": "resume",
    "ddp": "DDP",
    "zero3": "ZeRO-3",
    "fsdp": "FSDP",
    "vllm": "vLLM",
}
"""Column titles by field of `Capabilities`."""


NARROW = ("merge", "classifier", "token_classification", "nf4", "int8", "packing", "ddp")
"""The fields that fit a terminal of 80 columns, and that most people ask for."""


def columns(fields: Collection[str] = tuple(QUESTIONS)) -> tuple[str, ...]:
    """Return the headings of a table of methods."""
    return ("method", *(QUESTIONS[field] for field in fields), "rate")


def marks(name: str, kind: type[PeftMethod], fields: Collection[str] = tuple(QUESTIONS)) -> tuple[str, ...]:
    """Return the row of a method."""
    found = (getattr(kind.capabilities, field) for field in fields)
    return (name, *("yes" if value is True else "-" for value in found), f"{kind.capabilities.typical_learning_rate:g}")


def page() -> str:
    """Return the page as Markdown: the table, and for each method its use and its limits."""
    lines = [
        "# PEFT methods",
        "",
        "Generated from the method classes. Tests compare them with real runs, except *to LoRA*, *vLLM* and the",
        "benchmark, which are taken from PEFT and vLLM. The [matrix](matrix.md) lists every combination that was run.",
        "",
        _row(columns()),
        _row(["---"] * len(columns())),
        *(_row(marks(name, kind)) for name, kind in METHODS.items()),
        "",
        "*to LoRA*: PEFT can convert the trained adapter. *vLLM*: vLLM serves the adapter; merge others first.",
        "*DDP*: several processes with whole weights (DDP, ZeRO-1, ZeRO-2; for AdaLoRA only DDP) train the same",
        "adapter as one process, see [several processes](distributed.md). *rate*: the default learning rate, to start",
        "from, not the best one.",
    ]
    for name, kind in METHODS.items():
        lines += ["", f"## {name}", "", f"{kind.__doc__} When: {kind.advice}.", *_details(kind)]
    lines += ["", "## Refused", "", "PEFT has these, but a recipe cannot use them:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in REFUSED.items()]
    lines += [f"- `{name}` as the initialisation of lora: {reason}" for name, reason in REFUSED_STARTS.items()]
    return "\n".join(lines) + "\n"


def _details(kind: type[PeftMethod]) -> list[str]:
    capabilities = kind.capabilities
    reasons = {question: getattr(capabilities, field) for field, question in QUESTIONS.items()}
    lines = [f"- no {what}: {why}" for what, why in reasons.items() if isinstance(why, str)]
    if isinstance(capabilities.quantized_biases, str):
        lines.append(f"- no 4-bit and 8-bit layers with biases: {capabilities.quantized_biases}")
    if capabilities.benchmark:
        lines.append(f"- PEFT's MetaMathQA benchmark (Llama-3.2-3B, one run): {capabilities.benchmark}")
    return ["", *lines] if lines else []


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
