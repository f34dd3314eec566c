"""Methods that train parts of the base: scales, norms, biases, some weights, some tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lora_ns.methods.base import PACKED_WEIGHTS, ModuleNames, OwnRule, PeftMethod, Rest, TargetedMethod, TokenRows
from lora_ns.methods.capabilities import READS_WEIGHTS, Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape
from lora_ns.methods.upstream_targets import default_targets, is_end
from lora_ns.table import Conflict, Fraction, NonNegativeInt, PositiveInt

_NO_HEAD = "PEFT cannot train the head with it"


def ia3_targets_come_together(method: Ia3, rest: Rest) -> Conflict | None:
    """PEFT needs both lists of targets of IA3, or neither."""
    if (method.target_modules == "auto") == (method.feedforward_modules == "auto"):
        return None
    what = "ia3 needs both `target_modules` and `feedforward_modules`, or neither"
    return Conflict(("peft.target_modules", "peft.feedforward_modules"), what, "add the other, or remove this one")


class Ia3(PeftMethod):
    """Learned vectors that rescale keys, values and feed-forward activations."""

    config_class: ClassVar[str] = "IA3Config"
    config_file: ClassVar[str] = "tuners/ia3/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=8e-3)
    advice: ClassVar[str] = "for small datasets, with a few thousand parameters (Liu et al. 2022, arXiv 2205.05638)"
    rules: ClassVar[tuple[OwnRule, ...]] = (ia3_targets_come_together,)

    method: Literal["ia3"]
    """IA3."""
    target_modules: Literal["auto"] | ModuleNames = "auto"
    """Layers to rescale; `auto` uses PEFT's defaults for the model family."""
    feedforward_modules: Literal["auto"] | ModuleNames = "auto"
    """Target modules whose input is rescaled instead of the output. Needs `target_modules`."""
    modules_to_save: ModuleNames = ()
    """Modules to train and save in full, in addition to the adapter."""

    def targets_in(self, family: str) -> ModuleNames | None:
        """The modules of the recipe, or those that PEFT adapts in a family."""
        if self.target_modules != "auto":
            return self.target_modules
        return default_targets("IA3_TARGET_MODULES", family)

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of a scale for each output, or for each input of the feed-forward modules."""
        by_input = self.feedforward_modules if self.feedforward_modules != "auto" else self._inner(adapted)
        return [
            (1, layer.inputs) if any(is_end(layer.name, name) for name in by_input) else (layer.outputs, 1)
            for layer in adapted.layers
        ]

    def _inner(self, adapted: Adapted) -> ModuleNames:
        """The feed-forward modules that PEFT scales by input: those of the family whose targets these are."""
        return default_targets("IA3_FEEDFORWARD_MODULES", adapted.family) or ()


class LnTuning(PeftMethod):
    """Trains the layer norms."""

    config_class: ClassVar[str] = "LNTuningConfig"
    config_file: ClassVar[str] = "tuners/ln_tuning/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=READS_WEIGHTS, typical_learning_rate=1e-3, benchmark="0.000", sensitive=True, gptq=True
    )
    advice: ClassVar[str] = (
        "for a few thousand parameters; very sensitive to the learning rate (Zhao et al. 2023, arXiv 2312.11420)"
    )
    adapts_norms: ClassVar[bool] = True

    method: Literal["ln-tuning"]
    """LN tuning."""
    target_modules: Literal["auto"] | ModuleNames = "auto"
    """Norms to train; `auto` uses PEFT's defaults for the model family, or all norms if PEFT has none."""
    modules_to_save: ModuleNames = ()
    """Modules to train and save in full, in addition to the norms."""

    def targets_in(self, family: str) -> ModuleNames | None:
        """The modules of the recipe, or those that PEFT adapts in a family; empty for all norms."""
        if self.target_modules != "auto":
            return self.target_modules
        return default_targets("LNTUNING_TARGET_MODULES", family) or ()

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of a copy of the norm."""
        return [(layer.outputs,), (layer.outputs,)] if layer.has_bias else [(layer.outputs,)]


class Shira(TargetedMethod):
    """Trains a small fraction of the weights, at random positions."""

    config_class: ClassVar[str] = "ShiraConfig"
    config_file: ClassVar[str] = "tuners/shira/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        empty_base=False, typical_learning_rate=3e-4, benchmark="0.510 in 17 min and 20.2 GB"
    )
    advice: ClassVar[str] = "for adapters that are swapped quickly or added up (Bhardwaj et al. 2024, arXiv 2406.13175)"

    method: Literal["shira"]
    """SHiRA."""
    r: PositiveInt = 32
    """Number of trained weights per layer, given as the rank of a LoRA with as many."""
    random_seed: NonNegativeInt = 0
    """Seed of the positions."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of as many entries of the weight as LoRA has parameters."""
        return [(self.r * (layer.inputs + layer.outputs),)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The rows and columns of these entries."""
        return 4 * 2 * self.r * (layer.inputs + layer.outputs)


class SuperTuning(TargetedMethod):
    """Trains the largest or the smallest weights."""

    config_class: ClassVar[str] = "SupertuningConfig"
    config_file: ClassVar[str] = "tuners/supertuning/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=READS_WEIGHTS,
        zero3=READS_WEIGHTS,
        few_bits=PACKED_WEIGHTS,
        typical_learning_rate=5e-4,
    )
    advice: ClassVar[str] = "for sparse updates, with an additional LoRA if `r` is given (PEFT 0.21)"

    method: Literal["supertuning"]
    """Super tuning."""
    sparsity: Fraction = 0.99
    """Fraction of the weights that is frozen."""
    select_top: bool = True
    """Train the largest weights instead of the smallest."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of the trained entries of the weight."""
        return [(int(layer.inputs * layer.outputs * (1 - self.sparsity)),)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The places of these entries."""
        return 4 * int(layer.inputs * layer.outputs * (1 - self.sparsity))


class Beft(TargetedMethod):
    """Trains biases."""

    config_class: ClassVar[str] = "BeftConfig"
    config_file: ClassVar[str] = "tuners/beft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=1e-2, merge="it adds biases to layers that have none"
    )
    advice: ClassVar[str] = "for very few parameters; layers without a bias get one (PEFT 0.21)"

    method: Literal["beft"]
    """BEFT."""

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shape of a bias."""
        return [(1, layer.outputs)]


class TrainableTokens(PeftMethod):
    """Trains the embeddings of selected tokens."""

    config_class: ClassVar[str] = "TrainableTokensConfig"
    config_file: ClassVar[str] = "tuners/trainable_tokens/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        classifier=_NO_HEAD, token_classification=_NO_HEAD, typical_learning_rate=1e-3
    )
    advice: ClassVar[str] = "to train new tokens only; LoRA's `trainable_token_indices` trains layers as well"
    token_rows: ClassVar[TokenRows | None] = TokenRows("token_indices", beside_layers=False)

    method: Literal["trainable-tokens"]
    """Trainable tokens."""
    token_indices: tuple[NonNegativeInt, ...] = Field(min_length=1)
    """Ids of the tokens."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Nothing but the rows of the tokens, which are counted for every method that trains some."""
        return []
