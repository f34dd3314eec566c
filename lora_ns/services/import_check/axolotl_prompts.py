"""Prompts of axolotl's dataset types, and its chat templates, built line by line after its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_ns.services.import_check.reader import LeftOutError, UnsupportedError

Prompt = Callable[[Mapping[str, Any]], tuple[str, str]]
"""Function from a row to its prompt and its answer."""


def _instruct(before: str, ask: str, given: str) -> str:
    lines = [*([before, ""] if before else []), "### Instruction:", ask, ""]
    return "\n".join([*lines, *(["### Input:", given, ""] if given else []), "### Response:", ""])


def _chat(before: str, ask: str, given: str) -> str:
    lines = [*([f"SYSTEM: {before}"] if before else []), f"USER: {ask}", *([given] if given else [])]
    return "\n".join([*lines, "ASSISTANT:"])


def _chatml(before: str, ask: str, given: str) -> str:
    turns = [("system", before)] if before else []
    turns.append(("user", f"{ask}\n{given}" if given else ask))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def _phi(before: str, ask: str, given: str) -> str:
    opening = f"<|system|>\n{before}<|end|>\n" if before else ""
    return (
        f"{opening}<|user|>\n{ask}<|end|>{given}<|assistant|>"
        if given
        else (f"{opening}<|user|>\n{ask}<|end|>\n<|assistant|>\n")
    )


_Style = Callable[[str, str, str], str]


_TASK, _CONTEXT = "describes a task", ", paired with an input that provides further context"


def _alpaca(has_input: bool) -> str:
    return (
        f"Below is an instruction that {_TASK}{_CONTEXT if has_input else ''}. "
        "Write a response that appropriately completes the request."
    )


def _concise(has_input: bool) -> str:
    manner = "concisely and appropriately" if has_input else "appropriately and concisely"
    return (
        f"Below is an instruction from a USER that {_TASK}{_CONTEXT if has_input else ''}. "
        f"The ASSISTANT writes a response that {manner} completes the request.\n\n"
    )


_USUAL = ("instruction", "input", "output")


def _prompt(
    style: _Style,
    opening: Callable[[bool], str] | None = _alpaca,
    names: tuple[str, str, str] = _USUAL,
) -> Prompt:
    """Return a dataset type with a fixed opening sentence."""

    def read(row: Mapping[str, Any]) -> tuple[str, str]:
        ask, given, answer = (_text(row, name) for name in names)
        return style(opening(bool(given)) if opening else "", ask, given), answer

    return read


def _with_system(style: _Style, column: str, names: tuple[str, str, str] = _USUAL) -> Prompt:
    """Return a dataset type whose rows have a system prompt, in `column`."""

    def read(row: Mapping[str, Any]) -> tuple[str, str]:
        ask, given, answer = (_text(row, name) for name in names)
        return style(_text(row, column), ask, given), answer

    return read


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "") if name else ""
    return value if isinstance(value, str) else str(value)


_TEACHER = ("instruction", "input", "response")


NAMED: Mapping[str, Prompt] = {
    **dict.fromkeys(("alpaca", "alpaca:instruct", "alpaca_instruct", "alpaca_instruct.load"), _prompt(_instruct)),
    **dict.fromkeys(("alpaca:chat", "alpaca_chat", "alpaca_chat.load"), _prompt(_chat)),
    "alpaca:chatml": _prompt(_chatml),
    "alpaca:phi": _prompt(_phi),
    "alpaca_chat.load_concise": _prompt(_chat, _concise),
    "alpaca_chat.load_no_prompt": _prompt(_chat, None),
    "alpaca_chat.load_qa": _prompt(_chat, _concise, ("question", "", "answer")),
    "alpaca_chat.load_camel_ai": _prompt(_chat, _concise, ("message_1", "", "message_2")),
    "alpaca_instruct.load_no_prompt": _prompt(_instruct, None),
    **dict.fromkeys(
        ("alpaca_w_system", "alpaca_w_system.load", "alpaca_w_system.load_chat"), _with_system(_chat, "system")
    ),
    "alpaca_w_system.load_instruct": _with_system(_instruct, "system"),
    "alpaca_w_system.load_open_orca_chatml": _with_system(_chatml, "system_prompt", ("question", "", "response")),
    "gpteacher": _prompt(_instruct, names=_TEACHER),
    "gpteacher:chat": _prompt(_chat, names=_TEACHER),
    "oasst": _prompt(_instruct, names=("INSTRUCTION", "", "RESPONSE")),
}
"""Dataset types, by name."""


CUSTOM_DEFAULTS: Mapping[str, str] = {
    "system_prompt": "",
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "format": "{instruction} {input} ",
    "no_input_format": "{instruction} ",
    "system_format": "{system}",
}
"""Defaults of the keys of a custom type."""


def rendered_chat(name: str, turns: Sequence[Mapping[str, Any]], bos: str) -> str:
    """Render a conversation with one of axolotl's own chat templates.

    Raises:
        LeftOutError: if the template rejects the conversation.
        UnsupportedError: if the template is not among those below.
    """
    messages = [(str(turn.get("role")), str(turn.get("content") or "")) for turn in turns]
    if name == "chatml":
        return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    if name == "llama3":
        return bos + "".join(
            f"<|start_header_id|>{role}<|end_header_id|>\n\n{text.strip()}<|eot_id|>" for role, text in messages
        )
    if name == "gemma":
        if any((role == "user") != (number % 2 == 0) for number, (role, _) in enumerate(messages)):
            raise LeftOutError("the chat template `gemma` supports only alternating user and assistant turns")
        names = {"assistant": "model"}
        return bos + "".join(
            f"<start_of_turn>{names.get(role, role)}\n{text.strip()}<end_of_turn>\n" for role, text in messages
        )
    raise UnsupportedError(f"`--check` does not support the chat template `{name}`")
