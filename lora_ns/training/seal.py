"""The adapter check: the saved adapter, reloaded on a fresh base, must give the trained model's logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.opened import open_trained
from lora_ns.answers.probes import ask_probes, cut, logits_of, probes_of, save_probes
from lora_ns.errors import Problem, RunError
from lora_ns.model.load import difference
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest, SealRecord

if TYPE_CHECKING:
    import datasets
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

ROWS = 4
"""Rows that are compared."""


TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest allowed difference of two logits, relative to the largest logit, by compute dtype."""


class Seal:
    """The trained model's logits on a few rows, for comparison with the reloaded adapter."""

    def __init__(
        self,
        manifest: Manifest,
        model: Any,
        rows: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
    ) -> None:
        """Compute the logits of the trained model.

        Args:
            manifest: the run's manifest.
            model: the trained model.
            rows: tokenised training rows, of which the first few are taken.
            tokenizer: the tokenizer, for texts that are in no data.
            device: the device that computes; offloaded weights are elsewhere.
        """
        self._dtype = manifest.plan.dtype.value
        self._rows = rows.select(range(min(ROWS, len(rows))))
        self._answers = self._ask(model, device)
        self._probes = probes_of(rows, tokenizer)
        self._replies = ask_probes(model, self._probes, device, self._dtype)

    def freeze(self, file: Path) -> None:
        """Write the trained model's answers to a few texts, with which whatever is made of it is compared."""
        save_probes(file, self._probes, self._replies)

    def check(self, run: RunDir) -> SealRecord:
        """Reload the saved adapter, as `infer` does, and compare its logits.

        Raises:
            RunError: if the logits differ by more than the tolerance.
        """
        model = open_trained(run).model
        found = max(map(difference, self._answers, self._ask(model, model.device)))
        if not found <= TOLERANCE[self._dtype]:
            what = f"the saved adapter's logits differ from the trained model's, by {found:.1e} of the largest logit"
            raise RunError(Problem(str(run.adapter), what, "do not use it, and report this"))
        return SealRecord(rows=len(self._rows), largest_difference=found, adapter_effect=self._effect(model))

    def _effect(self, model: PeftModel) -> float | None:
        """Difference between the logits of the base alone and those with the adapter, relative to the largest.

        None for methods with virtual tokens, which change the number of positions and leave nothing to compare.
        """
        if model.active_peft_config.is_prompt_learning:
            return None
        with model.disable_adapter():
            return max(map(difference, self._ask(model, model.device), self._answers))

    def _ask(self, model: Any, device: torch.device) -> list[torch.Tensor]:
        return [logits_of(model, cut(row), device, self._dtype) for row in self._rows]
