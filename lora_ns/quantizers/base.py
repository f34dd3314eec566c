"""The base class of quantisers: the hooks that the rest of lorans calls, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.files.safetensors import Tensors
from lora_ns.methods import PeftMethod
from lora_ns.table import Table

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self


DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Names of dtypes in safetensors, by their names in torch."""


def bytes_of_rows(shape: Sequence[int]) -> int:
    """Bytes of a weight with a byte for each entry, and a float32 for each output."""
    return math.prod(shape) + 4 * shape[0]


class Quantizer(Table):
    """Base class of quantisers. Each adds `method` and `bits`, which may be a key.

    A base is quantised when it is loaded, or it is stored quantised; the class also reads stored settings and tensors.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages it needs in addition to those of every run, by import name."""
    extra: ClassVar[str] = ""
    """Extra of this package that installs them, if there is one."""
    library: ClassVar[str] = ""
    """Name of the library for messages, if it differs from the method's."""
    is_usual: ClassVar[bool] = False
    """True for the default quantiser of a number of bits."""

    capability: ClassVar[str] = ""
    """Field of `Capabilities` for training over its layers."""
    capability_with_biases: ClassVar[str] = ""
    """Field of `Capabilities` for training over its layers with biases, if that differs."""
    has_norms: ClassVar[bool] = True
    """True if PEFT can compute the norms of its weights, as DoRA needs."""
    rounds_inputs: ClassVar[bool] = False
    """True if its layers also round their inputs, so that dequantised weights give slightly other answers."""
    can_be_divided: ClassVar[bool] = False
    """True if its layers train with FSDP, DeepSpeed and context parallelism."""
    float16_on_gpu: ClassVar[str] = ""
    """Name of its kernels if they support only float16 on a GPU."""

    leaves: ClassVar[frozenset[str]] = frozenset()
    """Kinds of linear layers that it does not quantise: `Conv1D` of GPT-2, `subclasses` of `torch.nn.Linear`."""

    quant_method: ClassVar[str] = ""
    """Its name in the `quantization_config` of a stored base; empty if bases are never stored this way."""
    only_stored: ClassVar[bool] = False
    """True if quantising needs data, so that a base must be stored quantised."""
    packed_weight: ClassVar[str] = ""
    """Suffix of a packed weight's name, if it differs from that of a plain weight."""
    packed_beside: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the tensors that are stored with a packed weight."""

    def works_under(self, method: PeftMethod) -> bool | str:
        """True if a PEFT method trains over its layers, otherwise the reason why not."""
        return getattr(method.capabilities, self.capability) if self.capability else True

    def works_with_biases_under(self, method: PeftMethod) -> bool | str:
        """True if a PEFT method trains over its layers with biases, otherwise the reason why not."""
        return getattr(method.capabilities, self.capability_with_biases) if self.capability_with_biases else True

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:
        """The `quantization_config` with which transformers quantises a base while loading it.

        Args:
            whole: full names of the modules to leave unquantised.
            dtype: dtype of the computation.
            divided: True if the trainer shards the weights among processes.
        """
        raise NotImplementedError(f"{type(self).__name__} only reads stored bases")

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a quantised weight with its scales, by the shape of the weight."""
        raise NotImplementedError(f"{type(self).__name__} does not quantise")

    def stored_settings(self) -> Any:
        """Settings to add to those of a stored base; None for nothing."""

    @classmethod
    def is_named_by(cls, settings: Mapping[str, Any]) -> bool:
        """True if the settings of a stored base name this quantiser."""
        return bool(cls.quant_method) and settings.get("quant_method") == cls.quant_method

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:  # noqa: ARG003 -- for quantisers that bases are stored in
        """Convert the settings of a stored base to the recipe's table, or return the reason why lorans refuses it."""
        return "over which lorans does not train"

    @classmethod
    def plain_tensors(cls, tensors: Tensors, content: Callable[[str], bytes]) -> Tensors:  # noqa: ARG003 -- for metadata
        """The tensors of a weight file with their unquantised shapes and dtypes, if the file contains them.

        Args:
            tensors: entries of the file's header.
            content: returns the bytes of a tensor by name.

        Raises:
            ValueError: if the file's description of a quantised weight is invalid.
        """
        return tensors

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:  # noqa: ARG003 -- for quantisers that pack weights
        """The shape of a weight, from that of its packed tensor."""
        return shape

    @classmethod
    def is_linear(cls, module: torch.nn.Module) -> bool:  # noqa: ARG003 -- for quantisers with their own classes
        """True for a linear layer of this quantiser that is not a `torch.nn.Linear`."""
        return False

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Prepare the layers of this quantiser for training; other layers stay as they are."""

    def in_full(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with dequantised weights in float32."""
        plain: Any = model.dequantize().float()
        plain.is_loaded_in_4bit = plain.is_loaded_in_8bit = False  # PEFT checks these when it merges some methods
        return plain


class NoQuantization(Quantizer):
    """No quantisation: the base keeps its dtype."""

    bits: ClassVar[int | None] = None
    can_be_divided: ClassVar[bool] = True

    method: Literal["none"] = "none"
    """No quantisation."""
