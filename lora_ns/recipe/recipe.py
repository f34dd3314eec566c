"""The whole recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lora_ns.methods import Peft
from lora_ns.objectives import AnyObjective
from lora_ns.quantizers import NoQuantization, Quantization
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.distributed import Distributed, OneProcess
from lora_ns.recipe.evaluation import Evaluation
from lora_ns.recipe.generation import Generation
from lora_ns.recipe.model import Model
from lora_ns.recipe.tracking import Tracking
from lora_ns.recipe.training import Training
from lora_ns.table import WORD, Table


class Recipe(Table):
    """One fine-tuning run: its task, base, adapter, data and training."""

    task_name: Annotated[str, Field(pattern=WORD)]
    """Short name of the task: letters, digits, `.`, `_`, `-`."""
    task_type: Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]
    """PEFT's task type: `CAUSAL_LM` generates text, `SEQ_CLS` classifies or scores it, `TOKEN_CLS` tags its words."""
    model: Model
    """The base model."""
    quantization: Quantization = NoQuantization()
    """Quantisation of the base."""
    peft: Peft
    """The adapter."""
    dataset: Dataset
    """The training and evaluation rows."""
    training: Training
    """Training settings."""
    distributed: Distributed = OneProcess()
    """Training in several processes."""
    objective: AnyObjective
    """The objective, in its own table: `[sft]` or `[classification]`."""
    generation: Generation = Generation()
    """Decoding settings."""
    evaluation: Evaluation = Evaluation()
    """Evaluation settings."""
    tracking: Tracking = Tracking()
    """Experiment trackers."""

    def as_trial(self) -> Recipe:
        """The recipe of a short training in one process: it asks no suite, chooses nothing, and reports to no tracker.

        Keys of `training.extra` about evaluations, checkpoints and logs are left out.
        """
        training = self.training.without_an_early_end()
        extra = {key: value for key, value in training.extra.items() if not key.startswith(_OF_LONG_RUNS)}
        silent = {"exact_match": False, "before_training": False, "suites": (), "while_training": False}
        return self.model_copy(
            update={
                "training": training.model_copy(update={"extra": extra}),
                "evaluation": self.evaluation.model_copy(update=silent),
                "distributed": OneProcess(),
                "tracking": Tracking(),
            }
        )


_OF_LONG_RUNS = ("eval_", "save_", "logging_", "report")
"""Beginnings of keys of `training.extra` about evaluations, checkpoints and logs."""
