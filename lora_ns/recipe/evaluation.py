"""`[evaluation]`: measurements before, during and after training."""

from __future__ import annotations

from lora_ns.suites import AnySuite
from lora_ns.table import Column, PositiveInt, Table


class Evaluation(Table):
    """Evaluation settings. The loss on the evaluation rows is always measured; exact match is optional."""

    before_training: bool = True
    """Evaluate before the first step too, so that the effect of training is visible."""
    exact_match: bool = False
    """Before and after training, generate an answer to each evaluation prompt and count the correct ones.

    Each evaluation in between writes four greedy answers to `samples.jsonl` in the run.
    """
    answer_pattern: str | None = None
    """Regular expression whose last match (group 1, if any) is the answer, such as `"#### (.+)"` for GSM8K."""
    group_by: Column | None = None
    """Column to report exact match by, for each of its values."""
    max_samples: PositiveInt = 200
    """Maximum number of evaluation prompts to answer, from the start."""
    suites: tuple[AnySuite, ...] = ()
    """What `lorans eval` measures besides, each in a table `[[evaluation.suites]]` of its own."""
