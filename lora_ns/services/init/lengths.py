"""Choice of the maximum length: that of the longest row, up to the limit of the base."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from lora_ns.data.sample import Sample
from lora_ns.formats import (
    Conversation,
    Example,
    Labelled,
    LabelledCompletion,
    Preference,
    Prompt,
    PromptCompletion,
    RawText,
    RowFaultError,
)
from lora_ns.formats.readings import Reading
from lora_ns.model.abilities import Abilities
from lora_ns.objectives import Objective, TextObjective
from lora_ns.plan.room import position_offset
from lora_ns.services.init.draft import Draft

_LONGEST = 8192
"""Largest length to propose; longer rows need a lot of memory."""

_OF_TEMPLATE = 16
"""Tokens that a chat template may add to each turn."""


def fit_lengths(
    draft: Draft, reading: Reading, sample: Sample, kind: type[Objective], own: MutableMapping[str, Any]
) -> None:
    """Write `max_seq_length` if the rows need more than the default, and `on_overflow` for longer ones.

    Nothing is written if the tokens cannot be counted.

    Args:
        draft: the recipe.
        reading: the format of the rows.
        sample: the first rows.
        kind: the objective.
        own: the keys of the objective.
    """
    if draft.base is None:
        return
    room = _room(draft.base)
    usual = usual_length(draft, kind, own)
    lengths = _lengths(reading, sample, draft.base, usual)
    longest, is_label = max(lengths, default=0), not issubclass(kind, TextObjective)
    if longest <= usual or (is_label and sum(length > usual for length in lengths) <= 0.05 * len(lengths)):
        return
    most = min(_power(longest), room, _LONGEST)
    if "max_seq_length" in draft.overrides.get(kind.toml, {}):
        most = usual
    elif most > usual:
        own["max_seq_length"] = most
        draft.reasons.append(f"max_seq_length: {most}, because the longest row has about {longest:,} tokens")
    longer = sum(length > most for length in lengths)
    if longer and not is_label and "on_overflow" not in own:
        _overflow(kind, reading, f"{longer:,} of {len(lengths):,}", longer * 2 < len(lengths), most, own, draft.reasons)


def usual_length(draft: Draft, kind: type[Objective], own: Mapping[str, Any]) -> int:
    """Return the maximum length of the recipe or the objective, up to the limit of the base."""
    length: int = own.get("max_seq_length", kind.model_fields["max_seq_length"].default)
    return length if draft.base is None else min(length, _room(draft.base))


def _room(base: Abilities) -> int:
    """Return the positions of a base, or the largest length to propose if it declares no limit."""
    facts = base.base.facts
    positions = facts.max_position_embeddings
    return positions - position_offset(facts) if positions else _LONGEST


def _overflow(
    kind: type[Objective],
    reading: Reading,
    longer: str,
    are_few: bool,
    most: int,
    own: MutableMapping[str, Any],
    reasons: list[str],
) -> None:
    """Write `on_overflow`, if the rows are raw text or only a few are too long."""
    reason = f"{longer} rows are longer than {most:,} tokens"
    if reading.makes((RawText,)):
        own["on_overflow"] = "split"
        reasons.append(f"on_overflow: split, because {reason}")
    elif are_few:
        own["on_overflow"] = "drop"
        reasons.append(f"on_overflow: drop, because {reason}")
    else:
        reasons.append(f"warning: {reason}; choose a base with a longer context, or set `{kind.key('on_overflow')}`")


def _power(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _lengths(reading: Reading, sample: Sample, base: Abilities, usual: int) -> list[int]:
    """Estimate the tokens of each row, including those of a template; empty if they cannot be counted."""
    examples = []
    for row in sample.rows:
        try:
            examples.append(reading.form.example(row.values))
        except RowFaultError:
            continue  # reported with the reading
    added = [_added(example) for example in examples]
    counted = base.lengths([_text(example) for example in examples], max(0, usual - max(added, default=0)))
    return [length + more for length, more in zip(counted or (), added, strict=bool(counted))]


def _text(example: Example) -> str:
    parts: Sequence[str | None]
    if isinstance(example, Preference):
        return max(map(_text, example.sides), key=len)
    if isinstance(example, LabelledCompletion | Prompt):
        return _text(example.conversation)
    if isinstance(example, Conversation):
        turns = [message.content for message in example.messages]
        calls = [json.dumps(message.extra, default=str) for message in example.messages if message.extra]
        parts = [*turns, *calls, *(json.dumps(tool, default=str) for tool in example.tools or ())]
    elif isinstance(example, PromptCompletion):
        parts = [example.prompt, example.completion]
    elif isinstance(example, RawText):
        parts = [example.text]
    elif isinstance(example, Labelled):
        parts = [example.text, example.text_pair]
    else:
        parts = example.words
    return "\n".join(part for part in parts if part)


def _added(example: Example) -> int:
    if isinstance(example, Preference):
        return max(map(_added, example.sides))
    if isinstance(example, LabelledCompletion | Prompt):
        return _added(example.conversation)
    if isinstance(example, Conversation):
        return _OF_TEMPLATE * (len(example.messages) + 1)
    return 0 if isinstance(example, RawText) else _OF_TEMPLATE
