"""The cross-entropy loss of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
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


def choice_losses(
    model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], dtype: str
) -> list[tuple[float, int]]:
    """The losses of several answers to a prompt, each as from `sequence_loss`; the prompt is computed once.

    It is computed for each where the model has no cache of past keys and values, and where the PEFT method adds virtual
    tokens or lets tokens depend on later ones.

    Args:
        model: a causal language model.
        sequences: token ids of prompt and answer, and their labels.
        dtype: dtype to compute in.
    """
    import torch

    shared = _shared_tokens(sequences)
    cache = _cache_of(model, sequences[0][0][:shared], dtype) if shared and len(sequences) > 1 else None
    if cache is None:
        return [sequence_loss(model, ids, labels, dtype) for ids, labels in sequences]
    device = next(model.parameters()).device
    found = []
    for ids, labels in sequences:
        rest, expected = torch.tensor([ids[shared:]], device=device), torch.tensor(labels[shared + 1 :], device=device)
        with torch.no_grad(), computing(device.type, dtype):
            logits = model(input_ids=rest, past_key_values=deepcopy(cache), use_cache=True).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, expected, ignore_index=IGNORED, reduction="sum")
        found.append((float(loss), int((expected != IGNORED).sum())))
    return found


def _shared_tokens(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """The number of tokens with which all sequences begin, up to the last one before a label."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(ids for ids, _ in sequences), strict=False))
    first = min(next((at for at, one in enumerate(labels) if one != IGNORED), len(labels)) for _, labels in sequences)
    return max(0, min(sum(1 for _ in alike), first) - 1)


_LOOKS_AHEAD = frozenset({"LILY", "XLORA"})
"""Methods that choose their experts by all tokens of a sequence."""


def _cache_of(model: Any, ids: Sequence[int], dtype: str) -> Any:
    """The keys and values of a prompt; None if the model cannot go on from them."""
    import torch
    from transformers import DynamicCache

    config = getattr(model, "active_peft_config", None)
    if config is not None and (config.is_prompt_learning or config.peft_type in _LOOKS_AHEAD):
        return None
    device = next(model.parameters()).device
    with torch.no_grad(), computing(device.type, dtype):
        cache = model(input_ids=torch.tensor([ids], device=device), use_cache=True).get("past_key_values")
    return cache if isinstance(cache, DynamicCache) else None


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
