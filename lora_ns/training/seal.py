"""The seal: what was saved is opened again on a fresh base, and has to answer as the model did that was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.answers.opened import open_trained
from lora_ns.errors import Problem, RunError
from lora_ns.model.load import computing, difference
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest, SealRecord

if TYPE_CHECKING:
    import datasets
    import torch
    from peft import PeftModel

ROWS = 4
"""Rows that both models answer."""


TOKENS = 64
"""Tokens of a row that they see."""


TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference of two logits, relative to the largest one, by the type that is computed in."""


class Seal:
    """What the trained model answers on a few rows."""

    def __init__(self, manifest: Manifest, model: Any, rows: datasets.Dataset, device: torch.device) -> None:
        """Ask the trained model.

        Args:
            manifest: of its run.
            model: the model as it was trained.
            rows: rows as it sees them; the first few are taken.
            device: where it computes; weights that are offloaded lie elsewhere.
        """
        self._dtype = manifest.plan.dtype.value
        self._rows = rows.select(range(min(ROWS, len(rows))))
        self._answers = self._ask(model, device)

    def check(self, run: RunDir) -> SealRecord:
        """Ask what was saved, opened as `infer` opens it.

        Raises:
            RunError: if it answers otherwise.
        """
        model = open_trained(run).model
        found = max(map(difference, self._answers, self._ask(model, model.device)))
        if not found <= TOLERANCE[self._dtype]:
            what = f"the saved adapter answers otherwise than the trained model, by {found:.1e} of the largest logit"
            raise RunError(Problem(str(run.adapter), what, "do not use it, and report this"))
        return SealRecord(rows=len(self._rows), largest_difference=found, adapter_effect=self._effect(model))

    def _effect(self, model: PeftModel) -> float | None:
        """How far the base alone is; virtual tokens change the number of positions, and leave nothing to compare."""
        if model.active_peft_config.is_prompt_learning:
            return None
        with model.disable_adapter():
            return max(map(difference, self._ask(model, model.device), self._answers))

    def _ask(self, model: Any, device: torch.device) -> list[torch.Tensor]:
        import torch

        model.eval()
        names = ("input_ids", "attention_mask", "token_type_ids")
        answers = []
        with torch.no_grad(), computing(device.type, self._dtype):
            for row in self._rows:
                inputs = {name: torch.tensor([row[name][:TOKENS]]) for name in names if name in row}
                inputs = {name: values.to(device) for name, values in inputs.items()}
                answers.append(model(**inputs).logits.float().cpu())
        return answers
