"""`code`: the answer's program passes the tests of its row, as in HumanEval and MBPP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from lora_ns.errors import Problem, UsageError
from lora_ns.rewards.code import Code
from lora_ns.sandbox.outcome import Limits, Outcome, Program, Verdict
from lora_ns.statistics import Measure, share
from lora_ns.suites.base import Gold, Suite
from lora_ns.table import Column, Conflict, PositiveInt

_KNOWN: dict[tuple[Program, Limits], Outcome] = {}
"""Outcomes without output: a program runs once, however often its figures are asked for."""

_MOST_KNOWN = 20_000


class CodeSuite(Suite):
    """Share of answers whose program passes the tests of its row in a sandbox, read as the reward `code` does."""

    kind: Literal["code"] = "code"
    column: Column | None = None
    """Column with the tests; default: `test_list`, else `test`."""
    timeout: PositiveInt = 5
    """Processor time of a program in seconds. It is also stopped after three times as long."""
    allow_code: bool = False
    """Allow the model's programs to run on this machine, in a sandbox."""

    figure: ClassVar[str] = "pass@1"

    @property
    def reward(self) -> Code:
        """The reward function of the same name."""
        return Code(column=self.column, timeout=self.timeout)

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Code that is not allowed."""
        if not self.allow_code:
            what, remedy = f"`code` runs {self.reward.runs_code}", "write `allow_code = true` to allow it"
            yield Conflict((f"{key}.kind",), what, remedy)

    def check(self, gold: Gold) -> None:
        """Check that programs may run and that the row has tests.

        Raises:
            UsageError: if the suite does not allow code.
            MissingError: if a wall of the sandbox is missing on this machine.
            RowFaultError: if the row has no tests.
        """
        from lora_ns.sandbox.walls import require

        if not self.allow_code:
            what = f"the suite `{self.title}` runs {self.reward.runs_code}"
            raise UsageError(Problem("", what, "write `allow_code = true` in its table, or `--allow-code`"))
        require()
        self.reward.check(gold.completed(""))

    def outcomes(self, golds: Sequence[Gold], answers: Sequence[str]) -> list[Outcome]:
        """The outcome of the program in each answer, without its output. Raises `MissingError`."""
        from lora_ns.sandbox.run import run_all

        reward = self.reward
        programs = [reward.program(gold.completed(answer)) for gold, answer in zip(golds, answers, strict=True)]
        unknown = [program for program in dict.fromkeys(programs) if (program, reward.limits) not in _KNOWN]
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.clear()
            unknown = list(dict.fromkeys(programs))
        for program, outcome in zip(unknown, run_all(unknown, reward.limits), strict=True):
            _KNOWN[program, reward.limits] = replace(outcome, output="")
        return [_KNOWN[program, reward.limits] for program in programs]

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`pass@1`."""
        return {self.figure: share([found.verdict is Verdict.PASSED for found in self.outcomes(golds, answers)])}
