"""`[orpo]`: odds ratio preference optimisation of a causal language model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lora_ns.objectives.reference_free import ReferenceFree
from lora_ns.table import PositiveFloat


class Orpo(ReferenceFree):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691), with TRL's experimental `ORPOTrainer`.

    It learns the preferred sequence, prompt included, as in the authors' code, and the odds ratio of the two answers.
    The default learning rate is ten times the paper's for full fine-tuning, 8e-6: 8e-5 for LoRA on a 7B base.
    """

    toml: ClassVar[str] = "orpo"
    upstream: ClassVar[str] = "trl.experimental.orpo.ORPOTrainer"
    upstream_config: ClassVar[str] = "trl.experimental.orpo.ORPOConfig"
    likelihood_of_prompt: ClassVar[bool] = True
    rate_share: ClassVar[float] = 0.4

    table: Literal["orpo"] = "orpo"
    beta: PositiveFloat = 0.1
    """Weight of the odds ratio beside the likelihood of prompt and preferred answer; lambda in the paper."""

    @property
    def adds_up(self) -> bool | str:
        """The reason why not."""
        return "its likelihood is a mean over the tokens of a batch"

    @property
    def against_displacement(self) -> str:
        """Remedy for chosen answers that become less likely."""
        return f"lower `{self.key('beta')}` or `training.learning_rate`"

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, and arguments that make TRL use the rows unchanged."""
        return {**super().arguments(row_parts), "beta": self.beta}
