"""`[generation]`: decoding settings of `infer`, `eval` and the exact-match evaluation."""

from __future__ import annotations

from typing import Any

from lora_ns.table import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Seed, Table


class Generation(Table):
    """Decoding settings. Greedy by default: the same input gives the same answer."""

    max_new_tokens: PositiveInt = 256
    """Maximum length of an answer, in tokens."""
    batch_size: PositiveInt = 8
    """Prompts per batch. Greedy answers do not depend on it."""
    do_sample: bool = False
    """Sample tokens instead of taking the most likely one."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature: above 1 flattens the distribution, below 1 sharpens it."""
    top_p: Probability = 1.0
    """Sample from the most likely tokens that together reach this probability."""
    top_k: NonNegativeInt = 50
    """Sample from this many most likely tokens; 0 for all."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, makes tokens that have already occurred less likely."""
    seed: Seed = 42
    """Seed of the sampling."""

    def to_kwargs(self) -> dict[str, Any]:
        """Return the arguments of `transformers.GenerationConfig`, those for sampling only with `do_sample`."""
        kwargs: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.do_sample:
            kwargs |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return kwargs
