"""`[cpo]`: contrastive preference optimisation of a causal language model, with SimPO and AlphaPO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.objectives.reference_free import ReferenceFree
from lora_ns.table import Conflict, NonNegativeFloat, PositiveFloat

_SMOOTHED = ("sigmoid", "simpo")
"""Losses that read `label_smoothing`."""

_MEANS = ("ipo", "simpo")
"""Losses of the mean log-probability of a token, in place of the sum over an answer."""


class Cpo(ReferenceFree):
    """Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417), with TRL's experimental `CPOTrainer`.

    SimPO (Meng et al. 2024, arXiv 2405.14734) is `loss_type = "simpo"` with `cpo_alpha = 0`. The default learning rate
    is ten times the one of SimPO's authors for full fine-tuning, 5e-7 to 1e-6: 1e-5 for LoRA on a 7B base.
    """

    toml: ClassVar[str] = "cpo"
    upstream: ClassVar[str] = "trl.experimental.cpo.CPOTrainer"
    upstream_config: ClassVar[str] = "trl.experimental.cpo.CPOConfig"
    likelihood_of_prompt: ClassVar[bool] = False

    table: Literal["cpo"] = "cpo"
    beta: PositiveFloat = 0.1
    """Scale of the rewards, which are log-probabilities: 2 to 10 for SimPO; tau of IPO."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "simpo"] = "sigmoid"
    """Loss of the difference of rewards; `simpo` and `ipo` take the mean over the tokens of an answer, not the sum."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Probability that a label is wrong; only for `sigmoid` and `simpo`."""
    cpo_alpha: NonNegativeFloat = 1.0
    """Weight of the likelihood of the preferred answer: 1 for CPO, 0 for SimPO."""
    simpo_gamma: NonNegativeFloat = 0.5
    """Margin of rewards that `simpo` aims at: about half of `beta`."""
    alpha: float = 0.0
    """AlphaPO (arXiv 2501.03884): shape of the reward; 0 for log-probabilities. Only for `simpo` and `ipo`."""

    @property
    def adds_up(self) -> bool | str:
        """True without the likelihood of the preferred answer."""
        return "its likelihood is a mean over the tokens of a batch" if self.cpo_alpha else super().adds_up

    @property
    def against_displacement(self) -> str:
        """Remedy for chosen answers that become less likely."""
        return f"raise `{self.key('cpo_alpha')}`, or lower `training.learning_rate`"

    def conflicts(self) -> Iterator[Conflict]:
        """Keys that need another loss."""
        yield from super().conflicts()
        underflows = "the probability of a whole answer is too small for `alpha`"
        for name, losses, what in (
            ("label_smoothing", _SMOOTHED, f'`label_smoothing` has no effect with "{self.loss_type}"'),
            ("simpo_gamma", ("simpo",), f'`simpo_gamma` has no effect with "{self.loss_type}"'),
            ("alpha", _MEANS, f'{underflows}, and "{self.loss_type}" takes the whole answer'),
        ):
            if name in self.model_fields_set and getattr(self, name) and self.loss_type not in losses:
                known = " or ".join(f'`loss_type = "{loss}"`' for loss in losses)
                yield Conflict((self.key("loss_type"), self.key(name)), what, f"remove it, or write {known}")

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, and arguments that make TRL use the rows unchanged."""
        names = ("beta", "loss_type", "label_smoothing", "cpo_alpha", "simpo_gamma", "alpha")
        return {**super().arguments(row_parts), **{name: getattr(self, name) for name in names}}
