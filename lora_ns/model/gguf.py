"""The headers of GGUF files, read without importing torch."""

from __future__ import annotations

import functools
import importlib.util
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import MissingError, ModelError, Problem

ENDING = ".gguf"


_SPLIT = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")
"""Pattern of llama.cpp's names for parts of a split model."""


_SETTINGS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
"""Keys of `config.json` and llama.cpp's names for them, which follow the name of the architecture."""


_MODULES = (
    (r"^token_embd\.", "model.embed_tokens."),
    (r"^output\.", "lm_head."),
    (r"^output_norm\.", "model.norm."),
    (r"^blk\.", "model.layers."),
    (r"\.attn_(q|k|v)\.", r".self_attn.\1_proj."),
    (r"\.attn_output\.", ".self_attn.o_proj."),
    (r"\.ffn_(gate|up|down)\.", r".mlp.\1_proj."),
)
"""llama.cpp's module names, translated to those of transformers' decoders; other names stay."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file."""

    config: Mapping[str, Any]
    """The settings of `config.json` that are in the header."""
    tensors: Mapping[str, Mapping[str, Any]]
    """Dtype and shape of the weights, by transformers' names where those are known."""
    places: tuple[tuple[int, int], ...]
    """Offset and size of each weight, in bytes."""
    size: int
    """Size of the header in bytes."""
    tokenizer: tuple[str, str]
    """Type of the tokenizer and its pre-tokenizer, by llama.cpp's names."""
    scales_positions: bool
    """True if the positions are scaled (RoPE scaling), which transformers does not read from the header."""


def read_gguf(file: Path) -> GgufHeader:
    """Read the header of a GGUF file.

    Raises:
        ModelError: if it is not a GGUF file, or incomplete.
        MissingError: if the `gguf` package is not installed.
    """
    if _SPLIT.search(file.name):
        raise ModelError(
            Problem(
                str(file),
                "is one part of a model",
                "join the parts with `llama-gguf-split --merge`, and name the result",
            )
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingError(
            Problem(str(file), "a GGUF base needs `gguf`, which is not installed", "`pip install 'lora-ns[gguf]'`")
        )
    known = file.stat()
    return _read(file, known.st_size, known.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(file: Path, size: int, _changed: int) -> GgufHeader:
    from gguf import GGUFReader

    try:
        _check_lengths(file, size)
        reader = GGUFReader(file)
        header = _header(reader)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise ModelError(Problem(str(file), f"not a GGUF file: {error}", "fetch it again")) from None
    end = max((begin + count for begin, count in header.places), default=0)
    if end > size:
        raise ModelError(Problem(str(file), f"cut short, {size:,} of {end:,} bytes", "fetch it again"))
    return header


_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Size of a value in bytes, by its type code in the file."""


_STRING, _LIST = 8, 9


_LARGEST_HEADER = 256 * 2**20


_LONGEST_LIST = 2_000_000
"""Most values of one setting; the largest vocabularies have some hundred thousand."""


def _check_lengths(file: Path, size: int) -> None:
    """Verify the lengths in the header, which the `gguf` package trusts blindly. Raises `ValueError`."""
    with file.open("rb") as stream:
        data = stream.read(min(size, _LARGEST_HEADER))
    if data[:4] != b"GGUF":
        return  # the package reports it
    order = "<" if data[4:6] != b"\0\0" else ">"
    place = 8
    tensors, settings = struct.unpack_from(f"{order}QQ", data, place)
    place += 16
    for _ in range(settings):
        place = _after_text(data, order, place)
        (kind,) = struct.unpack_from(f"{order}I", data, place)
        place = _after_value(data, order, place + 4, kind)
    for _ in range(tensors):
        place = _after_text(data, order, place)
        (sides,) = struct.unpack_from(f"{order}I", data, place)
        place += 4 + 8 * sides + 12
        _check_place(data, place)


def _after_text(data: bytes, order: str, place: int) -> int:
    (length,) = struct.unpack_from(f"{order}Q", data, place)
    return _check_place(data, place + 8 + int(length))


def _after_value(data: bytes, order: str, place: int, kind: int) -> int:
    if kind == _STRING:
        return _after_text(data, order, place)
    if kind != _LIST:
        if kind not in _SCALARS:
            raise ValueError(f"a setting has the unknown type {kind}")
        return _check_place(data, place + _SCALARS[kind])
    inner, length = struct.unpack_from(f"{order}IQ", data, place)
    place += 12
    if length > _LONGEST_LIST:
        raise ValueError(f"a setting is a list of {length:,} values")
    if inner in _SCALARS:
        return _check_place(data, place + _SCALARS[inner] * int(length))
    if inner != _STRING:
        raise ValueError("a setting is a list of lists")
    for _ in range(length):
        place = _after_text(data, order, place)
    return place


def _check_place(data: bytes, place: int) -> int:
    if place > len(data):
        raise ValueError(f"its header is longer than its first {len(data):,} bytes")
    return place


def _header(reader: Any) -> GgufHeader:
    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    family = value("general.architecture")
    if not isinstance(family, str):
        raise ValueError("it names no architecture")  # noqa: TRY004 -- a fault of the file, like the others
    config = {key: value(f"{family}.{name}") for key, name in _SETTINGS.items()}
    tokens = reader.get_field("tokenizer.ggml.tokens")
    if config["vocab_size"] is None and tokens is not None:
        config["vocab_size"] = len(tokens.data)
    config |= {"model_type": family, "eos_token_id": value("tokenizer.ggml.eos_token_id")}
    names = [tensor.name for tensor in reader.tensors]
    return GgufHeader(
        config={key: entry for key, entry in config.items() if entry is not None},
        tensors={_module(tensor.name): _entry(tensor) for tensor in reader.tensors},
        places=tuple((int(tensor.data_offset), int(tensor.n_bytes)) for tensor in reader.tensors),
        size=int(reader.data_offset),
        tokenizer=(str(value("tokenizer.ggml.model")), str(value("tokenizer.ggml.pre"))),
        scales_positions="rope_freqs.weight" in names
        or value(f"{family}.rope.scaling.type") not in {None, "none"}
        or value(f"{family}.rope.scale_linear") not in {None, 1.0},
    )


def _entry(tensor: Any) -> dict[str, Any]:
    return {"dtype": tensor.tensor_type.name, "shape": [int(side) for side in reversed(tensor.shape)]}


def _module(name: str) -> str:
    for pattern, replacement in _MODULES:
        name = re.sub(pattern, replacement, name)
    return name
