"""Statistics of evaluations: figures with intervals, two systems on the same items, and what a test set can show.

Values per item go in, typed results come out. Nothing here knows of models, runs or terminals. numpy and scipy are
imported inside functions; `power` needs neither.
"""

from lora_ns.statistics.classes import (
    entity_f1,
    entity_precision,
    entity_recall,
    f1,
    macro_f1,
    matthews,
    precision,
    recall,
)
from lora_ns.statistics.compare import Comparison, Verdict, adjust, compare
from lora_ns.statistics.estimate import Estimate, estimate, value_of
from lora_ns.statistics.interval import Interval, wilson
from lora_ns.statistics.measures import Indexed, Measure, corpus, mean, pearson, root_mean_square, share
from lora_ns.statistics.pass_at_k import pass_at_k
from lora_ns.statistics.power import items_needed, items_needed_for_mean, smallest_difference, smallest_mean_difference
from lora_ns.statistics.ranks import spearman
from lora_ns.statistics.wording import shown_by

__all__ = [
    "Comparison",
    "Estimate",
    "Indexed",
    "Interval",
    "Measure",
    "Verdict",
    "adjust",
    "compare",
    "corpus",
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "estimate",
    "f1",
    "items_needed",
    "items_needed_for_mean",
    "macro_f1",
    "matthews",
    "mean",
    "pass_at_k",
    "pearson",
    "precision",
    "recall",
    "root_mean_square",
    "share",
    "shown_by",
    "smallest_difference",
    "smallest_mean_difference",
    "spearman",
    "value_of",
    "wilson",
]
