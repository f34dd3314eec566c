"""`[sft]`: supervised fine-tuning of a causal language model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lora_ns.table import Name, NonNegativeFloat, PositiveInt, Table


class Sft(Table):
    """Supervised fine-tuning of a causal language model, through TRL's `SFTTrainer`."""

    max_seq_length: PositiveInt = 1024
    """Longest row, in tokens."""
    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate", "split"] = "error"
    """Longer rows are refused, left out, cut at the prompt's beginning or at the end, or, as raw text can be, split."""
    packing: bool = False
    """Put several short rows into one of `max_seq_length`, kept apart exactly (best-fit decreasing)."""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Tokens in the loss: every answer with its end token, only the last answer, or all tokens."""
    chat_template: Name | None = None
    """Chat template instead of the tokenizer's own: `chatml`, `llama-3`, `mistral`, `gemma`, or a .jinja file."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Variables that the chat template reads, in training as in inference, such as `{ enable_thinking = false }`."""
    system_role: Literal["template", "merge-into-user"] = "template"
    """System turns go to the template, or to the beginning of the first user turn where it refuses them."""
    on_stop_token: Literal["error", "drop", "keep"] = "error"
    """Rows whose answer spells out a stop token before its end are refused, left out, or learned to stop there."""
    loss_type: Literal["nll", "dft"] = "nll"
    """Cross entropy, or dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629)."""
    neftune_noise_alpha: NonNegativeFloat = 0.0
    """Noise on the embeddings in training (Jain et al. 2023, arXiv 2310.05914); 0 is none."""
