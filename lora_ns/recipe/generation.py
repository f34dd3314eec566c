"""`[generation]`: how `infer`, `eval` and the exact-match evaluation write text."""

from __future__ import annotations

from typing import Any

from lora_ns.table import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Seed, Table


class Generation(Table):
    """Greedy by default, so that the same input gives the same answer."""

    max_new_tokens: PositiveInt = 256
    """Longest answer, in tokens."""
    batch_size: PositiveInt = 8
    """Prompts answered at once; answers that are not drawn do not depend on it."""
    do_sample: bool = False
    """Draw tokens instead of taking the likeliest."""
    temperature: PositiveFloat = 1.0
    """Flattens (above 1) or sharpens (below 1) the distribution drawn from."""
    top_p: Probability = 1.0
    """Draw from the likeliest tokens that have this share together."""
    top_k: NonNegativeInt = 50
    """Draw from this many likeliest tokens; 0 for all."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, tokens already seen become less likely."""
    seed: Seed = 42
    """Seed of the draws."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `transformers.GenerationConfig`; the sampling ones only where something is drawn."""
        kwargs: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.do_sample:
            kwargs |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return kwargs
