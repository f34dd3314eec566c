"""llama.cpp: an adapter in GGUF, written by its converter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from lora_ns.readers.adapter import Adapter, Layer
from lora_ns.readers.base import Field, Finding, LoraReader, Stored, merge_remedy
from lora_ns.readers.starts import moved_base

OTHER_SHAPES = (
    Field("use_qalora", "refused", "the first factor of QA-LoRA does not have the shape that it expects"),
    Field("use_bdlora", "refused", "block-diagonal factors do not have the shape that it expects"),
)
"""Variants of LoRA whose factors have other shapes."""


class LlamaCpp(LoraReader):
    """llama.cpp at commit 0b03adaa: `convert_lora_to_gguf.py`, then `--lora`.

    Source: the converter reads `lora_alpha`, the base's name and `alora_invocation_tokens` from the configuration, and
    pairs of factors from the weights. `src/llama-adapter.h` scales by lora_alpha / rank of the tensor, by 1 if
    lora_alpha is 0. `src/llama-adapter.cpp` skips norms.
    """

    name: ClassVar[str] = "llama.cpp"
    title: ClassVar[str] = "llama.cpp"
    described: ClassVar[str] = "convert_lora_to_gguf.py and llama-adapter.cpp at commit 0b03adaa"
    ignored: ClassVar[Sequence[str]] = ("use_rslora", "alpha_pattern", "rank_pattern")
    fields: ClassVar[Sequence[Field]] = (
        *OTHER_SHAPES,
        Field("layer_replication", "refused", "has no name for layers that the base does not have"),
        Field("target_parameters", "refused", "has no name for factors of experts that are stored as one tensor"),
        Field(
            "fan_in_fan_out",
            "refused",
            "transposes the layers of such a base (GPT-2), after which the factors do not fit them",
        ),
    )
    stored: ClassVar[Sequence[Stored]] = (
        Stored(("magnitude",), "refused", "its converter exits at the magnitudes of DoRA"),
        Stored(("other factor",), "refused", "its converter exits at a tensor of a variant of LoRA"),
        Stored(("factor bias", "bias"), "refused", "its converter exits at a bias"),
        Stored(("token rows",), "refused", "its converter exits at trained rows of single tokens"),
        Stored(("embedding", "other"), "refused", "its converter exits at any tensor that is no factor"),
        Stored(("norm",), "wrong", "converts trained norms, and skips them when it loads the adapter"),
    )

    def names(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield refusals of names that its converter cannot map."""
        return untranslated(adapter, "its converter does not know names with")

    def more(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield findings about required fields, unpaired factors, initialisations and the head."""
        if adapter.config.get("lora_alpha") is None:
            yield Finding("refused", "lora_alpha", "requires the field `lora_alpha`", "add it to adapter_config.json")
        yield from unpaired(adapter)
        yield from moved_base(adapter)
        heads = [layer for layer in adapter.layers if layer.kind == "lm_head"]
        if heads:
            what = "refuses factors of a head that the base ties to its embeddings"
            yield Finding("right", heads[0].module, what, f"if the base ties them, {merge_remedy(adapter)}")

    def scale(self, adapter: Adapter, layer: Layer) -> float:
        """Return lora_alpha / rank of the tensor."""
        return tensor_scale(adapter, layer)


def untranslated(adapter: Adapter, what: str) -> Iterator[Finding]:
    """Yield the refusal of the first name with the name of an adapter or of a wrapper; `what` precedes that part."""
    for name in adapter.names:
        if name.adapter or name.wrapper:
            part = f".{name.adapter}" if name.adapter else name.wrapper
            yield Finding("refused", name.key, f"{what} `{part}`", f"rename the tensors: leave out `{part}`")
            return


def tensor_scale(adapter: Adapter, layer: Layer) -> float:
    """Return the scale of `llama_adapter_lora_weight::get_scale`."""
    return adapter.lora_alpha / (layer.rank or layer.configured_rank) if adapter.lora_alpha else 1.0


def unpaired(adapter: Adapter) -> Iterator[Finding]:
    """Yield the refusal of a factor without the other."""
    for layer in adapter.layers:
        if layer.a is None or layer.b is None:
            what = f"stops at `{layer.module}`, which has only one of its two factors"
            yield Finding("refused", layer.a or layer.b or layer.module, what, "save the adapter again")
            return
