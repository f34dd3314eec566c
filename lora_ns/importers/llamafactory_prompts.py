"""Prompt templates for LLaMA-Factory's instructions: a user turn, or plain text with some of its templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.importers.axolotl_prompts import escaped


@dataclass(frozen=True)
class Frame:
    """Plain text around an instruction."""

    turn: str
    """Text of one round, with `{content}` in place of the instruction."""
    system: str = ""
    """Text before it, for rows without a system message."""
    said: str = ""
    """Difference from LLaMA-Factory's text."""


_FRAMES: Mapping[str, Frame] = {
    "alpaca": Frame(
        "### Instruction:\n{content}\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
        "lorans renders it as plain text, without the two line breaks after the end-of-sequence token",
    ),
    "vicuna": Frame(
        "USER: {content} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        "lorans renders it as plain text",
    ),
    "empty": Frame("{content}", said="lorans renders it as plain text, and also trains on the end-of-sequence token"),
}
"""Text of one round by the name of its template. Source: `src/llamafactory/data/template.py`."""


def frame_of(template: str, default_system: str | None) -> Frame | None:
    """Return the plain text of a template, with `default_system` as its system message; None for chat templates."""
    frame = _FRAMES.get(template)
    return frame and (frame if default_system is None else replace(frame, system=default_system))


def instruction_form(columns: Mapping[str, str], frame: Frame | None) -> tuple[dict[str, Any], str]:
    """Return the keys of `[dataset]` for rows with an instruction, an optional input, and an answer.

    Args:
        columns: names of the columns that are read, by LLaMA-Factory's names `prompt`, `query`, `response`, `system`,
            `history` and `tools`.
        frame: the plain text around the instruction; None for a user turn.

    Returns:
        The keys, and a note about the difference from LLaMA-Factory; empty if there is none.
    """
    contents = ["{" + columns["prompt"] + "}"]
    if "query" in columns:
        contents.insert(0, f"{contents[0]}\n{{{columns['query']}}}")
    if frame is not None:
        before = [escaped(frame.system)]
        if "system" in columns:
            before.insert(0, "{" + columns["system"] + "}")
        prompts = [text + frame.turn.replace("{content}", content) for text in before for content in contents]
        return _filled("prompt-completion", prompts, columns), ""
    if "query" in columns and not {"system", "history", "tools"} & set(columns):
        return _filled("messages", contents, columns), ""
    beside = {name: columns[name] for name in ("system", "history", "tools") if name in columns}
    if "query" not in columns:
        names = {"question": columns["prompt"], "answer": columns["response"], **beside}
        return {"format": "question-answer", "columns": names}, ""
    names = {"instruction": columns["prompt"], "input": columns["query"], "output": columns["response"], **beside}
    others = {ours: theirs for ours, theirs in names.items() if ours != theirs}
    note = "LLaMA-Factory puts one line break between instruction and input, lorans puts two"
    return {"format": "alpaca", **({"columns": others} if others else {})}, note


def _filled(name: str, prompts: list[str], columns: Mapping[str, str]) -> dict[str, Any]:
    more = {"fallback_prompt_templates": prompts[1:]} if len(prompts) > 1 else {}
    answer = "{" + columns["response"] + "}"
    return {"format": name, "prompt_template": prompts[0], **more, "completion_template": answer}
