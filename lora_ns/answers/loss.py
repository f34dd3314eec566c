"""The cross-entropy loss of one sequence."""

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
