"""From the rows of a recipe to encoded rows, and the reasons to refuse them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from lora_ns.data.encode_completions import CompletionRows
from lora_ns.data.encode_labels import Fitted, make_encoder
from lora_ns.data.encode_pairs import PairRows
from lora_ns.data.encode_prompts import PromptRows
from lora_ns.data.encode_text import ROWS_AT_ONCE, CausalRows, encode_causal, with_rows
from lora_ns.data.encoded import Encoded, Encoding, Tally, Tokenized, as_dataset
from lora_ns.data.notices import NEVER_TAUGHT, NOTICES, UNTOLD, Noted
from lora_ns.data.places import stretches
from lora_ns.data.render import Renderer
from lora_ns.data.rows import OnRows, Row, ignore_rows, shortened, try_each
from lora_ns.data.source import Source
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, LabelledCompletion, Preference, Prompt, Tagged
from lora_ns.objectives import Objective, TextObjective
from lora_ns.objectives.targets import OUTSIDE, Targets


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
        return encode_causal(rows_of(form, renderer, objective), source, room, on_rows)
    return encode_labelled_rows(source, form, renderer, objective, labels, on_rows)


def rows_of(form: Format, renderer: Renderer, objective: TextObjective) -> CausalRows:
    """Create the encoder of rows for an objective that generates text."""
    kinds = ((LabelledCompletion, CompletionRows), (Preference, PairRows), (Prompt, PromptRows))
    kind = next((rows for example, rows in kinds if example in objective.examples), CausalRows)
    return kind(form, renderer, objective)


def tokenized(source: Source, encoding: Encoding, teaches: bool = True) -> Tokenized:
    """Return the encoded rows of a source as a dataset with `input_ids`, `labels`, `length` and other model inputs.

    Raises:
        DataError: for rows that cannot be rendered, are too long, have nothing to learn or an unknown class.
    """
    if problems := refusals(source, encoding, teaches):
        raise DataError(problems)
    places = stretches(sequence.where for sequence in encoding.sequences)
    return Tokenized(as_dataset(encoding.sequences), encoding.tally, places)


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
