"""Methods with frozen random projections or shared vectors: few parameters, high learning rates."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.methods.base import Divisor, InputDropout, LayeredMethod, Rank
from lora_ns.methods.capabilities import ANOTHER_ADAPTER, READS_WEIGHTS, SHARES_PARAMETERS, STARTS_RANDOM, Capabilities
from lora_ns.table import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Probability

_PACKED_WEIGHTS = "it decomposes the base weights, which quantisation packs"


class SharedMatrices(LayeredMethod):
    """Keys of methods with random matrices that all layers share."""

    r: PositiveInt = 256
    """Rank of the shared matrices."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of the shared matrices."""
    save_projection: bool = True
    """Save the shared matrices, too. The file is larger and loads everywhere."""
    d_initial: PositiveFloat = 0.1
    """Initial value of the inner vector."""


class Vera(SharedMatrices):
    """Two trained vectors for each layer around random matrices that all layers share."""

    config_class: ClassVar[str] = "VeraConfig"
    config_file: ClassVar[str] = "tuners/vera/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        gptq=True, typical_learning_rate=4e-3, convertible=True, benchmark="0.354"
    )
    advice: ClassVar[str] = (
        "for a tenth of LoRA's parameters, at a high learning rate (Kopiczko et al. 2024, arXiv 2310.11454)"
    )

    method: Literal["vera"]
    """VeRA."""
    vera_dropout: InputDropout = 0.0


class Pvera(SharedMatrices):
    """VeRA that learns a distribution of the inner vector."""

    config_class: ClassVar[str] = "PveraConfig"
    config_file: ClassVar[str] = "tuners/pvera/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp="each process draws different noise", typical_learning_rate=4e-3
    )
    advice: ClassVar[str] = "for less overfitting than VeRA on small datasets (PEFT 0.21)"

    method: Literal["pvera"]
    """PVeRA."""
    pvera_dropout: InputDropout = 0.0


class RandLora(LayeredMethod):
    """Sums of random low-rank matrices with learned scales, which give updates of full rank."""

    config_class: ClassVar[str] = "RandLoraConfig"
    config_file: ClassVar[str] = "tuners/randlora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS, typical_learning_rate=1e-3, convertible=True
    )
    advice: ClassVar[str] = "for updates of full rank with few parameters (Albert et al. 2025, arXiv 2502.00987)"

    method: Literal["randlora"]
    """RandLoRA."""
    r: PositiveInt = 32
    """Rank of each random matrix."""
    randlora_alpha: PositiveInt = 640
    """Scale of the update, usually 20 times `r`."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of the random matrices."""
    save_projection: bool = True
    """Save the random matrices, too. The file is larger and loads everywhere."""
    randlora_dropout: InputDropout = 0.0


class VbLora(LayeredMethod):
    """LoRA composed from a bank of vectors that all layers share."""

    config_class: ClassVar[str] = "VBLoRAConfig"
    config_file: ClassVar[str] = "tuners/vblora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        starts_at_base=STARTS_RANDOM, fsdp=SHARES_PARAMETERS, typical_learning_rate=4e-3, convertible=True
    )
    advice: ClassVar[str] = "for many adapters of one base (Li et al. 2024, arXiv 2405.15179)"
    divisors: ClassVar[tuple[Divisor, ...]] = (Divisor("vector_length", "both", 256),)
    sizes: ClassVar[frozenset[str]] = frozenset({"num_vectors", "vector_length"})

    method: Literal["vblora"]
    """VB-LoRA."""
    r: Rank = 4
    num_vectors: PositiveInt = 256
    """Number of vectors in the bank."""
    vector_length: Literal["auto"] | PositiveInt = "auto"
    """Length of a vector, a divisor of every side of every layer; `auto` chooses the largest such value up to 256."""
    topk: PositiveInt = 2
    """Number of vectors that are mixed for each part of a factor."""
    vblora_dropout: InputDropout = 0.0


_ROUNDED_SCALES = "PEFT casts its scales to the integer dtype of the packed base, which makes them 0"


class UniLora(LayeredMethod):
    """LoRA with all parameters taken from one short trained vector."""

    config_class: ClassVar[str] = "UniLoraConfig"
    config_file: ClassVar[str] = "tuners/unilora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        starts_at_base=STARTS_RANDOM,
        fsdp=SHARES_PARAMETERS,
        typical_learning_rate=5e-3,
        convertible=True,
        nf4=_ROUNDED_SCALES,
        int8=_ROUNDED_SCALES,
    )
    advice: ClassVar[str] = "for the fewest parameters (Li et al. 2025, arXiv 2506.00799)"
    sizes: ClassVar[frozenset[str]] = frozenset({"theta_d_length"})

    method: Literal["unilora"]
    """Uni-LoRA."""
    r: Rank = 4
    theta_d_length: PositiveInt = 256
    """Length of the vector."""
    proj_seed: NonNegativeInt = 42
    """Seed of the mapping from the vector to the parameters."""
    unilora_dropout: InputDropout = 0.0


class TinyLora(LayeredMethod):
    """A short trained vector for each layer between the singular directions of its weights."""

    config_class: ClassVar[str] = "TinyLoraConfig"
    config_file: ClassVar[str] = "tuners/tinylora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=SHARES_PARAMETERS,
        zero3=READS_WEIGHTS,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=1e-2,
        convertible=True,
    )
    advice: ClassVar[str] = "for a few hundred parameters (PEFT 0.21)"

    method: Literal["tinylora"]
    """TinyLoRA."""
    r: PositiveInt = 2
    """Number of singular directions."""
    u: PositiveInt = 64
    """Length of the vector."""
    weight_tying: Probability = 0.0
    """Fraction of the layers that share a vector."""
    projection_seed: NonNegativeInt = 42
    """Seed of the projection."""
    tinylora_dropout: InputDropout = 0.0


class Frod(LayeredMethod):
    """A sparse rotation in a basis that all layers share."""

    config_class: ClassVar[str] = "FrodConfig"
    config_file: ClassVar[str] = "tuners/frod/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER,
        empty_base=False,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=1e-3,
    )
    advice: ClassVar[str] = "for updates of full rank with few parameters (PEFT 0.21)"

    method: Literal["frod"]
    """FRoD."""
    sparse_rate: Fraction = 0.01
    """Fraction of the rotation that is trained."""
    projection_prng_key: NonNegativeInt = 0
    """Seed of the positions that are trained."""
    frod_dropout: InputDropout = 0.0


class Adamss(LayeredMethod):
    """Low-rank updates in clusters of singular directions."""

    config_class: ClassVar[str] = "AdamssConfig"
    config_file: ClassVar[str] = "tuners/adamss/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        ddp=ANOTHER_ADAPTER,
        hidden_tensors=True,
        empty_base=False,
        few_bits=_PACKED_WEIGHTS,
        typical_learning_rate=5e-3,
    )
    advice: ClassVar[str] = "for few parameters over unequal layers (Zheng et al. 2025)"
    sizes: ClassVar[frozenset[str]] = frozenset({"subspace_rank"})

    method: Literal["adamss"]
    """AdaMSS."""
    r: PositiveInt = 100
    """Number of singular directions."""
    num_subspaces: PositiveInt = 5
    """Number of clusters of singular directions."""
    subspace_rank: PositiveInt = 1
    """Rank of the update in each cluster."""
