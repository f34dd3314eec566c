"""Texts on which a trained model and what is made of it are compared, with the answers that a run keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.files.disk import write_atomic
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


@dataclass(frozen=True)
class Probe:
    """A text in tokens."""

    inputs: Mapping[str, Sequence[int]]
    """The inputs of a forward pass."""
    text: str | None = None
    """The text, if it is a neutral one, which any tokenizer can be given."""


@dataclass(frozen=True)
class Reply:
    """The answer of a model to a probe."""

    logits: torch.Tensor
    """Logits at the last position, in float32."""
    tokens: tuple[int, ...]
    """The most probable token, class or tag at each position."""


@dataclass(frozen=True)
class Comparison:
    """The answers of an artefact beside those of the trained model."""

    probes: int
    largest_difference: float
    """Largest difference of two logits, relative to the largest; infinite if one is not a number."""
    divergence: float
    """KL divergence from the trained model's predictions, in nats, as the mean over the probes."""
    same_tokens: float
    """Share of the positions with the same most probable token."""


def cut(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The inputs of a forward pass over the first tokens of a row."""
    return {name: [int(one) for one in row[name]][:TOKENS] for name in INPUTS if name in row}


def probes_of(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Probe]:
    """Return the first rows of the data, cut off, and the neutral texts, in tokens."""
    taken = [row for row, _ in zip(rows, range(ROWS), strict=False) if "input_ids" in row]
    own = [Probe(cut(row)) for row in taken]
    neutral = [Probe({name: list(ids) for name, ids in tokenizer(text).items()}, text) for text in NEUTRAL]
    return [probe for probe in (*own, *neutral) if probe.inputs["input_ids"]]


def ask_probes(model: Any, probes: Sequence[Probe], device: torch.device, dtype: str) -> list[Reply]:
    """Return the answers of a model.

    Args:
        model: the model.
        probes: the probes.
        device: the device that computes; offloaded weights are elsewhere.
        dtype: the dtype to compute in.
    """
    return [_reply(logits_of(model, probe.inputs, device, dtype)) for probe in probes]


def ask_together(model: Any, probes: Sequence[Probe], dtype: str) -> list[Reply]:
    """Return the answers of a model on the CPU, in one pass for all probes of a length."""
    import torch

    def shape(number: int) -> list[tuple[str, int]]:
        return [(name, len(ids)) for name, ids in probes[number].inputs.items()]

    replies: dict[int, Reply] = {}
    for _, numbers in groupby(sorted(range(len(probes)), key=shape), key=shape):
        own = list(numbers)
        rows = {name: [list(probes[number].inputs[name]) for number in own] for name in probes[own[0]].inputs}
        logits = _logits_of_batch(model, rows, torch.device("cpu"), dtype)
        replies |= {number: _reply(row) for number, row in zip(own, logits, strict=True)}
    return [replies[number] for number in range(len(probes))]


def _reply(logits: torch.Tensor) -> Reply:
    logits = logits.reshape(-1, logits.shape[-1])
    return Reply(logits[-1].clone(), tuple(logits.argmax(-1).tolist()))


def logits_of(model: Any, inputs: Mapping[str, Sequence[int]], device: torch.device, dtype: str) -> torch.Tensor:
    """Return the logits of a model in evaluation mode at all positions of a text, on the CPU in float32."""
    return _logits_of_batch(model, {name: [list(ids)] for name, ids in inputs.items()}, device, dtype)


def _logits_of_batch(
    model: Any, rows: Mapping[str, Sequence[Sequence[int]]], device: torch.device, dtype: str
) -> torch.Tensor:
    import torch

    model.eval()
    with torch.no_grad(), computing(device.type, dtype):
        batch = {name: torch.tensor(ids, device=device) for name, ids in rows.items()}
        logits: torch.Tensor = model(**batch).logits.float().cpu()
    return logits


def compare(expected: Sequence[Reply], found: Sequence[Reply]) -> Comparison:
    """Compare the answers of a model with those that it should give."""
    pairs = list(zip(expected, found, strict=True))
    same = [one == other for reply, own in pairs for one, other in zip(reply.tokens, own.tokens, strict=False)]
    if any(one.logits.shape != other.logits.shape or not other.logits.isfinite().all() for one, other in pairs):
        return Comparison(len(pairs), float("inf"), float("inf"), sum(same) / max(len(same), 1))
    return Comparison(
        probes=len(pairs),
        largest_difference=max(difference(one.logits, other.logits) for one, other in pairs),
        divergence=sum(divergence(one.logits, other.logits) for one, other in pairs) / len(pairs),
        same_tokens=sum(same) / len(same),
    )


def save_probes(file: Path, probes: Sequence[Probe], replies: Sequence[Reply]) -> None:
    """Write probes with the answers of the trained model. Raises `RunError`."""
    import torch
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    for number, (probe, reply) in enumerate(zip(probes, replies, strict=True)):
        named = {name: torch.tensor(list(ids)) for name, ids in probe.inputs.items()}
        named |= {"logits": reply.logits, "tokens": torch.tensor(reply.tokens)}
        tensors |= {f"{number}.{name}": value for name, value in named.items()}
    write_atomic(file, save(tensors, metadata={"texts": json.dumps([probe.text for probe in probes])}))


def read_probes(file: Path) -> tuple[list[Probe], list[Reply]]:
    """Read probes with the answers of the trained model. Raises `UsageError` if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            texts = json.loads(opened.metadata()["texts"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
        probes, replies = [], []
        for number, text in enumerate(texts):
            inputs = {name: tensors[f"{number}.{name}"].tolist() for name in INPUTS if f"{number}.{name}" in tensors}
            probes.append(Probe(inputs, text))
            replies.append(Reply(tensors[f"{number}.logits"], tuple(tensors[f"{number}.tokens"].tolist())))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        what = f"cannot be read: {first_line(error)}"
        raise UsageError(Problem(str(file), what, "delete it; the run itself is then asked again")) from None
    return probes, replies
