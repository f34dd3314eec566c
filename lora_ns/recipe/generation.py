"""`[generation]`: decoding settings of `infer`, `eval` and the exact-match evaluation."""

from __future__ import annotations

from lora_ns.table import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Seed, Table


class Generation(Table):
    """Decoding settings. Greedy by default: the same input gives the same answer."""

    max_new_tokens: PositiveInt = 256
    """Maximum length of an answer, in tokens."""
    batch_size: PositiveInt = 8
    """Maximum number of prompts per batch. Answers do not depend on it."""
    max_batch_tokens: PositiveInt | None = None
    """Maximum tokens of a batch with padding, prompts and answers together; a longer prompt is alone. Batches of short
    prompts can then be larger (raise `batch_size`) without running out of memory at long ones."""
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
    """Seed of the sampling. What is sampled for a row depends on it and on the prompt, not on other rows."""
