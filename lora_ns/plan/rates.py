"""Usual learning rates and ranks by method, task and width of the base, and notes on settings far from them.

Sources: QLoRA (Dettmers et al. 2023, arXiv 2305.14314, table 9) trains text at 2e-4 on bases of width 4,096 and at 1e-4
on 8,192. In "LoRA Without Regret" (Schulman et al. 2025, Thinking Machines Lab), the best rate falls with the power
0.775 of the width, attention alone is worse than all linear layers, and large batches are worse than for full
fine-tuning. "LoRA Learns Less and Forgets Less" (Biderman et al. 2024, arXiv 2405.09673) finds the same of targets, and
best rates ten times those of full fine-tuning.

LoRA (Hu et al. 2021, arXiv 2106.09685, table 9) trains labels at 4e-4 to 5e-4 on RoBERTa-base, of width
768, and at 2e-4 to 4e-4 on RoBERTa-large.

Ranks: LoRA (tables 6 and 9) trains labels at rank 8, and gains nothing from more. QLoRA (appendix A) trains text
equally well at all ranks from 8 to 256 on all linear layers. With a scale of `lora_alpha / lora_r` and a `lora_alpha`
of 32, one rate is the best for all ranks (Schulman et al. 2025); other recipes keep `lora_alpha / lora_r` at 2.

Targets: all linear layers, for text as in Schulman et al. and QLoRA, and also for labels, where LoRA itself adapted
only queries and values.
"""

from __future__ import annotations

import math

from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.model.files import BaseFacts
from lora_ns.objectives import Objective
from lora_ns.recipe.recipe import Recipe


def usual_why(recipe: Recipe, facts: BaseFacts | None) -> str:
    """Explain a usual rate or rank: by method, task and width of the base."""
    kind = {"text": "text", "score": "rewards"}.get(recipe.objective.answers, "labels")
    if facts is None or not facts.hidden_size:
        return f"usual for {recipe.peft.method} and {kind}"
    return f"usual for {recipe.peft.method}, {kind} and a base of width {facts.hidden_size:,}"


def usual_rate_of(recipe: Recipe, facts: BaseFacts | None) -> float:
    """Return the usual peak learning rate for the method, the objective and the base."""
    typical = recipe.peft.capabilities.typical_learning_rate
    return recipe.objective.usual_rate(typical, facts.hidden_size if facts else None)


def prior_rate(recipe: Recipe, facts: BaseFacts | None) -> float:
    """Return the rate at which a search begins: for text with LoRA on a base of known width, the best published fit.

    Thinking Machines Lab fitted `5e-5 * 10 * (2000 / hidden_size) ** 0.781` to sweeps over Llama bases ("LoRA Without
    Regret" and the Tinker cookbook, 2025). Other methods and tasks have the usual rate.
    """
    if facts is None or not facts.hidden_size or not has_fit(recipe):
        return usual_rate_of(recipe, facts)
    return float(f"{5e-4 * math.pow(2000 / facts.hidden_size, 0.781):.2g}")


def has_fit(recipe: Recipe) -> bool:
    """Return whether the published fit is of this method and task."""
    objective, typical = recipe.objective, recipe.peft.capabilities.typical_learning_rate
    return objective.writes_text and typical == LORA_RATE == objective.usual_rate(typical, None)


FAR = 4
"""Factor from the usual value beyond which a setting gets a note."""


LARGE_BATCH = 64
"""Rows of text per step above which an adapter learns less from each row."""


USUAL_SCALE, USUAL_ALPHA = 2, 32
"""Usual `lora_alpha / lora_r`, and usual `lora_alpha`; recipes keep one or the other."""


_ATTENTION = ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "c_attn", "qkv")


def rate_note(rate: float, usual: float, source: str = "") -> str | None:
    """Return a note on a learning rate far from the usual one, None otherwise; `source` is that of the usual one."""
    if rate <= 0 or not math.isfinite(rate) or _is_near(rate, usual):
        return None
    times = f"{rate / usual:.3g} times" if rate > usual else f"1/{usual / rate:.3g} of"
    said = f"training.learning_rate: {rate:g} is {times} the usual {usual:g} for this method, task and base"
    return f"{said} ({source}`lorans find-lr` measures it on your rows)"


def batch_note(objective: Objective, rows: int | None) -> str | None:
    """Return a note on a large batch of text, None otherwise."""
    if not objective.writes_text or rows is None or rows <= LARGE_BATCH:
        return None
    return (
        f"global_batch_size: {rows} rows of text per step; above {LARGE_BATCH}, adapters learn less from each row "
        "(Schulman et al. 2025)"
    )


def targets_note(objective: Objective, targets: str | tuple[str, ...]) -> str | None:
    """Return a note if only attention layers are adapted, None otherwise."""
    if not objective.writes_text or isinstance(targets, str) or not targets:
        return None
    if not all(any(name in target for name in _ATTENTION) for target in targets):
        return None
    return (
        "peft.target_modules: attention alone learns less than all linear layers, even with as many parameters "
        '(Biderman et al. 2024, Schulman et al. 2025; write "all-linear")'
    )


def rank_note(key: str, rank: int, width: int | None) -> str | None:
    """Return a note on a rank above half of the base's width, None otherwise.

    Args:
        key: the dotted key of the rank.
        rank: rank of the update.
        width: `hidden_size` of the base; None if it is not known yet.
    """
    if not width or rank <= width // 2:
        return None
    return (
        f"{key}: {rank:,} is above half of the base's width of {width:,}: the adapter has more parameters than the "
        f"layers that it adapts (write at most {width // 2:,})"
    )


def scale_note(alpha: float, rank: int, is_stabilised: bool) -> str | None:
    """Return a note on the scale of LoRA's update, None if the scale or `lora_alpha` is near the usual one.

    Args:
        alpha: `lora_alpha`.
        rank: rank of the update.
        is_stabilised: True if `lora_alpha` is divided by the square root of the rank, not by the rank.
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
