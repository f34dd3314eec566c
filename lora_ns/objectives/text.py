"""The base class of objectives that generate text: length limits, stop tokens and sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from lora_ns.formats import TEXT, Example
from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.objectives.base import TEXT_AND_LABEL, Answers, Objective, TaskType
from lora_ns.objectives.rendering import Rendering
from lora_ns.table import Conflict, PositiveInt

_WIDTH, _POWER = 4096, 0.775


PASSED_TO_TEMPLATES = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
        *("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"),
    }
)
"""Variables that a chat template gets from the rows, the tokenizer or the renderer."""


class Renders(Protocol):
    """The interface of a renderer for objectives."""

    def examples(self, example: Any) -> Sequence[Any]:
        """The sequences of an example, each with its tokens and loss mask."""


class TextObjective(Rendering, Objective):
    """An objective for causal language models."""

    task_type: ClassVar[TaskType] = "CAUSAL_LM"
    examples: ClassVar[tuple[type, ...]] = TEXT
    answers: ClassVar[Answers] = "text"
    writes: ClassVar[tuple[str, ...]] = ("output", "finish_reason", "prompt_tokens", "output_tokens")
    inert: ClassVar[tuple[str, ...]] = TEXT_AND_LABEL
    scores_every_token: ClassVar[bool] = True
    usual_rank: ClassVar[int] = 16

    max_seq_length: PositiveInt = 1024
    """Maximum length of a row in tokens."""
    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate", "split"] = "error"
    """Longer rows: refuse, drop, truncate at the start of the prompt or at the end, or split (raw text only)."""
    on_stop_token: Literal["error", "drop", "keep"] = "error"
    """Rows with a stop token inside an answer: refuse them, drop them, or keep them and train to stop there."""

    @property
    def rendering(self) -> Rendering:
        """The rendering keys of this table."""
        return self

    def conflicts(self) -> Iterator[Conflict]:
        """Template variables that the rows or the tokenizer already provide."""
        for key in self.chat_template_kwargs:
            if key in PASSED_TO_TEMPLATES:
                what = f"`{key}` is set by the rows or the tokenizer"
                yield Conflict((self.key(f"chat_template_kwargs.{key}"),), what, "remove it")
                break

    def sequences(self, example: Example, renderer: Renders) -> Sequence[Any]:
        """The sequences to train on for an example. Raises `RowFaultError`."""
        return renderer.examples(example)

    @classmethod
    def rate(cls, width: int) -> float:
        """QLoRA's rate, decreasing with the width as in "LoRA Without Regret" (Schulman et al. 2025)."""
        return LORA_RATE * math.pow(_WIDTH / width, _POWER)

    @classmethod
    def starter_rows(cls, asked: str, answered: str) -> Sequence[Mapping[str, Any]]:
        """Simple sums."""
        sums = (("2 + 3", "5"), ("4 + 1", "5"), ("7 + 2", "9"), ("6 + 3", "9"))
        return [{asked: f"What is {terms}?", answered: result} for terms, result in sums]
