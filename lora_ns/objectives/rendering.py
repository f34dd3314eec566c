"""How conversations become text, and which of it is learned: keys that objectives which write text share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lora_ns.table import Name, Table


class Rendering(Table):
    """How conversations become text."""

    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Tokens in the loss: every answer with its end token, only the last answer, or all tokens."""
    chat_template: Name | None = None
    """Chat template instead of the tokenizer's own: `chatml`, `llama-3`, `mistral`, `gemma`, or a .jinja file."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Variables that the chat template reads, in training as in inference, such as `{ enable_thinking = false }`."""
    system_role: Literal["template", "merge-into-user"] = "template"
    """System turns go to the template, or to the beginning of the first user turn where it refuses them."""
