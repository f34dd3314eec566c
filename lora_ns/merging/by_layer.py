"""A model whose weights are read from their files when a module needs them, and leave memory when it has answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.merging.opening import quantization_of, read_base
from lora_ns.merging.pool import release
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.skeleton import attach, is_absent, without_weights
from lora_ns.merging.values import Values
from lora_ns.model.files import Base
from lora_ns.model.load import Loading

if TYPE_CHECKING:
    from torch import nn


def load_by_layer(base: Base, loading: Loading, adapter: Path | None = None) -> Any:
    """Load a model for forward passes on the CPU, of which only one module is in memory at a time.

    Args:
        base: the base, or a model without an adapter.
        loading: its dtype, task and quantisation. The device does not count.
        adapter: the folder of an adapter.

    Raises:
        WholeModelError: with the reason, if that is not possible.
    """
    if base.gguf_file or loading.added_tokens:
        raise WholeModelError("its weights are not in its files as they are computed with")
    if quantization_of(base, loading).rounds_inputs:
        raise WholeModelError("its layers round their inputs to 8 bits")
    attention = loading.attn_implementation
    loading = replace(loading, device="cpu", attn_implementation="sdpa" if attention.startswith("flash") else attention)
    skeleton, plan, values = read_base(base, loading)
    model: Any = without_weights(skeleton) if adapter is None else attach(skeleton, adapter)
    stored = {name for name, tensor in plan.parameters.items() if tensor.stored is not None}
    for path, module in skeleton.named_modules():  # by now it is inside the adapter
        where = f"{path.replace('.base_layer', '')}." if path else ""
        for name, _ in [*module.named_buffers(recurse=False)]:
            if f"{where}{name}" in stored:
                setattr(module, name, values.in_training(f"{where}{name}").clone())
        names = [name for name, value in module.named_parameters(recurse=False) if is_absent(value)]
        if names:
            held = _Held(values, {name: f"{where}{name}" for name in names})
            module.register_forward_pre_hook(held.read)
            module.register_forward_hook(held.free, always_call=True)
    return model.eval()


@dataclass
class _Held:
    """The parameters of a module while it computes."""

    values: Values
    names: Mapping[str, str]
    """Names of the parameters in the base, by their names in the module."""
    before: dict[str, Any] = field(default_factory=dict)

    def read(self, module: nn.Module, _: Sequence[Any]) -> None:
        """Read them."""
        import torch

        for name, whole in self.names.items():
            self.before[name] = getattr(module, name)
            value = torch.nn.Parameter(self.values.in_training(whole), requires_grad=False)
            module.register_parameter(name, value)

    def free(self, module: nn.Module, *_: Any) -> None:
        """Free them."""
        for name, value in self.before.items():
            module.register_parameter(name, value)
        self.before.clear()
        release()
