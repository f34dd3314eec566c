"""Capabilities of a PEFT method, the only source for checks, tables and tests."""

from __future__ import annotations

from dataclasses import dataclass

ANOTHER_ADAPTER = "two processes train a different adapter than one"


SHARES_PARAMETERS = "its layers share parameters, and FSDP shards layer by layer"


READS_WEIGHTS = "PEFT reads the base weights when it adds the adapter, and no process has all of them"


STARTS_RANDOM = "its random start changes the outputs of the base"
"""Reason why a new adapter is not the base."""


LORA_RATE = 2e-4
"""Peak learning rate of LoRA, and of methods that train at its rates."""


GRADIENTS_ARE_DIVIDED = "it scores ranks by whole gradients"


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of a PEFT method. A string is the reason why something does not work."""

    merge: bool | str = True
    """Merging the trained weights into the base."""
    packing: bool | str = True
    """Packing: several documents in a row do not see one another."""
    gradient_checkpointing: bool | str = True
    """Recomputing activations in the backward pass."""
    token_classification: bool | str = True
    """Token classification (`TOKEN_CLS`) in PEFT."""
    typical_learning_rate: float = LORA_RATE
    """Peak learning rate for text on a 7B base. `usual_rate` adjusts LoRA's to task and base."""
    classifier: bool | str = True
    """Sequence classification (`SEQ_CLS`), with the classification head."""
    few_bits: bool | str = True
    """Training over a 4-bit or 8-bit base of any kind."""
    nf4: bool | str = True
    """Training over a 4-bit base."""
    int8: bool | str = True
    """Training over an 8-bit base of bitsandbytes."""
    torchao: bool | str = True
    """Training over an 8-bit base of torchao."""
    gptq: bool | str = "PEFT needs layers with weights, and those of GPTQ and AWQ have packed integers"
    """Training over a GPTQ or AWQ base."""
    quantized_biases: bool | str = True
    """Training over a bitsandbytes base whose layers have biases."""
    ddp: bool | str = True
    """Training the same adapter in several processes with whole weights as in one: DDP, ZeRO-1 and ZeRO-2."""
    zero3: bool | str = True
    """Training the same adapter with weights sharded by ZeRO-3."""
    fsdp: bool | str = True
    """Training the same adapter with weights sharded by FSDP."""
    hidden_tensors: bool = False
    """Keeps base tensors that a dtype conversion of the model does not reach."""
    empty_base: bool = True
    """Can be added to a base without weights."""
    resume: bool | str = True
    """Resuming an interrupted run with the same result as an uninterrupted one."""
    convertible: bool = False
    """PEFT can convert the trained adapter to LoRA."""
    vllm: bool = False
    """vLLM can serve the adapter."""
    sensitive: bool = False
    """A slightly wrong learning rate prevents learning."""
    benchmark: str = ""
    """Result of PEFT's own benchmark: accuracy on GSM8K after MetaMathQA, Llama-3.2-3B, one run each."""
    virtual_tokens: bool = False
    """Prepends virtual tokens to every row."""
    key_value_cache: bool = False
    """The virtual tokens are a cache of keys and values instead of inputs."""
    starts_at_base: bool | str = True
    """A new adapter leaves the outputs of the base unchanged, so that the base alone is the start of training."""
    copied: bool | str = True
    """Computing with a frozen copy of the adapter, which TRL adds as the reference of rewards."""
    divided_rows: bool = False
    """Trains in several processes that share each row."""

    def __post_init__(self) -> None:
        """Copy the reason of a general field to its special cases: `ddp` to `zero3` and `fsdp`, `few_bits` to kinds."""
        for whole, kinds in (("ddp", ("zero3", "fsdp")), ("few_bits", ("nf4", "int8", "torchao"))):
            if (reason := getattr(self, whole)) is not True:
                for kind in kinds:
                    object.__setattr__(self, kind, reason)

    def trains(self, task_type: str) -> bool | str:
        """Capability for a PEFT task type: True, or the reason why not."""
        return {"SEQ_CLS": self.classifier, "TOKEN_CLS": self.token_classification}.get(task_type, True)

    @property
    def continues(self) -> bool | str:
        """Training an adapter further in another run: True, or the reason why not."""
        return "PEFT loads virtual tokens for inference only" if self.virtual_tokens else self.resume

    @property
    def is_sensitive(self) -> bool:
        """True if the learning rate must be searched for."""
        return self.sensitive or self.virtual_tokens
