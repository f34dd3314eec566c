"""`[grpo]`: group relative policy optimisation of a causal language model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from lora_ns.objectives.rewarded import RewardedObjective
from lora_ns.table import Conflict, NonNegativeFloat, PositiveFloat, Probability

_ON_TOKENS = frozenset({"bnpo", "dr_grpo", "dapo", "cispo"})
"""Losses that sum over tokens, which weighs a ratio of whole sequences by the length of the completion."""

_CISPO_BOUND = 5.0
"""Bound of the ratio that ScaleRL (arXiv 2510.13786) recommends for `cispo`; TRL's 0.2 would scale the loss down."""


class Grpo(RewardedObjective):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), with TRL's `GRPOTrainer`.

    `cispo` bounds the ratio at 5 unless `epsilon_high` is given, as ScaleRL recommends.
    """

    toml: ClassVar[str] = "grpo"
    upstream: ClassVar[str] = "trl.GRPOTrainer"

    table: Literal["grpo"] = "grpo"
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """Loss: `dapo` averages over the tokens of a step, `dr_grpo` over a constant; `grpo` favours short answers."""
    beta: NonNegativeFloat = 0.0
    """Weight of the distance from the reference; 0 for none, which saves a forward pass."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide rewards by their standard deviation in the group or in the batch; Dr. GRPO advises `none`."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Compare probabilities by token, or by sequence as GSPO does (arXiv 2507.18071), with `loss_type = "grpo"`."""
    delta: PositiveFloat | None = None
    """Upper bound of the ratio for completions that are made less likely (INTELLECT-2, arXiv 2505.07291)."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Normalise the sum of the rewards, or each reward alone as GDPO does."""
    top_entropy_quantile: Probability = 1.0
    """Share of the tokens with the highest entropy that are learned from (arXiv 2506.01939); 1 for all."""
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of a bonus for entropy, against collapse."""
    sapo_temperature_pos: PositiveFloat = 1.0
    """Temperature of `sapo` (arXiv 2511.20347) for tokens that are made likelier."""
    sapo_temperature_neg: PositiveFloat = 1.05
    """Temperature of `sapo` for tokens that are made less likely."""
    use_bias_correction_kl: bool = True
    """Weigh the distance from the reference by the ratio of probabilities (DeepSeek-V3.2, arXiv 2512.02556)."""
    off_policy_mask_threshold: PositiveFloat | None = None
    """Divergence beyond which bad completions are left out (DeepSeek-V3.2); only with `num_iterations` above 1."""

    @property
    def _is_on_policy(self) -> bool:
        """True if no ratio is clipped; `cispo` bounds that of every token."""
        return super()._is_on_policy and self.loss_type != "cispo"

    @property
    def has_reference(self) -> bool:  # type: ignore[override]
        """True if the loss has a distance from the reference."""
        return self.beta > 0

    @property
    def adds_up(self) -> bool | str:
        """True unless a term of the loss is computed from all tokens of a batch."""
        if self.loss_type == "bnpo":
            return '"bnpo" is a mean over the tokens of a batch'
        if self.entropy_coef:
            return "the entropy is a mean over the tokens of a batch"
        return True if self.top_entropy_quantile == 1 else "tokens are chosen by their entropy among those of a batch"

    def conflicts(self) -> Iterator[Conflict]:
        """Keys that need another loss, several iterations or a reference."""
        yield from super().conflicts()
        for name, needs, is_met in (
            ("sapo_temperature_pos", '`loss_type = "sapo"`', self.loss_type == "sapo"),
            ("sapo_temperature_neg", '`loss_type = "sapo"`', self.loss_type == "sapo"),
            ("use_bias_correction_kl", "`beta`", self.beta > 0),
            ("delta", "`num_iterations` above 1", self.num_iterations > 1),
            ("off_policy_mask_threshold", "`num_iterations` above 1", self.num_iterations > 1),
            ("multi_objective_aggregation", "several rewards", len(self.rewards) > 1),
        ):
            if name in self.model_fields_set and not is_met:
                yield Conflict((self.key(name),), f"`{name}` has no effect without {needs}", "remove it")
        wanted = {"luspo": "sequence", "vespo": "token"}.get(self.loss_type)
        keys = (self.key("loss_type"), self.key("importance_sampling_level"))
        if wanted not in {None, self.importance_sampling_level}:
            what = f'`loss_type = "{self.loss_type}"` compares probabilities by {wanted}'
            yield Conflict(keys, what, f'write `importance_sampling_level = "{wanted}"`')
        elif self.importance_sampling_level == "sequence" and self.loss_type in _ON_TOKENS:
            what = f'`loss_type = "{self.loss_type}"` would weigh each sequence by its length'
            yield Conflict(keys, what, 'write `loss_type = "grpo"`, which is GSPO')

    def config_class(self) -> Any:
        """`trl.GRPOConfig`."""
        import trl

        return trl.GRPOConfig

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, by TRL's names."""
        names = (
            *("loss_type", "beta", "scale_rewards", "importance_sampling_level", "delta", "entropy_coef"),
            *("multi_objective_aggregation", "top_entropy_quantile", "sapo_temperature_pos", "sapo_temperature_neg"),
            *("use_bias_correction_kl", "off_policy_mask_threshold"),
        )
        found = {**super().arguments(row_parts), **{name: getattr(self, name) for name in names}}
        if self.loss_type == "cispo" and self.epsilon_high is None:
            found["epsilon_high"] = _CISPO_BOUND
        return found

    def _upstream_class(self) -> Any:
        import trl

        return trl.GRPOTrainer
