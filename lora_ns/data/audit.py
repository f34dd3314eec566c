"""Audit of encoded rows before training: counts, lengths, and suspicious rows."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from lora_ns.data.encoded import Encoded, Encoding
from lora_ns.data.notices import NOTICES
from lora_ns.data.source import Source, Sources
from lora_ns.errors import Problem

if TYPE_CHECKING:
    import datasets

HISTOGRAM_BINS = 12


@dataclass(frozen=True)
class Finding:
    """A check that found something: an error stops training, a warning does not."""

    code: str
    what: str
    rows: tuple[str, ...] = ()
    """Places of the rows, such as `train.jsonl:17`."""
    remedy: str = ""
    error: bool = False

    @property
    def count(self) -> int:
        """Number of rows concerned."""
        return len(self.rows)


@dataclass(frozen=True)
class SourceReport:
    """Statistics of the rows of one source."""

    name: str
    rows: int
    sequences: int
    """Sequences to train on: fewer than rows if some are left out, more if a row has several answers."""
    tokens: int
    trained_tokens: int
    truncated: int
    dropped: int
    longest: int
    median: int
    histogram: tuple[tuple[int, int], ...] = ()
    """Upper end of each bin of lengths, and the number of sequences in it."""


@dataclass(frozen=True)
class Padding:
    """Share of computed positions that is padding, for each way to form batches."""

    in_file_order: float
    by_length: float
    packed: float | None = None


@dataclass(frozen=True)
class PartReport:
    """Statistics of one of several sources."""

    name: str
    format: str
    rows: int
    used: int
    """Rows trained on, including repetitions."""
    held_out: int


@dataclass(frozen=True)
class Audit:
    """The complete audit."""

    train: SourceReport
    eval: SourceReport | None
    format: str
    padding: Padding
    sources: tuple[PartReport, ...] = ()
    """The sources of the training rows, if there are several."""
    findings: tuple[Finding, ...] = field(default=())
    notes: tuple[str, ...] = ()
    """Notes that are not faults."""


def report(source: Source, encoding: Encoding) -> SourceReport:
    """Compute the statistics of a source."""
    lengths = sorted(sequence.length for sequence in encoding.sequences)
    tally = encoding.tally
    return SourceReport(
        name=source.name,
        rows=len(source.rows),
        sequences=len(lengths),
        tokens=tally.tokens,
        trained_tokens=tally.trained_tokens,
        truncated=tally.truncated,
        dropped=tally.left_out,
        longest=tally.longest,
        median=lengths[len(lengths) // 2] if lengths else 0,
        histogram=_histogram(lengths),
    )


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if not lengths:
        return ()
    width = max(1, -(-max(lengths) // HISTOGRAM_BINS))
    counts = [0] * HISTOGRAM_BINS
    for length in lengths:
        counts[(length - 1) // width] += 1
    return tuple((width * (number + 1), count) for number, count in enumerate(counts))


def padding(lengths: Sequence[int], batch: int, packed: int) -> Padding:
    """Compute the share of padding for rows of these lengths.

    Args:
        lengths: lengths in file order.
        batch: rows per batch.
        packed: positions of all packed rows; 0 if packing is not possible.
    """
    return Padding(
        in_file_order=_wasted(lengths, batch),
        by_length=_wasted(sorted(lengths), batch),
        packed=1 - sum(lengths) / packed if packed else None,
    )


def _wasted(lengths: Sequence[int], batch: int) -> float:
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    computed = sum(max(part) * len(part) for part in batches)
    return 1 - sum(lengths) / computed if computed else 0.0


def look_at(
    train: tuple[Source, Encoding],
    evaluation: tuple[Source, Encoding] | None,
    decode: Callable[[list[int]], str],
) -> tuple[Finding, ...]:
    """Run every check on encoded rows."""
    parts = [train, evaluation] if evaluation else [train]
    found: list[Finding] = []
    for number, (source, encoding) in enumerate(parts):
        found += _problems(encoding)
        found += _notices(source, encoding, teaches=number == 0)
    keys = [_key(sequence) for sequence in train[1].sequences]
    found += _duplicates(*train, keys)
    if evaluation:
        found += _leaks(evaluation[0], train[1], evaluation[1], keys, decode)
    return tuple(found)


def unused_columns(sources: Sources) -> Iterator[Finding]:
    """Yield a finding for each source with unread columns."""
    for unused in sources.unused:
        problem = unused.problem
        yield Finding(problem.code, problem.what, (), problem.remedy, unused.is_refused)


def _problems(encoding: Encoding) -> list[Finding]:
    """Return the problems of rows, and that of rows that are too long."""
    found = grouped(encoding.problems)
    if long := encoding.overflow:
        rows = tuple(f"{where} ({length})" for where, length in encoding.tally.too_long)
        found.append(Finding(long.code, f"{long.key}: {long.what}", rows, long.remedy, error=True))
    return found


def grouped(problems: Iterable[Problem]) -> list[Finding]:
    """Return a finding for each kind of problem, with the places of all rows that have it."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem.code or "DATA001", problem.what, problem.remedy), []).append(problem.where)
    return [Finding(code, what, tuple(where), remedy, error=True) for (code, what, remedy), where in groups.items()]


def _notices(source: Source, encoding: Encoding, teaches: bool) -> list[Finding]:
    return [
        Finding(code, f"{source.name}: {notice.what}", tuple(rows), notice.remedy, notice.error)
        for code, rows in encoding.tally.noted.found(teaches)
        if (notice := NOTICES[code])
    ]


def _duplicates(source: Source, encoding: Encoding, keys: Sequence[bytes]) -> list[Finding]:
    first: dict[bytes, str] = {}
    again = []
    for sequence, key in zip(encoding.sequences, keys, strict=True):
        if first.setdefault(key, sequence.where) != sequence.where:
            again.append(f"{sequence.where} (as {first[key]})")
    what = f"{source.name}: duplicate rows"
    return [Finding("DUP001", what, tuple(again), "remove them, unless they should count more")] if again else []


def _key(sequence: Encoded) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(sequence.inputs):
        digest.update(f"{name}{sequence.inputs[name]}".encode())
    return digest.digest()


def _leaks(
    evaluation: Source,
    trained: Encoding,
    evaluated: Encoding,
    keys: Sequence[bytes],
    decode: Callable[[list[int]], str],
) -> list[Finding]:
    """Find evaluation rows that are also training rows: token by token, or except for case, spaces and punctuation.

    Signs of arithmetic are no punctuation here.
    """
    exact = {key: sequence.where for key, sequence in zip(keys, trained.sequences, strict=True)}
    found_keys = ((sequence.where, _key(sequence)) for sequence in evaluated.sequences)
    same = {where: exact[key] for where, key in found_keys if key in exact}

    def text(sequence: Encoded) -> tuple[str, ...]:
        texts = [decode(side.input_ids) for _, side in sequence.sides()]
        return tuple(part for text in texts for part in (normal_text(text), arithmetic(text)))

    normal = {text(sequence): sequence.where for sequence in trained.sequences}
    rest = {sequence.where: text(sequence) for sequence in evaluated.sequences if sequence.where not in same}
    alike = {where: normal[words] for where, words in rest.items() if words in normal}
    remedy = "remove them from one of the two, or the evaluation measures memorisation"
    found = []
    if same:
        found.append(Finding("LEAK001", f"{evaluation.name}: rows that are also training rows", _pairs(same), remedy))
    if alike:
        what = f"{evaluation.name}: rows that are also training rows, except for case, spaces and punctuation"
        found.append(Finding("LEAK002", what, _pairs(alike), remedy))
    return found


def leaked(trained: datasets.Dataset, evaluated: datasets.Dataset) -> int:
    """Count evaluation sequences that are also training sequences, token by token; cached rows have no places."""
    known = set(_token_bytes(trained))
    return sum(tokens in known for tokens in _token_bytes(evaluated))


def _token_bytes(data: datasets.Dataset) -> Iterator[tuple[bytes, ...]]:
    """Yield the tokens of each row as bytes, of a pair those of both sides, without creating Python integers."""
    names = [name for name in ("input_ids", "rejected_input_ids") if name in data.column_names]
    yield from zip(*(_column_bytes(data, name) for name in names), strict=True)


def _column_bytes(data: datasets.Dataset, name: str) -> Iterator[bytes]:
    for chunk in data.data.column(name).chunks:
        tokens, ends = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        for start, end in pairwise(ends.tolist()):
            yield tokens[start:end].tobytes()


def _pairs(found: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{where} (as {other})" for where, other in found.items())


_INSIGNIFICANT = re.compile(r"[\W_]+")


def normal_text(text: str) -> str:
    """Return a text without case and punctuation, with single spaces."""
    return _INSIGNIFICANT.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


_SIGN = re.compile(r"[-+*/^%=<>\u2212\u00d7\u00f7](?=\s*(?:[\d(]|[^\W\d_]\b))")
"""A sign before a number, a bracket or a single letter."""

_TERM = re.compile(r"(?:[\d)]|\b[^\W\d_])\s*\Z")
"""The end of a number, a bracket or a single letter."""

_LONGEST_GAP = 8
"""Characters before a sign in which its left side ends."""


def arithmetic(text: str) -> str:
    """Return the signs of arithmetic in a text: between two terms, and of numbers, as in `36 - 1` and `-7`."""
    return "".join(found[0] for found in _SIGN.finditer(text) if _is_arithmetic(text, found.start()))


def _is_arithmetic(text: str, place: int) -> bool:
    before, after = text[max(0, place - _LONGEST_GAP) : place], text[place + 1 : place + 2]
    is_minus = text[place] in "-\u2212" and after.isdigit() and not (before[-1:].isalnum() or before[-1:] == "-")
    return is_minus or _TERM.search(before) is not None
