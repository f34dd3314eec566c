"""Prompt learning: trained vectors before every row; the weights stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from lora_ns.methods.base import OwnRule, PeftMethod, Rest
from lora_ns.methods.capabilities import STARTS_RANDOM, Capabilities
from lora_ns.methods.tensors import Adapted, Shape
from lora_ns.table import Conflict, Fraction, NonNegativeInt, PositiveInt

_NO_MERGE = "its parameters are inputs of the model, not changes of its weights"


_NO_TAGS = "PEFT prepends the prompt to each row and does not extend its tags"


_NO_CHECKPOINTING = "the prefix is a key-value cache, which gradient checkpointing disables"


_NO_RESUME = "PEFT saves the output of the network, not the network itself"


_NO_GPTQ = "PEFT reads the device of its cache from the parameters of the layers, and GPTQ layers have none"


_NO_PACKING = "PEFT drops the position ids, so the documents of a packed row would see one another"


_VIRTUAL = Capabilities(
    merge=_NO_MERGE,
    packing=_NO_PACKING,
    typical_learning_rate=1e-2,
    virtual_tokens=True,
    gptq=True,
    starts_at_base=STARTS_RANDOM,
)


_PREFIX = replace(_VIRTUAL, key_value_cache=True, gradient_checkpointing=_NO_CHECKPOINTING, gptq=_NO_GPTQ)


_PROMPT = replace(_VIRTUAL, token_classification=_NO_TAGS)


class VirtualTokens(PeftMethod):
    """A method that prepends virtual tokens to every row."""

    sizes: ClassVar[frozenset[str]] = frozenset({"num_virtual_tokens", "token_dim"})

    num_virtual_tokens: PositiveInt = 20
    """Number of virtual tokens before every row."""

    @property
    def virtual_length(self) -> int:
        """The number of virtual tokens."""
        return self.num_virtual_tokens

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shape of an embedding for each token."""
        return [(self.num_virtual_tokens, adapted.embedding_width)]


class PrefixTuning(VirtualTokens):
    """Trained key and value vectors in the attention of every layer."""

    config_class: ClassVar[str] = "PrefixTuningConfig"
    config_file: ClassVar[str] = "tuners/prefix_tuning/config.py"
    capabilities: ClassVar[Capabilities] = _PREFIX
    advice: ClassVar[str] = (
        "for a prefix in every layer; very sensitive to the learning rate, try 1e-3 to 3e-2 "
        "(Li and Liang 2021, arXiv 2101.00190)"
    )

    method: Literal["prefix-tuning"]
    """Prefix tuning."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shape of a key and a value in each layer for each token."""
        return [(self.num_virtual_tokens, 2 * adapted.num_hidden_layers * adapted.cache_width)]


def prompt_text_and_init_agree(method: PromptTuning, rest: Rest) -> Conflict | None:
    """`prompt_tuning_init_text` and the initialisation `TEXT` need each other."""
    if (method.prompt_tuning_init == "TEXT") == bool(method.prompt_tuning_init_text):
        return None
    what = '`prompt_tuning_init = "TEXT"` and `prompt_tuning_init_text` need each other'
    return Conflict(("peft.prompt_tuning_init", "peft.prompt_tuning_init_text"), what, "give both or neither")


class PromptTuning(VirtualTokens):
    """Trained embeddings before the input of every row."""

    config_class: ClassVar[str] = "PromptTuningConfig"
    config_file: ClassVar[str] = "tuners/prompt_tuning/config.py"
    capabilities: ClassVar[Capabilities] = replace(_PROMPT, typical_learning_rate=3e-2)
    advice: ClassVar[str] = (
        "for large models and fixed tasks, at a high learning rate (Lester et al. 2021, arXiv 2104.08691)"
    )
    rules: ClassVar[tuple[OwnRule, ...]] = (prompt_text_and_init_agree,)

    method: Literal["prompt-tuning"]
    """Prompt tuning."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Initialisation: random numbers, embeddings of random tokens, or those of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str = ""
    """Text whose embeddings initialise the prompt; only with `TEXT`."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.PromptTuningConfig`."""
        return {**super().to_kwargs(), "prompt_tuning_init_text": self.prompt_tuning_init_text or None, **self.extra}

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """The tokenizer for the initialisation `TEXT`."""
        if self.prompt_tuning_init != "TEXT":
            return {}
        in_file = {"tokenizer_kwargs": {"gguf_file": gguf_file}} if gguf_file else {}
        return {"tokenizer_name_or_path": folder, **in_file}

    def plainly_started(self) -> PromptTuning:
        """A copy that is initialised with random numbers."""
        return self.model_copy(update={"prompt_tuning_init": "RANDOM"})


class PTuning(VirtualTokens):
    """Embeddings before the input of every row, computed by a small network."""

    config_class: ClassVar[str] = "PromptEncoderConfig"
    config_file: ClassVar[str] = "tuners/p_tuning/config.py"
    capabilities: ClassVar[Capabilities] = replace(_PROMPT, resume=_NO_RESUME)
    advice: ClassVar[str] = (
        "for language understanding, more stable than prompt tuning (Liu et al. 2021, arXiv 2103.10385)"
    )

    method: Literal["p-tuning"]
    """P-tuning."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """Kind of the network."""
    encoder_hidden_size: PositiveInt = 128
    """Width of the network."""
    encoder_num_layers: PositiveInt = 2
    """Number of layers of an LSTM; an MLP always has three."""
    encoder_dropout: Fraction = 0.0
    """Dropout in the network."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of an embedding for each token, and of the network behind it."""
        width, inner = adapted.embedding_width, self.encoder_hidden_size
        tokens: Shape = (self.num_virtual_tokens, width)
        if self.encoder_reparameterization_type == "MLP":
            return [tokens, *_linear(width, inner), *_linear(inner, inner), *_linear(inner, width)]
        found: list[Shape] = [tokens]
        for number in range(self.encoder_num_layers):
            inputs = 2 * inner if number else width
            found += 2 * [(4 * inner, inputs), (4 * inner, inner), (4 * inner,), (4 * inner,)]
        return [*found, *_linear(2 * inner, 2 * inner), *_linear(2 * inner, width)]


class Cartridge(VirtualTokens):
    """A prefix with frozen first vectors, so that the attention sink is preserved."""

    config_class: ClassVar[str] = "CartridgeConfig"
    config_file: ClassVar[str] = "tuners/cartridge/config.py"
    capabilities: ClassVar[Capabilities] = replace(
        _PREFIX, fsdp="its first positions are frozen, and FSDP flattens them together with trained ones"
    )
    advice: ClassVar[str] = "to compress a long context into a prefix (Eyuboglu et al. 2025, arXiv 2506.06266)"

    method: Literal["cartridge"]
    """Cartridge."""
    num_frozen_tokens: NonNegativeInt = 1
    """Number of vectors at the start of the prefix that are not trained."""

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shape of a key and a value in each layer for each token that is not frozen."""
        return [(self.num_virtual_tokens - self.num_frozen_tokens, self._width(adapted))]

    def frozen_bytes(self, adapted: Adapted) -> int:
        """The frozen tokens."""
        return 4 * self.num_frozen_tokens * self._width(adapted)

    def _width(self, adapted: Adapted) -> int:
        return 2 * adapted.num_hidden_layers * adapted.cache_width


def _linear(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]
