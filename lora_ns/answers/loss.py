"""The cross-entropy loss of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_ns.model.load import computing
from lora_ns.table import IGNORED


def sequence_loss(model: Any, input_ids: Sequence[int], labels: Sequence[int], dtype: str) -> tuple[float, int]:
    """The loss summed over the tokens of a sequence that have a label, and the number of those tokens."""
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([input_ids], device=device)
    expected = torch.tensor([labels], device=device)[0, 1:]
    with torch.no_grad(), computing(device.type, dtype):
        logits = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].float()
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], expected, ignore_index=IGNORED, reduction="sum")
    return float(loss), int((expected != IGNORED).sum())


def sequence_losses(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int, dtype: str
) -> list[tuple[float, int]]:
    """The losses of several sequences that are padded on the right, each as from `sequence_loss`.

    Args:
        model: a causal language model.
        rows: token ids of each sequence, and its labels.
        pad_token_id: token for the positions after a sequence.
        dtype: dtype to compute in.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = next(model.parameters()).device

    def padded(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        tensors = [torch.tensor(one) for one in values]
        return pad_sequence(tensors, batch_first=True, padding_value=filler).to(device)

    ids = padded([one for one, _ in rows], pad_token_id)
    expected = padded([labels for _, labels in rows], IGNORED)[:, 1:]
    mask = padded([[1] * len(one) for one, _ in rows], 0)
    with torch.no_grad(), computing(device.type, dtype):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    counts = expected != IGNORED
    losses = torch.zeros(counts.shape, device=device)
    losses[counts] = torch.nn.functional.cross_entropy(logits[counts].float(), expected[counts], reduction="none")
    return list(zip(losses.sum(1).tolist(), counts.sum(1).tolist(), strict=True))
