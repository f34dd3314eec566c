"""What there is to know of encoded rows before they are trained on: counts, lengths, and what looks wrong in them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_ns.engine.dataset import Encoded, Encoding
from lora_ns.engine.sources import Source
from lora_ns.errors import Problem

HISTOGRAM_BINS = 12


@dataclass(frozen=True)
class Finding:
    """A check that found something: an error stops a training, a warning does not."""

    code: str
    what: str
    rows: tuple[str, ...] = ()
    """Where, row by row."""
    remedy: str = ""
    error: bool = False

    @property
    def count(self) -> int:
        """Rows that it is about."""
        return len(self.rows)


@dataclass(frozen=True)
class SourceReport:
    """The rows of one source in numbers."""

    name: str
    rows: int
    sequences: int
    """What is trained on: fewer than rows if some are left out, more if a row has several answers of its own."""
    tokens: int
    trained_tokens: int
    truncated: int
    dropped: int
    longest: int
    median: int
    histogram: tuple[tuple[int, int], ...] = ()
    """Upper end of each class of lengths, and the sequences in it."""


@dataclass(frozen=True)
class Padding:
    """Share of the computed positions that is padding, by how rows are put into batches."""

    in_file_order: float
    by_length: float
    packed: float | None = None


@dataclass(frozen=True)
class PartReport:
    """What one of several sources gives."""

    name: str
    format: str
    rows: int
    used: int
    """Rows trained on, repetitions among them."""
    held_out: int


@dataclass(frozen=True)
class Audit:
    """All of it."""

    train: SourceReport
    eval: SourceReport | None
    format: str
    padding: Padding
    sources: tuple[PartReport, ...] = ()
    """Where the training rows come from several sources, those."""
    findings: tuple[Finding, ...] = field(default=())


def report(source: Source, encoding: Encoding) -> SourceReport:
    """The numbers of a source."""
    lengths = sorted(len(sequence.input_ids) for sequence in encoding.sequences)
    tally = encoding.tally
    return SourceReport(
        name=source.name,
        rows=len(source.rows),
        sequences=len(lengths),
        tokens=tally.tokens,
        trained_tokens=tally.trained_tokens,
        truncated=tally.truncated,
        dropped=tally.dropped,
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
    """What is lost to padding, with rows of these lengths.

    Args:
        lengths: in the order of the file.
        batch: rows at once.
        packed: positions of all packed rows; 0 where packing is not possible.
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
    stops: Iterable[int],
    bos: int | None,
    decode: Callable[[list[int]], str],
) -> tuple[Finding, ...]:
    """Every check on encoded rows; a classifier's have no stop tokens to look for."""
    stop_ids = frozenset(stops)
    parts = [train, evaluation] if evaluation else [train]
    found: list[Finding] = []
    for source, encoding in parts:
        found += _problems(encoding.problems)
        found += _stop_findings(source, encoding, stop_ids)
        found += _begin_findings(source, encoding, bos)
    keys = [_key(sequence) for sequence in train[1].sequences]
    found += _duplicates(*train, keys)
    if evaluation:
        found += _leaks(evaluation[0], train[1], evaluation[1], keys, decode)
    return tuple(found)


def _problems(problems: Sequence[Problem]) -> list[Finding]:
    """The problems of rows, those of one kind together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem.code or "DATA001", problem.what, problem.remedy), []).append(problem.where)
    return [Finding(code, what, tuple(where), remedy, error=True) for (code, what, remedy), where in groups.items()]


def _stop_findings(source: Source, encoding: Encoding, stops: frozenset[int]) -> list[Finding]:
    texts = [sequence for sequence in encoding.sequences if sequence.trained]
    if not texts:
        return []
    ended = {sequence.where for sequence in texts if _ends_in_stop(sequence, stops)}
    cut = tuple(dict.fromkeys(sequence.where for sequence in texts if sequence.where not in ended))
    if not ended:
        what = f"{source.name}: no row teaches the model to stop"
        return [Finding("EOS002", what, cut, 'raise `sft.max_seq_length`, or `on_overflow = "drop"`', error=True)]
    if cut:
        what = f"{source.name}: the token that ends the last answer is cut off or not trained"
        return [Finding("EOS003", what, cut, 'raise `sft.max_seq_length`, or `on_overflow = "truncate-prompt"`')]
    return []


def _ends_in_stop(sequence: Encoded, stops: frozenset[int]) -> bool:
    last = max((number for number, learned in enumerate(sequence.trained) if learned), default=None)
    return last is not None and sequence.input_ids[last] in stops


def _begin_findings(source: Source, encoding: Encoding, bos: int | None) -> list[Finding]:
    if bos is None:
        return []
    twice = tuple(sequence.where for sequence in encoding.sequences if sequence.input_ids[:2] == [bos, bos])
    what = f"{source.name}: the beginning token is there twice"
    return [Finding("BOS001", what, twice, "leave it out of the template")] if twice else []


def _duplicates(source: Source, encoding: Encoding, keys: Sequence[bytes]) -> list[Finding]:
    first: dict[bytes, str] = {}
    again = []
    for sequence, key in zip(encoding.sequences, keys, strict=True):
        if first.setdefault(key, sequence.where) != sequence.where:
            again.append(f"{sequence.where} (as {first[key]})")
    what = f"{source.name}: rows that are there already"
    return [Finding("DUP001", what, tuple(again), "remove them, unless they are to weigh more")] if again else []


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
    """Evaluation rows that are trained on: token by token, or but for case, spaces and punctuation."""
    exact = {key: sequence.where for key, sequence in zip(keys, trained.sequences, strict=True)}
    found_keys = ((sequence.where, _key(sequence)) for sequence in evaluated.sequences)
    same = {where: exact[key] for where, key in found_keys if key in exact}
    normal = {_normal(decode(sequence.input_ids)): sequence.where for sequence in trained.sequences}
    rest = {seq.where: _normal(decode(seq.input_ids)) for seq in evaluated.sequences if seq.where not in same}
    alike = {where: normal[text] for where, text in rest.items() if text in normal}
    remedy = "take them out of one of the two: the evaluation would measure what was memorised"
    found = []
    if same:
        found.append(Finding("LEAK001", f"{evaluation.name}: rows that are trained on", _pairs(same), remedy))
    if alike:
        what = f"{evaluation.name}: rows that are trained on but for case, spaces and punctuation"
        found.append(Finding("LEAK002", what, _pairs(alike), remedy))
    return found


def _pairs(found: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{where} (as {other})" for where, other in found.items())


_INSIGNIFICANT = re.compile(r"[\W_]+")


def _normal(text: str) -> str:
    return _INSIGNIFICANT.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
