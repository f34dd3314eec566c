"""Preparation of a recipe's rows for training: read, encoded, packed, counted and cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_ns.data.audit import leaked
from lora_ns.data.chat_templates import check_kwargs, use_template
from lora_ns.data.columns import columns_record, refuse_unused
from lora_ns.data.encode import encode, tokenized
from lora_ns.data.encode_labels import label_notes
from lora_ns.data.encoded import Encoding, Tokenized, pack
from lora_ns.data.find_labels import check_named, find_labels, problem_type_of
from lora_ns.data.notices import as_notes
from lora_ns.data.prepared import Preparation, find_preparation, keep_preparation, preparation_key
from lora_ns.data.render import Renderer, make_renderer
from lora_ns.data.rows import OnRows, ignore_rows
from lora_ns.data.source import Source, Sources
from lora_ns.data.sources import format_and_reason, notes, part_record, read_sources
from lora_ns.data.stream import Stream, open_stream, stream_record
from lora_ns.data.suite_rows import check_suites
from lora_ns.formats import Format, names_of
from lora_ns.model.files import Base
from lora_ns.model.tokenizer import added_tokens, choose_pad_token, recipe_tokenizer, stop_token_ids
from lora_ns.model.vocabulary import vocabulary
from lora_ns.objectives import Objective
from lora_ns.plan.plan import DataFacts
from lora_ns.plan.room import room_for_rows
from lora_ns.plan.settled import Settled
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import DataRecord, PartRecord, SourceRecord
from lora_ns.run.observer import Observer

if TYPE_CHECKING:
    import datasets


def open_renderer(settled: Settled, base: Base) -> Renderer:
    """Create the renderer: tokenizer with added tokens, chat template, stop and pad tokens. Raises `LoransError`."""
    tokenizer = recipe_tokenizer(base, settled.recipe.model)
    use_template(settled.recipe, settled.folder, tokenizer)
    check_kwargs(settled.recipe, tokenizer)
    stops = stop_token_ids(tokenizer, base.path)
    choose_pad_token(tokenizer, stops)
    known = vocabulary(base, tokenizer, added_tokens(tokenizer, settled.recipe.model))
    known.check_special(str(base.path), "stop token", stops)
    known.check_special(str(base.path), "pad token", [] if tokenizer.pad_token_id is None else [tokenizer.pad_token_id])
    return make_renderer(tokenizer, stops, settled.recipe.objective.rendering, known)


@dataclass(frozen=True)
class OpenedRows:
    """The rows of a recipe, read but not encoded, with their renderer."""

    sources: Sources
    renderer: Renderer
    labels: tuple[str, ...]
    room: int | None = None
    """The base's number of positions for a row, if known."""

    def encode(
        self, source: Source, objective: Objective, form: Format | None = None, on_rows: OnRows = ignore_rows
    ) -> Encoding:
        """Encode the rows of a source; `form` is their format, if it differs."""
        form = form or self.sources.format
        return encode(source, form, self.renderer, objective, self.labels, self.room, on_rows)


def open_rows(settled: Settled, renderer: Renderer, base: Base) -> OpenedRows:
    """Read all rows. Raises `DataError`."""
    sources = read_sources(settled.recipe, settled.folder)
    labels = find_labels(sources.train, sources.format, settled.recipe.objective)
    if sources.eval:
        check_named(sources.eval.rows, sources.format, sources.eval.name)
    return OpenedRows(sources, renderer, labels, room_for_rows(settled.recipe, base.facts))


def prepare(settled: Settled, renderer: Renderer, base: Base, observer: Observer, use_cache: bool) -> Preparation:
    """Prepare the rows of a recipe for its trainer, or take them from the cache; streams are never cached.

    Raises:
        DataError: for files, rows and columns that cannot be used.
    """
    observer.stage("reading the data")
    if not use_cache or settled.recipe.dataset.streaming or renderer.vocabulary.beyond:
        return _prepare(settled, open_rows(settled, renderer, base), observer)
    key = preparation_key(settled.recipe, settled.folder, renderer.tokenizer, renderer.stops)
    found = find_preparation(key, observer.warn)
    if found is None:
        found = _prepare(settled, open_rows(settled, renderer, base), observer)
        keep_preparation(key, found)
    else:
        observer.stage(f"using the cached rows of an earlier run, {found.facts.format}, by {found.facts.format_why}")
    return found


def _prepare(settled: Settled, rows: OpenedRows, observer: Observer) -> Preparation:
    sources, objective = rows.sources, settled.recipe.objective
    refuse_unused(sources)
    usual = sources.eval.rows if sources.eval else ()
    check_suites(settled.recipe, settled.folder, sources.format, usual)
    name, why = format_and_reason(sources)
    observer.stage(f"rendering the rows as {name}, by {why}")
    encoded = _Encoded(
        tokenized(sources.train, rows.encode(sources.train, objective, on_rows=observer.rows)),
        tokenized(sources.eval, rows.encode(sources.eval, objective, on_rows=observer.rows), teaches=False)
        if sources.eval
        else None,
    )
    facts, (train, evaluation) = _facts(settled.recipe, rows, encoded)
    stream = None
    if sources.is_stream:
        known = frozenset(names_of(row.values for row in sources.train.rows))
        stream = open_stream(
            settled.recipe, settled.folder, sources.format, rows.renderer, rows.labels, rows.room, known
        )
    record = _data_record(sources, encoded, _kept(settled.recipe, len(usual)), stream)
    places = () if train is not encoded.train.dataset else tuple(encoded.train.places)  # packed rows have none
    return Preparation(train, evaluation, facts, record, rows.labels, problem_type_of(sources.format), stream, places)


@dataclass(frozen=True)
class _Encoded:
    train: Tokenized
    eval: Tokenized | None


def _facts(
    recipe: Recipe, rows: OpenedRows, encoded: _Encoded
) -> tuple[DataFacts, tuple[datasets.Dataset, datasets.Dataset | None]]:
    """Return the facts that the plan needs, and the rows as they are trained on."""
    sources, tokenizer = rows.sources, rows.renderer.tokenizer
    dataset = encoded.train.dataset
    counts = encoded.train.tally.labels
    found = [*label_notes(sources.format, rows.labels, tokenizer), *_row_notes(sources, encoded), *_leaks(encoded)]
    found += recipe.objective.label_notes(counts[True], counts[False])
    name, format_why = format_and_reason(sources)
    why = f"read as {sources.format.name} ({sources.why})"
    objective = recipe.objective
    if objective.packs:
        dataset = pack(dataset, objective.max_seq_length)
        why = f"{len(encoded.train.dataset):,} rows packed into {len(dataset):,}"
    plain = sources.format.name == "prompt-completion" and recipe.dataset.format == "auto"
    if plain and tokenizer.chat_template is not None:
        found.append(
            "the base has a chat template, but the rows are plain text: "
            'write `format = "messages"` to train in its chat form, or "prompt-completion" to keep plain text'
        )
    facts = DataFacts(
        train_rows=None if sources.is_stream else len(dataset),
        eval_rows=len(encoded.eval.dataset) if encoded.eval else None,
        longest=None if sources.is_stream else min(encoded.train.tally.longest, objective.max_seq_length),
        mean_length=None if sources.is_stream else encoded.train.tally.mean_length,
        trained_share=1.0 if sources.is_stream else encoded.train.tally.trained_share,
        why=why,
        notes=tuple(found),
        format=name,
        format_why=format_why,
    )
    return facts, (dataset, encoded.eval.dataset if encoded.eval else None)


def _row_notes(sources: Sources, encoded: _Encoded) -> list[str]:
    """Return notes on left out and truncated rows, and notices about rows that are trained on."""
    found = notes(sources)
    first = f"the first {encoded.train.tally.rows:,} training" if sources.is_stream else "training"
    for name, part in ((first, encoded.train), ("evaluation", encoded.eval)):
        if part and (part.tally.dropped or part.tally.truncated):
            words = f" ({part.tally.lost_words:,} words with their tags)" if part.tally.lost_words else ""
            found.append(
                f"{name} rows too long: {part.tally.dropped:,} left out, {part.tally.truncated:,} truncated{words}"
            )
        if part:
            found += as_notes(name, part.tally.noted, teaches=part is encoded.train)
    return found


def _leaks(encoded: _Encoded) -> list[str]:
    count = leaked(encoded.train.dataset, encoded.eval.dataset) if encoded.eval else 0
    if not encoded.eval or not count:
        return []
    same = f"{count:,} of {len(encoded.eval.dataset):,}"
    return [f"evaluation rows: [LEAK001] {same} are also training rows (`lorans validate --data` lists them)"]


def _data_record(sources: Sources, encoded: _Encoded, kept: int, stream: Stream | None) -> DataRecord:
    def record(source: Source, part: Tokenized) -> SourceRecord:
        tally = part.tally
        return SourceRecord(
            source=source.name,
            sha256=source.sha256,
            rows=tally.rows,
            dropped=tally.left_out,
            truncated=tally.truncated,
            tokens=tally.tokens,
            trained_tokens=tally.trained_tokens,
        )

    evaluation = record(sources.eval, encoded.eval) if sources.eval and encoded.eval else None
    return DataRecord(
        format=sources.format.name,
        columns=columns_record(sources.columns),
        train=stream_record(stream) if stream else record(sources.train, encoded.train),
        sources=tuple(PartRecord(**part_record(part)) for part in sources.parts),
        eval=evaluation,
        eval_rows=[dict(row.values) for row in sources.eval.rows[:kept]] if sources.eval else [],
    )


def _kept(recipe: Recipe, rows: int) -> int:
    """Number of evaluation rows to keep in the manifest: those that exact match and suites without a file ask."""
    exact = recipe.evaluation.max_samples if recipe.evaluation.exact_match else 0
    return max([exact, *(suite.max_samples or rows for suite in recipe.evaluation.suites if suite.asks_run_rows)])
