"""Keys for rendering conversations, shared by objectives that generate text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lora_ns.table import Name, Table

LossOn = Literal["assistant", "last", "all"]
"""Tokens in the loss: every answer with its end token, only the last answer, or all tokens."""


class Rendering(Table):
    """Rendering of conversations."""

    chat_template: Name | None = None
    """Chat template to use instead of the tokenizer's: `chatml`, `llama-3`, `mistral`, `gemma`, or a .jinja file."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Variables for the chat template in training and inference, such as `{ enable_thinking = false }`."""
    system_role: Literal["template", "merge-into-user"] = "template"
    """System turns: pass them to the template, or prepend them to the first user turn if the template refuses them."""

    @property
    def loss_on(self) -> LossOn:
        """Tokens in the loss."""
        return "assistant"
