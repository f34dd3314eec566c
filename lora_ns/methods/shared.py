"""Methods with frozen random projections or shared vectors: few parameters, high learning rates."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from lora_ns.methods.base import Divisor, InputDropout, LayeredMethod, Rank
from lora_ns.methods.capabilities import ANOTHER_ADAPTER, READS_WEIGHTS, SHARES_PARAMETERS, STARTS_RANDOM, Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape
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

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two scales."""
        return [(layer.outputs,), (self.r,)]

    def frozen_bytes(self, adapted: Adapted) -> int:
        """Two random matrices for all layers."""
        return 4 * self.r * (max(adapted.sides("input"), default=0) + max(adapted.sides("output"), default=0))


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

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two scales, one of them of means and variances."""
        return [(layer.outputs,), (2 * self.r,)]

    def frozen_bytes(self, adapted: Adapted) -> int:
        """Two random matrices for all layers."""
        return 4 * self.r * (2 * max(adapted.sides("input"), default=0) + max(adapted.sides("output"), default=0))


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

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the scales of as many random products as a full rank takes."""
        smaller = min(layer.inputs, layer.outputs)
        bases = math.ceil(smaller / self.r)
        return [(self.r, bases), (bases, smaller)]

    def frozen_bytes(self, adapted: Adapted) -> int:
        """Two random matrices for all layers."""
        if not adapted.layers:
            return 0
        smaller, larger = sorted((max(adapted.sides("input")), max(adapted.sides("output"))))
        return 4 * self.r * (smaller + larger * math.ceil(smaller / self.r))


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

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of the logits of each layer, and of the vectors that all share."""
        if not adapted.layers:
            return None
        length = self.fitting(adapted, None if self.vector_length == "auto" else self.vector_length)
        if length is None:
            return None
        found: list[Shape] = [(self.num_vectors, length)]
        for layer in adapted.layers:
            found += [(self.r, layer.inputs // length, self.num_vectors)]
            found += [(layer.outputs // length, self.r, self.num_vectors)]
        return found


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

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shape of the one vector that all layers share."""
        return [(self.theta_d_length,)] if adapted.layers else None

    def frozen_bytes_in(self, layer: Layer) -> int:
        """For each entry of two factors its place in the vector and its scale."""
        return (8 + 4) * self.r * (layer.inputs + layer.outputs)


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

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of the vectors, one for each group of layers."""
        layers = len(adapted.layers)
        groups = max(1, round(layers * (1 - self.weight_tying)))
        size = max(1, layers // groups)
        return [(self.u,)] * min(groups, math.ceil(layers / size))

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The two factors of a layer, and its random projection."""
        return 4 * (self.r * (layer.inputs + layer.outputs) + self.u * self.r**2)


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

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the diagonal of a layer, and of the entries beside it."""
        return [(layer.inputs,), (self._beside(layer),)]

    def frozen_bytes(self, adapted: Adapted) -> int:
        """The directions of each layer, and those that all layers of one name share, with the places of the entries."""
        found = 4 * sum(layer.inputs * layer.outputs for layer in adapted.layers)
        names = {".".join(layer.name.rsplit(".", 2)[1:]): layer for layer in adapted.layers}
        return found + sum(4 * layer.inputs**2 + 16 * self._beside(layer) + 16 for layer in names.values())

    def _beside(self, layer: Layer) -> int:
        if not self.sparse_rate:
            return 0
        return max(1, min(int(layer.inputs**2 * self.sparse_rate), layer.inputs * (layer.inputs - 1)))


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

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the factors of each subspace, if the outputs were divided into equal ones.

        PEFT clusters the outputs by the weights. The sum is the same if no cluster is smaller than `subspace_rank`.
        """
        width = min(self.r, layer.inputs + layer.has_bias, layer.outputs)
        share, rest = divmod(layer.outputs, self.num_subspaces)
        sizes = [share + (number < rest) for number in range(self.num_subspaces)]
        first: list[Shape] = [(min(self.subspace_rank, size), width) for size in sizes]
        return [*first, *((size, min(self.subspace_rank, size)) for size in sizes)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The projection of the weight."""
        return 4 * (layer.inputs + layer.has_bias) * min(self.r, layer.inputs + layer.has_bias, layer.outputs)
