"""Ollama: `ADAPTER` with the folder in a Modelfile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from lora_ns.readers.adapter import Adapter, Layer
from lora_ns.readers.base import Field, Finding, LoraReader, Stored, in_a_copy, merge_remedy
from lora_ns.readers.llama_cpp import OTHER_SHAPES, tensor_scale, unpaired, untranslated
from lora_ns.readers.starts import moved_base

_LAYERS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
"""Layers whose names its converter translates."""


class Ollama(LoraReader):
    """Ollama's own converter of safetensors folders, and llama.cpp's loader.

    Source: `convert/convert.go`, where `lora_alpha` is a whole number and the base is of the architecture `llama` or
    `gemma2`; `convert/convert_llama_adapter.go` for names; `src/llama-adapter.cpp` of llama.cpp, which refuses
    whatever is no pair of factors. A GGUF file of llama.cpp's converter can be named instead of the folder.
    """

    name: ClassVar[str] = "ollama"
    title: ClassVar[str] = "Ollama"
    described: ClassVar[str] = "convert/ as of 2026"
    ignored: ClassVar[Sequence[str]] = ("use_rslora", "alpha_pattern", "rank_pattern")
    fields: ClassVar[Sequence[Field]] = (
        *OTHER_SHAPES,
        Field("layer_replication", "refused", "the base does not have the replicated layers"),
        Field("fan_in_fan_out", "refused", "reads adapters of Llama, Mistral and Gemma 2 only"),
        Field(
            "alora_invocation_tokens",
            "wrong",
            "applies the adapter to the whole prompt, not from the invocation tokens on",
        ),
    )
    stored: ClassVar[Sequence[Stored]] = (
        Stored(("magnitude",), "refused", "fails to load the magnitudes of DoRA"),
        Stored(("other factor",), "refused", "fails to load a tensor of a variant of LoRA"),
        Stored(("factor bias", "bias"), "refused", "fails to load a bias"),
        Stored(("token rows",), "refused", "fails to load trained rows of single tokens"),
        Stored(("base layer", "embedding", "norm", "other"), "refused", "fails to load any tensor that is no factor"),
    )

    def names(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield refusals of names that its converter does not translate."""
        return untranslated(adapter, "fails to load names with")

    def more(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield findings about alpha, layers, unpaired factors, shapes and initialisations."""
        yield from self._alpha(adapter)
        others = sorted({layer.kind for layer in adapter.layers} - _LAYERS)
        if others:
            what = f"has no name for adapters of `{others[0]}`" + (f" and {len(others) - 1} more" if others[1:] else "")
            yield Finding("refused", others[0], what, merge_remedy(adapter))
        yield from unpaired(adapter)
        yield from self._shapes(adapter)
        yield from moved_base(adapter)
        yield Finding(
            "right",
            "",
            "reads folders for bases of the architectures `llama` (Llama, Mistral) and `gemma2` only, and its "
            "converter reorders the first factors of q_proj and k_proj, which we have not measured",
            "convert it by llama.cpp's `convert_lora_to_gguf.py`, and name the GGUF file in the Modelfile",
        )

    def _alpha(self, adapter: Adapter) -> Iterator[Finding]:
        alpha = adapter.config.get("lora_alpha", 0)
        if isinstance(alpha, float) or (alpha or 0) < 0:
            is_whole = float(alpha).is_integer() and alpha >= 0
            write = in_a_copy(adapter, f'write `"lora_alpha": {alpha:.0f}`')
            remedy = write if is_whole else merge_remedy(adapter)
            yield Finding("refused", "lora_alpha", f"`lora_alpha` is {alpha}; it reads whole numbers only", remedy)

    def _shapes(self, adapter: Adapter) -> Iterator[Finding]:
        for layer in adapter.layers:
            if layer.a is None or layer.b is None or layer.rank is None:
                continue
            first, second = adapter.tensors[layer.a]["shape"], adapter.tensors[layer.b]["shape"]
            if first[0] > first[-1] or second[0] < second[-1]:
                what = (
                    f"takes the factors of `{layer.module}` for transposed ones of MLX, since its rank exceeds its size"
                )
                yield Finding("refused", layer.module, what, merge_remedy(adapter))
                return

    def takes_alpha(self, alpha: float) -> bool:
        """True for whole numbers."""
        return alpha > 0 and alpha.is_integer()

    def scale(self, adapter: Adapter, layer: Layer) -> float:
        """Return lora_alpha / rank of the tensor; 1 if the field is absent."""
        return 1.0 if adapter.config.get("lora_alpha") is None else tensor_scale(adapter, layer)
