"""`format`: the completion consists of tagged parts, such as its reasoning and its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lora_ns.rewards.base import Completion, RewardFunction
from lora_ns.table import WORD

Tag = Annotated[str, Field(pattern=WORD)]


class Format(RewardFunction):
    """1 if the completion is these tags in this order, each once and with a text, and nothing else; otherwise 0."""

    name: Literal["format"] = "format"
    tags: Annotated[tuple[Tag, ...], Field(min_length=1)] = ("think", "answer")
    """Names of the tags: `["think", "answer"]` means `<think>...</think> <answer>...</answer>`."""
    opens_in_prompt: bool = False
    """The prompt ends with the first opening tag, so completions begin behind it."""

    def score(self, given: Completion) -> float:
        """1 or 0."""
        text = f"<{self.tags[0]}>{given.text}" if self.opens_in_prompt else given.text
        rest = text.strip()
        for tag in self.tags:
            opening, closing = f"<{tag}>", f"</{tag}>"
            if rest.count(opening) != 1 or rest.count(closing) != 1 or not rest.startswith(opening):
                return 0.0
            part, _, rest = rest.removeprefix(opening).partition(closing)
            rest = rest.strip()
            if not part.strip() or any(f"<{other}>" in part or f"</{other}>" in part for other in self.tags):
                return 0.0
        return float(not rest)
