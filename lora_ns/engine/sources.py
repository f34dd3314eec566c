"""Where the rows of a recipe come from: files or the hub, what is set aside for evaluation, and in which format."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from lora_ns.datafile import find_files, shown
from lora_ns.engine.targets import settle_problem_type
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Columns, Format, RowFaultError, detect
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.rows import Row, kind_of, read_files
from lora_ns.rundir import sha256_file

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Source:
    """Rows of some files or of a split, with what tells them from others."""

    name: str
    rows: Sequence[Row]
    sha256: str
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, the names of its classes in the order of their numbers, where the data set has them."""
    left_out: Sequence[Problem] = ()
    """What is wrong with the rows that cannot be read and were left out."""


@dataclass(frozen=True)
class Sources:
    """The rows of a recipe and how they are read."""

    train: Source
    eval: Source | None
    format: Format
    columns: Columns
    why: str
    """Why this format."""


def read_sources(loaded: LoadedRecipe) -> Sources:
    """Read the rows that a recipe names and recognise their format.

    Raises:
        DataError: with the files, rows and columns that cannot be read.
    """
    recipe = loaded.recipe.dataset
    train = _read(loaded, recipe.path, recipe.train_split, recipe.max_samples, "dataset.path")
    evaluation = None
    if recipe.eval_path or recipe.eval_split:
        evaluation = _read(loaded, recipe.eval_path, recipe.eval_split, recipe.max_eval_samples, "dataset.eval_path")
    elif recipe.eval_fraction:
        train, evaluation = _split(loaded, train)
    names = list(dict.fromkeys(name for row in train.rows[:100] for name in row.values))
    columns = Columns(**{key: getattr(recipe, key) for key in Columns.__dataclass_fields__})
    try:
        form, why = detect(columns, names, train.rows[0].values, loaded.recipe.task_type)
    except RowFaultError as fault:
        raise DataError(_column_problem(loaded, train.name, fault)) from None
    if form.name != "text" and kind_of(PurePath(train.name))[0] == ".txt":
        what = f"a .txt file is one text that is learned whole, and no row of {form.name}"
        raise DataError(
            Problem(train.name, what, 'write a .jsonl file, one object a line such as `{"messages": [...]}`')
        )
    form, more = settle_problem_type(form, train.rows, loaded)
    why = f"{why}; {more}" if more else why
    return Sources(train, evaluation, form, form.columns, why)  # type: ignore[attr-defined]


def origins(loaded: LoadedRecipe) -> list[tuple[str, str]]:
    """Each file or split that the rows of a recipe come from, and a hash of what is in it. Raises `DataError`."""
    recipe = loaded.recipe.dataset
    found = []
    for names, split, key in (
        (recipe.path, recipe.train_split, "dataset.path"),
        (recipe.eval_path, recipe.eval_split, "dataset.eval_path"),
    ):
        if names:
            found += [(str(file), _file_hash(file)) for file in find_files(loaded, names, key)]
        elif split and recipe.name:
            name, data = _load_hub(loaded, split)
            found.append((name, data._fingerprint))
    return found


def _file_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError:
        return "cannot be read"  # who reads it tells why


def _column_problem(loaded: LoadedRecipe, source: str, fault: RowFaultError) -> Problem:
    key = fault.what.split(":")[0] if fault.what.startswith("dataset.") else "dataset"
    remedy = fault.remedy
    if kind_of(PurePath(source))[0] in {".csv", ".tsv"}:
        remedy = f"the first line names the columns: if it is a row, write their names above it; {remedy}"
    return Problem(
        loaded.where(key), f"{fault.what} ({source})" if key != "dataset" else f"{source}: {fault.what}", remedy
    )


def _read(
    loaded: LoadedRecipe, names: str | Sequence[str] | None, split: str | None, limit: int | None, key: str
) -> Source:
    if not names:
        return _read_hub(loaded, split or "train", limit)
    files = find_files(loaded, names, key)
    found = read_files(files, limit, loaded.recipe.dataset.max_bad_rows)
    return Source(shown(names, files), found.rows, _digest(found.rows), left_out=found.left_out)


def _read_hub(loaded: LoadedRecipe, split: str, limit: int | None) -> Source:
    import datasets

    name, data = _load_hub(loaded, split)
    if limit is not None:
        data = data.select(range(min(limit, len(data))))
    kinds = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}
    classes = {name: tuple(kind.names) for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}
    rows = [Row(f"{name}, row {number}", _named(values, classes)) for number, values in enumerate(data, start=1)]
    if not rows:
        raise DataError(Problem(name, "no rows", "name another split"))
    return Source(name, rows, _digest(rows), classes)


def _load_hub(loaded: LoadedRecipe, split: str) -> tuple[str, datasets.Dataset]:
    """How a split of the hub is told, and its rows, not yet read."""
    import datasets

    recipe = loaded.recipe.dataset
    name = f"{recipe.name}{f'/{recipe.subset}' if recipe.subset else ''}[{split}]"
    try:
        return name, datasets.load_dataset(recipe.name, recipe.subset, split=split, revision=recipe.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_hub_problem(loaded, name, error)) from None


def _named(values: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """A row with the names of its classes; a number that is none, such as the -1 of a hidden test set, stays."""
    return {**values, **{column: _name(values[column], names) for column, names in classes.items()}}


def _name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(part, names) for part in value]
    return names[value] if value is not None and 0 <= value < len(names) else value


def _hub_problem(loaded: LoadedRecipe, shown: str, error: Exception) -> Problem:
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
    return Problem(loaded.where("dataset.name"), f"dataset.name: {shown} cannot be read: {text}", remedy)


def _digest(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _split(loaded: LoadedRecipe, source: Source) -> tuple[Source, Source]:
    """Set the evaluation share aside, drawn by the seed; the order of the rest stays."""
    recipe = loaded.recipe.dataset
    count = max(1, round(recipe.eval_fraction * len(source.rows)))
    if count >= len(source.rows):
        what = f"dataset.eval_fraction: {len(source.rows)} rows cannot be split"
        raise DataError(Problem(loaded.where("dataset.eval_fraction"), what, "give more rows, or `eval_path`"))
    drawn = set(random.Random(loaded.recipe.training.seed).sample(range(len(source.rows)), count))
    train = [row for number, row in enumerate(source.rows) if number not in drawn]
    held_out = [row for number, row in enumerate(source.rows) if number in drawn][: recipe.max_eval_samples]
    rest = replace(source, rows=train, sha256=_digest(train))
    name = f"{source.name} (held out)"
    return rest, replace(source, name=name, rows=held_out, sha256=_digest(held_out), left_out=())


def columns_record(columns: Columns) -> dict[str, Any]:
    """The columns as the manifest keeps them."""
    return asdict(columns)
