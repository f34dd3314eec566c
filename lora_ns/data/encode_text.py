"""Encoding of rows for causal language models: rendered, checked for stop tokens, and fitted to the length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lora_ns.data.encoded import Encoded, Encoding, Tally
from lora_ns.data.loss_mask import Rendered
from lora_ns.data.notices import IDENTICAL
from lora_ns.data.render import Renderer
from lora_ns.data.rows import OnRows, Row, ignore_rows, try_each
from lora_ns.data.source import Source
from lora_ns.data.special_tokens import Contents, asks_nothing, look_into, looks_like_chat, stops_within
from lora_ns.errors import Problem
from lora_ns.formats import Conversation, Example, Format, RawText, RowFaultError
from lora_ns.objectives import TextObjective

ROWS_AT_ONCE = 1000
"""Rows to tokenise in one call."""


def encode_causal(rows: CausalRows, source: Source, room: int | None = None, on_rows: OnRows = ignore_rows) -> Encoding:
    """Encode the rows of a causal language model, and collect the problems of faulty rows.

    No sequence is longer than the recipe allows. Longer ones are left out, truncated or counted, according to
    `on_overflow`.
    """
    tally, objective = rows.tally, rows.objective
    tally.rows = len(source.rows)
    tally.is_text = all(RawText in (row.form or rows.form).makes for row in source.rows)
    sequences: list[Encoded] = []
    problems: list[Problem] = []
    for start in range(0, len(source.rows), ROWS_AT_ONCE):
        found, faults = rows.encode(source.rows[start : start + ROWS_AT_ONCE])
        sequences += found
        problems += faults
        on_rows(min(start + ROWS_AT_ONCE, len(source.rows)), len(source.rows))
    rows.look_at_all(sequences)
    tally.tokens = sum(sequence.tokens for sequence in sequences)
    learned = () if objective.scores_whole else sequences
    tally.trained_tokens = sum(sequence.trained_tokens for sequence in learned)
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
        self.renderer.ahead(self._rendered_ahead(examples.values()))
        of_rows, problems = try_each(rows, lambda row: self._encode(row, examples.get(id(row))))
        self.renderer.memo.clear()
        return [sequence for row in of_rows for sequence in row], problems

    def _rendered_ahead(self, examples: Iterable[Example]) -> list[Any]:
        """Return what is rendered for these examples."""
        return list(examples)

    def look_at_all(self, sequences: Sequence[Encoded]) -> None:
        """Record what only all sequences of a source show."""

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
        goes_on = self.objective.loss_on != "all" and any(
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
        other = f'`on_overflow = "drop"` or "{"truncate" if objective.loss_on == "all" else "truncate-prompt"}"'
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
    if not tally.too_long and IDENTICAL in tally.noted.rows:
        what = "all rows are left out: both answers of each pair are the same"
        return Problem(source.name, what, "correct one answer of each pair", IDENTICAL)
    if not tally.too_long:
        what = "all rows are left out: each spells out a stop token in its answer"
        return Problem(source.name, what, 'change the texts, or write `on_stop_token = "keep"`', "SPEC002")
    what = f"all {len(source.rows):,} rows are longer than {objective.max_seq_length} tokens"
    return Problem(source.name, what, f"raise `{objective.key('max_seq_length')}`")
