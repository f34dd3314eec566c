"""The kinds of data files. A new kind needs its class in a file of this room, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from lora_ns.data.files.arrow import Arrow, Parquet
from lora_ns.data.files.json import Json, JsonLines
from lora_ns.data.files.kind import FileKind
from lora_ns.data.files.packing import PACKINGS, kind_of
from lora_ns.data.files.tables import Csv, Tsv
from lora_ns.data.files.texts import Conll, Text

_KINDS: tuple[FileKind, ...] = (
    JsonLines(),
    Json(),
    Csv(),
    Tsv(),
    Text(),
    Conll(),
    Parquet(),
    Arrow(),
)


KINDS: Mapping[str, FileKind] = {suffix: kind for kind in _KINDS for suffix in kind.suffixes}


PACKED = tuple(suffix for suffix, kind in KINDS.items() if kind.can_be_packed)


TABLES = tuple(suffix for suffix, kind in KINDS.items() if kind.is_table)


_NEVER_PACKED = tuple(suffix for suffix in KINDS if suffix not in PACKED)


KNOWN = ", ".join([*PACKED[:-1], f"{PACKED[-1]}, each also with {' or '.join(PACKINGS)}", *_NEVER_PACKED])
"""All readable suffixes, as shown in messages."""


def find_kind(path: PurePath) -> FileKind | None:
    """Return the kind of a file by its name, compressed or not; None if it is unknown."""
    return KINDS.get(kind_of(path)[0])
