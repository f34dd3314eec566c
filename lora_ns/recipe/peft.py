"""`[peft]`: one class per method, and that class is all there is to add for a new one.

A class holds the method's keys with their bounds, what it can be combined with, and the pure translation into the
arguments of its PEFT configuration. The union at the end is the registry.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from lora_ns.capabilities import Capabilities
from lora_ns.recipe.base import Fraction, Name, NonNegativeInt, PositiveFloat, PositiveInt, Table

Extra = dict[str, Any]
ModuleNames = tuple[Name, ...]


class PeftMethod(Table):
    """What all methods share."""

    config_class: ClassVar[str]
    """Name of the configuration class in `peft`."""
    config_file: ClassVar[str]
    """The file inside `peft` that defines it."""
    capabilities: ClassVar[Capabilities]
    advice: ClassVar[str]
    """When to take this method, in one line, with its paper."""

    extra: Extra = Field(default={})
    """Further fields of the method's PEFT configuration, by their PEFT names; checked against the installed version."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of the PEFT configuration class; targets that need the model are resolved by the engine."""
        raise NotImplementedError


class Lora(PeftMethod):
    """Low-rank adapters beside the linear layers."""

    config_class: ClassVar[str] = "LoraConfig"
    config_file: ClassVar[str] = "tuners/lora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=2e-4)
    advice: ClassVar[str] = "the place to start: rank 16 on all linear layers (Hu et al. 2021, arXiv 2106.09685)"

    method: Literal["lora"]
    """LoRA."""
    lora_r: PositiveInt = 16
    """Rank of the update."""
    lora_alpha: PositiveFloat = 32
    """The update is scaled by `lora_alpha / lora_r`, or by `lora_alpha / sqrt(lora_r)` with `use_rslora`."""
    lora_dropout: Fraction = 0.0
    """Dropout on the input of the adapter."""
    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    """Layers to adapt: `all-linear` (every linear layer but the head), or the ends of their names."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the adapter; a classification head is always among them."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train."""
    use_rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732); worth it from rank 64."""
    use_dora: bool = False
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353): better at low rank, slower."""
    init_lora_weights: Literal["default", "gaussian", "olora", "orthogonal", "pissa"] = "default"
    """Start of the two factors; `pissa` and `olora` start from the base weights' own principal parts."""
    layers_to_transform: tuple[NonNegativeInt, ...] = ()
    """Numbers of the layers to adapt; empty for all."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules
            if isinstance(self.target_modules, str)
            else list(self.target_modules),
            "modules_to_save": list(self.modules_to_save) or None,
            "bias": self.bias,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "init_lora_weights": True if self.init_lora_weights == "default" else self.init_lora_weights,
            "layers_to_transform": list(self.layers_to_transform) or None,
            **self.extra,
        }


class Ia3(PeftMethod):
    """Learned vectors that rescale keys, values and feed-forward activations."""

    config_class: ClassVar[str] = "IA3Config"
    config_file: ClassVar[str] = "tuners/ia3/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(typical_learning_rate=8e-3)
    advice: ClassVar[str] = "a few thousand parameters for small data sets (Liu et al. 2022, arXiv 2205.05638)"

    method: Literal["ia3"]
    """IA3."""
    target_modules: Literal["auto"] | ModuleNames = "auto"
    """Layers to rescale; `auto` takes PEFT's choice for the model's family."""
    feedforward_modules: Literal["auto"] | ModuleNames = "auto"
    """Those of the targets whose input is rescaled instead of their output; given together with `target_modules`."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the adapter."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.IA3Config`."""
        return {
            "target_modules": None if self.target_modules == "auto" else list(self.target_modules),
            "feedforward_modules": None if self.feedforward_modules == "auto" else list(self.feedforward_modules),
            "modules_to_save": list(self.modules_to_save) or None,
            **self.extra,
        }


_NO_MERGE = "its parameters are inputs of the model, not changes of its weights"
_NO_PACKING = "PEFT drops the position ids, so the documents of a packed row would see one another"


class PrefixTuning(PeftMethod):
    """Trained key and value vectors before every layer's own."""

    config_class: ClassVar[str] = "PrefixTuningConfig"
    config_file: ClassVar[str] = "tuners/prefix_tuning/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        merge=_NO_MERGE,
        packing=_NO_PACKING,
        gradient_checkpointing="the prefix is a key-value cache, which recomputation switches off",
        typical_learning_rate=1e-2,
        virtual_tokens=True,
    )
    advice: ClassVar[str] = (
        "very sensitive to the learning rate: try 1e-3 to 3e-2 (Li and Liang 2021, arXiv 2101.00190)"
    )

    method: Literal["prefix-tuning"]
    """Prefix tuning."""
    num_virtual_tokens: PositiveInt = 20
    """Length of the prefix, in positions."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.PrefixTuningConfig`."""
        return {"num_virtual_tokens": self.num_virtual_tokens, **self.extra}


class PromptTuning(PeftMethod):
    """Trained embeddings before every row."""

    config_class: ClassVar[str] = "PromptTuningConfig"
    config_file: ClassVar[str] = "tuners/prompt_tuning/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        merge=_NO_MERGE,
        packing=_NO_PACKING,
        token_classification="PEFT makes each row longer by the prompt, and leaves its tags as they are",
        typical_learning_rate=3e-2,
        virtual_tokens=True,
    )
    advice: ClassVar[str] = "for large models and steady tasks; needs high rates (Lester et al. 2021, arXiv 2104.08691)"

    method: Literal["prompt-tuning"]
    """Prompt tuning."""
    num_virtual_tokens: PositiveInt = 20
    """Length of the prompt, in positions."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Start of the embeddings: random numbers, those of random tokens, or those of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str = ""
    """Text whose embeddings the prompt starts from; only with `TEXT`."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.PromptTuningConfig`; the tokenizer for `TEXT` comes from the engine."""
        return {
            "num_virtual_tokens": self.num_virtual_tokens,
            "prompt_tuning_init": self.prompt_tuning_init,
            "prompt_tuning_init_text": self.prompt_tuning_init_text or None,
            **self.extra,
        }


Peft = Annotated[Lora | Ia3 | PrefixTuning | PromptTuning, Field(discriminator="method")]

METHODS: dict[str, type[PeftMethod]] = {
    get_args(method.model_fields["method"].annotation)[0]: method for method in get_args(get_args(Peft)[0])
}
"""Method name to class, in the order of the union."""


def method_name(method: PeftMethod) -> str:
    """The name that the recipe calls a method by."""
    return next(name for name, kind in METHODS.items() if isinstance(method, kind))
