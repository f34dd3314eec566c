"""From the rows of a recipe to tokenised datasets: rendered, truncated, packed, counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lora_ns.data.encode_labels import Fitted, make_encoder
from lora_ns.data.loss_mask import Rendered
from lora_ns.data.notices import NEVER_TAUGHT, NOTICES, UNTOLD, Noted
from lora_ns.data.render import Renderer
from lora_ns.data.rows import OnRows, Row, ignore_rows, shortened, try_each
from lora_ns.data.source import Source
from lora_ns.data.special_tokens import Contents, asks_nothing, look_into, looks_like_chat, stops_within
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Conversation, Example, Format, RawText, RowFaultError, Tagged
from lora_ns.objectives import Objective, TextObjective
from lora_ns.objectives.targets import OUTSIDE, Targets

if TYPE_CHECKING:
    import datasets

ROWS_AT_ONCE = 1000
"""Rows to tokenise in one call."""


@dataclass
class Tally:
    """Counts of the rows and tokens of a source."""

    rows: int = 0
    dropped: int = 0
    truncated: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens in the loss: for tags, one per tagged word; 0 if whole texts are labelled."""
    longest: int = 0
    lost_words: int = 0
    """Words that were truncated with their tags."""
    too_long: list[tuple[str, int]] = field(default_factory=list)
    is_text: bool = False
    """True if the rows are raw texts."""
    noted: Noted = field(default_factory=Noted)

    @property
    def left_out(self) -> int:
        """Rows, or answers with their own sequence, that are not trained on for any reason."""
        return self.dropped + len(self.noted.rows.get("SPEC002", ()))


@dataclass(frozen=True)
class Encoded:
    """A sequence as the model sees it, with the place of its row."""

    where: str
    inputs: Mapping[str, Any]
    trained: list[bool] = field(default_factory=list)
    """For each token, True if its prediction is in the loss; empty for a classifier."""

    @property
    def input_ids(self) -> list[int]:
        """The tokens of the sequence."""
        ids: list[int] = self.inputs["input_ids"]
        return ids

    def row(self) -> Mapping[str, Any]:
        """Return the columns that the trainer takes."""
        return {**self.inputs, "labels": Rendered(self.input_ids, self.trained).labels} if self.trained else self.inputs


@dataclass(frozen=True)
class Encoding:
    """All sequences of a source, with counts and problems of its rows."""

    sequences: list[Encoded]
    tally: Tally
    problems: list[Problem]
    overflow: Problem | None = None
    """The problem of rows that are too long, if the recipe does not handle them."""


@dataclass(frozen=True)
class Tokenized:
    """Rows as the model sees them, with counts of the rows read."""

    dataset: datasets.Dataset
    tally: Tally


def encode_causal(
    source: Source,
    form: Format,
    renderer: Renderer,
    objective: TextObjective,
    room: int | None = None,
    on_rows: OnRows = ignore_rows,
) -> Encoding:
    """Encode the rows of a causal language model, and collect the problems of faulty rows.

    No sequence is longer than the recipe allows. Longer ones are left out, truncated or counted, according to
    `on_overflow`.
    """
    rows = CausalRows(form, renderer, objective)
    tally = rows.tally
    tally.rows = len(source.rows)
    tally.is_text = all(RawText in (row.form or form).makes for row in source.rows)
    sequences: list[Encoded] = []
    problems: list[Problem] = []
    for start in range(0, len(source.rows), ROWS_AT_ONCE):
        found, faults = rows.encode(source.rows[start : start + ROWS_AT_ONCE])
        sequences += found
        problems += faults
        on_rows(min(start + ROWS_AT_ONCE, len(source.rows)), len(source.rows))
    tally.tokens = sum(len(sequence.input_ids) for sequence in sequences)
    tally.trained_tokens = sum(sum(sequence.trained) for sequence in sequences)
    share = f"{len(tally.too_long):,} of {len(source.rows):,} rows" if len(source.rows) > 1 else "the only row"
    overflow = overflow_problem(objective, share, tally, room) if is_refused(objective, tally) else None
    if not sequences and not problems and overflow is None:
        problems.append(_nothing_left(source, objective, tally))
    return Encoding(sequences, tally, problems, overflow)


@dataclass
class CausalRows:
    """Encoder of rows to sequences, in chunks, for complete sources and for streams."""

    form: Format
    """Format of the rows that do not have their own."""
    renderer: Renderer
    objective: TextObjective
    tally: Tally = field(default_factory=Tally)
    _contents: dict[int, Contents] = field(default_factory=dict)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Encoded], list[Problem]]:
        """Encode some rows in one go and count them; returns the sequences, and the problems of faulty rows."""
        found, _ = try_each(rows, lambda row: (id(row), self._form(row).example(row.values)))
        examples: dict[int, Example] = dict(found)  # by id, because two sources may read one file in different ways
        self.renderer.ahead(examples.values())  # type: ignore[arg-type]
        of_rows, problems = try_each(rows, lambda row: self._encode(row, examples.get(id(row))))
        self.renderer.memo.clear()
        return [sequence for row in of_rows for sequence in row], problems

    def _form(self, row: Row) -> Format:
        return row.form or self.form

    def _encode(self, row: Row, example: Example | None) -> list[Encoded]:
        """Return the sequences of a row; empty if it is left out. Raises `RowFaultError`."""
        example = example or self._form(row).example(row.values)
        rendered = self.objective.sequences(example, self.renderer)
        _check_learned(example, rendered)
        if self._is_left_out(row, example, rendered):
            return []
        pieces = [piece for whole in rendered for piece in self._pieces(example, whole)]
        fitted = [_fit(row.where, piece, self.objective, self.tally) for piece in pieces]
        kept = [encoded for encoded in fitted if encoded is not None]
        if kept and not any(any(sequence.trained[1:]) for sequence in kept):
            what = "no token of this row would be learned: its answer is cut off"
            limit = self.objective.key("max_seq_length")
            raise RowFaultError(what, f'raise `{limit}`, or `on_overflow = "truncate-prompt"`', "MASK001")
        self._note(row.where, example, kept)
        return kept

    def _look_into(self, form: Format) -> Contents:
        """Return the special-token check for a format; formats live as long as their rows."""
        if id(form) not in self._contents:
            self._contents[id(form)] = look_into(self.renderer.tokenizer, self.renderer.stops, form)
        return self._contents[id(form)]

    def _pieces(self, example: Example, rendered: Rendered) -> list[Rendered]:
        is_split = self.objective.on_overflow == "split" and isinstance(example, RawText)
        return split_text(rendered, self.objective.max_seq_length) if is_split else [rendered]

    def _is_left_out(self, row: Row, example: Example, rendered: Sequence[Rendered]) -> bool:
        """Decide if a row is left out because of a stop token in it. Raises `RowFaultError` if it is refused."""
        contents = self._look_into(self._form(row))
        spelled_out = contents.spelled_out(example)
        if not spelled_out:
            return False
        stops = self.renderer.stops
        goes_on = self.objective.train_on != "all" and any(
            stops_within(sequence.input_ids, sequence.trained, stops) for sequence in rendered
        )
        if goes_on and self.objective.on_stop_token == "error":
            ends = [token for token in spelled_out if token in contents.ends]
            raise RowFaultError(
                f"an answer spells out `{', '.join(ends)}` before its end, and would teach the model to stop there",
                f'change the text; or `on_stop_token = "drop"` in `[{self.objective.toml}]` leaves such rows out, '
                '"keep" learns them',
                "SPEC002",
            )
        is_left_out = goes_on and self.objective.on_stop_token == "drop"
        self.tally.noted.add("SPEC002" if is_left_out else "SPEC001", f"{row.where} (`{'`, `'.join(spelled_out)}`)")
        return is_left_out

    def _note(self, where: str, example: Example, kept: Sequence[Encoded]) -> None:
        """Record notices about a row that is trained on."""
        if not kept:
            return
        noted, bos = self.tally.noted, self.renderer.tokenizer.bos_token_id
        if any(_ends_in_stop(sequence, self.renderer) for sequence in kept):
            noted.ended += 1
        else:
            noted.add("EOS003", where)
        if bos is not None and any(sequence.input_ids[1:2] == [bos] == sequence.input_ids[:1] for sequence in kept):
            noted.add("BOS001", where)
        if asks_nothing(example):
            noted.add("DATA002", where)
        if looks_like_chat(example):
            noted.add("DATA003", where)


def _check_learned(example: Example, rendered: Sequence[Rendered]) -> None:
    """Refuse a row whose answers are all excluded from learning. Raises `RowFaultError`."""
    if any(any(sequence.trained) for sequence in rendered):
        return
    answers = (
        [turn for turn in example.messages if turn.role == "assistant"] if isinstance(example, Conversation) else []
    )
    if answers and all(turn.train is False for turn in answers):
        what, remedy = "no token of this row would be learned: `train` is false for each answer", "remove the row"
    else:
        what = "no token of this row would be learned: `train` is false for its last answer"
        remedy = 'write `train_on = "assistant"`, or remove the row'
    raise RowFaultError(what, remedy, "MASK001")


def _ends_in_stop(sequence: Encoded, renderer: Renderer) -> bool:
    """True if the last learned token is a stop token, apart from white space that a template adds after a turn."""
    ids = [token for token, learned in zip(sequence.input_ids, sequence.trained, strict=True) if learned]
    place = next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in renderer.stops), None)
    if place is None:
        return False
    rest = ids[place + 1 :]
    return not rest or (len(rest) <= _MOST_AFTER_STOP and not str(renderer.tokenizer.decode(rest)).strip())


_MOST_AFTER_STOP = 8
"""Most tokens of white space after a turn."""


def encode(
    source: Source,
    form: Format,
    renderer: Renderer,
    objective: Objective,
    labels: Sequence[str],
    room: int | None = None,
    on_rows: OnRows = ignore_rows,
) -> Encoding:
    """Encode the rows of a source for the recipe's task; `room` is the base's number of positions, if known."""
    if isinstance(objective, TextObjective):
        return encode_causal(source, form, renderer, objective, room, on_rows)
    return encode_labelled_rows(source, form, renderer, objective, labels, on_rows)


def tokenized(source: Source, encoding: Encoding, teaches: bool = True) -> Tokenized:
    """Return the encoded rows of a source as a dataset with `input_ids`, `labels`, `length` and other model inputs.

    Raises:
        DataError: for rows that cannot be rendered, are too long, have nothing to learn or an unknown class.
    """
    if problems := refusals(source, encoding, teaches):
        raise DataError(problems)
    return Tokenized(as_dataset(encoding.sequences), encoding.tally)


def refusals(source: Source, encoding: Encoding, teaches: bool = True) -> list[Problem]:
    """List the reasons why rows cannot be used; an audit reports the same ones as errors.

    Args:
        source: source of the rows.
        encoding: result of encoding them.
        teaches: True for training rows, False for evaluation rows.
    """
    problems = shortened(encoding.problems)
    if encoding.overflow:
        problems.append(with_rows(encoding.overflow, encoding.tally))
    noted = [(code, rows[0]) for code, rows in encoding.tally.noted.found(teaches) if NOTICES[code].error]
    return [*problems, *(_of_notice(source, code, first) for code, first in noted)]


def _of_notice(source: Source, code: str, first: str) -> Problem:
    """Turn a notice that stops training into a problem; for tags, it names the first one."""
    notice = NOTICES[code]
    what = f"{notice.what}: the first at {first}" if code == NEVER_TAUGHT else notice.what
    return Problem(source.name, what, notice.remedy, code)


def _fit(where: str, rendered: Rendered, objective: TextObjective, tally: Tally) -> Encoded | None:
    """Limit a sequence to the allowed length; None if it is left out. Raises `RowFaultError`."""
    ids, trained = rendered.input_ids, rendered.trained
    tally.longest = max(tally.longest, len(ids))
    if len(ids) > objective.max_seq_length:
        tally.too_long.append((where, len(ids)))
        if objective.on_overflow in {"drop", "error", "split"}:
            tally.dropped += 1
            return None
        ids, trained = _cut(ids, trained, objective)
        tally.truncated += 1
    return Encoded(where, {"input_ids": ids}, trained)


def split_text(rendered: Rendered, limit: int) -> list[Rendered]:
    """Split a long text into consecutive pieces."""
    ids, trained = rendered.input_ids, rendered.trained
    starts = range(0, len(ids), limit)
    return [Rendered(ids[start : start + limit], trained[start : start + limit]) for start in starts]


def _cut(ids: list[int], trained: list[bool], objective: TextObjective) -> tuple[list[int], list[bool]]:
    limit = objective.max_seq_length
    if objective.on_overflow == "truncate":
        return ids[:limit], trained[:limit]
    first = trained.index(True) if any(trained) else 0
    excess = len(ids) - limit
    if excess > first:
        what = f"the answer alone is longer than `{objective.key('max_seq_length')}`"
        raise RowFaultError(what, "raise it, or remove the row", "LEN001")
    return ids[excess:], trained[excess:]


def is_refused(objective: TextObjective, tally: Tally) -> bool:
    """True if rows are too long and the recipe does not handle them; raw text has already been split."""
    return bool(tally.too_long) and objective.on_overflow in {"error", "split"}


def overflow_problem(objective: TextObjective, share: str, tally: Tally, room: int | None) -> Problem:
    """Create the problem of rows that are too long; `share` tells how many, the remedy depends on base and rows."""
    what = f"{share} longer than {objective.max_seq_length} tokens, the longest has {tally.longest}"
    if objective.on_overflow == "split":
        what += ", but only raw text can be split"
    remedy = _overflow_remedy(objective, tally, room)
    return Problem("", what, remedy, "LEN001", key=objective.key("max_seq_length"))


def _overflow_remedy(objective: TextObjective, tally: Tally, room: int | None) -> str:
    if tally.is_text and objective.on_overflow == "error":
        other = '`on_overflow = "split"` or "drop"'
    else:
        other = f'`on_overflow = "drop"` or "{"truncate" if objective.train_on == "all" else "truncate-prompt"}"'
    if room is None or tally.longest <= room:
        return f"write {tally.longest}, or {other}"
    more = f"write at most {room}, and" if objective.max_seq_length < room else "write"
    return f"{more} {other}: the base has no positions for {tally.longest}"


def with_rows(overflow: Problem, tally: Tally) -> Problem:
    """Add the first rows that are too long to the problem."""
    rows = ", ".join(f"{where} ({length})" for where, length in tally.too_long[:3])
    more = ", ..." if len(tally.too_long) > 3 else ""
    return replace(overflow, what=f"{overflow.what}: {rows}{more}")


def _nothing_left(source: Source, objective: TextObjective, tally: Tally) -> Problem:
    if not tally.too_long:
        what = "all rows are left out: each spells out a stop token in its answer"
        return Problem(source.name, what, 'change the texts, or write `on_stop_token = "keep"`', "SPEC002")
    what = f"all {len(source.rows):,} rows are longer than {objective.max_seq_length} tokens"
    return Problem(source.name, what, f"raise `{objective.key('max_seq_length')}`")


def encode_labelled_rows(
    source: Source,
    form: Format,
    renderer: Renderer,
    objective: Objective,
    labels: Sequence[str],
    on_rows: OnRows = ignore_rows,
) -> Encoding:
    """Encode the rows of a classifier: tokenizer outputs and `labels`, and the problems of faulty rows."""
    limit = objective.max_seq_length
    encoder = make_encoder(form, renderer.tokenizer, limit, renderer.vocabulary)
    targets = Targets(labels)
    tally = Tally(rows=len(source.rows))
    started = itertools.count()

    def encode(row: Row) -> Encoded:
        if (done := next(started)) % ROWS_AT_ONCE == 0:
            on_rows(done, len(source.rows))
        example = (row.form or form).example(row.values)
        fitted = encoder.learn(example, targets)
        tally.longest = max(tally.longest, fitted.length)
        tally.truncated += fitted.length > encoder.limit
        tally.lost_words += fitted.lost_words
        tally.trained_tokens += len(fitted.first)
        if isinstance(example, Tagged):
            _note_tags(row.where, example, fitted, targets, tally.noted)
        return Encoded(row.where, fitted.inputs)

    sequences, problems = try_each(source.rows, encode)
    tally.tokens = sum(len(sequence.input_ids) for sequence in sequences)
    for where, number in lone_classes(sequences):
        tally.noted.add("LABEL002", f"{where} (`{labels[number]}`)")
    return Encoding(sequences, tally, problems)


def _note_tags(where: str, example: Tagged, fitted: Fitted, targets: Targets, noted: Noted) -> None:
    """Record the tags that a sentence teaches, and those of words that become no token."""
    names = [targets.labels[targets.number(tag, "tag")] for tag in example.tags]
    noted.tags |= {names[word] for word in fitted.first}
    lost = [word for word in fitted.tokenless if names[word] != OUTSIDE]  # the tag that such a word gets anyway
    for word in lost:
        noted.lose(names[word], f"{where}, word {word + 1}")
    if lost:
        noted.add(UNTOLD, f"{where} ({', '.join(f'word {word + 1} `{names[word]}`' for word in lost)})")


MANY = 20
"""Average rows per class above which a class with a single row is reported."""


def lone_classes(sequences: Sequence[Encoded]) -> list[tuple[str, int]]:
    """Find rows that are the only one of their class while other classes have many; returns places and class ids."""
    found = [(sequence.where, sequence.inputs["labels"]) for sequence in sequences]
    counts = Counter(number for _, number in found if isinstance(number, int))
    if not counts or len(found) < MANY * len(counts):
        return []
    return [(where, number) for where, number in found if isinstance(number, int) and counts[number] == 1]


def as_dataset(sequences: Sequence[Encoded]) -> datasets.Dataset:
    """Build an Arrow dataset from sequences, with the length of each."""
    import datasets
    import numpy
    import pyarrow

    encoded = [sequence.row() for sequence in sequences]
    columns: dict[str, Any] = {}
    for name in encoded[0]:
        values = [row[name] for row in encoded]
        if isinstance(values[0], list):
            offsets = numpy.cumsum([0, *map(len, values)], dtype=numpy.int64)
            kind = numpy.float32 if values[0] and isinstance(values[0][0], float) else numpy.int32
            flat = numpy.fromiter(itertools.chain.from_iterable(values), dtype=kind, count=int(offsets[-1]))
            columns[name] = pyarrow.LargeListArray.from_arrays(offsets, flat)
        else:
            kind = pyarrow.float32() if isinstance(values[0], float) else pyarrow.int64()
            columns[name] = pyarrow.array(values, type=kind)
    columns["length"] = pyarrow.array([len(row["input_ids"]) for row in encoded], type=pyarrow.int32())
    return datasets.Dataset(pyarrow.table(columns))


def pack(data: datasets.Dataset, length: int) -> datasets.Dataset:
    """Pack rows into sequences of at most `length` tokens, best fit decreasing, with their lengths in `seq_lengths`."""
    import trl

    return trl.pack_dataset(data.select_columns(["input_ids", "labels"]), length, "bfd")
