"""`[dpo]`: direct preference optimisation of a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from lora_ns.objectives.base import Counted
from lora_ns.objectives.pair_trainer import PairCollator, pair_trainer_class
from lora_ns.objectives.pairs import PairObjective
from lora_ns.table import Conflict, PositiveFloat, Probability

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossType = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]

_OF_DIFFERENCES = frozenset({"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"})
"""Losses of the difference of rewards, the only ones with a generalisation to other divergences."""

_SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})
"""Losses that read `label_smoothing`."""


class Dpo(PairObjective):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), with TRL's `DPOTrainer`."""

    toml: ClassVar[str] = "dpo"
    library: ClassVar[str] = "TRL"
    upstream: ClassVar[str] = "trl.DPOTrainer"

    table: Literal["dpo"] = "dpo"
    beta: PositiveFloat = 0.1
    """Weight of the distance from the reference: a larger one keeps the model closer to it; tau of IPO."""
    loss_type: tuple[LossType, ...] = Field(default=("sigmoid",), min_length=1)
    """Losses, which are added: DPO's own is `sigmoid`; `["sigmoid", "bco_pair", "sft"]` is MPO."""
    loss_weights: tuple[PositiveFloat, ...] = ()
    """Weight of each loss of `loss_type`; 1 for each by default."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Probability that a label is wrong; only for `robust` (about 0.1), `exo_pair` (about 0.001), `aot`."""
    ld_alpha: Probability | None = None
    """LD-DPO (arXiv 2409.06411): weight of the tokens beyond the length of the shorter answer; 1 for all alike."""
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """Distance from the reference (f-DPO, arXiv 2309.16240)."""
    f_alpha_divergence_coef: PositiveFloat = 0.5
    """Coefficient of `alpha_divergence`."""
    use_weighting: bool = False
    """WPO (arXiv 2406.11827): weight pairs by their probability under the model."""
    discopop_tau: PositiveFloat = 0.05
    """Temperature of `discopop` (arXiv 2406.08414)."""
    precompute_ref_log_probs: bool = False
    """Compute the log-probabilities of the reference once, before training, and keep them in the run directory. Each
    step then has one forward pass of two less."""

    @classmethod
    def losses(cls) -> tuple[str, ...]:
        """Names of the losses."""
        return get_args(LossType)

    @property
    def against_displacement(self) -> str:
        """Remedy for chosen answers that become less likely."""
        added = "" if "sft" in self.loss_type else f'add "sft" to `{self.key("loss_type")}`, '
        return f"{added}{super().against_displacement}"

    def conflicts(self) -> Iterator[Conflict]:
        """Keys that need another loss, and a wrong number of weights."""
        yield from super().conflicts()
        for name, needs, losses in (
            ("label_smoothing", "a loss that reads it", _SMOOTHED),
            ("discopop_tau", '`loss_type = ["discopop"]`', {"discopop"}),
        ):
            if name in self.model_fields_set and losses.isdisjoint(self.loss_type):
                known = ", ".join(f'"{loss}"' for loss in sorted(losses))
                what = f"`{name}` has no effect without {needs}"
                yield Conflict((self.key("loss_type"), self.key(name)), what, f"remove it, or add one of: {known}")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            what = '"exo_pair" divides by `label_smoothing`'
            yield Conflict((self.key("loss_type"),), what, "write `label_smoothing = 0.001`")
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            what = f"{len(self.loss_weights)} `loss_weights` for {len(self.loss_type)} losses"
            yield Conflict((self.key("loss_type"), self.key("loss_weights")), what, "write one for each")
        if doubled := [loss for loss in self.loss_type if self.loss_type.count(loss) > 1]:
            yield Conflict((self.key("loss_type"),), f'"{doubled[0]}" is given twice', "give it a weight instead")
        yield from self._divergence_conflicts()

    def _divergence_conflicts(self) -> Iterator[Conflict]:
        others = [loss for loss in self.loss_type if loss not in _OF_DIFFERENCES]
        if self.f_divergence_type != "reverse_kl" and others:
            what = f'`f_divergence_type = "{self.f_divergence_type}"` is not defined for "{others[0]}"'
            yield Conflict((self.key("loss_type"), self.key("f_divergence_type")), what, 'write "reverse_kl"')
        if "f_alpha_divergence_coef" in self.model_fields_set and self.f_divergence_type != "alpha_divergence":
            keys = (self.key("f_divergence_type"), self.key("f_alpha_divergence_coef"))
            what = '`f_alpha_divergence_coef` has no effect without `f_divergence_type = "alpha_divergence"`'
            yield Conflict(keys, what, "remove it")
        sorting = [loss for loss in self.loss_type if loss in {"aot", "aot_unpaired"}]
        if self.use_weighting and sorting:
            what = f'"{sorting[0]}" sorts the pairs of a batch, so they cannot be weighted'
            yield Conflict((self.key("loss_type"), self.key("use_weighting")), what, "remove one of them")

    @property
    def adds_up(self) -> bool | str:
        """True unless a loss sorts the pairs of a batch, or is a mean over their tokens."""
        if sorting := [loss for loss in self.loss_type if loss in {"aot", "aot_unpaired"}]:
            return f'"{sorting[0]}" sorts the pairs of a batch'
        return '"sft" is a mean over the tokens of a batch' if "sft" in self.loss_type else super().adds_up

    @property
    def refers_once(self) -> bool:
        """True if the log-probabilities of the reference are computed before training."""
        return self.precompute_ref_log_probs

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Log-probabilities are computed before training for all rows at once."""
        yield from super().lost_in_a_stream()
        if self.precompute_ref_log_probs:
            yield self.key("precompute_ref_log_probs"), "reads all rows before training", "write false"

    def config_class(self) -> Any:
        """`trl.DPOConfig`."""
        import trl

        return trl.DPOConfig

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """The keys of this table, and arguments that make TRL use the rows unchanged."""
        names = ("beta", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau")
        return {
            **{name: getattr(self, name) for name in names},
            "loss_type": list(self.loss_type),
            "loss_weights": list(self.loss_weights) or None,
            "label_smoothing": self.label_smoothing,
            "max_length": None,
            "remove_unused_columns": False,
        }

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's `DPOTrainer`, with an evaluation that averages over all pairs."""
        import trl

        return pair_trainer_class(trl.DPOTrainer, counted)

    def trainer_kwargs(self, _model: Any, tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]) -> dict[str, Any]:
        """The collator of pairs."""
        assert tokenizer.pad_token_id is not None, "the tokenizer of a run has a padding token"
        return {"data_collator": PairCollator(tokenizer.pad_token_id)}
