"""The header of a safetensors file, read with limits."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.errors import ModelError, Problem

Tensors = Mapping[str, Mapping[str, Any]]
"""Dtype, shape and offsets of stored tensors by name, as in the header of a file."""


def shortened(value: object, most: int = 60) -> str:
    """A header value as JSON for messages, cut at `most` characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_count(value: object, least: int, most: int) -> bool:
    """True for an integer from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


# Weights

_LARGEST_HEADER = 100_000_000
"""Maximum bytes of a header, the limit of safetensors itself."""


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
    """Read the header of a safetensors file: tensors by name, and the offset of the data in bytes.

    Raises:
        ModelError: if it is not a safetensors file, or is cut short.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > length:
                # Reported below, like the other faults.
                raise ValueError(f"cut short, its header alone is longer than its {length:,} bytes")
            if size > _LARGEST_HEADER:
                raise ValueError(f"its header has {size:,} bytes")
            header = json.loads(stream.read(size), object_pairs_hook=_without_doubles)
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")  # noqa: TRY004 -- caught below, like the other faults
        header.pop("__metadata__", None)
        end = 8 + size + _end(header)
        if end > length:
            raise ValueError(f"cut short, {length:,} of {end:,} bytes")
    except RecursionError:
        raise ModelError(
            Problem(str(file), "not a safetensors file: its header is nested too deeply", remedy)
        ) from None
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
        raise ValueError(f"its header has `{name[:100]}` twice")
    return values


FREEDOM = 8
"""Factor by which a configured size may exceed the largest tensor dimension: some tensors are stored in parts."""


def largest_side(tensors: Mapping[str, Mapping[str, Any]]) -> int:
    """The largest dimension of any tensor of a header, a bound for the sizes in the configuration."""
    return max((side for entry in tensors.values() for side in entry["shape"]), default=0)


def _end(header: Mapping[str, Any]) -> int:
    """Offset of the end of the last tensor. Raises `ValueError` if an entry is invalid or two tensors overlap."""
    places = sorted(_place(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop, name in places:
        if begin < end:
            raise ValueError(f"`{name}` overlaps another tensor")
        end = stop
    return end


def _place(name: str, entry: Any) -> tuple[int, int, str]:
    """Begin, end (exclusive) and name of a tensor. Raises `ValueError` if its entry is invalid."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str):
        raise ValueError(f"`{name}` has no dtype")  # noqa: TRY004 -- caught above, like the other faults
    if not isinstance(shape, list) or not all(is_count(side, 0, 2**48) for side in shape):
        raise ValueError(f"the shape of `{name}` is {shortened(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(place, 0, 2**60) for place in offsets):
        raise ValueError(f"the offsets of `{name}` are {shortened(offsets)}")
    begin, end = offsets
    numbers = 1
    for side in shape:
        numbers *= side
    if dtype in _BITS and numbers * _BITS[dtype] != 8 * (end - begin):
        raise ValueError(
            f"`{name}` has {end - begin:,} bytes, which does not match its shape {shortened(shape)} in {dtype}"
        )
    if end < begin:
        raise ValueError(f"`{name}` ends before it begins")
    return begin, end, name
