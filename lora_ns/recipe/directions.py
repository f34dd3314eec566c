"""The direction of metrics by their names alone, for runs whose recipe is not validated, as in a table."""

from __future__ import annotations

LOWER = ("loss", "rmse")
"""Metrics of trainers that are better the lower they are."""


LOWER_IN_SUITES = ("loss", "perplexity", "kl", "changed", "rmse")
"""Figures of suites that are better the lower they are."""


def is_lower_better(name: str) -> bool:
    """Return whether a metric is better the lower it is: `eval_loss`, `eval_loss/group`, `eval_held-out.perplexity`.

    A suite whose recipe is at hand says it itself.
    """
    title, dot, figure = name.removeprefix("eval_").partition(".")
    whole = (figure if dot else title).partition("/")[0]
    return whole in (LOWER_IN_SUITES if dot else LOWER) or whole.endswith("_loss")
