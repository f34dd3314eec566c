"""The first training rows as text, kept in the run so that its report shows what was trained without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.data.pieces import pieces_of
from lora_ns.files.disk import write_atomic
from lora_ns.run.directory import RunDir
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

ROWS = 3
"""Number of rows that are kept."""


MOST_TOKENS = 600
"""Tokens of a sequence that are kept: more from its start than from its end, and what is between is counted."""


_SIDES = (("chosen", "input_ids", "labels"), ("rejected", "rejected_input_ids", "rejected_labels"))


def keep_trained_rows(
    run: RunDir, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]
) -> None:
    """Write the first training rows, as the trainer takes them, into the run.

    Args:
        run: the run directory.
        rows: the training rows with `input_ids`.
        tokenizer: decodes them.
        labels: names of the classes or tags.
    """
    kept = [_row(rows[place], tokenizer, labels) for place in range(min(ROWS, len(rows)))]
    write_atomic(run.trained_rows, json.dumps(kept, ensure_ascii=False) + "\n")


def _row(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[str, Any]:
    ids, found = row["input_ids"], row.get("labels")
    of_tokens = isinstance(found, list) and len(found) == len(ids)
    tags = [labels[one] if one != IGNORED else "" for one in found] if labels and of_tokens and found else []
    sides = [
        _side(name if "rejected_input_ids" in row else "", row[ids_of], row.get(labels_of), tokenizer, tags)
        for name, ids_of, labels_of in _SIDES
        if ids_of in row
    ]
    return {"learned": "" if of_tokens else _label(row, labels), "sides": sides}


def _side(
    name: str, ids: Sequence[int], labels: Any, tokenizer: PreTrainedTokenizerBase, tags: Sequence[str]
) -> dict[str, Any]:
    """A sequence as pieces of text, each with its kind, and with its tag if words have tags."""
    of_tokens = isinstance(labels, list) and len(labels) == len(ids)
    trained = [label != IGNORED for label in labels] if of_tokens else [False] * len(ids)
    begin = range(min(len(ids), MOST_TOKENS if len(ids) <= MOST_TOKENS else MOST_TOKENS * 2 // 3))
    end = range(max(len(begin), len(ids) - MOST_TOKENS // 3), len(ids))
    parts = [list(_pieces(ids, trained, tokenizer, part, tags)) for part in (begin, end)]
    left = end.start - begin.stop
    between = [{"text": f" … {left:,} tokens … ", "kind": "left out"}] if left else []
    return {"name": name, "tokens": len(ids), "trained": sum(trained), "pieces": [*parts[0], *between, *parts[1]]}


def _pieces(
    ids: Sequence[int],
    trained: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
    part: range,
    tags: Sequence[str],
) -> Iterator[dict[str, str]]:
    """The pieces of a part of a sequence; each tagged token is one of its own."""
    if not tags:
        for piece in pieces_of(ids[part.start : part.stop], trained[part.start : part.stop], tokenizer):
            yield {"text": piece.text, "kind": piece.kind}
        return
    for place in part:
        (piece,) = pieces_of([ids[place]], [trained[place]], tokenizer)
        yield {"text": piece.text, "kind": piece.kind, **({"tag": tags[place]} if tags[place] else {})}


def _label(row: Mapping[str, Any], labels: Sequence[str]) -> str:
    """What a whole text is labelled with; empty if it is not."""
    if "label" in row:
        return "a desirable answer" if row["label"] else "an undesirable answer"
    found = row.get("labels")
    if isinstance(found, list):
        names = [f"`{name}`" for name, one in zip(labels, found, strict=False) if one]
        return f"labels {', '.join(names)}" if names else "no label"
    if isinstance(found, float):
        return f"score {found:g}"
    return f"class `{labels[found]}`" if isinstance(found, int) and found < len(labels) else ""
