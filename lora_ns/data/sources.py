"""Where the rows of a recipe come from: files or the hub, what is set aside for evaluation, and in which format."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from lora_ns.datafile import find_files, layout_of, shown
from lora_ns.engine.targets import problem_type_of, settle_problem_type, with_problem_type
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Columns, Format, RowFaultError, Unused, detect, find_unused, names_of
from lora_ns.formats.cells import listed
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.slices import parse_slice
from lora_ns.rows import (
    TAB,
    TABLES,
    Found,
    Row,
    for_each,
    is_table,
    kind_of,
    other_delimiter,
    read_files,
    sniff_delimiter,
    told_left_out,
    unpadded,
)
from lora_ns.rundir import sha256_file
from lora_ns.shares import apportion, interleave

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Source:
    """Rows of some files or of a split, with what tells them from others."""

    name: str
    rows: Sequence[Row]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, the names of its classes in the order of their numbers, where the data set has them."""
    left_out: Sequence[Problem] = ()
    """What is wrong with the rows that cannot be read and were left out."""
    notes: tuple[str, ...] = ()
    """How its files were read, where they do not say so themselves."""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 over the rows and the ways in which they are read."""
        digest = hashlib.sha256()
        for row in self.rows:
            if row.form is not None:
                digest.update(f"{row.form.name}{columns_of(row.form)}".encode())
            digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class UnusedColumns:
    """Columns of one source that its format does not read."""

    problem: Problem
    is_refused: bool
    """Whether a row is likely to lose a part of what it says, so that it is not trained on."""


@dataclass(frozen=True)
class Part:
    """One of several sources: its rows, how they are read, and how many of them are trained on."""

    key: str
    """Where the recipe says it, such as `dataset.sources.1`."""
    table: Dataset
    source: Source
    """Its rows to train on, those set aside not among them."""
    form: Format
    why: str
    weight: float | None = None
    used: int = 0
    held_out: int = 0

    @property
    def repeated(self) -> int:
        """Rows that are trained on once more than once."""
        return max(0, self.used - len(self.source.rows))


@dataclass(frozen=True)
class Sources:
    """The rows of a recipe and how they are read."""

    train: Source
    eval: Source | None
    format: Format
    """Of the rows, unless a row has its own."""
    why: str
    """Why this format."""
    parts: tuple[Part, ...] = ()
    """Where the training rows come from several sources, those."""
    is_stream: bool = False
    """Whether the training rows are only the first ones of a stream."""
    unused: tuple[UnusedColumns, ...] = ()
    """By source, the columns that are not read."""

    @property
    def columns(self) -> Columns:
        """The columns that the format reads."""
        return columns_of(self.format)


def columns_of(form: Format) -> Columns:
    """The columns that a format reads."""
    columns: Columns = form.columns  # type: ignore[attr-defined]
    return columns


def read_sources(loaded: LoadedRecipe) -> Sources:
    """Read the rows that a recipe names, recognise their formats, and mix those of several sources.

    Rows that are set aside for evaluation are taken out before anything is mixed: a row that mixing repeats is never
    both trained on and evaluated.

    Raises:
        DataError: with the files, rows and columns that cannot be read.
    """
    data = loaded.recipe.dataset
    tables = {key: first_rows(table) for key, table in data.parts().items()}
    parts = [_part(loaded, key, table) for key, table in tables.items()]
    _check_labels_agree(loaded, parts)
    unused = [_unused(loaded, part.key, part.table, part.source, part.form) for part in parts]
    evaluation = None
    if data.eval_path or data.eval_split:
        evaluation = _read(loaded, data, for_evaluation=True)
    elif data.eval_fraction:
        parts, evaluation = _split(loaded, parts)
    if not data.sources:
        (part,) = parts
        if data.streaming:
            name = f"{part.source.name} (a stream, its first {len(part.source.rows):,} rows)"
            part = replace(part, source=replace(part.source, name=name))
        if evaluation and not data.eval_fraction:
            unused.append(_unused(loaded, "dataset", data, evaluation, part.form))
        told = tuple(filter(None, unused))
        return Sources(part.source, evaluation, part.form, part.why, is_stream=data.streaming, unused=told)
    train, parts = _mixed(loaded, parts)
    form, why = parts[0].form, parts[0].why
    if evaluation and not data.eval_fraction:
        form, why = _detect(loaded, "dataset", data, evaluation)
        form = with_problem_type(form, problem_type_of(parts[0].form))
        evaluation = _with_form(evaluation, form)
        unused.append(_unused(loaded, "dataset", data, evaluation, form))
    elif evaluation and loaded.recipe.evaluation.exact_match:
        _check_answered(loaded, evaluation)
    return Sources(train, evaluation, form, why, tuple(parts), unused=tuple(filter(None, unused)))


PROBE_ROWS = 1000
"""Rows of a stream that are read before the first step, so that what is wrong with all of them is told at once."""


def first_rows(table: Dataset) -> Dataset:
    """The table of a source, of a stream with no more rows than are looked at beforehand."""
    if not table.streaming:
        return table
    return table.model_copy(update={"max_samples": min(PROBE_ROWS, table.max_samples or PROBE_ROWS)})


def _check_answered(loaded: LoadedRecipe, evaluation: Source) -> None:
    """Rows that are answered are read in one way: the run keeps them without their sources."""
    forms = list(dict.fromkeys(row.form.name for row in evaluation.rows if row.form))
    if len({str(row.form) for row in evaluation.rows}) > 1:
        what = f"evaluation.exact_match: the rows set aside are read in several ways ({', '.join(forms)})"
        where = loaded.where("evaluation.exact_match")
        raise DataError(Problem(where, what, "give evaluation rows of one kind by `eval_path`"))


def _part(loaded: LoadedRecipe, key: str, table: Dataset) -> Part:
    """One source with its format, which its rows have with them if there are several."""
    source = _read(loaded, table, key)
    form, why = _detect(loaded, key, table, source)
    form, more = settle_problem_type(form, source.rows, loaded)
    why = f"{why}; {more}" if more else why
    several = loaded.recipe.dataset.source_at(key)
    if several is None:
        return Part(key, table, source, form, why)
    return Part(key, table, _with_form(source, form), form, why, several.weight)


def _with_form(source: Source, form: Format) -> Source:
    return replace(source, rows=[replace(row, form=form) for row in source.rows])


UNUSED = "DATA004"
"""Code of columns that nothing reads."""


def _unused(loaded: LoadedRecipe, key: str, table: Dataset, source: Source, form: Format) -> UnusedColumns | None:
    """The columns of a source that its format does not read; None if there are none, or only metadata."""
    found = find_unused(form, asked_columns(table), [row.values for row in source.rows])
    if not found.columns:
        return None
    problem = unused_problem(form, found, source.name)
    return UnusedColumns(replace(problem, where=loaded.where(key)), bool(found.meant))


def unused_problem(form: Format, found: Unused, name: str) -> Problem:
    """What is said of the columns of a source that its format does not read."""
    what = f"{name}: not read by `{form.name}`: {listed(found.columns)}"
    names = ", ".join(f'"{column}"' for column in found.meant or found.columns)
    ignore = f"`ignore_columns = [{names}]` if they are not to be learned"
    if not found.meant:
        return Problem("", what, ignore, UNUSED)
    if form.name == "text":
        what += f"; {listed(found.meant)} may be the answer to the text"
        ignore = f'`columns = {{prompt = "text", completion = "{found.meant[0]}"}}`, or {ignore}'
    else:
        what += f"; {listed(found.meant)} would be lost"
        keys = "`text_column`, `text_pair_column`" if form.name == "classification" else "`columns` or a template"
        ignore = f"name what is to be read by {keys}, or {ignore}"
    return Problem("", what, ignore, UNUSED)


def told_unused(problem: Problem) -> str:
    """Columns that nothing reads as a note of a training says them."""
    return f"[{UNUSED}] {problem.what} ({problem.remedy})"


def asked_columns(table: Dataset) -> Columns:
    """What a source of the recipe says about columns."""
    return Columns(**{name: getattr(table, name) for name in Columns.__dataclass_fields__})


def _detect(loaded: LoadedRecipe, key: str, table: Dataset, source: Source) -> tuple[Format, str]:
    """The format of a source's rows and the reason. Raises `DataError`."""
    names = names_of(row.values for row in source.rows)
    columns = asked_columns(table)
    is_named = bool(table.column_names or table.delimiter)
    try:
        form, why = detect(columns, names, source.rows[0].values, loaded.recipe.task_type)
    except RowFaultError as fault:
        kind = "" if is_named else _kind(source, table)
        other = other_delimiter(" ".join(names)) if kind == ".csv" else ""
        raise DataError(_column_problem(loaded, key, source.name, kind, fault, other)) from None
    if form.name != "text" and _kind(source, table) == ".txt" and not is_named:
        what = f"a .txt file is one text that is learned whole, and no row of {form.name}"
        raise DataError(
            Problem(source.name, what, 'write a .jsonl file, one object a line such as `{"messages": [...]}`')
        )
    return form, why


def _kind(source: Source, table: Dataset) -> str:
    """The kind of a source's file, such as `.csv`, if it is one file."""
    name = source.name
    for part in (table.slice, table.eval_slice):
        name = name.removesuffix(f"[{part}]")
    return kind_of(PurePath(name))[0]


def _check_labels_agree(loaded: LoadedRecipe, parts: Sequence[Part]) -> None:
    """Refuse sources with labels that are not of one kind, such as classes and scores."""
    first, *others = parts
    kinds = [problem_type_of(part.form) for part in parts]
    for part, kind in zip(others, kinds[1:], strict=True):
        if kind != kinds[0]:
            what = f"{part.key}: its labels are read as {kind}, and those of `{first.key}` as {kinds[0]}"
            remedy = "write `problem_type` into `[classification]`, or make the labels alike"
            raise DataError(Problem(loaded.where(part.key), what, remedy))


def origins(loaded: LoadedRecipe) -> list[tuple[str, str]]:
    """Each file or split that the rows of a recipe come from, and a hash of what is in it. Raises `DataError`."""
    data = loaded.recipe.dataset
    named = [(key, table, table.path, table.train_split, "path") for key, table in data.parts().items()]
    found = []
    for key, table, names, split, name in (*named, ("dataset", data, data.eval_path, data.eval_split, "eval_path")):
        if names:
            found += [(str(file), _file_hash(file)) for file in find_files(loaded, names, f"{key}.{name}")]
        elif split and table.name:
            told, rows = _load_hub(loaded, table, key, split)
            found.append((told, rows._fingerprint))
    return found


def _file_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError:
        return "cannot be read"  # who reads it tells why


def _column_problem(
    loaded: LoadedRecipe, key: str, source: str, kind: str, fault: RowFaultError, other: str = ""
) -> Problem:
    """What is wrong with the columns of a source; `other` is what to write if they are separated by another mark."""
    remedy = f"{other}; {fault.remedy}" if other else fault.remedy
    if kind in {".csv", ".tsv"}:
        remedy = f"the first line names the columns: if it is a row, name them by `column_names = [...]`; {remedy}"
    if kind == ".txt":
        remedy = "it is read as one text: if it is a table with tabs, name its columns by `column_names = [...]`"
    if not fault.what.startswith("dataset."):
        return Problem(loaded.where(key), f"{source}: {fault.what}", remedy)
    own = fault.what.split(":")[0].replace("dataset", key, 1)
    what = f"{fault.what.replace('dataset', key, 1)} ({source})"
    return Problem(loaded.where(own), what, remedy)


def _read(loaded: LoadedRecipe, table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> Source:
    """The rows of a source, or the evaluation rows that are named."""
    if table.eval_path if for_evaluation else table.path:
        name, found = read_part(loaded, table, key, for_evaluation)
        return Source(name, found.rows, left_out=found.left_out, notes=found.notes)
    split = table.eval_split if for_evaluation else table.train_split
    if table.streaming and not for_evaluation:
        name, classes, outcomes = open_hub_stream(loaded, table)
        asked = asked_for(loaded, table, key)
        rows = [row for _, row in zip(range(asked.reach() or 0), outcomes, strict=False)]
        rows = [rows[number] for number in asked.of(len(rows), name)]
        if not rows:
            raise DataError(Problem(name, "no rows", "name another split"))
        return Source(name, rows, classes)
    return _read_hub(loaded, table, key, split or "train", asked_for(loaded, table, key, for_evaluation))


def read_part(
    loaded: LoadedRecipe, table: Dataset, key: str = "dataset", for_evaluation: bool = False
) -> tuple[str, Found]:
    """The rows of files, of their slice no more than asked for, and how they are called. Raises `DataError`."""
    name = "eval_path" if for_evaluation else "path"
    names: str | Sequence[str] = getattr(table, name)
    asked = asked_for(loaded, table, key, for_evaluation)
    files = find_files(loaded, names, f"{key}.{name}")
    if table.column_names and (not for_evaluation or table.sources):
        _check_tables(loaded, f"{key}.column_names", shown(names, files), files)
    found = read_files(files, asked.reach(), table.max_bad_rows, layout_of(table))
    told = shown(names, files)
    rows = [found.rows[number] for number in asked.of(len(found.rows), told)]
    found = replace(found, rows=rows, notes=_delimiter_notes(files, table))
    return f"{told}[{asked.slice}]" if asked.slice else told, found


def _delimiter_notes(files: Sequence[Path], table: Dataset) -> tuple[str, ...]:
    """Tables whose cells are not separated by what their kind says, as their first lines show."""
    if table.delimiter:
        return ()
    tables = [file for file in files if kind_of(file)[0] == ".csv"]
    found = [(file, sniff_delimiter(file, table.column_names)) for file in tables]
    return tuple(
        f"{file}: read with {'tabs' if mark == TAB else f'`{mark}`'} between its cells, as its first line has them "
        "(`delimiter` names another mark)"
        for file, mark in found
        if mark != ","
    )


def _check_tables(loaded: LoadedRecipe, key: str, name: str, files: Sequence[Path]) -> None:
    """Refuse names of columns where no file lacks them."""
    if not any(is_table(file) for file in files):
        what = f"{key}: {name} is no table without a header"
        raise DataError(Problem(loaded.where(key), what, f"remove it: it is for {', '.join(TABLES)}"))


def asked_for(loaded: LoadedRecipe, table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> Asked:
    """Which rows of a source the recipe asks for."""
    if for_evaluation:
        return Asked(loaded, f"{key}.eval_slice", table.eval_slice, table.max_eval_samples)
    return Asked(loaded, f"{key}.slice", table.slice, table.max_samples)


@dataclass(frozen=True)
class Asked:
    """Which rows of a source are asked for."""

    loaded: LoadedRecipe
    key: str
    slice: str | None
    limit: int | None

    def begin(self) -> int | None:
        """The number of the first row, from 0; None if it is not known before all are read."""
        start = parse_slice(self.slice or ":").start
        if start is None:
            return 0
        return None if start.is_percent or start.number < 0 else start.number

    def reach(self) -> int | None:
        """Rows that have to be read; None if all."""
        stop, begin = parse_slice(self.slice or ":").reach(), self.begin()
        if self.limit is None or begin is None:
            return stop
        most = begin + self.limit
        return most if stop is None else min(stop, most)

    def of(self, count: int, name: str) -> range:
        """The numbers of the rows, from 0. Raises `DataError` if there are none."""
        part = parse_slice(self.slice or ":").of(count)
        if count and not part:
            what = f"{self.key}: no row of {name} is in `{self.slice}`"
            raise DataError(Problem(self.loaded.where(self.key), what, f"there are {count:,}"))
        return part[: self.limit]


def _read_hub(loaded: LoadedRecipe, recipe: Dataset, key: str, split: str, asked: Asked) -> Source:
    name, data = _load_hub(loaded, recipe, key, split)
    numbers = asked.of(len(data), name)
    data = data.select(numbers)
    classes = _classes(data.features)
    rows = [
        Row(f"{name}, row {number + 1}", _named(values, classes)) for number, values in zip(numbers, data, strict=True)
    ]
    if not rows:
        raise DataError(Problem(name, "no rows", "name another split"))
    return Source(f"{name}[{asked.slice}]" if asked.slice else name, rows, classes)


def hub_name(table: Dataset, split: str) -> str:
    """How a split of the hub is told, such as `nyu-mll/glue/mrpc[train]`."""
    return f"{table.name}{f'/{table.subset}' if table.subset else ''}[{split}]"


def open_hub_stream(loaded: LoadedRecipe, table: Dataset) -> tuple[str, Mapping[str, tuple[str, ...]], Iterator[Row]]:
    """The training split of a hub data set, fetched while it is read: its name, its classes, its rows."""
    import datasets

    name = hub_name(table, table.train_split)
    errors = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        data = datasets.load_dataset(
            table.name, table.subset, split=table.train_split, revision=table.revision, streaming=True
        )
    except errors as error:
        raise DataError(_hub_problem(loaded, "dataset", name, error)) from None
    classes = _classes(data.features or {})

    def rows() -> Iterator[Row]:
        try:
            for number, values in enumerate(data, start=1):
                yield Row(f"{name}, row {number}", _named(values, classes))
        except errors as error:
            raise DataError(_hub_problem(loaded, "dataset", name, error)) from None

    return name, classes, rows()


def hub_commit(loaded: LoadedRecipe, table: Dataset) -> str:
    """The commit that a revision of a hub data set stands for now. Raises `DataError`."""
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().dataset_info(str(table.name), revision=table.revision).sha
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise DataError(_hub_problem(loaded, "dataset", str(table.name), error)) from None
    return str(found)


def _classes(features: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """By column, the names of its classes; also of a column of lists of them."""
    import datasets

    kinds = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    return {name: tuple(kind.names) for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}


def _load_hub(loaded: LoadedRecipe, recipe: Dataset, key: str, split: str) -> tuple[str, datasets.Dataset]:
    """How a split of the hub is told, and its rows, not yet read."""
    import datasets

    name = hub_name(recipe, split)
    try:
        return name, datasets.load_dataset(recipe.name, recipe.subset, split=split, revision=recipe.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_hub_problem(loaded, key, name, error)) from None


def _named(values: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """A row with the names of its classes; a number that is none, such as the -1 of a hidden test set, stays."""
    row = {column: unpadded(value) for column, value in values.items()}
    return {**row, **{column: _name(values[column], names) for column, names in classes.items()}}


def _name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(part, names) for part in value]
    return names[value] if value is not None and 0 <= value < len(names) else value


def _hub_problem(loaded: LoadedRecipe, key: str, shown: str, error: Exception) -> Problem:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    missing = type(error).__name__ in {
        "DatasetNotFoundError",
        "FileNotFoundError",
        "ConnectionError",
        "OfflineModeIsEnabled",
    }
    remedy = (
        "check `name`, `subset` and the connection; for a private one `hf auth login`; or give `path` a file"
        if missing
        else "check `subset` and the split"
    )
    return Problem(loaded.where(f"{key}.name"), f"{key}.name: {shown} cannot be read: {text}", remedy)


def _split(loaded: LoadedRecipe, parts: Sequence[Part]) -> tuple[list[Part], Source]:
    """Set the evaluation share aside, drawn by the seed; the order of the rest stays."""
    recipe = loaded.recipe.dataset
    rows = [(number, row) for number, part in enumerate(parts) for row in part.source.rows]
    count = max(1, round(recipe.eval_fraction * len(rows)))
    if count >= len(rows):
        what = f"dataset.eval_fraction: {len(rows)} rows cannot be split"
        raise DataError(Problem(loaded.where("dataset.eval_fraction"), what, "give more rows, or `eval_path`"))
    groups = _groups(loaded, parts)
    seed = loaded.recipe.training.seed
    if groups is None:
        drawn = sorted(random.Random(seed).sample(range(len(rows)), count))
        kept = drawn[: recipe.max_eval_samples]
    else:
        drawn = _draw(groups, range(len(rows)), count, seed)
        fewer = recipe.max_eval_samples
        kept = drawn if fewer is None or fewer >= count else _draw(groups, drawn, fewer, seed)
    aside = set(drawn)
    rest = [
        _without(part, [row for at, (owner, row) in enumerate(rows) if owner == number and at not in aside])
        for number, part in enumerate(parts)
    ]
    held_out = [rows[at][1] for at in kept]
    name = f"{', '.join(part.source.name for part in parts)} (held out)"
    return rest, replace(parts[0].source, name=name, rows=held_out, left_out=(), notes=())


def _without(part: Part, rows: list[Row]) -> Part:
    if not rows:
        what = f"{part.key}: no row of {part.source.name} is left to train on"
        raise DataError(Problem(part.source.name, what, "give it more rows, or lower `eval_fraction`"))
    source = replace(part.source, rows=rows)
    return replace(part, source=source, held_out=len(part.source.rows) - len(rows))


def _draw(groups: Sequence[Any], places: Sequence[int], count: int, seed: int) -> list[int]:
    """So many of the places, each group's share of them drawn by the seed, in their order."""
    members: dict[Any, list[int]] = {}
    for place in places:
        members.setdefault(groups[place], []).append(place)
    ordered = [members[group] for group in sorted(members)]
    draw = random.Random(seed)
    shares = apportion(count, [len(group) for group in ordered])
    return sorted(place for group, share in zip(ordered, shares, strict=True) for place in draw.sample(group, share))


def _groups(loaded: LoadedRecipe, parts: Sequence[Part]) -> list[tuple[int, str]] | None:
    """Source and class of every row, or the value of another column; None if rows are drawn without regard to them."""
    column = loaded.recipe.dataset.stratify_by_column
    kind = problem_type_of(parts[0].form)
    by_class = column == "auto" and loaded.recipe.task_type == "SEQ_CLS" and kind == "single_label_classification"
    if column in {"auto", "none"} and not by_class:
        if len(parts) == 1:
            return None
        return [(number, "") for number, part in enumerate(parts) for _ in part.source.rows]

    def group(row: Row, form: Format) -> str:
        if by_class:
            with contextlib.suppress(RowFaultError):  # a row without a class is told where classes are found
                return form.answer(row.values)
            return ""
        if column not in row.values:
            raise RowFaultError(
                f"no column `{column}`, which `stratify_by_column` names", f"columns: {', '.join(row.values)}"
            )
        return json.dumps(row.values[column], sort_keys=True, default=str)

    return [
        (number, value)
        for number, part in enumerate(parts)
        for value in for_each(part.source.rows, functools.partial(group, form=part.form))
    ]


MOST_REPEATED = 100
"""Times that mixing may repeat all rows; more is a weight that was not meant so."""


def _mixed(loaded: LoadedRecipe, parts: Sequence[Part]) -> tuple[Source, list[Part]]:
    """The training rows of all sources: one after the other, or mixed by their weights."""
    data = loaded.recipe.dataset
    sizes = [len(part.source.rows) for part in parts]
    weights = [part.weight for part in parts if part.weight is not None]
    if weights:
        _check_weights(loaded, parts, weights)
        turns = interleave(sizes, weights, loaded.recipe.training.seed, data.stopping_strategy)
    else:
        turns = [(number, place) for number, size in enumerate(sizes) for place in range(size)]
    turns = turns[: data.max_samples]
    rows = [parts[number].source.rows[place] for number, place in turns]
    used = Counter(number for number, _ in turns)
    source = Source(
        f"{', '.join(part.source.name for part in parts)} ({len(parts)} sources)",
        rows,
        _shared_classes(parts),
        [problem for part in parts for problem in part.source.left_out],
    )
    return source, [replace(part, used=used[number]) for number, part in enumerate(parts)]


def _check_weights(loaded: LoadedRecipe, parts: Sequence[Part], weights: Sequence[float]) -> None:
    """Refuse weights that would repeat the rows of others for ever until the last source has given all of its own."""
    total = sum(len(part.source.rows) for part in parts)
    if loaded.recipe.dataset.stopping_strategy == "first_exhausted":
        return
    turns = [len(part.source.rows) * sum(weights) / weight for part, weight in zip(parts, weights, strict=True)]
    if max(turns) > MOST_REPEATED * total:
        key = f"{parts[turns.index(max(turns))].key}.weight"
        what = f"{key}: about {max(turns):,.0f} rows until all {total:,} were there once"
        raise DataError(Problem(loaded.where(key), what, 'give it more weight, or write "first_exhausted"'))


def _shared_classes(parts: Sequence[Part]) -> Mapping[str, tuple[str, ...]]:
    """The classes of those columns whose names and order are the same in all sources."""
    first = parts[0].source.classes
    return {
        column: names
        for column, names in first.items()
        if all(part.source.classes.get(column) == names for part in parts)
    }


def reading_notes(sources: Sources) -> list[str]:
    """How files were read that do not say so themselves."""
    train = [part.source for part in sources.parts] or [sources.train]
    evaluation = [sources.eval] if sources.eval else []
    return list(dict.fromkeys(note for source in (*train, *evaluation) for note in source.notes))


def told_format(sources: Sources) -> tuple[str, str]:
    """How rows are read, and why; of several sources, of each."""
    if not sources.parts:
        return sources.format.name, sources.why
    names = list(dict.fromkeys(part.form.name for part in sources.parts))
    why = "; ".join(f"{part.source.name}: {part.form.name}, by {part.why}" for part in sources.parts)
    return ", ".join(names), why


def notes(sources: Sources) -> list[str]:
    """What the user should know of rows that were left out, and of how sources were mixed."""
    told = reading_notes(sources)
    for kind, source in (("training", sources.train), ("evaluation", sources.eval)):
        if source and source.left_out and not (kind == "training" and sources.is_stream):
            told.append(f"{kind} rows: {told_left_out(source.left_out)}")
    told += [told_unused(unused.problem) for unused in sources.unused]
    for part in sources.parts:
        if part.weight is not None:
            repeated = f", {part.repeated:,} of them repetitions" if part.repeated else ""
            share = f"{part.used / len(sources.train.rows):.1%} of the training rows"
            told.append(f"{part.source.name}: {share}, {part.used:,} from {len(part.source.rows):,} rows{repeated}")
    return told


def refuse_unused(sources: Sources) -> None:
    """Refuse rows of which a part would be lost. Raises `DataError`."""
    if refused := [unused.problem for unused in sources.unused if unused.is_refused]:
        raise DataError(refused)


def columns_record(columns: Columns) -> dict[str, Any]:
    """The columns as the manifest keeps them."""
    return asdict(columns)


def part_record(part: Part) -> dict[str, Any]:
    """One of several sources as the manifest keeps it."""
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
