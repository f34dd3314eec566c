"""What objectives that write text share: how conversations become tokens, and which of them are learned."""

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
"""What a template gets from the rows, the tokenizer or the renderer."""


class Renders(Protocol):
    """The renderer of a run, as an objective sees it."""

    def examples(self, example: Any) -> Sequence[Any]:
        """The sequences of an example, each with its tokens and which of them are learned."""


class TextObjective(Rendering, Objective):
    """An objective of a causal language model."""

    task_type: ClassVar[TaskType] = "CAUSAL_LM"
    examples: ClassVar[tuple[type, ...]] = TEXT
    answers: ClassVar[Answers] = "text"
    writes: ClassVar[tuple[str, ...]] = ("output", "finish_reason", "prompt_tokens", "output_tokens")
    inert: ClassVar[tuple[str, ...]] = TEXT_AND_LABEL
    scores_every_token: ClassVar[bool] = True
    usual_rank: ClassVar[int] = 16

    max_seq_length: PositiveInt = 1024
    """Longest row, in tokens."""
    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate", "split"] = "error"
    """Longer rows are refused, left out, cut at the prompt's beginning or at the end, or, as raw text can be, split."""
    on_stop_token: Literal["error", "drop", "keep"] = "error"
    """Rows whose answer spells out a stop token before its end are refused, left out, or learned to stop there."""

    @property
    def rendering(self) -> Rendering:
        """Its own keys."""
        return self

    def conflicts(self) -> Iterator[Conflict]:
        """What the rows and the tokenizer give to a chat template is not given twice."""
        for key in self.chat_template_kwargs:
            if key in PASSED_TO_TEMPLATES:
                what = f"`{key}` is given to the chat template by the rows or the tokenizer"
                yield Conflict((self.key(f"chat_template_kwargs.{key}"),), what, "remove it")
                break

    def sequences(self, example: Example, renderer: Renders) -> Sequence[Any]:
        """The sequences that an example is learned as. Raises `RowFaultError`."""
        return renderer.examples(example)

    @classmethod
    def rate(cls, width: int) -> float:
        """QLoRA's rate, falling with the width as "LoRA Without Regret" (Schulman et al. 2025) has it."""
        return LORA_RATE * math.pow(_WIDTH / width, _POWER)

    @classmethod
    def starter_rows(cls, asked: str, answered: str) -> Sequence[Mapping[str, Any]]:
        """Sums."""
        sums = (("2 + 3", "5"), ("4 + 1", "5"), ("7 + 2", "9"), ("6 + 3", "9"))
        return [{asked: f"What is {terms}?", answered: result} for terms, result in sums]
