"""LLaMA-Factory's templates by name: the text around each turn, after `src/llamafactory/data/template.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Slots = tuple[str, ...]
"""Texts to tokenise separately; `BOS` and `EOS` stand for special tokens, `{}` for the content of the turn."""


BOS, EOS = "\0bos", "\0eos"
"""Placeholders of the beginning-of-sequence and end-of-sequence tokens."""


@dataclass(frozen=True)
class Template:
    """Text around each turn, by role."""

    user: Slots = ("{}",)
    assistant: Slots = ("{}", EOS)
    system: Slots = ("{}",)
    prefix: Slots = ()
    """Text before the first turn."""
    system_text: str = ""
    """Default system prompt."""
    end: str = ""
    """Token that replaces the tokenizer's end-of-sequence token."""
    joins_system: bool = False
    """True if the system prompt is part of the first user turn."""


def filled(slots: Slots, content: str) -> Slots:
    """Insert the content of a turn."""
    return tuple(slot if slot in (BOS, EOS) else slot.replace("{}", content, 1) for slot in slots)


def _marked(begin: str, end: str, after: str = "\n") -> Template:
    """Return a template with the role in a header and an end-of-turn token after the content."""

    def turn(role: str) -> str:
        return begin.replace("ROLE", role) + "{}" + end

    opening = begin.replace("ROLE", "assistant")
    return Template((f"{turn('user')}{after}{opening}",), ("{}" + end + after,), (f"{turn('system')}{after}",), end=end)


_CHATML = _marked("<|im_start|>ROLE\n", "<|im_end|>")


_HEADERS = _marked("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>", "")


TEMPLATES: Mapping[str, Template] = {
    "default": Template(("Human: {}", EOS, "\nAssistant:"), ("{}", EOS, "\n"), ("System: {}", EOS, "\n")),
    "alpaca": Template(
        ("### Instruction:\n{}\n\n### Response:\n",),
        ("{}", EOS, "\n\n"),
        system_text="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
    ),
    "chatml": _CHATML,
    "qwen3_nothink": _CHATML,
    "qwen": Template(
        _CHATML.user,
        _CHATML.assistant,
        _CHATML.system,
        system_text="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        end=_CHATML.end,
    ),
    "llama3": Template(_HEADERS.user, _HEADERS.assistant, _HEADERS.system, (BOS,), end=_HEADERS.end),
    "llama2": Template((BOS, "[INST] {} [/INST]"), system=("<<SYS>>\n{}\n<</SYS>>\n\n",), joins_system=True),
    "mistral": Template(("[INST] {}[/INST]",), (" {}", EOS), ("{}\n\n",), (BOS,), joins_system=True),
    "gemma": Template(
        ("<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",),
        ("{}<end_of_turn>\n",),
        ("{}\n\n",),
        (BOS,),
        end="<end_of_turn>",
        joins_system=True,
    ),
    "phi": _marked("<|ROLE|>\n", "<|end|>"),
    "vicuna": Template(
        ("USER: {} ASSISTANT:",),
        system_text="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    ),
    "empty": Template(assistant=("{}",)),
}
"""Supported templates. The others render tools or thoughts, or imitate the chat template of a base."""
