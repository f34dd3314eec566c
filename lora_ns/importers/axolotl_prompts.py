"""Prompt templates of axolotl's dataset types.

Source: `src/axolotl/prompters.py` for the text, and `src/axolotl/prompt_strategies/` for the columns.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Style:
    """Text around an instruction with an input, around one without, and around the system message."""

    turn: str
    turn_no_input: str
    system: str


_STYLES: Mapping[str, Style] = {
    "instruct": Style(
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n",
        "{system}\n\n",
    ),
    "chat": Style("USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:", "SYSTEM: {system}\n"),
    "chatml": Style(
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{system}<|im_end|>\n",
    ),
    "phi": Style(
        "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
        "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
        "<|system|>\n{system}<|end|>\n",
    ),
}


_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
)


_CONCISE = (
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. "
    "The ASSISTANT writes a response that concisely and appropriately completes the request.\n\n",
    "Below is an instruction from a USER that describes a task. "
    "The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n",
)


@dataclass(frozen=True)
class Prompt:
    """A dataset type: its system message, its style, and the columns that it reads."""

    before: tuple[str, str] = ("", "")
    """System message of rows with an input, and of rows without."""
    style: str = "instruct"
    columns: tuple[str, str, str] = ("instruction", "input", "output")
    """Columns of instruction, input and answer; the second is empty if the type has no input."""
    system: str = ""
    """Column of the system message; empty if the type has none."""


PROMPTS: Mapping[str, Prompt] = {
    "alpaca": Prompt(_ALPACA),
    "alpaca:chat": Prompt(_ALPACA, "chat"),
    "alpaca:chatml": Prompt(_ALPACA, "chatml"),
    "alpaca:instruct": Prompt(_ALPACA),
    "alpaca:phi": Prompt(_ALPACA, "phi"),
    "alpaca_chat": Prompt(_ALPACA, "chat"),
    "alpaca_chat.load": Prompt(_ALPACA, "chat"),
    "alpaca_chat.load_concise": Prompt(_CONCISE, "chat"),
    "alpaca_chat.load_no_prompt": Prompt(style="chat"),
    "alpaca_chat.load_qa": Prompt(_CONCISE, "chat", ("question", "", "answer")),
    "alpaca_chat.load_camel_ai": Prompt(_CONCISE, "chat", ("message_1", "", "message_2")),
    "alpaca_instruct": Prompt(_ALPACA),
    "alpaca_instruct.load": Prompt(_ALPACA),
    "alpaca_instruct.load_no_prompt": Prompt(),
    "alpaca_w_system": Prompt(style="chat", system="system"),
    "alpaca_w_system.load": Prompt(style="chat", system="system"),
    "alpaca_w_system.load_chat": Prompt(style="chat", system="system"),
    "alpaca_w_system.load_instruct": Prompt(system="system"),
    "alpaca_w_system.load_open_orca_chatml": Prompt(
        style="chatml", columns=("question", "", "response"), system="system_prompt"
    ),
    "gpteacher": Prompt(_ALPACA, columns=("instruction", "input", "response")),
    "gpteacher:chat": Prompt(_ALPACA, "chat", ("instruction", "input", "response")),
    "oasst": Prompt(_ALPACA, columns=("INSTRUCTION", "", "RESPONSE")),
}
"""Dataset types with prompts in plain text, by their names in axolotl."""


@dataclass(frozen=True)
class Templates:
    """Prompt templates of a type, of which the first that a row can fill applies, and the template of the answer."""

    prompts: tuple[str, ...]
    completion: str

    def keys(self) -> dict[str, Any]:
        """Return the keys of `[dataset]`."""
        more = {"fallback_prompt_templates": list(self.prompts[1:])} if len(self.prompts) > 1 else {}
        return {
            "format": "prompt-completion",
            "prompt_template": self.prompts[0],
            **more,
            "completion_template": self.completion,
        }


def templates_of(prompt: Prompt) -> Templates:
    """Return the templates of one of axolotl's own types."""
    style = _STYLES[prompt.style]
    frame = style.system
    instruction, given, answer = prompt.columns
    names = {"instruction": instruction, "input": given, "system": prompt.system}
    before, before_no_input = (frame.replace("{system}", escaped(text)) if text else "" for text in prompt.before)
    prompts = [before + style.turn] if given else []
    prompts.append(before_no_input + style.turn_no_input)
    if prompt.system:
        prompts = [f"{frame}{text}" for text in prompts] + prompts
    return Templates(tuple(renamed(text, names) for text in prompts), f"{{{answer}}}")


def escaped(text: str) -> str:
    """Escape the braces of a text, for a template."""
    return text.replace("{", "{{").replace("}", "}}")


def renamed(template: str, names: Mapping[str, str]) -> str:
    """Replace the field names of a template by column names.

    Raises:
        ValueError: if the braces do not balance, or contain something other than a known field.
    """
    parts = []
    for literal, field, spec, conversion in string.Formatter().parse(template):
        if field is not None and (spec or conversion or not names.get(field)):
            raise ValueError(f"`{{{field}}}` cannot be filled in")
        parts += [escaped(literal), "" if field is None else f"{{{names[field]}}}"]
    return "".join(parts)
