"""Prompt learning: vectors before every row, which are no change of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from lora_ns.methods.base import OwnRule, PeftMethod, Rest, Shapes
from lora_ns.methods.capabilities import Capabilities
from lora_ns.table import Conflict, Fraction, NonNegativeInt, PositiveInt

_NO_MERGE = "its parameters are inputs of the model, not changes of its weights"


_NO_TAGS = "PEFT makes each row longer by the prompt, and leaves its tags as they are"


_NO_CHECKPOINTING = "the prefix is a key-value cache, which recomputation switches off"


_NO_RESUME = "PEFT saves what the network makes and not the network itself"


_NO_GPTQ = "PEFT takes the device of its cache from the parameters of the layers, and those of GPTQ have none"


_NO_PACKING = "PEFT drops the position ids, so the documents of a packed row would see one another"


_VIRTUAL = Capabilities(
    merge=_NO_MERGE, packing=_NO_PACKING, typical_learning_rate=1e-2, virtual_tokens=True, gptq=True
)


_PREFIX = replace(_VIRTUAL, key_value_cache=True, gradient_checkpointing=_NO_CHECKPOINTING, gptq=_NO_GPTQ)


_PROMPT = replace(_VIRTUAL, token_classification=_NO_TAGS)


class VirtualTokens(PeftMethod):
    """A method that puts tokens of its own before every row."""

    sizes: ClassVar[frozenset[str]] = frozenset({"num_virtual_tokens", "token_dim"})

    num_virtual_tokens: PositiveInt = 20
    """Length of what is put before every row, in positions."""

    @property
    def virtual_length(self) -> int:
        """As the recipe says."""
        return self.num_virtual_tokens

    def count_parameters(self, shapes: Shapes, hidden_size: int, layers: int) -> int | None:
        """An embedding for each token."""
        return self.num_virtual_tokens * hidden_size


class PrefixTuning(VirtualTokens):
    """Trained key and value vectors before every layer's own."""

    config_class: ClassVar[str] = "PrefixTuningConfig"
    config_file: ClassVar[str] = "tuners/prefix_tuning/config.py"
    capabilities: ClassVar[Capabilities] = _PREFIX
    advice: ClassVar[str] = (
        "very sensitive to the learning rate: try 1e-3 to 3e-2 (Li and Liang 2021, arXiv 2101.00190)"
    )

    method: Literal["prefix-tuning"]
    """Prefix tuning."""

    def count_parameters(self, shapes: Shapes, hidden_size: int, layers: int) -> int | None:
        """A key and a value in each layer for each token."""
        return self.num_virtual_tokens * hidden_size * 2 * layers


def prompt_text_and_init_agree(method: PromptTuning, rest: Rest) -> Conflict | None:
    """`prompt_tuning_init_text` goes with `TEXT`, and `TEXT` with it."""
    if (method.prompt_tuning_init == "TEXT") == bool(method.prompt_tuning_init_text):
        return None
    what = '`prompt_tuning_init = "TEXT"` and `prompt_tuning_init_text` need each other'
    return Conflict(("peft.prompt_tuning_init", "peft.prompt_tuning_init_text"), what, "give both or neither")


class PromptTuning(VirtualTokens):
    """Trained embeddings before every row."""

    config_class: ClassVar[str] = "PromptTuningConfig"
    config_file: ClassVar[str] = "tuners/prompt_tuning/config.py"
    capabilities: ClassVar[Capabilities] = replace(_PROMPT, typical_learning_rate=3e-2)
    advice: ClassVar[str] = "for large models and steady tasks; needs high rates (Lester et al. 2021, arXiv 2104.08691)"
    rules: ClassVar[tuple[OwnRule, ...]] = (prompt_text_and_init_agree,)

    method: Literal["prompt-tuning"]
    """Prompt tuning."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Start of the embeddings: random numbers, those of random tokens, or those of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str = ""
    """Text whose embeddings the prompt starts from; only with `TEXT`."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.PromptTuningConfig`."""
        return {**super().to_kwargs(), "prompt_tuning_init_text": self.prompt_tuning_init_text or None, **self.extra}

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """The tokenizer of `TEXT`."""
        if self.prompt_tuning_init != "TEXT":
            return {}
        in_file = {"tokenizer_kwargs": {"gguf_file": gguf_file}} if gguf_file else {}
        return {"tokenizer_name_or_path": folder, **in_file}

    def plainly_started(self) -> PromptTuning:
        """From random numbers."""
        return self.model_copy(update={"prompt_tuning_init": "RANDOM"})


class PTuning(VirtualTokens):
    """Embeddings before every row that a small network makes."""

    config_class: ClassVar[str] = "PromptEncoderConfig"
    config_file: ClassVar[str] = "tuners/p_tuning/config.py"
    capabilities: ClassVar[Capabilities] = replace(_PROMPT, resume=_NO_RESUME)
    advice: ClassVar[str] = "steadier than prompt tuning for understanding tasks (Liu et al. 2021, arXiv 2103.10385)"

    method: Literal["p-tuning"]
    """P-tuning."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """Kind of the network."""
    encoder_hidden_size: PositiveInt = 128
    """Width of the network."""
    encoder_num_layers: PositiveInt = 2
    """Layers of an LSTM; an MLP has three."""
    encoder_dropout: Fraction = 0.0
    """Dropout in the network."""


class Cartridge(VirtualTokens):
    """A prefix whose first vectors stay as they are, so that attention keeps its sink."""

    config_class: ClassVar[str] = "CartridgeConfig"
    config_file: ClassVar[str] = "tuners/cartridge/config.py"
    capabilities: ClassVar[Capabilities] = replace(
        _PREFIX, fsdp="its first positions are frozen, and FSDP joins them with those that are trained"
    )
    advice: ClassVar[str] = "to press a long context into a prefix (Eyuboglu et al. 2025, arXiv 2506.06266)"

    method: Literal["cartridge"]
    """Cartridge."""
    num_frozen_tokens: NonNegativeInt = 1
    """Vectors at its beginning that are not trained."""
