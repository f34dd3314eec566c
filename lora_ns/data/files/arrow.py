"""Rows of Parquet and Arrow files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_ns.data.files.json import shortened_value
from lora_ns.data.files.kind import FileKind
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.tables import check_names
from lora_ns.data.rows import Outcome, Row
from lora_ns.errors import DataError, MissingError, Problem, first_line
from lora_ns.files.reading import LARGEST_TEXT, MIB, MOST_UNPACKED, shown_size

# Arrow


class Parquet(FileKind):
    """A Parquet file."""

    suffixes = (".parquet",)
    can_be_packed = False

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """Yield the rows of its row groups."""
        return _parquet(path)


class Arrow(FileKind):
    """An Arrow file, or an Arrow stream as `datasets` writes it."""

    suffixes = (".arrow",)
    can_be_packed = False

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """Yield the rows of its batches."""
        return _arrow(path)


def _parquet(path: Path) -> Iterator[Outcome]:
    with _arrow_errors(path, "Parquet"):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > max(MIB, MOST_UNPACKED * path.stat().st_size):
                what = f"{file.metadata.num_rows:,} rows in {path.stat().st_size:,} bytes"
                raise DataError(Problem(str(path), what, "write the file again"))
            yield from _batches(path, file.schema_arrow, file.iter_batches(_ROWS_AT_ONCE))


_ROWS_AT_ONCE = 1024
"""Rows of a Parquet file to convert to Python values at once."""


def _arrow(path: Path) -> Iterator[Outcome]:
    """Yield the rows of an Arrow file or stream."""
    with _arrow_errors(path, "Arrow"):
        import pyarrow

        with pyarrow.OSFile(str(path)) as file:
            is_stream = file.read(len(_ARROW_FILE)) != _ARROW_FILE
            file.seek(0)
            if is_stream:
                stream = pyarrow.ipc.open_stream(file)
                yield from _batches(path, stream.schema, stream)
            else:
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
                yield from _batches(path, reader.schema, batches)


_ARROW_FILE = b"ARROW1"
"""First bytes of an Arrow file; a stream has no such mark."""


@contextlib.contextmanager
def _arrow_errors(path: Path, name: str) -> Iterator[None]:
    try:
        import pyarrow
    except ImportError:
        raise MissingError(Problem(str(path), f"reading {name} needs pyarrow", "`pip install pyarrow`")) from None
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # an error of the disk, not of pyarrow
        what = f"damaged, or not {name}: {_first_sentence(error)}"
        raise DataError(Problem(str(path), what, "fetch or write it again")) from None
    except (ValueError, OverflowError) as error:
        what = f"a value cannot be read: {_first_sentence(error)}"
        raise DataError(Problem(str(path), what, "write it as a string")) from None


def _first_sentence(error: Exception) -> str:
    text = first_line(error).partition(". ")[0].rstrip(".")
    return shortened_value(f"{text[:1].lower()}{text[1:]}", 100)


def _batches(path: Path, schema: Any, batches: Any) -> Iterator[Outcome]:
    check_names(str(path), schema.names)
    nested = [field.name for field in schema if field.type.num_fields]
    number = 0
    for batch in batches:
        if batch.nbytes > LARGEST_TEXT:
            what = f"a batch of more than {shown_size(LARGEST_TEXT)}"
            raise DataError(Problem(f"{path}, row {number + 1}", what, "write smaller batches"))
        batch.validate(full=True)  # offsets that point beyond the data would crash the process
        for values in batch.to_pylist():
            number += 1
            yield Row(f"{path}, row {number}", {**values, **{name: unpadded(values[name]) for name in nested}})


def unpadded(value: Any) -> Any:
    """Remove null keys from a value of an Arrow table.

    Arrow gives every object of a column the keys of all objects, so a null key is usually one that the object never
    had, for instance an argument of another tool. An intended null cannot be distinguished from it.
    """
    if isinstance(value, dict):
        return {key: unpadded(part) for key, part in value.items() if part is not None}
    return [unpadded(part) for part in value] if isinstance(value, list) else value
