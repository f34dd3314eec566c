"""PEFT: `PeftModel.from_pretrained` on the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from lora_ns.files.safetensors import shortened
from lora_ns.readers.adapter import PROMPTS, Adapter
from lora_ns.readers.base import Finding, Reader, Severity, grouped, no_factors, shown_scales, trained_formula
from lora_ns.readers.starts import convert_remedy, start_of

TYPES = frozenset({
    *PROMPTS,
    *("ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "BONE", "C3A", "DEFT", "DELORA"),
    *("FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING"),
    *("LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "POLY", "PSOFT"),
    *("PVERA", "RANDLORA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA"),
    *("VBLORA", "VERA", "WAVEFT", "XLORA"),
})  # fmt: skip
"""Types of PEFT 0.21."""


class Peft(Reader):
    """PEFT 0.21, which every field of the configuration was made for.

    It does not stop at tensors without a place in the model, nor at places without a tensor: the first are left out in
    silence, the second keep their initial values, with a warning. What this class says was tried with it.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "PEFT"
    described: ClassVar[str] = "0.21"
    types: ClassVar[frozenset[str]] = TYPES
    needs_prefix: ClassVar[bool] = True
    """True if the tensors' names must begin with `base_model.model.`."""
    takes_adapter_name: ClassVar[bool] = True
    """True if names may hold the adapter's name, as those in memory do."""
    starts: ClassVar[Mapping[str, tuple[Severity, str]]] = {
        "corda": ("refused", "stops: CorDA needs the covariance of its training rows"),
        "lora_ga": ("wrong", "adds the adapter to the base as it is, but lora_ga changed the base before the training"),
        "pissa_niter": (
            "wrong",
            "approximates PiSSA again on loading, at random, so the base differs from that of the training",
        ),
        "pissa": ("right", "computes PiSSA again on loading, which needs the very base of the training"),
        "olora": ("right", "computes OLoRA again on loading, which needs the very base of the training"),
        "loftq": ("right", "computes LoftQ again on loading, which needs a GPU and the very base of the training"),
    }

    def read(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield what depends on the type, the initialisation, the names and the shapes; then the scale."""
        kind = adapter.peft_type
        if kind not in self.types:
            yield Finding("refused", "peft_type", *self.refusal(kind))
            return
        if known := self.starts.get(start_of(adapter)):
            severity, what = known
            yield Finding(severity, "init_lora_weights", what, convert_remedy(adapter))
        yield from self.names(adapter)
        yield from self._shapes(adapter)
        factors = grouped(adapter, lambda layer: layer.scale)
        if not factors:
            yield no_factors(adapter) if adapter.is_lora else Finding("right", "", f"reads the type {kind}")
            return
        what = f"scales by {trained_formula(adapter)} = {shown_scales(factors)}, as trained"
        yield Finding("right", "", what, factors=factors)

    def refusal(self, kind: str) -> tuple[str, str]:
        """Write why a type is refused, and what to do."""
        return f"does not know the type {shortened(kind)}", "install the version of PEFT that saved it"

    def names(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield names with which the tensors have no place in the model, so that the adapter has no effect."""
        for name in adapter.names:
            fault = name.wrapper or (f".{name.adapter}" if name.adapter and not self.takes_adapter_name else "")
            if fault:
                what = f"leaves out tensors with `{fault}` in their names, with a warning: the adapter has no effect"
                yield Finding("wrong", name.key, what, f"rename the tensors: leave out `{fault}`")
                return
            if self.needs_prefix and not name.has_prefix and adapter.is_lora and name.kind == "factor":
                what = "leaves out tensors without `base_model.model.`, with a warning: the adapter has no effect"
                yield Finding("wrong", name.key, what, "rename the tensors: put `base_model.model.` before each name")
                return

    def _shapes(self, adapter: Adapter) -> Iterator[Finding]:
        for layer in adapter.layers:
            if layer.rank is not None and layer.rank != layer.configured_rank:
                what = f"stops at `{layer.module}`: rank {layer.rank}, {layer.configured_rank} by the configuration"
                yield Finding("refused", layer.module, what, "write the rank of the tensors in adapter_config.json")
                return
