"""Streamed training rows: read, rendered and tokenised during training, with bounded memory."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.data.columns import asked_columns, unused_problem
from lora_ns.data.encode import encode_labelled_rows, rows_of
from lora_ns.data.encode_text import CausalRows, is_refused, overflow_problem, with_rows
from lora_ns.data.encoded import Encoded, Tally
from lora_ns.data.files.paths import find_files, layout_of, shown
from lora_ns.data.files.read import each_row
from lora_ns.data.hub import hub_commit, hub_name, open_hub_stream
from lora_ns.data.notices import Counted
from lora_ns.data.render import Renderer
from lora_ns.data.rows import Outcome, Row, shortened
from lora_ns.data.source import Source, selection_of
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.files.disk import sha256_file
from lora_ns.formats import Format, RawText, TokenClassification, find_unused
from lora_ns.objectives import TextObjective
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import SourceRecord, file_record
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets

ROWS_AT_ONCE = 64
"""Rows to tokenise in one call; few, because they wait in memory."""


@dataclass
class Stream:
    """The training rows of a recipe, in endless passes.

    The order depends only on the recipe's seed and the pass, so a resumed run skips exactly the rows that it has
    trained on.
    """

    recipe: Recipe
    form: Format
    renderer: Renderer
    labels: tuple[str, ...] = ()
    files: Sequence[Path] = ()
    """Empty for rows from the hub."""
    room: int | None = None
    """The base's number of positions for a row, if known."""
    tally: Tally = field(default_factory=Tally)
    """Counts of the first pass so far; tokens are counted when their sequence is used."""
    left_out: dict[str, Problem] = field(default_factory=dict)
    """Unreadable rows, by place."""
    noted: Counted = field(default_factory=Counted)
    """Notices about rows of the first pass that are trained on."""
    known: frozenset[str] = frozenset()
    """Columns of the rows seen so far; unread ones among them have been reported."""
    late: dict[str, Problem] = field(default_factory=dict)
    """First rows with new unread columns, by place."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of one pass in order.

        Raises:
            DataError: at an unreadable row, if no more of them may be left out.
        """
        selection = selection_of(self.recipe.dataset)
        return itertools.islice(self._readable(), selection.begin(), selection.reach())

    def _readable(self) -> Iterator[Row]:
        for outcome in _outcomes(self.recipe.dataset, self.files):
            if isinstance(outcome, Row):
                yield outcome
                continue
            self.left_out[outcome.where] = outcome
            if len(self.left_out) > self.recipe.dataset.max_bad_rows:
                raise DataError(shortened(list(self.left_out.values())))

    def sequences(self) -> Iterator[Encoded]:
        """Yield the training sequences without end.

        Raises:
            DataError: at a row that cannot be read or rendered, is too long, or has nothing to learn.
        """
        recipe = self.recipe
        for number in itertools.count():
            rows = shuffled(self.rows(), recipe.dataset.shuffle_buffer_size, f"{recipe.training.seed}:{number}")
            found = 0
            while chunk := list(itertools.islice(rows, ROWS_AT_ONCE)):
                for sequence in self._encoded(chunk, number):
                    found += 1
                    self._count(sequence, number)
                    yield sequence
            if not found:
                what = "the stream has no row to train on: it is empty, or all rows are too long"
                raise DataError(Problem("", what, key="dataset.streaming"))

    @functools.cached_property
    def _causal(self) -> CausalRows:
        objective = self.recipe.objective
        assert isinstance(objective, TextObjective)
        return rows_of(self.form, self.renderer, objective)

    def _encoded(self, rows: Sequence[Row], number: int) -> list[Encoded]:
        if number == 0:
            self._look_at_columns(rows)
        if isinstance(self.recipe.objective, TextObjective):
            tally = self._causal.tally = Tally(rows=len(rows), is_text=RawText in self.form.makes)
            sequences, faults = self._causal.encode(rows)
            problems = [*shortened(faults), *self._overflow(tally)]
        else:
            source = Source("the stream", rows)
            encoding = encode_labelled_rows(source, self.form, self.renderer, self.recipe.objective, self.labels)
            sequences, problems, tally = encoding.sequences, shortened(encoding.problems), encoding.tally
        if problems:
            raise DataError(problems)
        if number == 0:
            self.noted.add(tally.noted)
            self.tally.rows += tally.rows
            self.tally.dropped += tally.left_out
            self.tally.truncated += tally.truncated
            self.tally.lost_words += tally.lost_words
            self.tally.longest = max(self.tally.longest, tally.longest)
        return sequences

    def _look_at_columns(self, rows: Sequence[Row]) -> None:
        """Check columns that earlier rows do not have. Raises `DataError` if a row would lose content."""
        late = [row for row in rows if not row.values.keys() <= self.known]
        if not late:
            return
        self.known |= {name for row in late for name in row.values}
        found = find_unused(self.form, asked_columns(self.recipe.dataset), [row.values for row in late])
        problem = unused_problem(self.form, found, late[0].where)
        if found.meant:
            raise DataError(problem)
        if found.columns:
            self.late[late[0].where] = problem

    def _overflow(self, tally: Tally) -> list[Problem]:
        """Return the problem of a row that is too long, if the recipe does not handle it."""
        objective = self._causal.objective
        if not is_refused(objective, tally):
            return []
        first = replace(tally, too_long=tally.too_long[:1], longest=tally.too_long[0][1])
        return [with_rows(overflow_problem(objective, "a row of the stream is", first, self.room), first)]

    def _count(self, sequence: Encoded, number: int) -> None:
        if number == 0:
            self.tally.tokens += sequence.tokens
            self.tally.trained_tokens += 0 if self.recipe.objective.scores_whole else sequence.trained_tokens
            if isinstance(self.form, TokenClassification):
                self.tally.trained_tokens += sum(label != IGNORED for label in sequence.inputs["labels"])

    def dataset(self) -> datasets.IterableDataset:
        """Return the dataset for the trainers; each iteration starts from the first row."""
        import datasets
        from datasets.iterable_dataset import ExamplesIterable

        def examples() -> Iterator[tuple[int, dict[str, Any]]]:
            self.tally, self.left_out, self.noted, self.late = Tally(), {}, Counted(), {}
            for number, sequence in enumerate(self.sequences()):
                yield number, dict(sequence.row())

        return datasets.IterableDataset(ExamplesIterable(examples, {}))


def open_stream(
    recipe: Recipe,
    folder: Path,
    form: Format,
    renderer: Renderer,
    labels: tuple[str, ...] = (),
    room: int | None = None,
    known: frozenset[str] = frozenset(),
) -> Stream:
    """Open the stream of a recipe; the arguments are fields of `Stream`. Raises `DataError` if files are missing."""
    names = recipe.dataset.path
    files = find_files(folder, names, "dataset.path") if names else ()
    return Stream(recipe, form, renderer, labels, files, room, known=known)


def stream_rows(recipe: Recipe, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the readable rows of one pass in order. Raises `DataError` if a file cannot be read at all."""
    selection = selection_of(recipe.dataset)
    rows = (outcome for outcome in _outcomes(recipe.dataset, files) if isinstance(outcome, Row))
    return itertools.islice(rows, selection.begin(), selection.reach())


def _outcomes(table: Dataset, files: Sequence[Path]) -> Iterator[Outcome]:
    if files:
        yield from each_row(files, layout_of(table))
    else:
        _, _, rows = open_hub_stream(table)
        yield from rows


def shuffled(rows: Iterator[Row], size: int, seed: str) -> Iterator[Row]:
    """Shuffle rows with a buffer of `size`: one is drawn at random, and the next row takes its place."""
    if not size:
        yield from rows
        return
    draw = random.Random(seed)
    buffer = list(itertools.islice(rows, size))
    for row in rows:
        place = draw.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = row
    draw.shuffle(buffer)
    yield from buffer


def stream_record(stream: Stream) -> SourceRecord:
    """Return the record of the stream for the manifest: its files with their hashes."""
    table = stream.recipe.dataset
    if not stream.files:
        commit = hub_commit(table)
        name = hub_name(table, table.train_split)
        return SourceRecord(source=name, sha256=hashlib.sha256(commit.encode()).hexdigest(), rows=0, commit=commit)
    files = tuple(file_record(file) for file in stream.files)
    whole = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    return SourceRecord(source=shown(table.path or "", stream.files), sha256=whole, rows=0, files=files)


def stream_counts(stream: Stream) -> dict[str, int]:
    """Return the counts of the first pass so far, for the manifest."""
    tally = stream.tally
    names = ("rows", "dropped", "truncated", "tokens", "trained_tokens")
    return {**{name: getattr(tally, name) for name in names}, "left_out": len(stream.left_out)}


def check_stream(table: Dataset, record: SourceRecord) -> None:
    """Refuse to resume with other rows than the run was started with.

    Raises:
        UsageError: with every file that is missing or changed, or the new commit on the hub.
    """
    problems = []
    if record.commit and (commit := hub_commit(table)) != record.commit:
        what = f"is now at commit {commit[:12]}, but the run was started on {record.commit[:12]}"
        problems.append(Problem(record.source, what, "pin `dataset.revision`, and start a new run"))
    for file in record.files:
        path = Path(file.path)
        if not path.is_file():
            problems.append(Problem(file.path, "no such file, but the run reads it", "put it back"))
        elif path.stat().st_size != file.size or sha256_file(path) != file.sha256:
            what = "is not the file that the run was started on"
            problems.append(Problem(file.path, what, "put it back, or start a new run"))
    if problems:
        raise UsageError(problems)
