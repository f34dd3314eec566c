"""Rows of datasets on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.data.files.arrow import unpadded
from lora_ns.data.rows import Row
from lora_ns.data.source import Selection, Source
from lora_ns.errors import DataError, Problem, first_line
from lora_ns.recipe.dataset import Dataset

if TYPE_CHECKING:
    import datasets


def read_hub(recipe: Dataset, key: str, split: str, selection: Selection) -> Source:
    """Read the requested rows of a split from the hub. Raises `DataError`."""
    name, data = load_hub(recipe, key, split)
    numbers = selection.of(len(data), name)
    data = data.select(numbers)
    classes = _classes(data.features)
    rows = [
        Row(f"{name}, row {number + 1}", _named(values, classes)) for number, values in zip(numbers, data, strict=True)
    ]
    if not rows:
        raise DataError(Problem(name, "no rows", "choose another split"))
    return Source(f"{name}[{selection.slice}]" if selection.slice else name, rows, classes)


def hub_name(table: Dataset, split: str) -> str:
    """Return the displayed name of a split, such as `nyu-mll/glue/mrpc[train]`."""
    return f"{table.name}{f'/{table.subset}' if table.subset else ''}[{split}]"


def open_hub_stream(table: Dataset) -> tuple[str, Mapping[str, tuple[str, ...]], Iterator[Row]]:
    """Open the training split of a hub dataset as a stream; returns name, classes and rows."""
    import datasets

    name = hub_name(table, table.train_split)
    errors = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        data = datasets.load_dataset(
            table.name, table.subset, split=table.train_split, revision=table.revision, streaming=True
        )
    except errors as error:
        raise DataError(_hub_problem("dataset", name, error)) from None
    classes = _classes(data.features or {})

    def rows() -> Iterator[Row]:
        try:
            for number, values in enumerate(data, start=1):
                yield Row(f"{name}, row {number}", _named(values, classes))
        except errors as error:
            raise DataError(_hub_problem("dataset", name, error)) from None

    return name, classes, rows()


def hub_commit(table: Dataset) -> str:
    """Resolve the revision of a hub dataset to its current commit. Raises `DataError`."""
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().dataset_info(str(table.name), revision=table.revision).sha
    except (OSError, ValueError) as error:  # base classes of the hub's own errors
        raise DataError(_hub_problem("dataset", str(table.name), error)) from None
    return str(found)


def _classes(features: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """Return the class names by column, including columns of lists of classes."""
    import datasets

    kinds = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    return {name: tuple(kind.names) for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}


def load_hub(recipe: Dataset, key: str, split: str) -> tuple[str, datasets.Dataset]:
    """Load a split from the hub without reading its rows; returns its displayed name and the dataset."""
    import datasets

    name = hub_name(recipe, split)
    try:
        return name, datasets.load_dataset(recipe.name, recipe.subset, split=split, revision=recipe.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_hub_problem(key, name, error)) from None


def _named(values: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """Replace class ids in a row by names; an id without a name, such as the -1 of a hidden test set, stays."""
    row = {column: unpadded(value) for column, value in values.items()}
    return {**row, **{column: _name(values[column], names) for column, names in classes.items()}}


def _name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name(part, names) for part in value]
    return names[value] if value is not None and 0 <= value < len(names) else value


def _hub_problem(key: str, shown: str, error: Exception) -> Problem:
    text = first_line(error)
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
    return Problem("", f"{shown} cannot be read: {text}", remedy, key=f"{key}.name")
