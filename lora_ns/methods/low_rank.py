"""Other updates of low rank: products, blocks, shared factors, and what is added to them."""

from __future__ import annotations

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
from lora_ns.table import Fraction, Name, NonNegativeInt, PositiveInt


class LoHa(LayeredMethod):
    """The elementwise product of two low-rank updates: a higher rank from as few parameters."""

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
    """The update is scaled by `alpha / r`."""
    rank_dropout: Fraction = 0.0
    """Dropout on the rank."""
    module_dropout: AdapterDropout = 0.0


class LoKr(LayeredMethod):
    """The Kronecker product of two small matrices."""

    config_class: ClassVar[str] = "LoKrConfig"
    config_file: ClassVar[str] = "tuners/lokr/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=3e-3, convertible=True, nf4=PACKED_WEIGHTS
    )
    advice: ClassVar[str] = "very few parameters; needs a high rate (Yeh et al. 2024, arXiv 2309.14859)"

    method: Literal["lokr"]
    """LoKr."""
    r: PositiveInt = 8
    """Rank of the larger factor."""
    alpha: PositiveInt = 16
    """The update is scaled by `alpha / r`."""
    rank_dropout: Fraction = 0.0
    """Dropout on the rank."""
    module_dropout: AdapterDropout = 0.0
    decompose_both: bool = False
    """Whether the smaller factor is a product of low rank, too."""
    decompose_factor: int = -1
    """Size of the smaller factor; -1 for the square root of the layer."""


class HiRa(LayeredMethod):
    """A low-rank update that is multiplied with the base weights: of full rank."""

    config_class: ClassVar[str] = "HiraConfig"
    config_file: ClassVar[str] = "tuners/hira/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=4.5e-3,
        torchao="PEFT multiplies the update with the base weights, which torchao's tensors do not take",
        benchmark="rank 32: 0.513 in 21 min and 22.0 GB",
    )
    advice: ClassVar[str] = "close to rank-64 LoRA in PEFT's benchmark at half the size (Huang et al. 2025)"

    method: Literal["hira"]
    """HiRA."""
    r: Rank = 32
    hira_dropout: InputDropout = 0.0


class GraLora(LayeredMethod):
    """LoRA in blocks: the layer is cut into a grid, each cell with an adapter of its own."""

    config_class: ClassVar[str] = "GraloraConfig"
    config_file: ClassVar[str] = "tuners/gralora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        quantized_biases=CHANGED_IN_PLACE, typical_learning_rate=2e-4, convertible=True
    )
    advice: ClassVar[str] = "for high ranks, where LoRA stops gaining (Jung et al. 2025, arXiv 2505.20355)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("gralora_k", "both", 2),)
    sizes: ClassVar[frozenset[str]] = frozenset({"hybrid_r"})

    method: Literal["gralora"]
    """GraLoRA."""
    r: PositiveInt = 32
    """Rank over all blocks; a multiple of `gralora_k`."""
    hybrid_r: NonNegativeInt = 0
    """Rank of a plain LoRA beside the blocks."""
    alpha: PositiveInt = 64
    """The update is scaled by `alpha / (r + hybrid_r)`."""
    gralora_k: PositiveInt = 2
    """Blocks along each side of a layer."""
    gralora_dropout: InputDropout = 0.0


class DeLora(LayeredMethod):
    """LoRA with a bounded distance from the base: direction and strength are learned apart."""

    config_class: ClassVar[str] = "DeloraConfig"
    config_file: ClassVar[str] = "tuners/delora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=READS_WEIGHTS,
        few_bits=PACKED_WEIGHTS,
        typical_learning_rate=1e-3,
        convertible=True,
    )
    advice: ClassVar[str] = "robust against high learning rates (Bini et al. 2025, arXiv 2503.18225)"

    method: Literal["delora"]
    """DeLoRA."""
    r: Rank = 16
    delora_lambda: PositiveInt = 15
    """Bound of the update at the beginning."""
    module_dropout: AdapterDropout = 0.0


class Miss(LayeredMethod):
    """One small matrix that is repeated along the layer: fewer parameters and less memory than LoRA."""

    config_class: ClassVar[str] = "MissConfig"
    config_file: ClassVar[str] = "tuners/miss/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True,
        typical_learning_rate=2e-4,
        convertible=True,
        benchmark="0.487 in 15 min and 18.9 GB; `bat`: 0.504 in 23 min and 23.5 GB",
    )
    advice: ClassVar[str] = "when memory is tight: the least of PEFT's benchmark (Kang and Yin 2024, arXiv 2409.15371)"
    sizes: ClassVar[frozenset[str]] = frozenset({"mini_r"})

    method: Literal["miss"]
    """MiSS."""
    r: PositiveInt = 64
    """Rows of the matrix."""
    mini_r: PositiveInt = 1
    """Columns that share a value; only with `init_weights = \"mini\"`."""
    init_weights: Literal["balance", "bat", "mini"] = "balance"
    """The plain form, the one that looks at the base weights, or the smallest one."""
    miss_dropout: InputDropout = 0.0

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.MissConfig`."""
        chosen = True if self.init_weights == "balance" else self.init_weights
        return {**super().to_kwargs(), "init_weights": chosen, **self.extra}


class Lily(LayeredMethod):
    """LoRA whose second factors are shared by all layers and mixed by a router."""

    config_class: ClassVar[str] = "LilyConfig"
    config_file: ClassVar[str] = "tuners/lily/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS,
        typical_learning_rate=5e-4,
        merge="a router mixes its factors anew for every batch",
        packing="its router weighs all rows and positions of a batch together, so documents would see one another",
        nf4="PEFT shares its factors among layers of the same packed shape, which are not always of the same shape",
        benchmark="rank 140 on the feed-forward layers: 0.526 in 22 min and 23.9 GB",
    )
    advice: ClassVar[str] = (
        "the best of PEFT's benchmark, at ten times the size; what a row gets depends on the others of its batch "
        "(Zhong et al. 2024, arXiv 2407.09946)"
    )
    sizes: ClassVar[frozenset[str]] = frozenset({"num_B"})

    method: Literal["lily"]
    """Lily."""
    r: Rank = 32
    stride_A: PositiveInt = 1  # noqa: N815 -- PEFT's name
    """Neighbouring layers that share a first factor."""
    num_B: PositiveInt = 2  # noqa: N815 -- PEFT's name
    """Second factors that all layers share."""
    scaling: Scale = 1.0


class Peanut(LayeredMethod):
    """A small network that makes the update out of the base weights."""

    config_class: ClassVar[str] = "PeanutConfig"
    config_file: ClassVar[str] = "tuners/peanut/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=2e-4)
    advice: ClassVar[str] = "for updates that follow the weights (Zhong et al. 2024, arXiv 2410.01870)"

    method: Literal["peanut"]
    """PEANuT."""
    r: PositiveInt = 32
    """Width of the network."""
    depth: NonNegativeInt = 0
    """Hidden layers on each side of it."""
    act_fn: Name = "relu"
    """Its activation."""
    scaling: Scale = 1.0


class Glora(TargetedMethod):
    """Scales and shifts of weights and biases beside a low-rank update."""

    config_class: ClassVar[str] = "GloraConfig"
    config_file: ClassVar[str] = "tuners/glora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(few_bits=PACKED_WEIGHTS, typical_learning_rate=1e-3)
    advice: ClassVar[str] = "for small layers; largest of its kind (Chavan et al. 2023, arXiv 2306.07967)"

    method: Literal["glora"]
    """GLoRA."""
    r: PositiveInt = 8
    """Rank of the low-rank parts."""


class Deft(LayeredMethod):
    """Takes a subspace out of the base weights and puts a learned one in its place."""

    config_class: ClassVar[str] = "DeftConfig"
    config_file: ClassVar[str] = "tuners/deft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER, few_bits=PACKED_WEIGHTS, typical_learning_rate=2e-4
    )
    advice: ClassVar[str] = "to replace what the base knows rather than to add (PEFT 0.21)"

    method: Literal["deft"]
    """DEFT."""
    r: PositiveInt = 8
    """Rank of the subspace."""
    decomposition_method: Literal["relu", "qr"] = "relu"
    """How the subspace is made."""
    para: bool = False
    """Only take out, put nothing in."""
    deft_dropout: InputDropout = 0.0


class Osf(TargetedMethod):
    """Trains the smaller singular directions of the weights themselves and keeps the larger ones."""

    config_class: ClassVar[str] = "OSFConfig"
    config_file: ClassVar[str] = "tuners/osf/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER, few_bits=PACKED_WEIGHTS, typical_learning_rate=5e-5
    )
    advice: ClassVar[str] = "for one task after the other, without forgetting (Nayak et al. 2025, arXiv 2504.07097)"

    method: Literal["osf"]
    """OSF."""
    effective_rank: PositiveInt | Fraction | None = None
    """Directions that are kept, as a number or a share; half of them if absent."""
