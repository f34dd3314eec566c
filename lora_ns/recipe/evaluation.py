"""`[evaluation]`: what is measured before, during and after training."""

from __future__ import annotations

from lora_ns.table import Column, PositiveInt, Table


class Evaluation(Table):
    """The loss on the evaluation rows is always measured; answers are compared on request."""

    before_training: bool = True
    """Measure before the first step as well, so that the effect of the training can be seen."""
    exact_match: bool = False
    """Before and after training, write an answer to each evaluation prompt and count those that are right."""
    answer_pattern: str | None = None
    """Regular expression whose last match (its group 1, if it has one) is the answer, as `"#### (.+)"` for GSM8K."""
    group_by: Column | None = None
    """Column whose values get an exact match each."""
    max_samples: PositiveInt = 200
    """Evaluation prompts to answer, the first ones."""
