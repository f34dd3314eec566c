"""What a PEFT method can be combined with, stated once: every check, table and test reads it here."""

from __future__ import annotations

from dataclasses import dataclass


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
    typical_learning_rate: float = 2e-4
    """Where a run starts that says nothing else."""
    virtual_tokens: bool = False
    """Whether the method puts tokens of its own before every row."""
