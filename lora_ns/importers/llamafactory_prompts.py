"""The text that LLaMA-Factory makes of instructions: a user turn, or plain text by some of its templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.importers.axolotl_prompts import escaped


@dataclass(frozen=True)
class Frame:
    """A plain text around an instruction."""

    turn: str
    """With `{content}` where the instruction is."""
    system: str = ""
    """What stands before it where a row has no system text of its own."""
    said: str = ""
    """What is not the same."""


_FRAMES: Mapping[str, Frame] = {
    "alpaca": Frame(
        "### Instruction:\n{content}\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
        "it is plain text here, without the two line breaks behind the end token",
    ),
    "vicuna": Frame(
        "USER: {content} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        "it is plain text here",
    ),
    "empty": Frame("{content}", said="it is plain text here, and the token that ends an answer is learned, too"),
}
"""Templates of which lorans writes the text of one round; they are those of `src/llamafactory/data/template.py`."""


def frame_of(template: str, default_system: str | None) -> Frame | None:
    """The plain text of a template, with another text before it if one is named; None of chat templates."""
    frame = _FRAMES.get(template)
    return frame and (frame if default_system is None else replace(frame, system=default_system))


def instruction_form(columns: Mapping[str, str], frame: Frame | None) -> tuple[dict[str, Any], str]:
    """The keys of `[dataset]` for rows of an instruction, perhaps an input below it, and an answer.

    Args:
        columns: the data's names of `prompt`, `query`, `response`, `system`, `history` and `tools`, of those that
            are read.
        frame: the plain text that rows become; a user turn if absent.

    Returns:
        The keys, and what is not the same.
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
    note = "LLaMA-Factory puts one line break between instruction and input, and lorans two"
    return {"format": "alpaca", **({"columns": others} if others else {})}, note


def _filled(name: str, prompts: list[str], columns: Mapping[str, str]) -> dict[str, Any]:
    more = {"fallback_prompt_templates": prompts[1:]} if len(prompts) > 1 else {}
    answer = "{" + columns["response"] + "}"
    return {"format": name, "prompt_template": prompts[0], **more, "completion_template": answer}
