"""`[evaluation]`: measurements before, during and after training."""

from __future__ import annotations

from lora_ns.suites import AnySuite, ExactMatchSuite, Suite
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
    """What is measured besides, before and after training, each in a table `[[evaluation.suites]]` of its own."""
    while_training: bool = False
    """Ask exact match and suites at each evaluation during training too."""
    samples_while_training: PositiveInt = 50
    """Maximum number of rows of exact match and of each suite to ask during training, from the start."""

    @property
    def asked(self) -> tuple[Suite, ...]:
        """What a run asks before and after training: exact match, then the suites of text that need no judge.

        Those of another library, which ask the model themselves, are left out, too.
        """
        suites = (suite for suite in self.suites if not suite.is_against_base and suite.asks not in {"label", "itself"})
        return (*((self.as_suite(),) if self.exact_match else ()), *suites)

    def as_suite(self) -> ExactMatchSuite:
        """Exact match as a suite of the evaluation rows."""
        return ExactMatchSuite(answer_pattern=self.answer_pattern, group_by=self.group_by, max_samples=self.max_samples)
