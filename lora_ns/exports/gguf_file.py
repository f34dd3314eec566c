"""A merged model as a GGUF file, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import ModelError, Problem, RunError
from lora_ns.exports.gguf_settings import Family, family_of, frequencies_of, settings_of
from lora_ns.exports.gguf_tokens import Vocabulary

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
    from numpy.typing import NDArray

TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""Types that lorans writes itself, and llama.cpp's names of such files."""

_LARGEST_HALF = 65504.0
_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class Model:
    """What is written."""

    name: str
    config: Mapping[str, Any]
    """Configuration in transformers' current spelling."""
    vocabulary: Vocabulary


def write_model(file: Path, source: Path, model: Model, kind: str) -> int:
    """Write the weights of a merged model as a GGUF file. One tensor at a time is in memory.

    Args:
        file: the file to write.
        source: the folder with the weights, in safetensors.
        model: name, configuration and tokenizer.
        kind: one of `TYPES`.

    Returns:
        The number of tensors.

    Raises:
        RunError: if a weight has no such value in the type.
        ModelError: if a tensor has no place in the architecture.
    """
    import gguf

    family = family_of(model.config)
    assert family is not None, "the caller has checked it"
    writer = gguf.GGUFWriter(file, family.arch)
    try:
        _write_header(writer, family, model, kind)
        tensors = sorted(_named(source, family, model.config))
        extra = frequencies_of(model.config)
        if extra is not None:
            writer.add_tensor_info(_FREQUENCIES, extra.shape, extra.dtype, extra.nbytes)
        for tensor in tensors:
            shape, stored = tensor.shape, tensor.stored(kind)
            size = gguf.quant_shape_to_byte_shape(shape, stored)
            length = 1
            for side in size:
                length *= side
            writer.add_tensor_info(tensor.name, shape, _dtype(), length, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if extra is not None:
            writer.write_tensor_data(extra)
        for tensor in tensors:
            writer.write_tensor_data(tensor.data(family, model.config, kind))
    finally:
        writer.close()
    return len(tensors) + (extra is not None)


def _dtype() -> Any:
    """The type that `add_tensor_info` takes for shapes in values."""
    import numpy

    return numpy.dtype(numpy.float32)


def _write_header(writer: GGUFWriter, family: Family, model: Model, kind: str) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in settings_of(model.config).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{family.arch}.{key}", value)
    model.vocabulary.write(writer)


@dataclass(frozen=True, order=True)
class _Tensor:
    """A tensor in a file of safetensors, and its name in llama.cpp."""

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]

    def stored(self, kind: str) -> GGMLQuantizationType:
        """The type it is stored in: vectors in float32, and rows that do not divide into blocks in float16."""
        import gguf

        if len(self.shape) < 2 or self.name.endswith("_norm.weight"):
            return gguf.GGMLQuantizationType.F32
        wanted = gguf.GGMLQuantizationType[kind.upper()]
        block, _ = gguf.GGML_QUANT_SIZES[wanted]
        return wanted if self.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16

    def data(self, family: Family, config: Mapping[str, Any], kind: str) -> NDArray[Any]:
        """Its values as they are stored. Raises `RunError` if float16 does not hold one."""
        import gguf
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            value = opened.get_tensor(self.source).float().numpy()
        if family.permutes:
            value = permuted(self.name, value, config)
        stored = self.stored(kind)
        if stored == gguf.GGMLQuantizationType.F16 and abs(value).max(initial=0) > _LARGEST_HALF:
            what = f"`{self.source}` has values beyond those of float16"
            raise RunError(Problem("", what, "export it with `--type bf16` or `--type f32`"))
        data: NDArray[Any] = gguf.quants.quantize(value, stored)
        return data


def permuted(name: str, value: Any, config: Mapping[str, Any]) -> Any:
    """Return the rows of queries and keys in llama.cpp's order, in which it rotates neighbours; others as they are.

    Args:
        name: llama.cpp's name of the tensor.
        value: an array or a tensor whose first dimension is that of the outputs.
        config: the configuration.
    """
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    count = next((heads[part] for part in name.split(".") if part in heads), None)
    if count is None:
        return value
    halves = value.reshape(count, 2, value.shape[0] // count // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)


def _named(source: Path, family: Family, config: Mapping[str, Any]) -> Iterator[_Tensor]:
    """Yield the tensors of a folder with their names in llama.cpp. Raises `ModelError` for those without one."""
    from safetensors import safe_open

    names = tensor_names(family, config)
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                if config.get("tie_word_embeddings") and name == "lm_head.weight":
                    continue  # llama.cpp takes the embeddings
                ours = names(name)
                if ours is None:
                    what = f"`{name}` has no place in llama.cpp's architecture `{family.arch}`"
                    raise ModelError(Problem(str(source), what, "export it as a merged model instead: `--to merged`"))
                yield _Tensor(ours, name, file, tuple(opened.get_slice(name).get_shape()))


def tensor_names(family: Family, config: Mapping[str, Any]) -> Any:
    """Return a function from transformers' name of a tensor to llama.cpp's; to None if there is none."""
    import gguf

    arch = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)
    table = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def differing_setting(reader: GGUFReader, config: Mapping[str, Any]) -> str:
    """Return the first setting of a file that is not that of a configuration; empty if there is none."""
    import numpy

    family = family_of(config)
    arch = reader.get_field("general.architecture")
    name = None if arch is None else arch.contents()
    if family is None:
        return ""
    if name != family.arch:
        return f"the architecture is `{name}`, not `{family.arch}`"
    for key, expected in settings_of(config).items():
        entry = reader.get_field(f"{name}.{key}")
        found = None if entry is None else entry.contents()
        is_needed = key.startswith("rope.scaling.") and "yarn" not in key
        if found is None and is_needed:
            return f"`{key}` is missing, and is {expected} in the model"
        same = found == expected if isinstance(expected, (str, int)) else numpy.isclose(found or 0, expected, rtol=1e-6)
        if found is not None and not same:
            return f"`{key}` is {found}, not {expected}"
    return _differing_frequencies(reader, config)


def _differing_frequencies(reader: GGUFReader, config: Mapping[str, Any]) -> str:
    import numpy

    expected = frequencies_of(config)
    found = next((tensor.data for tensor in reader.tensors if tensor.name == _FREQUENCIES), None)
    if expected is None or found is None:
        return "" if expected is None and found is None else f"`{_FREQUENCIES}` is missing, or is not needed"
    is_same = found.shape == expected.shape and numpy.allclose(found, expected, rtol=1e-5)
    return "" if is_same else f"`{_FREQUENCIES}` scales the positions otherwise than the model"
