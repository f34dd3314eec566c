"""Learning rates and ranks to start from, by method, task and width of the base, and notes on settings far from them.

Sources: QLoRA (Dettmers et al. 2023, arXiv 2305.14314, table 9) trains text with 2e-4 on bases 4,096 wide and 1e-4 on
8,192. "LoRA Without Regret" (Schulman et al. 2025, Thinking Machines Lab) has the best rate fall with the power 0.775
of the width, and finds attention alone worse than all linear layers, and large batches worse than for full fine-tuning.
LoRA (Hu et al. 2021, arXiv 2106.09685, table 9) trains labels with 4e-4 to 5e-4 on RoBERTa-base, 768 wide, and 2e-4 to
4e-4 on RoBERTa-large.

Ranks: LoRA (tables 6 and 9) trains labels with a rank of 8, and gains nothing from more. QLoRA (appendix A) trains
text as well with all ranks from 8 to 256 on all linear layers. With a scale of `lora_alpha / lora_r`, one rate is the
best for all ranks if `lora_alpha` is 32 (Schulman et al. 2025); other recipes keep `lora_alpha / lora_r` at 2.

Targets: all linear layers, for text by the last two of these, and for labels too, where LoRA itself adapted queries and
values alone.
"""

from __future__ import annotations

import math

from lora_ns.model.files import BaseFacts
from lora_ns.objectives import Objective
from lora_ns.recipe.recipe import Recipe


def usual_why(recipe: Recipe, facts: BaseFacts | None) -> str:
    """Why a rate or a rank is the usual one: the method, what is learned, the width of the base."""
    kind = "text" if recipe.objective.writes_text else "labels"
    if facts is None or not facts.hidden_size:
        return f"usual for {recipe.peft.method} and {kind}"
    return f"usual for {recipe.peft.method}, {kind} and a base {facts.hidden_size:,} wide"


def usual_rate_of(recipe: Recipe, facts: BaseFacts | None) -> float:
    """The peak learning rate that is usual for the method, the objective and the base."""
    typical = recipe.peft.capabilities.typical_learning_rate
    return recipe.objective.usual_rate(typical, facts.hidden_size if facts else None)


FAR = 4
"""A rate this many times above or below the usual one gets a note."""


LARGE_BATCH = 64
"""Rows of text in a step above which an adapter learns less from each row."""


USUAL_SCALE, USUAL_ALPHA = 2, 32
"""`lora_alpha / lora_r`, and `lora_alpha`, of which recipes keep either one or the other."""


_ATTENTION = ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "c_attn", "qkv")


def rate_note(rate: float, usual: float) -> str | None:
    """What to say of a learning rate that was asked for; None if it is near the usual one."""
    if rate <= 0 or not math.isfinite(rate) or _is_near(rate, usual):
        return None
    times = f"{rate / usual:.3g} times" if rate > usual else f"1/{usual / rate:.3g} of"
    return f"training.learning_rate: {rate:g} is {times} the usual {usual:g} for this method, task and base"


def batch_note(objective: Objective, rows: int | None) -> str | None:
    """What to say of the rows in a step; None if they are not many."""
    if not objective.writes_text or rows is None or rows <= LARGE_BATCH:
        return None
    return (
        f"global_batch_size: {rows} rows of text in a step; above {LARGE_BATCH}, adapters learn less from each row "
        "(Schulman et al. 2025)"
    )


def targets_note(objective: Objective, targets: str | tuple[str, ...]) -> str | None:
    """What to say of the layers that are adapted; None if they are not those of the attention alone."""
    if not objective.writes_text or isinstance(targets, str) or not targets:
        return None
    if not all(any(name in target for name in _ATTENTION) for target in targets):
        return None
    return (
        "peft.target_modules: the attention alone learns less than all linear layers, at as many trained numbers too "
        '(Schulman et al. 2025; write "all-linear")'
    )


def rank_note(key: str, rank: int, width: int | None) -> str | None:
    """What to say of a rank; None if it is not above half of the base's width.

    Args:
        key: the dotted key of the rank.
        rank: of the update.
        width: `hidden_size` of the base; None if it is not known yet.
    """
    if not width or rank <= width // 2:
        return None
    return (
        f"{key}: {rank:,} is above half of the base's width of {width:,}: the adapter has more numbers than the layers "
        f"that it adapts (write at most {width // 2:,})"
    )


def scale_note(alpha: float, rank: int, is_stabilised: bool) -> str | None:
    """What to say of the scale of LoRA's update; None if the scale or `lora_alpha` is near the usual one.

    Args:
        alpha: `lora_alpha`.
        rank: of the update.
        is_stabilised: whether `lora_alpha` is divided by the root of the rank, not by the rank.
    """
    scale = alpha / (math.sqrt(rank) if is_stabilised else rank)
    if _is_near(scale, USUAL_SCALE) or _is_near(alpha, USUAL_ALPHA):
        return None
    divided = "sqrt(lora_r)" if is_stabilised else "lora_r"
    return (
        f"peft.lora_alpha: {alpha:g} scales the update by {scale:.3g} (`lora_alpha / {divided}`); usual is a scale of "
        f"{USUAL_SCALE}, or a `lora_alpha` of {USUAL_ALPHA} at any rank (Schulman et al. 2025)"
    )


def _is_near(value: float, usual: float) -> bool:
    return usual / FAR <= value <= usual * FAR
