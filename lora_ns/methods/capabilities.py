"""What a PEFT method can be combined with, stated once: every check, table and test reads it here."""

from __future__ import annotations

from dataclasses import dataclass

ANOTHER_ADAPTER = "two processes gave another adapter than one"


SHARES_PARAMETERS = "its layers share parameters, and FSDP divides layer by layer"


READS_WEIGHTS = "PEFT reads the base's weights when it is put onto them, and no process has them"


LORA_RATE = 2e-4
"""Peak learning rate of LoRA, and of the methods that learn at its rates."""


GRADIENTS_ARE_DIVIDED = "its ranks are weighed by whole gradients"


@dataclass(frozen=True)
class Capabilities:
    """What works with one PEFT method; a string is the reason why something does not."""

    merge: bool | str = True
    """Whether the trained weights can be folded into the base."""
    packing: bool | str = True
    """Whether several documents in one row stay apart."""
    gradient_checkpointing: bool | str = True
    """Whether activations may be recomputed."""
    token_classification: bool | str = True
    """Whether PEFT trains it to tag words."""
    typical_learning_rate: float = LORA_RATE
    """Peak learning rate for text on a base of 7 billion parameters; `usual_rate` fits LoRA's to task and base."""
    classifier: bool | str = True
    """Whether it trains a classifier with its head."""
    few_bits: bool | str = True
    """Whether it trains over a base in 4 or 8 bits at all."""
    nf4: bool | str = True
    """Whether it trains over a base in 4 bits."""
    int8: bool | str = True
    """Whether it trains over a base in 8 bits by bitsandbytes."""
    torchao: bool | str = True
    """Whether it trains over a base in 8 bits by torchao."""
    gptq: bool | str = "PEFT puts it onto layers with weights, and those of GPTQ and AWQ have packed integers"
    """Whether it trains over a base that GPTQ or AWQ packed."""
    quantized_biases: bool | str = True
    """Whether it trains over a base by bitsandbytes whose layers have biases."""
    ddp: bool | str = True
    """Whether several processes with whole weights train the adapter of one: DDP, ZeRO-1 and ZeRO-2."""
    zero3: bool | str = True
    """Whether it trains so where ZeRO-3 divides the weights."""
    fsdp: bool | str = True
    """Whether it trains so where FSDP divides the weights."""
    hidden_tensors: bool = False
    """Whether it keeps parts of the base where a change of the model's type does not reach them."""
    empty_base: bool = True
    """Whether it can be put onto a base without weights."""
    resume: bool | str = True
    """Whether an interrupted run goes on as if it had not been interrupted."""
    convertible: bool = False
    """Whether PEFT can make a LoRA of the trained adapter."""
    vllm: bool = False
    """Whether vLLM serves the adapter as it is."""
    sensitive: bool = False
    """Whether a slightly wrong learning rate learns nothing."""
    benchmark: str = ""
    """What PEFT's own benchmark gave: accuracy on GSM8K after MetaMathQA, Llama-3.2-3B, one run each."""
    virtual_tokens: bool = False
    """Whether the method puts tokens of its own before every row."""
    key_value_cache: bool = False
    """Whether these are a cache of keys and values rather than inputs."""
    divided_rows: bool = False
    """Whether it trains where several processes share each row."""

    def __post_init__(self) -> None:
        """What does not work at all, works in none of its kinds: several processes, and a base in few bits."""
        for whole, kinds in (("ddp", ("zero3", "fsdp")), ("few_bits", ("nf4", "int8", "torchao"))):
            if (reason := getattr(self, whole)) is not True:
                for kind in kinds:
                    object.__setattr__(self, kind, reason)

    def trains(self, task_type: str) -> bool | str:
        """Whether it trains a model of a task, by PEFT's name; a string is the reason why not."""
        return {"SEQ_CLS": self.classifier, "TOKEN_CLS": self.token_classification}.get(task_type, True)

    @property
    def is_sensitive(self) -> bool:
        """Whether the learning rate has to be looked for."""
        return self.sensitive or self.virtual_tokens
