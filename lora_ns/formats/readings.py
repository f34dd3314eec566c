"""Readings: ways to read rows, the most likely first. `lorans init` chooses one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.formats.base import (
    TEXT,
    Columns,
    Format,
    Labelled,
    LabelledCompletion,
    Preference,
    RawText,
    RowFaultError,
    Tagged,
    Values,
)
from lora_ns.formats.cells import listed
from lora_ns.formats.classification import TextClassification
from lora_ns.formats.detection import PREFERENCES, VERDICTS, detect, is_verdict
from lora_ns.formats.label_columns import LabelColumn, find_label_column, text_columns
from lora_ns.formats.registry import FORMATS
from lora_ns.formats.unused import ANSWERS, METADATA, find_unused, is_rendered, names_of

Names = Sequence[str]

SURE, LIKELY, POSSIBLE, UNLIKELY = 3, 2, 1, 0
"""Weights of readings. An unlikely reading is only used if the user asks for its task."""


@dataclass(frozen=True)
class Reading:
    """A way to read rows."""

    form: Format
    keys: Mapping[str, Any]
    """Keys of `[dataset]` for this reading."""
    why: str
    weight: int = SURE
    label: LabelColumn | None = None
    """The column of labels, if there is one."""
    lost: tuple[str, ...] = ()
    """Columns that it leaves out, although their names suggest content."""
    unread: tuple[str, ...] = ()
    """Other columns that it does not read, without metadata."""
    faults: tuple[tuple[int, RowFaultError], ...] = ()
    """Rows that it cannot read: index and reason."""
    prefers: tuple[str, ...] = ()
    """Columns that mark good and bad answers, if the rows are for preference tuning."""

    def makes(self, examples: Sequence[type]) -> bool:
        """True if rows become examples of one of these kinds."""
        return any(kind in examples for kind in self.form.makes)


Finder = Callable[[Sequence[Values], Names, Mapping[str, Any]], list[Reading]]


def find_readings(rows: Sequence[Values], given: Mapping[str, Any]) -> list[Reading]:
    """Find the ways to read rows, the most likely first.

    Args:
        rows: the first rows, at least one.
        given: keys of `[dataset]` that are already set.

    Raises:
        RowFaultError: if there is no way, with the reason.
    """
    names = [name for name in names_of(rows) if name not in given.get("ignore_columns", ())]
    fault = RowFaultError(f"no way to read the columns {listed(names)}")
    found: list[Reading] = []
    for find in _ways(given):
        try:
            found += find(rows, names, given)
        except RowFaultError as reason:
            fault = reason if find is _of_text or not fault.remedy else fault
    if not found:
        raise fault
    return sorted(_weighed(found, names), key=lambda reading: -reading.weight)


def read_as(rows: Sequence[Values], given: Mapping[str, Any], examples: Sequence[type]) -> Reading:
    """Read rows as examples of one of some kinds. Raises `RowFaultError`."""
    found = _read(rows, given, {}, examples)
    return replace(found, keys={"format": found.form.name, **found.keys})


def _ways(given: Mapping[str, Any]) -> tuple[Finder, ...]:
    """Return the finders of readings that the given keys allow."""
    if given.keys() & {"label_column", "text_column"}:
        return (_labelled,)
    if given.get("format", "auto") != "auto" or "prompt_template" in given:
        return (_of_text,)
    return (_tagged, _of_text) if "columns" in given else (_tagged, _of_text, _labelled)


def _weighed(found: Sequence[Reading], names: Names) -> list[Reading]:
    """Adjust the weights of readings to each other."""
    for leads in (_is_tagged, _is_judged):
        if any(map(leads, found)):
            return [reading if leads(reading) else replace(reading, weight=UNLIKELY - 1) for reading in found]
    labelled = next((reading for reading in found if reading.label), None)
    texts = [reading for reading in found if not reading.label]
    best = max(texts, key=lambda reading: reading.weight, default=None)
    if labelled is None or best is None:
        return list(found)
    of_labels, of_text = _beside(labelled, best, names)
    return [
        *(replace(reading, weight=min(reading.weight, of_text)) for reading in texts),
        replace(labelled, weight=min(labelled.weight, of_labels)),
    ]


def _is_tagged(reading: Reading) -> bool:
    return reading.makes((Tagged,))


def _is_judged(reading: Reading) -> bool:
    """True for rows with good and bad answers."""
    return reading.makes((Preference, LabelledCompletion)) or bool(reading.prefers)


def _beside(labelled: Reading, text: Reading, names: Names) -> tuple[int, int]:
    """Return the largest weights of a reading with labels and of a reading as text, if both are possible."""
    assert labelled.label is not None
    weight, is_named, is_whole = labelled.label.weight, labelled.label.is_named, text.makes((RawText,))
    if labelled.label.name in text.form.used(names):  # the label is the answer
        is_label = is_named and weight > POSSIBLE
        return (SURE, UNLIKELY) if is_label else (POSSIBLE if is_named else UNLIKELY, SURE)
    if weight <= POSSIBLE:
        return (POSSIBLE, POSSIBLE) if is_whole and is_named else (UNLIKELY, SURE)
    if is_named:
        return (SURE, UNLIKELY) if is_whole or text.weight < SURE else (POSSIBLE, LIKELY)
    is_document = is_whole and sum(name in METADATA for name in names) > 1  # metadata describes its origin
    is_other = text.weight == SURE and labelled.label.name not in METADATA
    is_weak = is_document or is_other or (not is_whole and text.weight >= LIKELY)
    return (POSSIBLE, LIKELY) if is_weak else (SURE, POSSIBLE)


# A single reading


def _read(
    rows: Sequence[Values], given: Mapping[str, Any], keys: Mapping[str, Any], examples: Sequence[type]
) -> Reading:
    """Create the reading for some keys. Raises `RowFaultError` if it cannot read most of the rows."""
    both = {**given, **keys}
    form, why = detect(_columns(both), names_of(rows), rows[0], examples)
    return _checked(Reading(form, both, why), _columns(both), rows)


def _columns(keys: Mapping[str, Any]) -> Columns:
    """Select the keys of `[dataset]` about columns."""
    return Columns(**{key: value for key, value in keys.items() if key in Columns.__dataclass_fields__})


def _checked(reading: Reading, columns: Columns, rows: Sequence[Values]) -> Reading:
    """Add the rows and columns that a reading does not read."""
    faults = []
    for number, row in enumerate(rows):
        try:
            reading.form.example(row)
        except RowFaultError as fault:
            faults.append((number, fault))
    if len(faults) * 2 > len(rows):
        raise faults[0][1]
    unused = find_unused(reading.form, columns, rows)
    read = reading.form.used(names_of(rows))
    rendered = [name for name in unused.columns if is_rendered(rows, name, read)]
    keys = dict(reading.keys)
    if rendered:
        keys["ignore_columns"] = [*keys.get("ignore_columns", ()), *rendered]
    lost = tuple(name for name in unused.meant if name not in rendered)
    unread = tuple(name for name in unused.columns if name not in (*unused.meant, *rendered))
    return replace(reading, keys=keys, lost=lost, unread=unread, faults=tuple(faults))


def _by_format(rows: Sequence[Values], given: Mapping[str, Any], formats: Sequence[str]) -> list[Reading]:
    """Return the readings for all formats that can read the rows. Raises `RowFaultError` if none can."""
    found, faults = [], []
    for name in formats:
        try:
            found.append(_read(rows, given, {"format": name}, TEXT))
        except RowFaultError as fault:
            faults.append(fault)
    if not found:
        raise faults[0]
    return found


# Tags


def _tagged(rows: Sequence[Values], _names: Names, given: Mapping[str, Any]) -> list[Reading]:
    return [_read(rows, given, {}, (Tagged,))]


# Labels


def _labelled(rows: Sequence[Values], names: Names, given: Mapping[str, Any]) -> list[Reading]:
    label = find_label_column(rows, names, given.get("label_column"))
    texts = text_columns(rows, [name for name in names if name != label.name], given)
    chosen = dict(zip(("text_column", "text_pair_column"), texts, strict=False))
    keys = {**given, **chosen, "label_column": label.name}
    columns = _columns(keys)
    form, why = detect(columns, names_of(rows), rows[0], (Labelled,))
    assert isinstance(form, TextClassification)
    form = replace(form, problem_type=label.problem_type)
    rest = [name for name in names if name not in (*texts, label.name, *METADATA)]
    weight = label.weight if not rest or label.is_named else min(label.weight, POSSIBLE)
    if "label_column" in given:
        weight = SURE
    return [_checked(Reading(form, keys, why, weight, label), columns, rows)]


# Text


def _of_text(rows: Sequence[Values], names: Names, given: Mapping[str, Any]) -> list[Reading]:
    try:
        found = _read(rows, given, {}, TEXT)
    except RowFaultError:
        if preferred := _preferred(rows, names, given):
            return preferred
        if given.keys() & {"columns", "prompt_template"} or given.get("format", "auto") != "auto":
            raise
        return _by_other_names(rows, names, given)
    if not given.keys() & {"columns", "prompt_template"}:
        found = replace(found, keys={**found.keys, "format": found.form.name})
    if found.makes((RawText,)) and (answers := [name for name in found.lost if name in ANSWERS]):
        return [_pair(rows, given, "text", answers[0], LIKELY), replace(found, weight=POSSIBLE)]
    if found.makes((RawText,)) and found.lost and "label" in found.lost:
        return [_pair(rows, given, "text", "label", POSSIBLE), replace(found, weight=UNLIKELY)]
    return [found]


def _by_other_names(rows: Sequence[Values], names: Names, given: Mapping[str, Any]) -> list[Reading]:
    """Read rows whose columns match several formats or none: by each match, or as question and answer."""
    signed = [kind.name for kind in FORMATS.values() if any(set(sign) <= set(names) for sign in kind.signs)]
    if len(signed) > 1:
        return [replace(reading, weight=POSSIBLE) for reading in _by_format(rows, given, signed)]
    others = [name for name in names if name not in METADATA]
    texts = [name for name in others if _is_text(rows, name)]
    if len(texts) == 1:
        keys = {"format": "text", "columns": {"text": texts[0]}}
        return [replace(_read(rows, given, keys, TEXT), weight=LIKELY if len(others) == 1 else POSSIBLE)]
    answers = [name for name in texts if name in ANSWERS]
    asking = [name for name in texts if name not in answers and (len(texts) == 2 or name in _QUESTIONS)]
    if len(answers) == len(asking) == 1:
        return [_pair(rows, given, asking[0], answers[0], LIKELY if len(texts) == 2 else POSSIBLE)]
    if len(texts) != 2 or others != texts:
        return [_read(rows, given, {}, TEXT)]  # raises an error that says what is missing
    first, second = texts
    return [_pair(rows, given, first, second, POSSIBLE), _pair(rows, given, second, first, POSSIBLE)]


_QUESTIONS = frozenset(
    {"prompt", "question", "instruction", "query", "input", "problem", "text", "article", "document", "passage"}
)
"""Names of columns that may hold the question, if there are other texts."""


def _is_text(rows: Sequence[Values], name: str) -> bool:
    values = [row.get(name, "") for row in rows]
    return all(isinstance(value, str) for value in values) and any(value.strip() for value in values)


def _pair(rows: Sequence[Values], given: Mapping[str, Any], question: str, answer: str, weight: int) -> Reading:
    """Read rows as question and answer in columns with other names."""
    keys = {"format": "question-answer", "columns": {"question": question, "answer": answer}}
    reading = _read(rows, given, keys, TEXT)
    return replace(reading, weight=weight, why=f"`{question}` is followed by `{answer}`")


def _preferred(rows: Sequence[Values], names: Names, given: Mapping[str, Any]) -> list[Reading]:
    """Read preference rows as pairs, or else as if all or the good answers were to be learned; empty for other rows."""
    pair = next((pair for pair in PREFERENCES if set(pair) <= set(names)), None)
    verdict = next((name for name in VERDICTS if name in names and is_verdict(rows[0].get(name))), None)
    if (pair or verdict) and not given.keys() & {"columns", "format"}:
        kinds = (Preference,) if pair else (LabelledCompletion,)
        with contextlib.suppress(RowFaultError):
            return [read_as(rows, given, kinds)]
    if pair:
        return _first_readable(rows, given, _ways_of_good(names, *pair), pair)
    if not verdict:
        return []
    ways = [{"format": name, "ignore_columns": [verdict]} for name in FORMATS]
    return _first_readable(rows, given, ways, (verdict,))


def _ways_of_good(names: Names, good: str, bad: str) -> list[dict[str, Any]]:
    """Return alternative keys to train on the good answers."""
    asking = [name for name in ("prompt", "question", "instruction", "query", "input") if name in names]
    whole = {"format": "messages", "columns": {"messages": good}, "ignore_columns": [bad, *asking]}
    sides = [{"prompt": name, "completion": good} for name in asking[:1]]
    kinds = ("messages", "prompt-completion")
    return [whole, *({"format": kind, "columns": side, "ignore_columns": [bad]} for side in sides for kind in kinds)]


def _first_readable(
    rows: Sequence[Values], given: Mapping[str, Any], ways: Sequence[Mapping[str, Any]], prefers: tuple[str, ...]
) -> list[Reading]:
    for keys in ways:
        try:
            reading = _read(rows, given, keys, TEXT)
        except RowFaultError:
            continue
        return [replace(reading, weight=UNLIKELY, prefers=prefers)]
    return []
