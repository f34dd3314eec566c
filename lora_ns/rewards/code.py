"""`code`: the completion's program passes the tests of its row, in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from lora_ns.rewards.base import Completion, RewardFunction, Scorer
from lora_ns.rewards.programs import program_of, row_tests
from lora_ns.sandbox.outcome import Limits, Outcome, Program, Verdict
from lora_ns.table import Column, PositiveInt


class Code(RewardFunction):
    """1 if the completion's program passes the tests of its row in a sandbox, else 0; needs `allow_code = true`.

    The program is the last fenced Python block that defines the tested function, else the first block, else the whole
    completion. Tests are the statements of `test_list`, as in MBPP, with `test_imports` before the program and
    `test_setup_code` after it. Or they are the text of `test`, whose `check` is called with the function `entry_point`;
    if `prompt` begins this function, the completion may be the rest of it, as in HumanEval.
    """

    name: Literal["code"] = "code"
    column: Column | None = None
    """Column with the tests; default: `test_list`, else `test`."""
    timeout: PositiveInt = 5
    """Processor time of a program in seconds. It is also stopped after three times as long."""
    partial: bool = False
    """Score the share of tests that pass."""

    verifies: ClassVar[bool] = True
    key_of_code: ClassVar[str] = "name"

    @property
    def runs_code(self) -> str:
        """Programs of the model."""
        return "programs that the model writes, in a sandbox"

    @property
    def limits(self) -> Limits:
        """Limits of each program."""
        return Limits(seconds=3.0 * self.timeout, cpu_seconds=self.timeout)

    def check(self, row: Completion) -> None:
        """Check that the row has tests. Raises `RowFaultError`."""
        row_tests(row.values, self.column)

    def program(self, given: Completion) -> Program:
        """The program of a completion with the tests of its row. Raises `RowFaultError` if the row has none."""
        return program_of(given.text, given.values, self.column)

    def outcomes(self, batch: Sequence[Completion]) -> list[Outcome]:
        """The outcome of each completion's program; equal ones run once.

        Raises:
            RowFaultError: if a row has no tests.
            MissingError: if a wall of the sandbox is missing on this machine.
        """
        from lora_ns.sandbox.run import run_all

        programs = [self.program(given) for given in batch]
        unique = dict.fromkeys(programs)
        found = dict(zip(unique, run_all(unique, self.limits), strict=True))
        return [found[program] for program in programs]

    def score_of(self, outcome: Outcome) -> float:
        """The score of an outcome."""
        return outcome.share if self.partial else float(outcome.verdict is Verdict.PASSED)

    def score(self, given: Completion) -> float:
        """Between 0 and 1. Raises like `outcomes`."""
        return self.score_of(self.outcomes([given])[0])

    def scorer(self, _folders: Sequence[Path]) -> Scorer:
        """The function, which runs as many programs at a time as there are cores. Raises `MissingError`."""
        from lora_ns.sandbox.walls import require

        require()
        return lambda batch: [self.score_of(outcome) for outcome in self.outcomes(batch)]
