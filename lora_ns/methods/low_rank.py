"""Relatives of LoRA: products, blocks, shared factors and other low-rank updates."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from lora_ns.methods.base import (
    CHANGED_IN_PLACE,
    PACKED_WEIGHTS,
    AdapterDropout,
    Divisor,
    InputDropout,
    LayeredMethod,
    Rank,
    Scale,
    TargetedMethod,
)
from lora_ns.methods.capabilities import ANOTHER_ADAPTER, READS_WEIGHTS, SHARES_PARAMETERS, Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape, balanced_factors, two_factors
from lora_ns.table import Fraction, Name, NonNegativeInt, PositiveInt


class LoHa(LayeredMethod):
    """The elementwise product of two low-rank updates, which has a higher rank at the same size."""

    config_class: ClassVar[str] = "LoHaConfig"
    config_file: ClassVar[str] = "tuners/loha/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=READS_WEIGHTS, typical_learning_rate=1e-3, convertible=True, nf4=PACKED_WEIGHTS
    )
    advice: ClassVar[str] = "for a higher rank than LoRA at the same size (Hyeon-Woo et al. 2022, arXiv 2108.06098)"

    method: Literal["loha"]
    """LoHa."""
    r: PositiveInt = 8
    """Rank of each factor."""
    alpha: PositiveInt = 16
    """Scale of the update: it is multiplied by `alpha / r`."""
    rank_dropout: Fraction = 0.0
    """Dropout on the rank."""
    module_dropout: AdapterDropout = 0.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two pairs of factors."""
        return 2 * two_factors(layer, self.r)


class LoKr(LayeredMethod):
    """The Kronecker product of two small matrices."""

    config_class: ClassVar[str] = "LoKrConfig"
    config_file: ClassVar[str] = "tuners/lokr/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=3e-3, convertible=True, nf4=PACKED_WEIGHTS
    )
    advice: ClassVar[str] = "for very few parameters, at a high learning rate (Yeh et al. 2024, arXiv 2309.14859)"

    method: Literal["lokr"]
    """LoKr."""
    r: PositiveInt = 8
    """Rank of the larger factor."""
    alpha: PositiveInt = 16
    """Scale of the update: it is multiplied by `alpha / r`."""
    rank_dropout: Fraction = 0.0
    """Dropout on the rank."""
    module_dropout: AdapterDropout = 0.0
    decompose_both: bool = False
    """Decompose the smaller factor into a low-rank product, too."""
    decompose_factor: int = -1
    """Size of the smaller factor; -1 for the square root of the layer's size."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the two factors of a Kronecker product, each of which may be a product of two itself."""
        (first, second), (third, fourth) = (
            balanced_factors(size, self.decompose_factor) for size in (layer.outputs, layer.inputs)
        )
        return [
            *self._factor(first, third, self.decompose_both),
            *self._factor(second, fourth, True),
        ]

    def _factor(self, rows: int, columns: int, may_divide: bool) -> list[Shape]:
        if may_divide and self.r < max(rows, columns) / 2:
            return [(rows, self.r), (self.r, columns)]
        return [(rows, columns)]


class HiRa(LayeredMethod):
    """A low-rank matrix multiplied elementwise with the base weights, which gives an update of full rank."""

    config_class: ClassVar[str] = "HiraConfig"
    config_file: ClassVar[str] = "tuners/hira/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=4.5e-3,
        torchao="PEFT multiplies the update with the base weights, which torchao's tensors do not support",
        benchmark="rank 32: 0.513 in 21 min and 22.0 GB",
    )
    advice: ClassVar[str] = "to come close to LoRA of rank 64 in PEFT's benchmark, at half the size (Huang et al. 2025)"

    method: Literal["hira"]
    """HiRA."""
    r: Rank = 32
    hira_dropout: InputDropout = 0.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two factors."""
        return two_factors(layer, self.r)


class GraLora(LayeredMethod):
    """LoRA in blocks: each layer is divided into a grid, with an adapter for each cell."""

    config_class: ClassVar[str] = "GraloraConfig"
    config_file: ClassVar[str] = "tuners/gralora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        quantized_biases=CHANGED_IN_PLACE, typical_learning_rate=2e-4, convertible=True
    )
    advice: ClassVar[str] = "for high ranks, at which LoRA no longer improves (Jung et al. 2025, arXiv 2505.20355)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("gralora_k", "both", 2),)
    sizes: ClassVar[frozenset[str]] = frozenset({"hybrid_r"})

    method: Literal["gralora"]
    """GraLoRA."""
    r: PositiveInt = 32
    """Rank over all blocks, a multiple of `gralora_k`."""
    hybrid_r: NonNegativeInt = 0
    """Rank of a plain LoRA in addition to the blocks."""
    alpha: PositiveInt = 64
    """Scale of the update: it is multiplied by `alpha / (r + hybrid_r)`."""
    gralora_k: PositiveInt = 2
    """Number of blocks along each side of a layer."""
    gralora_dropout: InputDropout = 0.0

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of the factors of each block of a layer, and of LoRA's for `hybrid_r`."""
        parts, found = self.fitting(adapted, self.gralora_k), list[Shape]()
        if parts is None:
            return None
        for layer in adapted.layers:
            found += [(parts, layer.inputs // parts, self.r), (parts, self.r, layer.outputs // parts)]
            found += two_factors(layer, self.hybrid_r) if self.hybrid_r else []
        return found


class DeLora(LayeredMethod):
    """LoRA with a bounded distance from the base: direction and strength are learned separately."""

    config_class: ClassVar[str] = "DeloraConfig"
    config_file: ClassVar[str] = "tuners/delora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=READS_WEIGHTS,
        few_bits=PACKED_WEIGHTS,
        typical_learning_rate=1e-3,
        convertible=True,
    )
    advice: ClassVar[str] = "for robustness against high learning rates (Bini et al. 2025, arXiv 2503.18225)"

    method: Literal["delora"]
    """DeLoRA."""
    r: Rank = 16
    delora_lambda: PositiveInt = 15
    """Initial bound of the update."""
    module_dropout: AdapterDropout = 0.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two factors and a scale."""
        return [*two_factors(layer, self.r), (1,)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The norms of the columns of the weight."""
        return 4 * layer.inputs


class Miss(LayeredMethod):
    """One small matrix repeated along the layer, with fewer parameters and less memory than LoRA."""

    config_class: ClassVar[str] = "MissConfig"
    config_file: ClassVar[str] = "tuners/miss/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True,
        typical_learning_rate=2e-4,
        convertible=True,
        benchmark="0.487 in 15 min and 18.9 GB; `bat`: 0.504 in 23 min and 23.5 GB",
    )
    advice: ClassVar[str] = "for the least memory in PEFT's benchmark (Kang and Yin 2024, arXiv 2409.15371)"
    sizes: ClassVar[frozenset[str]] = frozenset({"mini_r"})

    method: Literal["miss"]
    """MiSS."""
    r: PositiveInt = 64
    """Number of rows of the matrix."""
    mini_r: PositiveInt = 1
    """Number of columns that share a value; only with `init_weights = \"mini\"`."""
    init_weights: Literal["balance", "bat", "mini"] = "balance"
    """Variant: `balance`, `bat`, which also uses the base weights, or `mini`, the smallest."""
    miss_dropout: InputDropout = 0.0

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.MissConfig`."""
        chosen = True if self.init_weights == "balance" else self.init_weights
        return {**super().to_kwargs(), "init_weights": chosen, **self.extra}

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of the one block of a layer."""
        shapes: dict[str, Shape] = {
            "balance": (self.r, layer.outputs),
            "bat": (layer.outputs // self.r, self.r, self.r),
            "mini": (self.r, self.mini_r),
        }
        return [shapes[self.init_weights]]


class Lily(LayeredMethod):
    """LoRA with second factors that all layers share and a router mixes."""

    config_class: ClassVar[str] = "LilyConfig"
    config_file: ClassVar[str] = "tuners/lily/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS,
        typical_learning_rate=5e-4,
        merge="a router mixes its factors differently for every batch",
        packing="its router weights all rows and positions of a batch together, so documents would see one another",
        nf4="PEFT shares its factors among layers of equal packed shape, whose real shapes may differ",
        benchmark="rank 140 on the feed-forward layers: 0.526 in 22 min and 23.9 GB",
    )
    advice: ClassVar[str] = (
        "for the best result in PEFT's benchmark, at ten times the size; the output for a row depends on its batch "
        "(Zhong et al. 2024, arXiv 2407.09946)"
    )
    sizes: ClassVar[frozenset[str]] = frozenset({"num_B"})

    method: Literal["lily"]
    """Lily."""
    r: Rank = 32
    stride_A: PositiveInt = 1  # noqa: N815 -- PEFT's name
    """Number of neighbouring layers that share a first factor."""
    num_B: PositiveInt = 2  # noqa: N815 -- PEFT's name
    """Number of second factors, which all layers share."""
    scaling: Scale = 1.0

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of a router for each layer, and of factors that layers of one name and shape share."""
        found, groups = list[Shape](), Counter[tuple[str, int, int]]()
        for layer in adapted.layers:
            key = (layer.target, layer.inputs, layer.outputs)
            if groups[key] == 0:
                found.append((self.num_B * self.r, layer.outputs))
            if groups[key] % self.stride_A == 0:
                found.append((self.r, layer.inputs))
            groups[key] += 1
            found.append((self.num_B, self.r))
        return found


class Peanut(LayeredMethod):
    """A small network that computes the update from the base weights."""

    config_class: ClassVar[str] = "PeanutConfig"
    config_file: ClassVar[str] = "tuners/peanut/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=2e-4)
    advice: ClassVar[str] = "for updates that depend on the weights (Zhong et al. 2024, arXiv 2410.01870)"

    method: Literal["peanut"]
    """PEANuT."""
    r: PositiveInt = 32
    """Width of the network."""
    depth: NonNegativeInt = 0
    """Number of hidden layers on each side of the network."""
    act_fn: Name = "relu"
    """Activation function of the network."""
    scaling: Scale = 1.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of a network from the outputs to the outputs."""
        inner: list[Shape] = [(self.r, self.r)] * (2 * self.depth)
        return [(self.r, layer.outputs), *inner, (layer.outputs, self.r)]


class Glora(TargetedMethod):
    """Scales and shifts of weights and biases in addition to a low-rank update."""

    config_class: ClassVar[str] = "GloraConfig"
    config_file: ClassVar[str] = "tuners/glora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=1e-3)
    advice: ClassVar[str] = "for small layers; its adapters are large (Chavan et al. 2023, arXiv 2306.07967)"

    method: Literal["glora"]
    """GLoRA."""
    r: PositiveInt = 8
    """Rank of the low-rank parts."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two updates of the weight, and for a layer with a bias of its three changes."""
        of_bias: list[Shape] = [(layer.inputs, self.r), (self.r, 1), (1,), (1,)]
        return 2 * two_factors(layer, self.r) + (of_bias if layer.has_bias else [])

    def frozen_bytes_in(self, layer: Layer) -> int:
        """Zeros in place of the changes of an absent bias."""
        return 0 if layer.has_bias else 4 * (layer.inputs + 2 * layer.outputs)


class Deft(LayeredMethod):
    """Replaces a subspace of the base weights with a learned one."""

    config_class: ClassVar[str] = "DeftConfig"
    config_file: ClassVar[str] = "tuners/deft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER, few_bits=PACKED_WEIGHTS, typical_learning_rate=2e-4
    )
    advice: ClassVar[str] = "to replace knowledge of the base instead of adding to it (PEFT 0.21)"

    method: Literal["deft"]
    """DEFT."""
    r: PositiveInt = 8
    """Rank of the subspace."""
    decomposition_method: Literal["relu", "qr"] = "relu"
    """Computation of the subspace."""
    para: bool = False
    """Only remove the subspace, without a learned one in its place."""
    deft_dropout: InputDropout = 0.0

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two factors, or of one if `para` is set."""
        return [(layer.outputs, self.r)] if self.para else two_factors(layer, self.r)


class Osf(TargetedMethod):
    """Trains the smaller singular directions of the weights themselves and freezes the larger ones."""

    config_class: ClassVar[str] = "OSFConfig"
    config_file: ClassVar[str] = "tuners/osf/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER, few_bits=PACKED_WEIGHTS, typical_learning_rate=5e-5
    )
    advice: ClassVar[str] = "to train one task after another without forgetting (Nayak et al. 2025, arXiv 2504.07097)"

    method: Literal["osf"]
    """OSF."""
    effective_rank: PositiveInt | Fraction | None = None
    """Frozen directions, as a number or a fraction; default: half of them."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the trained part of the singular value decomposition."""
        rank = self._rank_in(layer)
        return [(layer.outputs, rank), (rank,), (rank, layer.inputs)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The initial values of the trained part, the other directions of the longer side, and its values."""
        smaller, larger = sorted((layer.inputs, layer.outputs))
        rank = self._rank_in(layer)
        others = larger * (smaller - rank) if smaller != larger else 0
        return 4 * (rank * (layer.inputs + layer.outputs + 1) + others + smaller - rank)

    def _rank_in(self, layer: Layer) -> int:
        least = min(layer.inputs, layer.outputs)
        kept = least // 2 if self.effective_rank is None else self.effective_rank
        return least - (int(kept * least) if 0 < kept < 1 else min(int(kept), least))
