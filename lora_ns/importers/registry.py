"""The tools whose configurations are read, and what a file that is none of them is."""

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

IMPORTERS: Mapping[str, Importer] = {
    importer.name: importer for importer in (AXOLOTL, LLAMAFACTORY, TRL, SWIFT, DATASET_INFO, FIRST_DESIGN)
}
"""By their names: beside the tool's file in this room, its line here is all that a new one needs."""


_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("model", "peft"), "a recipe of lorans's own", "`lorans validate` checks it"),
    (("task_type", "dataset"), "a recipe of lorans's own", "`lorans validate` checks it"),
    (("peft_type", "base_model_name_or_path"), "the configuration of a saved adapter, not of a training", ""),
    (("model_type", "architectures"), "the configuration of a base model, not of a training", ""),
    (
        ("compute_environment", "distributed_type"),
        "a file of `accelerate config`",
        "name it in a recipe: `distributed.accelerate_config`",
    ),
    (("zero_optimization",), "a DeepSpeed configuration", "name it in a recipe: `distributed.deepspeed_config`"),
    (("merge_method",), "a configuration of mergekit, which merges models", ""),
    (("tokenizer", "checkpointer"), "a configuration of torchtune", ""),
)
"""Files that are taken for a configuration, by the keys that show it."""


def importer_for(source: Source, tool: str | None = None) -> Importer:
    """The importer of a file.

    Args:
        source: the file.
        tool: the tool's name, if it is not to be found by the keys.

    Raises:
        UsageError: if there is no such tool, or the keys are those of none or of several.
    """
    tool = tool or source.tool
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
    """What a file of no known tool is, as far as its keys show."""
    for signs, what, remedy in _OTHERS:
        if all(sign in source.names for sign in signs):
            return Problem(str(source.path), f"is {what}", remedy or _remedy())
    shown = ", ".join(f"`{name}`" for name in source.names[:6])
    return Problem(str(source.path), f"the keys are those of no tool that lorans reads: {shown}", _remedy())


def _remedy() -> str:
    return f"name the tool by `--from`, one of: {', '.join(IMPORTERS)}"
