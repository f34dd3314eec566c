"""The values of the base's parameters, as training had them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lora_ns.merging.few_bits import FewBits
from lora_ns.merging.layout import Layout
from lora_ns.merging.layout import Tensor as Place
from lora_ns.merging.packed import Packed
from lora_ns.merging.pool import Pool
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.stored import BLOCK, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class Values:
    """Reads the parameters of a base: from its files, in the dtype of training, then in float32."""

    def __init__(self, layout: Layout, skeleton: PreTrainedModel, quantised: Mapping[str, FewBits | Packed]) -> None:
        self._skeleton = skeleton
        self._quantised = quantised
        self._places = dict(layout.parameters)
        for name, source in skeleton.all_tied_weights_keys.items():
            kept = self._places.get(name) or self._places.get(source)
            self._places |= {} if kept is None else {name: kept, source: kept}
        self._assemblies = layout.assemblies
        self._dtypes = {name: value.dtype for name, value in skeleton.state_dict().items()}
        self.pool = Pool()

    def whole(self, parameter: str) -> Tensor:
        """Return a parameter. Raises `WholeModelError` if no adapter may change it, because it has no tensor."""
        import torch

        place, stored = self._place(parameter), self._stored(parameter)
        if place.parameter in self._quantised or stored.dtype not in {"BF16", "F16"}:
            return self._settled(place, stored.read())
        found = self.pool.empty(place.shape, torch.float32)  # without a second copy
        for part, block in zip(torch.split(found.view(-1), BLOCK), stored.blocks(BLOCK), strict=True):
            part.copy_(block.to(getattr(torch, place.dtype)))
        return found

    def assembled(self, parameter: str) -> Tensor:
        """Return a parameter that no adapter changes, put together from several tensors if that is needed."""
        if parameter not in self._assemblies:
            return self.whole(parameter)
        return self.in_training(parameter).float()

    def in_training(self, parameter: str) -> Tensor:
        """Return a parameter as the base has it in training, mapped from its file if that has the same dtype."""
        assembly, dtype = self._assemblies.get(parameter), self._dtypes[parameter]
        if assembly is None:
            value, quantised = self._stored(parameter).read().to(dtype), self._quantised.get(parameter)
            return value if quantised is None else quantised.values(value).to(dtype)
        values = (stored.read().to(dtype) for _, _, stored in assembly.parts)
        found: Tensor = assembly.convert(parameter, values, self._skeleton)[parameter]
        return found

    def is_quantised(self, parameter: str) -> bool:
        """True for the weight of a layer that training quantised."""
        return parameter in self._quantised

    def layer(self, parameter: str) -> nn.Module:
        """Return the quantised layer of a weight, which computes as in training."""
        bias = f"{parameter.removesuffix('.weight')}.bias"
        weight = self._in_training(self._place(parameter), self._stored(parameter).read())
        return self._quantised[parameter].layer(weight, self.whole(bias) if bias in self._dtypes else None)

    def dtype(self, parameter: str) -> str:
        """Return the dtype in which training had a parameter."""
        return str(self._dtypes[parameter]).removeprefix("torch.")

    def rows(self, parameter: str, ids: Tensor | slice) -> Tensor:
        """Return rows of a parameter. Only these are read."""
        place = self._place(parameter)
        if place.parameter in self._quantised:
            return self.whole(parameter)[ids]
        return self._settled(place, self._stored(parameter).read()[ids])

    def blocks(self, place: Place) -> Iterator[Tensor]:
        """Yield the values of a tensor of the merged model that no adapter changes, in flat blocks."""
        import torch

        if place.stored is None:
            raise WholeModelError(f"the base does not have `{place.name}`, and the adapter does not train it")
        if place.parameter in self._quantised:
            yield self._settled(place, place.stored.read())
            return
        for block in place.stored.blocks(BLOCK):
            yield block.to(getattr(torch, place.dtype)) if block.is_floating_point() else block

    def _place(self, parameter: str) -> Place:
        if parameter not in self._places:
            raise WholeModelError(f"`{parameter}` is not a tensor of its own in the base")
        return self._places[parameter]

    def _stored(self, parameter: str) -> Stored:
        stored = self._place(parameter).stored
        if stored is None:
            raise WholeModelError(f"the base does not have `{parameter}`, and the adapter does not train it")
        return stored

    def _settled(self, place: Place, values: Tensor) -> Tensor:
        import torch

        if not values.is_floating_point():
            return values
        values = self._in_training(place, values)
        quantised = self._quantised.get(place.parameter or "")
        if quantised is None:
            return self.pool.cast(values, torch.float32)
        self.pool.clear()  # to quantise takes as much memory as to merge
        return quantised.values(values).float()

    def _in_training(self, place: Place, values: Tensor) -> Tensor:
        import torch

        return values.to(getattr(torch, place.dtype))
