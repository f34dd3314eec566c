"""`[rloo]`: REINFORCE leave-one-out of a causal language model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lora_ns.objectives.rewarded import RewardedObjective
from lora_ns.table import NonNegativeFloat


class Rloo(RewardedObjective):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), with TRL's `RLOOTrainer`.

    A completion is compared with the mean of the others of its prompt, and a whole completion is one action.
    """

    toml: ClassVar[str] = "rloo"
    upstream: ClassVar[str] = "trl.RLOOTrainer"

    table: Literal["rloo"] = "rloo"
    beta: NonNegativeFloat = 0.05
    """Weight of the distance from the reference, which is taken off the reward; 0 for none."""
    normalize_advantages: bool = False
    """Divide the advantages of a step by their standard deviation."""
    reward_clip_range: tuple[float, float] | None = Field(default=None)
    """Lowest and highest reward; those beyond are clipped."""

    @property
    def has_reference(self) -> bool:  # type: ignore[override]
        """True if the reward has a distance from the reference."""
        return self.beta > 0

    def config_class(self) -> Any:
        """`trl.RLOOConfig`."""
        import trl

        return trl.RLOOConfig

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, by TRL's names."""
        names = ("beta", "normalize_advantages", "reward_clip_range")
        return {**super().arguments(row_parts), **{name: getattr(self, name) for name in names}}

    def _upstream_class(self) -> Any:
        import trl

        return trl.RLOOTrainer
