"""Texts on which a model and what is made of it are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.model.load import computing, difference, divergence

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TOKENS = 64
"""Tokens of each row of the data that are compared."""

ROWS = 8
"""Rows of the data."""

NEUTRAL = (
    "The quick brown fox jumps over the lazy dog. 12 + 7 = 19.",
    "In the morning, the harbour was quiet, and the first boats came back with the tide.",
    "def add(left, right):\n    return left + right\n",
    "Q: Name three colours.\nA: Red, green and blue.",
    "Die Bibliothek ist sonntags geschlossen.",
    '{"name": "Ada", "born": 1815, "languages": ["en", "fr"]}',
    "To be, or not to be, that is the question.",
    "1, 1, 2, 3, 5, 8, 13, 21",
)
"""Texts that are in no data of a run."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a row has for a forward pass."""

Probe = Mapping[str, Sequence[int]]
"""The inputs of a forward pass over one text."""


@dataclass(frozen=True)
class Comparison:
    """The logits of an artefact beside those of the trained model."""

    probes: int
    largest_difference: float
    """Largest difference of two logits, relative to the largest."""
    divergence: float
    """KL divergence from the trained model's predictions, in nats per token, as the mean over all positions."""
    same_tokens: float
    """Share of the positions with the same most probable token."""


def probes_of(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Probe]:
    """Return the first rows of the data, cut off, and the neutral texts, in tokens."""
    taken = [row for row, _ in zip(rows, range(ROWS), strict=False)]
    own: list[Probe] = [{name: list(row[name])[:TOKENS] for name in INPUTS if name in row} for row in taken]
    neutral: list[Probe] = [dict(tokenizer(text)) for text in NEUTRAL]
    return [*own, *neutral]


def ask_probes(model: Any, probes: Sequence[Probe], device: torch.device, dtype: str) -> list[torch.Tensor]:
    """Return the logits of a model on each probe, on the CPU in float32.

    Args:
        model: the model.
        probes: the inputs.
        device: the device that computes; offloaded weights are elsewhere.
        dtype: the dtype to compute in.
    """
    import torch

    model.eval()
    answers = []
    with torch.no_grad(), computing(device.type, dtype):
        for probe in probes:
            inputs = {name: torch.tensor([list(values)], device=device) for name, values in probe.items()}
            answers.append(model(**inputs).logits.float().cpu())
    return answers


def compare(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Comparison:
    """Compare the logits of a model on all probes with those that it should have."""
    pairs = list(zip(expected, found, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return Comparison(len(pairs), float("inf"), float("inf"), 0.0)
    same = [one.argmax(-1) == other.argmax(-1) for one, other in pairs]
    return Comparison(
        probes=len(pairs),
        largest_difference=max(difference(one, other) for one, other in pairs),
        divergence=sum(divergence(one, other) for one, other in pairs) / len(pairs),
        same_tokens=sum(float(one.sum()) for one in same) / sum(one.numel() for one in same),
    )
