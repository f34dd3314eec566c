"""`[classification]`: labels for texts or words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_ns.table import Column, Fraction, PositiveFloat, PositiveInt, Table


class Classification(Table):
    """Labels for a text or a pair, or for each word, through transformers' `Trainer`."""

    max_seq_length: PositiveInt = 256
    """Longest row, in tokens; the end of a longer one is cut and counted."""
    labels: tuple[Column, ...] = Field(default=(), max_length=10_000)
    """Names of the classes or tags in the order of their numbers; found in the training rows if absent."""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """What a label is: one class, a list of labels, or a score; `auto` goes by the training rows and says why."""
    threshold: Fraction = 0.5
    """Probability from which a label applies to a text; only where there may be several."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = "none"
    """Weights of the classes in the loss, `balanced` by their number of rows, or in the order of the labels."""
