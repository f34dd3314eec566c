"""Methods that train parts of what is there: scales, norms, biases, some weights, some tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lora_ns.methods.base import PACKED_WEIGHTS, ModuleNames, OwnRule, PeftMethod, Rest, TargetedMethod, TokenRows
from lora_ns.methods.capabilities import READS_WEIGHTS, Capabilities
from lora_ns.table import Conflict, Fraction, NonNegativeInt, PositiveInt

_NO_HEAD = "PEFT has no place for the head beside it"


def ia3_targets_come_together(method: Ia3, rest: Rest) -> Conflict | None:
    """PEFT takes both lists of IA3 or neither."""
    if (method.target_modules == "auto") == (method.feedforward_modules == "auto"):
        return None
    what = "`target_modules` and `feedforward_modules` of ia3 come together"
    return Conflict(("peft.target_modules", "peft.feedforward_modules"), what, "give both or neither")


class Ia3(PeftMethod):
    """Learned vectors that rescale keys, values and feed-forward activations."""

    config_class: ClassVar[str] = "IA3Config"
    config_file: ClassVar[str] = "tuners/ia3/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=8e-3)
    advice: ClassVar[str] = "a few thousand parameters for small data sets (Liu et al. 2022, arXiv 2205.05638)"
    rules: ClassVar[tuple[OwnRule, ...]] = (ia3_targets_come_together,)

    method: Literal["ia3"]
    """IA3."""
    target_modules: Literal["auto"] | ModuleNames = "auto"
    """Layers to rescale; `auto` takes PEFT's choice for the model's family."""
    feedforward_modules: Literal["auto"] | ModuleNames = "auto"
    """Those of the targets whose input is rescaled instead of their output; given together with `target_modules`."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the adapter."""


class LnTuning(PeftMethod):
    """Trains the layer norms."""

    config_class: ClassVar[str] = "LNTuningConfig"
    config_file: ClassVar[str] = "tuners/ln_tuning/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=READS_WEIGHTS, typical_learning_rate=1e-3, benchmark="0.000", sensitive=True, gptq=True
    )
    advice: ClassVar[str] = "a few thousand parameters; very sensitive to the rate (Zhao et al. 2023, arXiv 2312.11420)"
    adapts_norms: ClassVar[bool] = True

    method: Literal["ln-tuning"]
    """LN tuning."""
    target_modules: Literal["auto"] | ModuleNames = "auto"
    """Norms to train; `auto` takes PEFT's choice for the model's family, or all of a family that PEFT has none for."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the norms."""


class Shira(TargetedMethod):
    """Trains a small share of the weights, at random places."""

    config_class: ClassVar[str] = "ShiraConfig"
    config_file: ClassVar[str] = "tuners/shira/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        empty_base=False, typical_learning_rate=3e-4, benchmark="0.510 in 17 min and 20.2 GB"
    )
    advice: ClassVar[str] = "adapters that can be swapped quickly and added up (Bhardwaj et al. 2024, arXiv 2406.13175)"

    method: Literal["shira"]
    """SHiRA."""
    r: PositiveInt = 32
    """A layer has as many trained weights as LoRA of this rank."""
    random_seed: NonNegativeInt = 0
    """Seed of the places."""


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
    advice: ClassVar[str] = "a sparse part, with LoRA beside it if `r` is given (PEFT 0.21)"

    method: Literal["supertuning"]
    """Super tuning."""
    sparsity: Fraction = 0.99
    """Share of the weights that stays as it is."""
    select_top: bool = True
    """Train the largest weights rather than the smallest."""


class Beft(TargetedMethod):
    """Trains biases."""

    config_class: ClassVar[str] = "BeftConfig"
    config_file: ClassVar[str] = "tuners/beft/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        typical_learning_rate=1e-2, merge="it adds biases to layers that have none"
    )
    advice: ClassVar[str] = "the fewest parameters of all; layers without a bias get one (PEFT 0.21)"

    method: Literal["beft"]
    """BEFT."""


class TrainableTokens(PeftMethod):
    """Trains the embeddings of some tokens."""

    config_class: ClassVar[str] = "TrainableTokensConfig"
    config_file: ClassVar[str] = "tuners/trainable_tokens/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        classifier=_NO_HEAD, token_classification=_NO_HEAD, typical_learning_rate=1e-3
    )
    advice: ClassVar[str] = "to teach new tokens beside nothing else; LoRA has `trainable_token_indices` for both"
    token_rows: ClassVar[TokenRows | None] = TokenRows("token_indices", beside_layers=False)

    method: Literal["trainable-tokens"]
    """Trainable tokens."""
    token_indices: tuple[NonNegativeInt, ...] = Field(min_length=1)
    """Numbers of the tokens."""
