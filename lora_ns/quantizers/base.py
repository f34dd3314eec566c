"""What a way of keeping the base in few bits answers."""

from __future__ import annotations

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
"""By torch's names of types, those of safetensors."""


class Quantizer(Table):
    """What all share beside `method` and `bits`, which of some is a key.

    A base is quantised when it is loaded, or is stored so: what its settings and tensors say is asked here as well.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """What has to be installed beside what every run needs, by import name."""
    extra: ClassVar[str] = ""
    """The extra of this package that brings them, if there is one."""
    library: ClassVar[str] = ""
    """The library by whose name it is told, where that is not its own."""
    is_usual: ClassVar[bool] = False
    """Whether it is meant where a number of bits is told and no name."""

    capability: ClassVar[str] = ""
    """The field of `Capabilities` that says whether a PEFT method trains over such layers."""
    capability_with_biases: ClassVar[str] = ""
    """The field that says so of such layers that have biases, where that is another thing."""
    has_norms: ClassVar[bool] = True
    """Whether PEFT unpacks the norms of such weights, which DoRA needs."""
    can_be_divided: ClassVar[bool] = False
    """Whether FSDP, DeepSpeed and context parallelism train over such layers."""
    float16_on_gpu: ClassVar[str] = ""
    """What computes in float16 alone on a GPU, if something does."""

    quant_method: ClassVar[str] = ""
    """What the `quantization_config` of a stored base calls it; nothing where no base is stored so."""
    only_stored: ClassVar[bool] = False
    """Whether it takes data to make, so that a base has to be stored so."""
    packed_weight: ClassVar[str] = ""
    """How the name of a packed weight ends, where it is stored under another than the plain weight."""
    packed_beside: ClassVar[tuple[str, ...]] = ()
    """How the names of the tensors end that are stored beside it."""

    def works_under(self, method: PeftMethod) -> bool | str:
        """Whether a PEFT method trains over such layers, or why it does not."""
        return getattr(method.capabilities, self.capability) if self.capability else True

    def works_with_biases_under(self, method: PeftMethod) -> bool | str:
        """Whether it does so where layers have biases, or why it does not."""
        return getattr(method.capabilities, self.capability_with_biases) if self.capability_with_biases else True

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:
        """The `quantization_config` by which transformers quantises a base that it loads.

        Args:
            whole: full names of the modules that stay as they are.
            dtype: what is computed in.
            divided: whether the trainer divides the weights among processes.
        """
        raise NotImplementedError(f"{type(self).__name__} is how a base is stored")

    def stored_settings(self) -> Any:
        """What is added to the settings that a stored base has; None for nothing."""

    @classmethod
    def is_named_by(cls, settings: Mapping[str, Any]) -> bool:
        """Whether the settings of a stored base are of this kind."""
        return bool(cls.quant_method) and settings.get("quant_method") == cls.quant_method

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:  # noqa: ARG003 -- for kinds that bases are stored in
        """What the settings of a stored base say in the words of a recipe, or why nothing here trains over it."""
        return "over which nothing here trains"

    @classmethod
    def plain_tensors(cls, tensors: Tensors, content: Callable[[str], bytes]) -> Tensors:  # noqa: ARG003 -- for notes
        """The tensors of a weight file with the plain shapes and types that the file itself notes of such weights.

        Args:
            tensors: what the file's header says of them.
            content: the bytes of a tensor by its name.

        Raises:
            ValueError: because of a note that cannot be read.
        """
        return tensors

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:  # noqa: ARG003 -- for kinds that pack several into one
        """The shape of a weight by that of its packed tensor."""
        return shape

    @classmethod
    def is_linear(cls, module: torch.nn.Module) -> bool:  # noqa: ARG003 -- for kinds with classes of their own
        """Whether a module is a linear layer of this kind that is no `torch.nn.Linear`."""
        return False

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Have the layers of this kind compute as training needs it; no other is touched."""

    def in_full(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the weights that its layers compute with as plain numbers in float32."""
        plain: Any = model.dequantize().float()
        plain.is_loaded_in_4bit = plain.is_loaded_in_8bit = False  # PEFT asks before it folds some methods in
        return plain


class NoQuantization(Quantizer):
    """The base keeps its own type."""

    bits: ClassVar[int | None] = None
    can_be_divided: ClassVar[bool] = True

    method: Literal["none"] = "none"
    """No quantisation."""
