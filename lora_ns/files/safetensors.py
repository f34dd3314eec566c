"""The header of a safetensors file, read with limits."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.errors import ModelError, Problem

Tensors = Mapping[str, Mapping[str, Any]]
"""Type, shape and place of stored tensors, as the header of a file has them, by name."""


def shortened(value: object, most: int = 60) -> str:
    """A value of a header as a message shows it, cut if it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_count(value: object, least: int, most: int) -> bool:
    """Whether a value of a header is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


# Weights

_LARGEST_HEADER = 100_000_000
"""Bytes, as safetensors itself has it."""


_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


def read_header(file: Path, remedy: str = "fetch it again") -> tuple[dict[str, Any], int]:
    """Header of a safetensors file, and where its data begins. Raises `ModelError` if it is none, or not whole."""
    try:
        length = file.stat().st_size
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > length:
                # Told below with the other ways to be broken.
                raise ValueError(f"cut short, its header alone is longer than its {length:,} bytes")
            if size > _LARGEST_HEADER:
                raise ValueError(f"its header has {size:,} bytes")
            header = json.loads(stream.read(size), object_pairs_hook=_without_doubles)
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")  # noqa: TRY004 -- of the file, as the other faults
        header.pop("__metadata__", None)
        end = 8 + size + _end(header)
        if end > length:
            raise ValueError(f"cut short, {length:,} of {end:,} bytes")
    except RecursionError:
        raise ModelError(Problem(str(file), "not a safetensors file: its header is nested too deep", remedy)) from None
    except OSError as error:
        raise ModelError(Problem(str(file), f"cannot be read: {error.strerror or error}", remedy)) from None
    except (struct.error, ValueError) as error:
        raise ModelError(Problem(str(file), f"not a safetensors file: {error}", remedy)) from None
    return header, 8 + size


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"`{name[:100]}` is in its header twice")
    return values


FREEDOM = 8
"""A claimed size may be this many times the largest side of a tensor: some are stored in parts, or not at all."""


def largest_side(tensors: Mapping[str, Mapping[str, Any]]) -> int:
    """The largest side of any tensor of a header: what settings beside it claim is held against that."""
    return max((side for entry in tensors.values() for side in entry["shape"]), default=0)


def _end(header: Mapping[str, Any]) -> int:
    """Where the last tensor ends. Raises `ValueError` if one is not described, or two are in one place."""
    places = sorted(_place(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop, name in places:
        if begin < end:
            raise ValueError(f"`{name}` overlaps another tensor")
        end = stop
    return end


def _place(name: str, entry: Any) -> tuple[int, int, str]:
    """First byte, one past the last, and the name. Raises `ValueError`."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str):
        raise ValueError(f"`{name}` has no type")  # noqa: TRY004 -- of the file, as the other faults
    if not isinstance(shape, list) or not all(is_count(side, 0, 2**48) for side in shape):
        raise ValueError(f"the shape of `{name}` is {shortened(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(place, 0, 2**60) for place in offsets):
        raise ValueError(f"the place of `{name}` is {shortened(offsets)}")
    begin, end = offsets
    numbers = 1
    for side in shape:
        numbers *= side
    if dtype in _BITS and numbers * _BITS[dtype] != 8 * (end - begin):
        raise ValueError(
            f"`{name}` has {end - begin:,} bytes, and its shape {shortened(shape)} in {dtype} takes others"
        )
    if end < begin:
        raise ValueError(f"`{name}` ends before it begins")
    return begin, end, name
