"""Predictions of a model that reads a sequence: the most likely token and the loss at each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_ns.model.load import computing


def read_along(model: Any, input_ids: Sequence[int], dtype: str) -> tuple[list[int], list[float]]:
    """The most likely token at each position given those before it, and the loss of the actual one.

    Args:
        model: a causal language model, in evaluation mode.
        input_ids: tokens of the sequence.
        dtype: dtype to compute in.

    Returns:
        Tokens and losses for all positions but the first, for which they are -1 and 0.
    """
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([list(input_ids)], device=device)
    with torch.no_grad(), computing(device.type, dtype):
        logits = model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :][:-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return [-1, *logits.argmax(-1).tolist()], [0.0, *losses.tolist()]
