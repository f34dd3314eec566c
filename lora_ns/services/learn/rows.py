"""The rows of `validate --learn`: chosen, as they are learned and asked, and with exchanged answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.answers.generate import up_to_stop, written_text
from lora_ns.data.encoded import Encoded
from lora_ns.data.notices import CUT
from lora_ns.data.render import Renderer
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, RawText, RowFaultError, TextClassification, TokenClassification
from lora_ns.services.learn.certificate import ROWS
from lora_ns.services.validate import Prepared

CANDIDATES = 400
"""Rows to choose from, the shortest of all."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A row to learn, and the row to ask afterwards."""

    where: str
    values: Values
    asked: Values
    expected: tuple[str, ...]
    """Answers that count as right: as the row has it, and as the template renders it."""
    input_ids: tuple[int, ...] = ()
    """Tokens that are trained on."""
    start: int = 0
    """Position of the answer in them."""
    end: int = 0
    """Position after its last token, without the stop token."""
    has_end: bool = False
    """True if a stop token follows the answer."""
    is_cut: bool = False
    """True if the answer was cut off before its end."""
    trained: tuple[bool, ...] = ()
    """For each token, True if it belongs in the loss."""


@dataclass(frozen=True)
class Lesson:
    """The rows to learn, of one format."""

    form: Format
    items: tuple[Item, ...]
    cut_share: float = 0.0
    """Share of all rows whose answer was cut off before its end."""

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max((item.end - item.start for item in self.items), default=0)


def choose_rows(prepared: Prepared) -> Lesson:
    """Choose short rows with different prompts, and different answers as far as there are.

    Raises:
        DataError: if there are not enough rows.
    """
    rows, sequences = prepared.rows.sources.train.rows, prepared.train.sequences
    encoded = {sequence.where: sequence for sequence in sequences}  # the last sequence has the last answer
    by_form: dict[str, list[Row]] = defaultdict(list)
    for row in {row.where: row for row in rows if row.where in encoded}.values():
        by_form[str(row.form or prepared.rows.sources.format)].append(row)
    if not by_form:
        raise DataError(prepared.train.problems or [Problem("", "no row can be trained on", "see `validate --data`")])
    largest = max(by_form.values(), key=len)
    form = largest[0].form or prepared.rows.sources.format
    candidates = sorted(largest, key=lambda row: encoded[row.where].tokens)[:CANDIDATES]
    items = list(_items(prepared.rows.renderer, form, candidates, encoded))
    chosen = _labelled(items) if is_labelled(form) else _different(items)
    if len(chosen) < min(ROWS, 2):
        what = f"--learn needs at least 2 rows with different prompts, and found {len(chosen)}"
        raise DataError(Problem(prepared.rows.sources.train.name, what, "add rows"))
    tally = prepared.train.tally
    keeps_end = getattr(prepared.settled.recipe.objective, "on_overflow", "") != "truncate"
    cut = 0 if keeps_end or is_labelled(form) else min(tally.truncated, len(tally.noted.rows.get(CUT, ())))
    return Lesson(form, tuple(chosen), cut / max(1, tally.rows))


def is_labelled(form: Format) -> bool:
    """True for labelled texts and tagged words."""
    return isinstance(form, (TextClassification, TokenClassification))


def _items(renderer: Renderer, form: Format, rows: Sequence[Row], encoded: Mapping[str, Encoded]) -> Iterator[Item]:
    """Yield the rows that can be asked."""
    for row in rows:
        if not _is_plain(row.values):
            continue
        try:
            if is_labelled(form):
                yield Item(row.where, row.values, row.values, (str(_label(form, row.values)),))
            else:
                yield _text_item(renderer, form, row, encoded[row.where])
        except RowFaultError:
            continue


def _is_plain(values: Values) -> bool:
    """True if a row survives JSON, in which it is written for the trial."""
    try:
        return bool(json.loads(json.dumps(values)) == values)
    except (TypeError, ValueError):
        return False


def _label(form: Format, values: Values) -> Any:
    if isinstance(form, TextClassification):
        return form.label(values)
    return tuple(form.example(values).tags)  # type: ignore[union-attr]


def _text_item(renderer: Renderer, form: Format, row: Row, sequence: Encoded) -> Item:
    example = form.example(row.values)
    if isinstance(example, RawText):
        return _continued(renderer, form, row, example.text, sequence)
    answer = form.answer(row.values)
    if not answer.strip():
        raise RowFaultError("the answer is empty")
    prompt = renderer.prompt(form.prompt(row.values))  # type: ignore[arg-type]
    whole = renderer.examples(example)[-1].input_ids  # type: ignore[arg-type]
    item = _spanned(renderer, row, sequence, prompt, answer)
    is_cut = len(whole) > len(item.input_ids) and list(item.input_ids) != whole[-len(item.input_ids) :]
    is_cut = is_cut and not (item.has_end and item.start == len(prompt))
    rendered = _rendered(renderer, whole, len(prompt)) if whole[: len(prompt)] == prompt else ""
    expected = tuple(dict.fromkeys(text for text in (answer, rendered) if text))
    return replace(item, expected=expected, is_cut=is_cut)


def _rendered(renderer: Renderer, whole: Sequence[int], start: int) -> str:
    return written_text(renderer.tokenizer, up_to_stop(list(whole[start:]), renderer.stops), renderer.stops)


def _continued(renderer: Renderer, form: Format, row: Row, text: str, sequence: Encoded) -> Item:
    """Divide a text into a beginning to ask and a rest to expect, where its tokens allow it.

    Raises:
        RowFaultError: if there is no such place.
    """
    ids = sequence.input_ids
    for share in (0.5, 0.6, 0.4, 0.7, 0.3):
        beginning = text[: int(share * len(text))]
        if not beginning.strip():
            continue
        asked = form.question(beginning)
        prompt = renderer.prompt(form.prompt(asked))  # type: ignore[arg-type]
        if 0 < len(prompt) < len(ids) - 1 and ids[: len(prompt)] == prompt:
            item = _spanned(renderer, row, sequence, prompt, text[len(beginning) :])
            rest = _rendered(renderer, ids, len(prompt))
            return replace(item, asked=asked, expected=tuple(dict.fromkeys((text[len(beginning) :], rest))))
    raise RowFaultError("no place of the text is between two tokens")


def _spanned(renderer: Renderer, row: Row, sequence: Encoded, prompt: Sequence[int], answer: str) -> Item:
    """Find the tokens of the answer in a training row: after the prompt, or where its text is last."""
    ids = sequence.input_ids
    start = len(prompt) if ids[: len(prompt)] == list(prompt) else _last_place(renderer, ids, answer, sequence)
    end = next((at for at in range(start, len(ids)) if ids[at] in renderer.stops), None)
    return Item(
        row.where,
        row.values,
        row.values,
        expected=(),
        input_ids=tuple(ids),
        start=start,
        end=len(ids) if end is None else end,
        has_end=end is not None,
        trained=tuple(sequence.trained),
    )


def _last_place(renderer: Renderer, ids: Sequence[int], answer: str, sequence: Encoded) -> int:
    """The position from which the rest of a row still has the whole answer; the first trained one if there is none."""
    for start in range(len(ids) - 1, 0, -1):
        if answer.strip() in str(renderer.tokenizer.decode(list(ids[start:]))):
            return start
    return sequence.trained.index(True) if any(sequence.trained) else 0


def _different(items: Sequence[Item]) -> list[Item]:
    """Items with different prompts and answers; then with answers that repeat. Cut ones come last."""
    found: dict[tuple[int, ...], Item] = {}
    answers: set[str] = set()
    for repeats in (False, True):
        for item in sorted(items, key=lambda item: item.is_cut):
            prompt = item.input_ids[: item.start]
            if len(found) < ROWS and prompt not in found and (repeats or item.expected[0] not in answers):
                found[prompt] = item
                answers.add(item.expected[0])
    return list(found.values())


def _labelled(items: Sequence[Item]) -> list[Item]:
    """Items of all labels in turn, with different texts."""
    by_label: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.expected[0]].append(item)
    found: dict[str, Item] = {}
    while len(found) < ROWS and any(by_label.values()):
        for group in by_label.values():
            if group and len(found) < ROWS:
                item = group.pop(0)
                without = {name: value for name, value in item.values.items() if str(value) != item.expected[0]}
                found.setdefault(json.dumps(without, sort_keys=True), item)
    return list(found.values())


# Exchanged answers


def exchange(lesson: Lesson) -> Lesson | None:
    """Give each row the answer of another one; None if the format does not allow it.

    The prompts stay. Rows whose new answer is the same keep it.
    """
    items, count = lesson.items, len(lesson.items)
    order = sorted(range(count), key=lambda place: items[place].expected[0])
    shift = max(_longest_run([items[place].expected[0] for place in order]), 1) % count
    found: list[Item] = []
    for place, own in enumerate(order):
        other = items[order[(place + shift) % count]]
        values = _with_answer(lesson.form, items[own], other)
        if values is None:
            return None
        expected = (str(_label(lesson.form, values)),) if is_labelled(lesson.form) else other.expected
        found.append(replace(items[own], values=values, expected=expected))
    by_place = {item.where: item for item in found}
    return replace(lesson, items=tuple(by_place[item.where] for item in items))


def _longest_run(answers: Sequence[str]) -> int:
    return max((answers.count(answer) for answer in set(answers)), default=0)


def _with_answer(form: Format, item: Item, other: Item) -> Values | None:
    """The row with another row's answer; None if its place in the row is not found."""
    if isinstance(form, TokenClassification):
        tags = item.values[form.tag_column]
        return {**item.values, form.tag_column: [*tags[1:], *tags[:1]]}
    if isinstance(form, TextClassification):
        name = form.columns.label_column
        return {**item.values, name: other.values[name]} if name in item.values and name in other.values else None
    if RawText in form.makes:
        ((column, beginning),) = item.asked.items()
        return {**item.values, column: f"{beginning}{other.expected[0]}"}
    wanted = form.answer(other.values)
    return next(
        (values for values in _swapped(form, item.values, other.values) if _answers(form, values, wanted)), None
    )


def _answers(form: Format, values: Values, wanted: str) -> bool:
    try:
        return form.answer(values).strip() == wanted.strip()
    except RowFaultError:
        return False


def _swapped(form: Format, values: Values, other: Values) -> Iterator[Values]:
    """Yield rows in which one text that equals the answer is replaced, then one with all columns of the answer."""
    own, wanted = form.answer(values).strip(), form.answer(other)
    places = [path for path, text in _texts(values) if text.strip() == own]
    for path in reversed(places):
        yield _put(values, path, wanted)
    columns = [name for name in values if name in other and _changes(form, values, name, other[name])]
    yield {**values, **{name: other[name] for name in columns}}


def _changes(form: Format, values: Values, name: str, value: Any) -> bool:
    return not _answers(form, {**values, name: value}, form.answer(values))


def _texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield all texts in a row with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, (*path, name))
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _texts(part, (*path, number))


def _put(value: Any, path: tuple[Any, ...], text: str) -> Any:
    if not path:
        return text
    first, *rest = path
    if isinstance(value, Mapping):
        return {**value, first: _put(value[first], tuple(rest), text)}
    return [_put(part, tuple(rest), text) if number == first else part for number, part in enumerate(value)]


def leaks(renderer: Renderer, lesson: Lesson, exchanged: Lesson) -> int:
    """Number of rows whose prompt changes with the answer, so that it contains it."""
    if is_labelled(lesson.form) or RawText in lesson.form.makes:
        return 0
    pairs = zip(lesson.items, exchanged.items, strict=True)
    return sum(
        _prompt(renderer, lesson.form, one.values) != _prompt(renderer, lesson.form, two.values) for one, two in pairs
    )


def _prompt(renderer: Renderer, form: Format, values: Values) -> list[int]:
    return renderer.prompt(form.prompt(values))  # type: ignore[arg-type]
