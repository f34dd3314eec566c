"""Rotations and reflections of the base weights, which preserve the angles between their rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.methods.base import PACKED_WEIGHTS, Divisor, InputDropout, LayeredMethod, TargetedMethod
from lora_ns.methods.capabilities import Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape
from lora_ns.table import Fraction, PositiveInt


class Oft(LayeredMethod):
    """Rotations of blocks of a layer's input."""

    config_class: ClassVar[str] = "OFTConfig"
    config_file: ClassVar[str] = "tuners/oft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True, typical_learning_rate=4e-4, benchmark="0.491 in 20 min and 20.8 GB"
    )
    advice: ClassVar[str] = (
        "to preserve knowledge of the base; close to LoRA in PEFT's benchmark (Qiu et al. 2023, arXiv 2306.07280)"
    )
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("oft_block_size", "input", 32),)

    method: Literal["oft"]
    """OFT."""
    oft_block_size: PositiveInt = 32
    """Block size. It must divide the input size of every layer."""
    module_dropout: Fraction = 0.0
    """Probability of skipping a block in a step."""
    coft: bool = False
    """Limit the rotation."""
    block_share: bool = False
    """Use one rotation for all blocks of a layer."""
    use_cayley_neumann: bool = True
    """Approximate the matrix inverse by a series, which is faster."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of the upper triangles of the blocks of each layer's rotation."""
        side = self.fitting(adapted, self.oft_block_size)
        if side is None:
            return None
        triangle = side * (side - 1) // 2
        return [(1 if self.block_share else layer.inputs // side, triangle) for layer in adapted.layers]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The indices of a block's upper triangle."""
        return 8 * self.oft_block_size * (self.oft_block_size - 1)


class Boft(LayeredMethod):
    """OFT with rotations factorised into butterfly matrices."""

    config_class: ClassVar[str] = "BOFTConfig"
    config_file: ClassVar[str] = "tuners/boft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(gptq=True, typical_learning_rate=4e-4)
    advice: ClassVar[str] = "for fewer parameters than OFT; slow (Liu et al. 2024, arXiv 2311.06243)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("boft_block_size", "input", 4),)

    method: Literal["boft"]
    """BOFT."""
    boft_block_size: PositiveInt = 4
    """Block size. It must divide the input size of every layer."""
    boft_n_butterfly_factor: PositiveInt = 1
    """Number of butterfly factors."""
    boft_dropout: Fraction = 0.0
    """Probability of skipping a block in a step."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of the blocks of each layer's rotations, and of the scales of its outputs."""
        side, found = self.fitting(adapted, self.boft_block_size), list[Shape]()
        if side is None:
            return None
        for layer in adapted.layers:
            found += [(self.boft_n_butterfly_factor, layer.inputs // side, side, side), (layer.outputs, 1)]
        return found

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The permutation of each rotation, as a matrix."""
        return 4 * self.boft_n_butterfly_factor * layer.inputs**2


class Hra(LayeredMethod):
    """A chain of Householder reflections."""

    config_class: ClassVar[str] = "HRAConfig"
    config_file: ClassVar[str] = "tuners/hra/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=4e-4)
    advice: ClassVar[str] = "for a middle way between LoRA and OFT (Yuan et al. 2024, arXiv 2405.17484)"

    method: Literal["hra"]
    """HRA."""
    r: PositiveInt = 8
    """Number of reflections. An even number leaves the base unchanged at initialisation."""
    apply_GS: bool = False  # noqa: N815 -- PEFT's name
    """Orthogonalise the reflections."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of the vectors of the reflections."""
        return [(layer.inputs, self.r)]


class Psoft(LayeredMethod):
    """A rotation among the largest singular directions of a layer."""

    config_class: ClassVar[str] = "PsoftConfig"
    config_file: ClassVar[str] = "tuners/psoft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        few_bits=PACKED_WEIGHTS, typical_learning_rate=4e-4, convertible=True
    )
    advice: ClassVar[str] = "for OFT at the cost of LoRA (Wu et al. 2025, arXiv 2505.11235)"

    method: Literal["psoft"]
    """PSOFT."""
    r: PositiveInt = 32
    """Number of singular directions to rotate."""
    psoft_alpha: PositiveInt = 32
    """Scale of the update: it is multiplied by `psoft_alpha / r`."""
    psoft_orth: bool = True
    """Constrain the learned matrix to a rotation."""
    psoft_dropout: InputDropout = 0.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of a rotation between two factors, and of the scales on its sides."""
        rotation: Shape = (self.r * (self.r - 1) // 2,) if self.psoft_orth else (self.r, self.r)
        return [rotation, (self.r,), (self.r,)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The two factors, and the indices of the rotation's upper triangle."""
        indices = 8 * self.r * (self.r - 1) if self.psoft_orth else 0
        return 4 * self.r * (layer.inputs + layer.outputs) + indices


class Road(TargetedMethod):
    """Rotations of pairs of outputs, with very few parameters; a batch can mix adapters."""

    config_class: ClassVar[str] = "RoadConfig"
    config_file: ClassVar[str] = "tuners/road/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=3e-3)
    advice: ClassVar[str] = "to serve many adapters at once (Liao and Monz 2024, arXiv 2409.00119)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("group_size", "output", 64, even=True),)

    method: Literal["road"]
    """RoAd."""
    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    """Variant, by the number of parameters for each pair."""
    group_size: Literal["auto"] | PositiveInt = "auto"
    """Group size, an even divisor of every layer's output size; `auto` chooses the largest such value up to 64."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of angles and scales."""
        size = {"road_1": layer.outputs // 2, "road_2": layer.outputs, "road_4": 2 * layer.outputs}[self.variant]
        return [(size,), (size,)]
