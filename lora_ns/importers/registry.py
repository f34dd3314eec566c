"""Supported tools, and detection of the tool that a file belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.importers.axolotl import AXOLOTL
from lora_ns.importers.base import Importer
from lora_ns.importers.first_design import FIRST_DESIGN
from lora_ns.importers.llamafactory import DATASET_INFO, LLAMAFACTORY
from lora_ns.importers.source import Source
from lora_ns.importers.swift import SWIFT
from lora_ns.importers.trl import TRL
from lora_ns.importers.unsloth import UNSLOTH

IMPORTERS: Mapping[str, Importer] = {
    importer.name: importer for importer in (AXOLOTL, LLAMAFACTORY, TRL, SWIFT, UNSLOTH, DATASET_INFO, FIRST_DESIGN)
}
"""Importers by name. A new tool needs its own file, and a line here."""


_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("model", "peft"), "a lorans recipe already", "run `lorans validate` to check it"),
    (("task_type", "dataset"), "a lorans recipe already", "run `lorans validate` to check it"),
    (("peft_type", "base_model_name_or_path"), "the configuration of a saved adapter, not of a training run", ""),
    (("model_type", "architectures"), "the configuration of a base model, not of a training run", ""),
    (
        ("compute_environment", "distributed_type"),
        "a configuration of accelerate",
        "set `distributed.accelerate_config` to it in a recipe",
    ),
    (("zero_optimization",), "a DeepSpeed configuration", "set `distributed.deepspeed_config` to it in a recipe"),
    (("merge_method",), "a configuration of mergekit, not of a training run", ""),
    (("tokenizer", "checkpointer"), "a configuration of torchtune", ""),
)
"""Files that are mistaken for a training configuration, with the keys that identify them."""


def importer_for(source: Source, tool: str | None = None) -> Importer:
    """Return the importer for a file.

    Args:
        source: the file.
        tool: name of the tool; None to detect it from the keys.

    Raises:
        UsageError: if there is no such tool, or the keys match none or several.
    """
    if tool is None and source.tool in IMPORTERS:
        tool = source.tool
    if tool is not None:
        if tool not in IMPORTERS:
            names = f"one of: {', '.join(IMPORTERS)}"
            raise UsageError(Problem("--from", f"no tool `{tool}`", did_you_mean(tool, IMPORTERS, beside=names)))
        return IMPORTERS[tool]
    if source.path.suffix == ".toml":
        raise UsageError(_unknown(source))
    ranked = sorted(IMPORTERS.values(), key=lambda importer: -importer.likeness(source))
    best = ranked[0].likeness(source)
    if best and not any(other.likeness(source) == best for other in ranked[1:]):
        return ranked[0]
    raise UsageError(_unknown(source))


def _unknown(source: Source) -> Problem:
    """Describe a file that belongs to no supported tool."""
    for signs, what, remedy in _OTHERS:
        if all(sign in source.names for sign in signs):
            return Problem(str(source.path), f"this is {what}", remedy or _remedy())
    shown = ", ".join(f"`{name}`" for name in source.names[:6])
    return Problem(str(source.path), f"not a configuration of a supported tool; its keys are {shown}", _remedy())


def _remedy() -> str:
    return f"name the tool with `--from`, one of: {', '.join(IMPORTERS)}"
