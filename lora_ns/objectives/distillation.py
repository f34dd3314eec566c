"""`[distillation]`: on-policy distillation of a teacher into a causal language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.objectives.base import Counted
from lora_ns.objectives.distillation_trainer import distillation_trainer_class
from lora_ns.objectives.generation import GenerationObjective
from lora_ns.objectives.sft import Sft
from lora_ns.table import Name, PositiveFloat, Probability

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Distillation(GenerationObjective):
    """On-policy distillation (Agarwal et al. 2023, arXiv 2306.13649), with TRL's `DistillationTrainer`.

    The model completes prompts, and learns at each token of its completions the probabilities that a teacher with the
    same vocabulary gives to all tokens. Rows need no answers.
    """

    toml: ClassVar[str] = "distillation"
    library: ClassVar[str] = "TRL"
    upstream: ClassVar[str] = "trl.DistillationTrainer"
    minimum: ClassVar[Mapping[str, Any]] = {"teacher": "lorans:nano"}
    disables_dropout: ClassVar[bool] = True
    reads_hidden_states: ClassVar[bool] = True

    table: Literal["distillation"] = "distillation"
    teacher: Name
    """Model to learn from: a hub id or a folder, or a run directory, whose base is loaded with its adapter."""
    teacher_revision: Name = "main"
    """Branch, tag or commit of a teacher on the hub."""
    beta: Probability = 1.0
    """Divergence: 1 for the reverse KL, 0 for the forward KL, 0.5 for the Jensen-Shannon divergence."""
    temperature: PositiveFloat = 1.0
    """Temperature of the sampling and of both models in the loss: above 1 evens out the probabilities."""

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """Half of the rate for supervised fine-tuning: 1e-4 for LoRA on an 8B base.

        It is the rate of "On-Policy Distillation" (Lu and Thinking Machines Lab 2025). A rate as low as for rewards is
        not needed, because every token has an exact gradient.
        """
        return float(f"{Sft.usual_rate(typical, width) / 2:.0e}")

    @classmethod
    def starter_rows(cls, asked: str, answered: str) -> Sequence[Mapping[str, Any]]:
        """Prompts without answers."""
        return [{"prompt": row["prompt"]} for row in super().starter_rows(asked, answered)]

    def micro_batches(self, rows: int, at_once: int, accumulation: int, drops_last: bool) -> int:
        """Micro-batches of an epoch: TRL drops prompts that do not fill a step."""
        del drops_last
        return rows // (at_once * accumulation) * accumulation

    def config_class(self) -> Any:
        """`trl.DistillationConfig`."""
        import trl

        return trl.DistillationConfig

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, by TRL's names."""
        return {**super().arguments(row_parts), "beta": self.beta}

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's trainer, for prompts that are already tokenised."""
        import trl

        return distillation_trainer_class(trl.DistillationTrainer, counted)

    def trainer_kwargs(
        self, _model: Any, _tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]
    ) -> dict[str, Any]:
        """No further arguments; the teacher is loaded elsewhere."""
        return {}
