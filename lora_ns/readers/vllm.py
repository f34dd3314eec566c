"""vLLM: `--enable-lora`, with the folder as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from lora_ns.readers.adapter import Adapter, Layer
from lora_ns.readers.base import Field, Finding, LoraReader, Stored, merge_remedy, trained_formula
from lora_ns.readers.starts import moved_base

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank` (`vllm/config/lora.py`)."""


DEFAULT_RANK = 16
"""`--max-lora-rank` if it is not given."""


class Vllm(LoraReader):
    """vLLM up to 0.26, and the development version after it.

    Source: `vllm/lora/peft_helper.py`, which keeps the fields that it knows, `vllm/lora/utils.py` for names,
    `vllm/config/lora.py` for ranks. The development version applies rank and alpha patterns, and refuses
    initialisations that change the base, `layer_replication` and activated LoRA.
    """

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    described: ClassVar[str] = "up to 0.26; the development version where it differs"
    ignored: ClassVar[Sequence[str]] = ("rank_pattern", "alpha_pattern")
    fields: ClassVar[Sequence[Field]] = (
        Field("use_dora", "refused", "does not read DoRA"),
        Field("modules_to_save", "refused", "does not read modules that were trained in full"),
        Field("bias", "refused", "does not read trained biases", lambda value: value not in (None, "none")),
        Field("lora_bias", "refused", "does not read biases of the factors"),
        Field("use_qalora", "refused", "does not read QA-LoRA, whose first factor has fewer columns than the layer"),
        Field("use_bdlora", "refused", "does not read block-diagonal factors"),
        Field(
            "layer_replication",
            "wrong",
            "does not replicate the layers of the base, and leaves out the adapter's layers that the base lacks; "
            "the development version refuses it",
        ),
        Field(
            "alora_invocation_tokens",
            "wrong",
            "applies the adapter to the whole prompt, not from the invocation tokens on; the development version "
            "refuses it",
        ),
    )
    stored: ClassVar[Sequence[Stored]] = (
        Stored(("magnitude", "other factor"), "refused", "has no place for a tensor of a variant of LoRA"),
        Stored(("factor bias", "bias"), "refused", "has no place for a bias"),
        Stored(("token rows",), "refused", "has no place for trained rows of single tokens"),
        Stored(("embedding", "norm", "other"), "refused", "reads factors only, and stops at any other tensor"),
    )

    def names(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield refusals of adapter names, and wrappers, with which it finds no module of the base."""
        for name in adapter.names:
            if name.adapter:
                what = f"stops at the adapter's name `{name.adapter}` within the names of tensors"
                yield Finding("refused", name.key, what, f"rename the tensors: leave out `.{name.adapter}`")
                return
            if name.wrapper:
                what = f"finds no module of the base with the prefix `{name.wrapper}`, so the adapter has no effect"
                yield Finding("wrong", name.key, what, f"rename the tensors: leave out `{name.wrapper}`")
                return

    def more(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield findings about required fields, ranks, initialisations and experts."""
        missing = [key for key in ("r", "lora_alpha", "target_modules") if adapter.config.get(key) is None]
        if missing:
            yield Finding("refused", missing[0], f"requires the field `{missing[0]}`", "add it to adapter_config.json")
        yield from self._rank(adapter)
        yield from moved_base(adapter, "; the development version refuses such an adapter, except for lora_ga")
        if adapter.config.get("target_parameters") and adapter.config.get("use_rslora"):
            what = "scales experts by lora_alpha / r, though the adapter was trained with lora_alpha / sqrt(r)"
            yield Finding("wrong", "target_parameters", what, merge_remedy(adapter))
        if adapter.of_kind("base layer"):
            what = "leaves out the stored copies of the base's weights: tokens that were added to the base are lost"
            yield Finding("right", adapter.of_kind("base layer")[0], what, "merge it if you added tokens")

    def _rank(self, adapter: Adapter) -> Iterator[Finding]:
        ranks: list[Any] = [adapter.r, *(layer.rank for layer in adapter.layers if layer.rank)]
        needed = max(ranks)
        allowed = next((rank for rank in RANKS if rank >= needed), None)
        if allowed is None:
            what = f"rank {needed} is above {RANKS[-1]}, the largest that it allows"
            yield Finding("refused", "r", what, merge_remedy(adapter))
        elif needed > DEFAULT_RANK:
            what = f"rank {needed} is above the {DEFAULT_RANK} of a server without options"
            yield Finding("right", "r", what, f"start it with `--max-lora-rank {allowed}`")

    def formula(self, adapter: Adapter) -> str:
        """Write how it scales, the same for every layer."""
        return trained_formula(adapter)

    def scale(self, adapter: Adapter, layer: Layer) -> float:
        """Return lora_alpha / r or lora_alpha / sqrt(r), the same for every layer."""
        del layer
        rank = adapter.r
        return adapter.lora_alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)
