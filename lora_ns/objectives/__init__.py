"""`[sft]` and `[classification]`: what is learned. The table that fits `task_type` decides the trainer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lora_ns.recipe.base import Column, Fraction, Name, NonNegativeFloat, PositiveFloat, PositiveInt, Table


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


class Classification(Table):
    """Labels for a text or a pair, or for each word, through transformers' `Trainer`."""

    max_seq_length: PositiveInt = 256
    """Longest row, in tokens; the end of a longer one is cut and counted."""
    labels: tuple[Column, ...] = Field(default=(), max_length=10_000)
    """Names of the classes or tags in the order of their numbers; found in the training rows if absent."""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """What a label is: one class, a list of labels, or a score; `auto` goes by the training rows and says why."""
    threshold: Fraction = 0.5
    """Probability from which a label applies to a text; only where there may be several."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = "none"
    """Weights of the classes in the loss, `balanced` by their number of rows, or in the order of the labels."""
