"""Updates that are sparse in a spectrum: Fourier, wavelets and circular convolutions."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.methods.base import CHANGED_IN_PLACE, Divisor, LayeredMethod, Scale
from lora_ns.methods.capabilities import STARTS_RANDOM, Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape
from lora_ns.table import Name, NonNegativeInt, PositiveInt


class FourierFt(LayeredMethod):
    """Trained Fourier coefficients of the update, at random frequencies."""

    config_class: ClassVar[str] = "FourierFTConfig"
    config_file: ClassVar[str] = "tuners/fourierft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        starts_at_base=STARTS_RANDOM,
        typical_learning_rate=3e-2,
        convertible=True,
        benchmark="0.000 to 0.096",
        sensitive=True,
    )
    advice: ClassVar[str] = (
        "for few parameters; very sensitive to learning rate and scale (Gao et al. 2024, arXiv 2405.03003)"
    )
    sizes: ClassVar[frozenset[str]] = frozenset({"n_frequency"})

    method: Literal["fourierft"]
    """FourierFT."""
    n_frequency: PositiveInt = 1000
    """Number of frequencies to train, at most the number of weights of a layer."""
    scaling: Scale = 150.0
    random_loc_seed: NonNegativeInt = 777
    """Seed of the frequencies."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of the trained coefficients."""
        return [(self.n_frequency,)]


class WaveFt(LayeredMethod):
    """Trained wavelet coefficients of the update, at random positions."""

    config_class: ClassVar[str] = "WaveFTConfig"
    config_file: ClassVar[str] = "tuners/waveft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=3e-3, convertible=True)
    advice: ClassVar[str] = "for more stable training than FourierFT (Bilican et al. 2025, arXiv 2505.12532)"
    sizes: ClassVar[frozenset[str]] = frozenset({"n_frequency"})

    method: Literal["waveft"]
    """WaveFT."""
    n_frequency: PositiveInt = 2592
    """Number of coefficients to train, at most the number of weights of a layer."""
    scaling: Scale = 25.0
    wavelet_family: Name = "db1"
    """Wavelet, by its PyWavelets name."""
    random_loc_seed: NonNegativeInt = 777
    """Seed of the positions."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of the trained coefficients."""
        return [(self.n_frequency,)]


class C3a(LayeredMethod):
    """Block-wise circular convolutions."""

    config_class: ClassVar[str] = "C3AConfig"
    config_file: ClassVar[str] = "tuners/c3a/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        starts_at_base=STARTS_RANDOM,
        quantized_biases=CHANGED_IN_PLACE,
        typical_learning_rate=1e-1,
        convertible=True,
        sensitive=True,
    )
    advice: ClassVar[str] = (
        "for a high rank with few parameters, at a very high learning rate (Chen et al. 2025, arXiv 2407.19342)"
    )
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("block_size", "both", 256),)

    method: Literal["c3a"]
    """C3A."""
    block_size: Literal["auto"] | PositiveInt = "auto"
    """Block size, a divisor of every side of every layer; `auto` chooses the largest such value up to 256."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of a kernel for each block of a layer."""
        side = self.fitting(adapted, None if self.block_size == "auto" else self.block_size) if adapted.layers else None
        if side is None:
            return None
        return [(layer.outputs // side, layer.inputs // side, side) for layer in adapted.layers]
