"""Translation of preference training to `[dpo]`, which the tools configure in the same files as fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from lora_ns.importers.draft import Draft
from lora_ns.importers.rules import Rule, maps, unused
from lora_ns.importers.values import number

LOSSES: Sequence[str] = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""Losses of TRL's `DPOTrainer`, which are those of `dpo.loss_type`."""


def trains_pairs(draft: Draft) -> bool:
    """True if the file trains preferences."""
    return draft.objective == "dpo"


def on_pairs(rule: Rule, otherwise: str) -> Rule:
    """Apply a rule if the file trains preferences; without them, the key has no effect."""

    def chosen(draft: Draft, key: str) -> None:
        (rule if trains_pairs(draft) else unused(otherwise))(draft, key)

    return chosen


def losses(draft: Draft, key: str, default: str, weights: str, *others: str) -> None:
    """Write `dpo.loss_type` and `dpo.loss_weights`.

    Args:
        draft: the translation.
        key: key with the losses, one or a list.
        default: the loss without that key.
        weights: key with the weight of each loss.
        others: keys that chose preference training.
    """
    asked = draft.names(key) or [default]
    if unknown := [loss for loss in asked if loss not in LOSSES]:
        what, remedy = f"lorans has no loss `{unknown[0]}`", f"write one of: {', '.join(LOSSES)}"
        draft.refuse(key, what, remedy, fatal=True)
        return
    draft.put("dpo.loss_type", asked, key, *others)
    draft.put("dpo.loss_weights", draft.read(weights, _numbers), weights)


def _numbers(value: object) -> list[float]:
    """Read a list of numbers. Raises `UnreadableError`."""
    return [float(number(one)) for one in (value if isinstance(value, list) else [value])]


BETA = maps("dpo.beta", number)
"""Rule for the weight of the distance from the reference."""

SMOOTHING = maps("dpo.label_smoothing", number, own=0.0)
"""Rule for the share of wrong labels."""

SAME_REFERENCE = unused("the reference does not change, so this saves time only")
"""Rule for keys about log-probabilities that are computed in advance."""
