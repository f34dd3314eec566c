"""Frozen random projections, or vectors that all layers share: few parameters, high learning rates."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.methods.base import Divisor, InputDropout, LayeredMethod, Rank
from lora_ns.methods.capabilities import ANOTHER_ADAPTER, READS_WEIGHTS, SHARES_PARAMETERS, Capabilities
from lora_ns.table import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Probability

_PACKED_WEIGHTS = "it decomposes the base weights, which are packed in a few bits"


class SharedMatrices(LayeredMethod):
    """Two vectors for each layer around random matrices that all layers share."""

    r: PositiveInt = 256
    """Rank of the shared matrices."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of the shared matrices."""
    save_projection: bool = True
    """Save the shared matrices, too: a larger file that loads everywhere."""
    d_initial: PositiveFloat = 0.1
    """Start of the inner vector."""


class Vera(SharedMatrices):
    """Two vectors for each layer around random matrices that all layers share."""

    config_class: ClassVar[str] = "VeraConfig"
    config_file: ClassVar[str] = "tuners/vera/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True, typical_learning_rate=4e-3, convertible=True, benchmark="0.354"
    )
    advice: ClassVar[str] = "a tenth of LoRA's parameters; needs a high rate (Kopiczko et al. 2024, arXiv 2310.11454)"

    method: Literal["vera"]
    """VeRA."""
    vera_dropout: InputDropout = 0.0


class Pvera(SharedMatrices):
    """VeRA that learns a distribution of its inner vector."""

    config_class: ClassVar[str] = "PveraConfig"
    config_file: ClassVar[str] = "tuners/pvera/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp="its noise is drawn anew in each process", typical_learning_rate=4e-3
    )
    advice: ClassVar[str] = "VeRA with less overfitting on small data (PEFT 0.21)"

    method: Literal["pvera"]
    """PVeRA."""
    pvera_dropout: InputDropout = 0.0


class RandLora(LayeredMethod):
    """Sums of random low-rank matrices with learned scales: updates of full rank."""

    config_class: ClassVar[str] = "RandLoraConfig"
    config_file: ClassVar[str] = "tuners/randlora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS, typical_learning_rate=1e-3, convertible=True
    )
    advice: ClassVar[str] = "full rank with few parameters (Albert et al. 2025, arXiv 2502.00987)"

    method: Literal["randlora"]
    """RandLoRA."""
    r: PositiveInt = 32
    """Rank of each random matrix."""
    randlora_alpha: PositiveInt = 640
    """Scale of the update, usually 20 times `r`."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of the random matrices."""
    save_projection: bool = True
    """Save the random matrices, too: a larger file that loads everywhere."""
    randlora_dropout: InputDropout = 0.0


class VbLora(LayeredMethod):
    """LoRA put together from a bank of vectors that all layers share."""

    config_class: ClassVar[str] = "VBLoRAConfig"
    config_file: ClassVar[str] = "tuners/vblora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS, typical_learning_rate=4e-3, convertible=True
    )
    advice: ClassVar[str] = "for many adapters of one base (Li et al. 2024, arXiv 2405.15179)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("vector_length", "both", 256),)
    sizes: ClassVar[frozenset[str]] = frozenset({"num_vectors", "vector_length"})

    method: Literal["vblora"]
    """VB-LoRA."""
    r: Rank = 4
    num_vectors: PositiveInt = 256
    """Vectors in the bank."""
    vector_length: Literal["auto"] | PositiveInt = "auto"
    """Length of a vector, which divides every side of every layer; `auto` takes the longest up to 256 that does."""
    topk: PositiveInt = 2
    """Vectors that are mixed for each part."""
    vblora_dropout: InputDropout = 0.0


_ROUNDED_SCALES = "PEFT rounds its scales to the integers that the base is packed in, which makes them 0"


class UniLora(LayeredMethod):
    """LoRA whose numbers all come from one short vector."""

    config_class: ClassVar[str] = "UniLoraConfig"
    config_file: ClassVar[str] = "tuners/unilora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS, typical_learning_rate=5e-3, convertible=True, nf4=_ROUNDED_SCALES, int8=_ROUNDED_SCALES
    )
    advice: ClassVar[str] = "the fewest parameters (Li et al. 2025, arXiv 2506.00799)"
    sizes: ClassVar[frozenset[str]] = frozenset({"theta_d_length"})

    method: Literal["unilora"]
    """Uni-LoRA."""
    r: Rank = 4
    theta_d_length: PositiveInt = 256
    """Length of the vector."""
    proj_seed: NonNegativeInt = 42
    """Seed of which number goes where."""
    unilora_dropout: InputDropout = 0.0


class TinyLora(LayeredMethod):
    """A short vector for each layer between the singular directions of its weights."""

    config_class: ClassVar[str] = "TinyLoraConfig"
    config_file: ClassVar[str] = "tuners/tinylora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS,
        zero3=READS_WEIGHTS,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=1e-2,
        convertible=True,
    )
    advice: ClassVar[str] = "a few hundred parameters (PEFT 0.21)"

    method: Literal["tinylora"]
    """TinyLoRA."""
    r: PositiveInt = 2
    """Singular directions that are used."""
    u: PositiveInt = 64
    """Length of the vector."""
    weight_tying: Probability = 0.0
    """Share of the layers that use one vector together."""
    projection_seed: NonNegativeInt = 42
    """Seed of the projection."""
    tinylora_dropout: InputDropout = 0.0


class Frod(LayeredMethod):
    """A sparse rotation in a basis that the layers share."""

    config_class: ClassVar[str] = "FrodConfig"
    config_file: ClassVar[str] = "tuners/frod/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER,
        empty_base=False,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=1e-3,
    )
    advice: ClassVar[str] = "full rank with few parameters (PEFT 0.21)"

    method: Literal["frod"]
    """FRoD."""
    sparse_rate: Fraction = 0.01
    """Share of the rotation that is trained."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of which part that is."""
    frod_dropout: InputDropout = 0.0


class Adamss(LayeredMethod):
    """Small updates in clusters of the singular directions."""

    config_class: ClassVar[str] = "AdamssConfig"
    config_file: ClassVar[str] = "tuners/adamss/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER,
        hidden_tensors=True,
        empty_base=False,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=5e-3,
    )
    advice: ClassVar[str] = "few parameters where layers differ (Zheng et al. 2025)"
    sizes: ClassVar[frozenset[str]] = frozenset({"subspace_rank"})

    method: Literal["adamss"]
    """AdaMSS."""
    r: PositiveInt = 100
    """Singular directions that are divided."""
    num_subspaces: PositiveInt = 5
    """Clusters they are divided into."""
    subspace_rank: PositiveInt = 1
    """Rank of the update in each."""
