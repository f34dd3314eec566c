"""`code`: the completion's program passes tests. Refused until there is a sandbox to run it in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from lora_ns.rewards.base import Comparison
from lora_ns.table import Conflict


class Code(Comparison):
    """Share of the row's tests that the completion's program passes. This version has no sandbox, so it is refused."""

    name: Literal["code"] = "code"

    verifies: ClassVar[bool] = True

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Always one: generated programs must not run outside of a sandbox."""
        what = "`code` runs generated programs, and this version of lorans has no sandbox for them"
        yield Conflict((f"{key}.name",), what, 'use another reward, or your own with `python = "rewards.py:name"`')
