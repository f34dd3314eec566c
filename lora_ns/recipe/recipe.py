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
    """One fine-tuning run: what is learned, from what, how."""

    task_name: Annotated[str, Field(pattern=WORD)]
    """Short name of the task: letters, digits, `.`, `_`, `-`."""
    task_type: Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]
    """PEFT's name of the task: `CAUSAL_LM` writes text, `SEQ_CLS` classifies it, `TOKEN_CLS` tags its words."""
    model: Model
    """The base model."""
    quantization: Quantization = NoQuantization()
    """The base in 4 or 8 bits."""
    peft: Peft
    """The adapter."""
    dataset: Dataset
    """The rows."""
    training: Training
    """The run."""
    distributed: Distributed = OneProcess()
    """The processes that train together."""
    objective: AnyObjective
    """What is learned, in the table of the objective: `[sft]`, `[classification]`."""
    generation: Generation = Generation()
    """Writing text with the result."""
    evaluation: Evaluation = Evaluation()
    """Measuring the result."""
    tracking: Tracking = Tracking()
    """Reporting the run."""
