"""The rows of a recipe: read from files or the hub, split into training and evaluation, with their format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from lora_ns.data.columns import asked_columns, columns_record, measured_columns, unused_note, unused_of
from lora_ns.data.files.kinds import TABLES, find_kind
from lora_ns.data.files.packing import kind_of
from lora_ns.data.files.paths import find_files, layout_of, shown
from lora_ns.data.files.read import read_files
from lora_ns.data.find_labels import problem_type_of, settle_problem_type, with_problem_type
from lora_ns.data.hub import load_hub, open_hub_stream, read_hub
from lora_ns.data.mixing import mix, set_aside
from lora_ns.data.rows import Found, left_out_note
from lora_ns.data.source import Part, Source, Sources, columns_of, selection_of
from lora_ns.errors import DataError, Problem
from lora_ns.files.disk import sha256_file
from lora_ns.formats import Format, RawText, RowFaultError, detect, names_of
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe


def read_sources(recipe: Recipe, folder: Path) -> Sources:
    """Read the rows of a recipe, detect their formats, and mix the sources.

    Evaluation rows are held out before the mixing, so that a repeated row is never in both sets.

    Raises:
        DataError: for files, rows and columns that cannot be read.
    """
    data = recipe.dataset
    tables = {key: first_rows(table) for key, table in data.parts().items()}
    parts = [_part(recipe, folder, key, table) for key, table in tables.items()]
    _check_labels_agree(parts)
    grouped, measured = measured_columns(recipe, is_evaluation=False), measured_columns(recipe, is_evaluation=True)
    unused = [unused_of(part.key, part.table, part.source, part.form, grouped) for part in parts]
    evaluation = None
    if data.eval_path or data.eval_split:
        evaluation = _read(folder, data, for_evaluation=True)
    elif data.eval_fraction:
        parts, evaluation = set_aside(recipe, parts)
    if not data.sources:
        (part,) = parts
        if data.streaming:
            name = f"{part.source.name} (a stream, its first {len(part.source.rows):,} rows)"
            part = replace(part, source=replace(part.source, name=name))
        if evaluation and not data.eval_fraction:
            unused.append(unused_of("dataset", data, evaluation, part.form, measured))
        reported = tuple(filter(None, unused))
        return Sources(part.source, evaluation, part.form, part.why, is_stream=data.streaming, unused=reported)
    train, parts = mix(recipe, parts)
    form, why = parts[0].form, parts[0].why
    if evaluation and not data.eval_fraction:
        form, why = _detect(recipe, "dataset", data, evaluation)
        form = with_problem_type(form, problem_type_of(parts[0].form))
        evaluation = _with_form(evaluation, form)
        unused.append(unused_of("dataset", data, evaluation, form, measured))
    elif evaluation and (key := _asking_key(recipe)):
        _check_answered(evaluation, key)
    return Sources(train, evaluation, form, why, tuple(parts), unused=tuple(filter(None, unused)))


PROBE_ROWS = 1000
"""Rows of a stream to read before the first step, so that their faults are reported at once."""


def first_rows(table: Dataset) -> Dataset:
    """Return the table of a source; for a stream, limited to the rows that are checked in advance."""
    if not table.streaming:
        return table
    return table.model_copy(update={"max_samples": min(PROBE_ROWS, table.max_samples or PROBE_ROWS)})


def _asking_key(recipe: Recipe) -> str:
    """Return the key that has the run keep evaluation rows to ask them, empty if there is none."""
    if recipe.evaluation.exact_match:
        return "evaluation.exact_match"
    numbers = (number for number, suite in enumerate(recipe.evaluation.suites) if suite.asks_run_rows)
    return next((f"evaluation.suites.{number}" for number in numbers), "")


def _check_answered(evaluation: Source, key: str) -> None:
    """Check that held-out rows to be answered have one format, because the run keeps them without their sources."""
    forms = list(dict.fromkeys(row.form.name for row in evaluation.rows if row.form))
    if len({str(row.form) for row in evaluation.rows}) > 1:
        what = f"the held-out rows have several formats ({', '.join(forms)})"
        remedy = "use `eval_path` with evaluation rows of one format"
        raise DataError(Problem("", what, remedy, key=key))


def _part(recipe: Recipe, folder: Path, key: str, table: Dataset) -> Part:
    """Read one source with its format; if there are several, each row carries its format."""
    source = _read(folder, table, key)
    form, why = _detect(recipe, key, table, source)
    form, more = settle_problem_type(form, source.rows, recipe.objective)
    why = f"{why}; {more}" if more else why
    several = recipe.dataset.source_at(key)
    if several is None:
        return Part(key, table, source, form, why)
    return Part(key, table, _with_form(source, form), form, why, several.weight)


def _with_form(source: Source, form: Format) -> Source:
    return replace(source, rows=[replace(row, form=form) for row in source.rows])


def _detect(recipe: Recipe, key: str, table: Dataset, source: Source) -> tuple[Format, str]:
    """Detect the format of a source's rows; returns it with the reason. Raises `DataError`."""
    names = names_of(row.values for row in source.rows)
    columns = asked_columns(table)
    place = _place(source, table)
    kind = None if table.column_names or table.delimiter else find_kind(place)
    try:
        form, why = detect(columns, names, source.rows[0].values, recipe.objective.examples)
    except RowFaultError as fault:
        remedy = kind.column_remedy(names, fault.remedy) if kind else fault.remedy
        raise DataError(_column_problem(key, source.name, fault, remedy)) from None
    if RawText not in form.makes and kind and kind.is_plain_text:
        what = f"a {kind_of(place)[0]} file is one text that is learned whole, not a row of {form.name}"
        raise DataError(
            Problem(source.name, what, 'write a .jsonl file, one object a line such as `{"messages": [...]}`')
        )
    return form, why


def _place(source: Source, table: Dataset) -> PurePath:
    """Return the source's file, if it is a single file."""
    name = source.name
    for part in (table.slice, table.eval_slice):
        name = name.removesuffix(f"[{part}]")
    return PurePath(name)


def _check_labels_agree(parts: Sequence[Part]) -> None:
    """Refuse sources with different problem types, such as classes and scores."""
    first, *others = parts
    kinds = [problem_type_of(part.form) for part in parts]
    for part, kind in zip(others, kinds[1:], strict=True):
        if kind != kinds[0]:
            what = f"its labels are read as {kind}, but those of `{first.key}` as {kinds[0]}"
            remedy = "write `problem_type` into `[classification]`, or use the same kind of labels"
            raise DataError(Problem("", what, remedy, key=part.key))


def origins(recipe: Recipe, folder: Path) -> list[tuple[str, str]]:
    """List each file or split of a recipe's rows and suites, with a hash of its content. Raises `DataError`."""
    data = recipe.dataset
    found = [(str(file), _file_hash(file)) for file in source_files(recipe, folder)]
    named = [(key, table, table.path, table.train_split) for key, table in data.parts().items()]
    for key, table, names, split in (*named, ("dataset", data, data.eval_path, data.eval_split)):
        if not names and split and table.name:
            place, rows = load_hub(table, key, split)
            found.append((place, rows._fingerprint))
    return found


def source_files(recipe: Recipe, folder: Path) -> list[Path]:
    """List the files of a recipe's suites and rows. Raises `DataError`."""
    suites, data = enumerate(recipe.evaluation.suites), recipe.dataset
    named: list[tuple[str, str | Sequence[str] | None]] = []
    named += [(f"evaluation.suites.{number}.path", suite.path) for number, suite in suites]
    named += [(f"{key}.path", table.path) for key, table in data.parts().items()]
    named.append(("dataset.eval_path", data.eval_path))
    return [file for key, names in named for file in find_files(folder, names or (), key)]


def _file_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError:
        return "cannot be read"  # the reader reports the reason


def _column_problem(key: str, source: str, fault: RowFaultError, remedy: str) -> Problem:
    """Create the problem of a source's columns, at the key that it concerns."""
    if not fault.key:
        return Problem("", f"{source}: {fault.what}", remedy, place=key)
    return Problem("", f"{fault.what} ({source})", remedy, key=f"{key}.{fault.key}")


def _read(folder: Path, table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> Source:
    """Read the rows of a source, or its evaluation rows."""
    if table.eval_path if for_evaluation else table.path:
        name, found = read_part(folder, table, key, for_evaluation)
        return Source(name, found.rows, left_out=found.left_out, notes=found.notes)
    split = table.eval_split if for_evaluation else table.train_split
    if table.streaming and not for_evaluation:
        name, classes, outcomes = open_hub_stream(table)
        selection = selection_of(table, key)
        rows = [row for _, row in zip(range(selection.reach() or 0), outcomes, strict=False)]
        rows = [rows[number] for number in selection.of(len(rows), name)]
        if not rows:
            raise DataError(Problem(name, "no rows", "choose another split"))
        return Source(name, rows, classes)
    return read_hub(table, key, split or "train", selection_of(table, key, for_evaluation))


def read_part(folder: Path, table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> tuple[str, Found]:
    """Read the selected rows of some files; returns their displayed name as well. Raises `DataError`."""
    name = "eval_path" if for_evaluation else "path"
    names: str | Sequence[str] = getattr(table, name)
    selection = selection_of(table, key, for_evaluation)
    files = find_files(folder, names, f"{key}.{name}")
    if table.column_names and (not for_evaluation or table.sources):
        _check_tables(f"{key}.column_names", shown(names, files), files)
    found = read_files(files, selection.reach(), table.max_bad_rows, layout_of(table))
    origin = shown(names, files)
    rows = [found.rows[number] for number in selection.of(len(found.rows), origin)]
    layout = layout_of(table)
    notes = tuple(note for file in files if (kind := find_kind(file)) for note in kind.notes(file, layout))
    found = replace(found, rows=rows, notes=notes)
    return f"{origin}[{selection.slice}]" if selection.slice else origin, found


def _check_tables(key: str, name: str, files: Sequence[Path]) -> None:
    """Refuse `column_names` if none of the files is a table."""
    if not any((kind := find_kind(file)) and kind.is_table for file in files):
        what = f"{name} is not a table without a header"
        raise DataError(Problem("", what, f"remove it: it is for {', '.join(TABLES)}", key=key))


def reading_notes(sources: Sources) -> list[str]:
    """Return notes on the way files were read, if their names do not tell."""
    train = [part.source for part in sources.parts] or [sources.train]
    evaluation = [sources.eval] if sources.eval else []
    return list(dict.fromkeys(note for source in (*train, *evaluation) for note in source.notes))


def format_and_reason(sources: Sources) -> tuple[str, str]:
    """Return the format and the reason for it; for several sources, those of each."""
    if not sources.parts:
        return sources.format.name, sources.why
    names = list(dict.fromkeys(part.form.name for part in sources.parts))
    why = "; ".join(f"{part.source.name}: {part.form.name}, by {part.why}" for part in sources.parts)
    return ", ".join(names), why


def notes(sources: Sources) -> list[str]:
    """Return notes on left out rows, unread columns and the mix of sources."""
    lines = reading_notes(sources)
    for kind, source in (("training", sources.train), ("evaluation", sources.eval)):
        if source and source.left_out and not (kind == "training" and sources.is_stream):
            lines.append(f"{kind} rows: {left_out_note(source.left_out)}")
    lines += [unused_note(unused.problem) for unused in sources.unused]
    for part in sources.parts:
        if part.weight is not None:
            repeated = f", {part.repeated:,} of them repetitions" if part.repeated else ""
            share = f"{part.used / len(sources.train.rows):.1%} of the training rows"
            lines.append(f"{part.source.name}: {share}, {part.used:,} from {len(part.source.rows):,} rows{repeated}")
    return lines


def part_record(part: Part) -> dict[str, Any]:
    """Return the record of one of several sources for the manifest."""
    return {
        "source": part.source.name,
        "sha256": part.source.sha256,
        "format": part.form.name,
        "columns": columns_record(columns_of(part.form)),
        "rows": len(part.source.rows),
        "used": part.used,
        "repeated": part.repeated,
        "held_out": part.held_out,
        "weight": part.weight,
    }
