"""Rotations and reflections of the base weights, which keep the angles between their rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.methods.base import PACKED_WEIGHTS, Divisor, InputDropout, LayeredMethod, TargetedMethod
from lora_ns.methods.capabilities import Capabilities
from lora_ns.table import Fraction, PositiveInt


class Oft(LayeredMethod):
    """Rotations of blocks of the input."""

    config_class: ClassVar[str] = "OFTConfig"
    config_file: ClassVar[str] = "tuners/oft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True, typical_learning_rate=4e-4, benchmark="0.491 in 20 min and 20.8 GB"
    )
    advice: ClassVar[str] = (
        "keeps what the base knows; close to LoRA in PEFT's benchmark (Qiu et al. 2023, arXiv 2306.07280)"
    )
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("oft_block_size", "input", 32),)

    method: Literal["oft"]
    """OFT."""
    oft_block_size: PositiveInt = 32
    """Size of a block, which divides the input of every layer."""
    module_dropout: Fraction = 0.0
    """Share of the blocks that is left out in a step."""
    coft: bool = False
    """Bound the rotation."""
    block_share: bool = False
    """One rotation for all blocks of a layer."""
    use_cayley_neumann: bool = True
    """Approximate the inverse by a series: quicker."""


class Boft(LayeredMethod):
    """OFT with rotations in the form of butterflies."""

    config_class: ClassVar[str] = "BOFTConfig"
    config_file: ClassVar[str] = "tuners/boft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(gptq=True, typical_learning_rate=4e-4)
    advice: ClassVar[str] = "OFT with fewer parameters; slow (Liu et al. 2024, arXiv 2311.06243)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("boft_block_size", "input", 4),)

    method: Literal["boft"]
    """BOFT."""
    boft_block_size: PositiveInt = 4
    """Size of a block, which divides the input of every layer."""
    boft_n_butterfly_factor: PositiveInt = 1
    """Butterflies in a row."""
    boft_dropout: Fraction = 0.0
    """Share of the blocks that is left out in a step."""


class Hra(LayeredMethod):
    """A chain of reflections."""

    config_class: ClassVar[str] = "HRAConfig"
    config_file: ClassVar[str] = "tuners/hra/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=4e-4)
    advice: ClassVar[str] = "between LoRA and OFT (Yuan et al. 2024, arXiv 2405.17484)"

    method: Literal["hra"]
    """HRA."""
    r: PositiveInt = 8
    """Reflections; an even number begins with no change."""
    apply_GS: bool = False  # noqa: N815 -- PEFT's name
    """Make them orthogonal to one another."""


class Psoft(LayeredMethod):
    """A rotation among the main singular directions of a layer."""

    config_class: ClassVar[str] = "PsoftConfig"
    config_file: ClassVar[str] = "tuners/psoft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        few_bits=PACKED_WEIGHTS, typical_learning_rate=4e-4, convertible=True
    )
    advice: ClassVar[str] = "OFT with LoRA's cost (Wu et al. 2025, arXiv 2505.11235)"

    method: Literal["psoft"]
    """PSOFT."""
    r: PositiveInt = 32
    """Singular directions that are rotated."""
    psoft_alpha: PositiveInt = 32
    """The update is scaled by `psoft_alpha / r`."""
    psoft_orth: bool = True
    """Keep the rotation a rotation."""
    psoft_dropout: InputDropout = 0.0


class Road(TargetedMethod):
    """Rotations of pairs of outputs: very few parameters, batches of different adapters."""

    config_class: ClassVar[str] = "RoadConfig"
    config_file: ClassVar[str] = "tuners/road/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=3e-3)
    advice: ClassVar[str] = "to serve many adapters at once (Liao and Monz 2024, arXiv 2409.00119)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("group_size", "output", 64, even=True),)

    method: Literal["road"]
    """RoAd."""
    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    """How many parameters a pair has."""
    group_size: Literal["auto"] | PositiveInt = "auto"
    """Outputs in a group, an even divisor of the output of every layer; `auto` takes the largest up to 64 that is."""
