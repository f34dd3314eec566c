"""Batches without their padding: the rows one after another, as one long row whose parts do not see one another.

This is what TRL and transformers call padding-free. They do it with a kernel for rows of different lengths, which only
a GPU has. On a CPU, attention takes one row after another (`model.short_rows`), and all else a token at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lora_ns.model.attention import is_faster_by_rows, is_faster_without_padding
from lora_ns.model.short_rows import BOUNDS, NAME
from lora_ns.training.causal_attention import attends_to_whole_rows, attention_without_mask

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


class PaddingFree:
    """Leaves the padding out of the training batches of a causal base on a CPU."""

    def __init__(self, base: Any, accelerator: Accelerator) -> None:
        self._base, self._accelerator = base, accelerator
        self._hidden = base.config.get_text_config().hidden_size
        self._keeps_rows_apart: bool | None = None

    def pays(self, mask: torch.Tensor) -> bool:
        """Test that a batch has so much padding that it is faster without.

        Args:
            mask: shape (rows, positions), 0 for padding.
        """
        if mask.device.type != "cpu":
            return False
        padding = mask.numel() - int(mask.numpy().sum())  # counted on the host: nothing waits for a device
        return is_faster_without_padding(padding, len(mask), self._hidden) and self.is_possible

    def pays_for_documents(self, bounds: torch.Tensor) -> bool:
        """Test that documents of a packed row are attended to faster one by one.

        Args:
            bounds: where each document begins, and where the last one ends.
        """
        if bounds.device.type != "cpu":
            return False
        lengths = bounds.diff().tolist()
        squares = sum(length**2 for length in lengths)
        pays = is_faster_by_rows(sum(lengths), len(lengths), squares, self._hidden, self._is_rounded)
        return pays and self.is_possible

    @property
    def _is_rounded(self) -> bool:
        """True if the base computes in less than float32."""
        import torch

        with self._accelerator.autocast():
            return torch.is_autocast_enabled("cpu") or self._base.dtype is not torch.float32

    @property
    def is_possible(self) -> bool:
        """True while the base trains with an attention that takes rows one by one, and keeps them apart."""
        return self._base.config._attn_implementation == NAME and self._base.training and self.keeps_rows_apart

    @property
    def keeps_rows_apart(self) -> bool:
        """True if each row that follows another has the hidden states that it has alone, as a trial has shown.

        A base with a convolution or a recurrent state does not, nor one whose attention is not told where rows begin.
        """
        if self._keeps_rows_apart is None:
            takes_positions = "position_ids" in inspect.signature(self._base.base_model.forward).parameters
            self._keeps_rows_apart = takes_positions and attends_to_whole_rows(self._base) and self._tried()
        return self._keeps_rows_apart

    def _tried(self) -> bool:
        import torch

        first = torch.arange(_TRIED, device=self._base.device) + 1
        ids = torch.cat([first, first + _TRIED, first]) % self._base.config.get_text_config().vocab_size
        rows = in_a_row(torch.full((3,), _TRIED))
        in_training = [module for module in self._base.modules() if module.training]
        self._base.eval()  # without dropout
        try:
            with torch.no_grad(), self._accelerator.autocast(), attention_without_mask(self._base):
                hidden = self._base.base_model(input_ids=ids[None], use_cache=False, **rows).last_hidden_state[0]
        finally:
            for module in in_training:
                module.training = True
        alone, behind = hidden[:_TRIED].float(), hidden[-_TRIED:].float()
        return bool((alone - behind).norm() <= (_ROUNDING if self._is_rounded else _EXACT) * alone.norm())


_TRIED = 8
"""Tokens of a row of the trial."""

_ROUNDING, _EXACT = 2e-2, 1e-4
"""Differences of hidden states that come from rounding, in bfloat16 and in float32, as a share."""


def in_a_row(lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the arguments of a base that tell it where rows begin that are one after another.

    Args:
        lengths: shape (rows,).

    Returns:
        Positions of shape (1, tokens), and bounds of the rows as `transformers` names them for its kernels.
    """
    import torch

    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    begins = bounds[:-1].repeat_interleave(lengths)
    positions = torch.arange(int(bounds[-1])) - begins
    return {"position_ids": positions[None], BOUNDS: bounds, "cu_seq_lens_k": bounds}


def without_padding(mask: torch.Tensor, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the inputs of a batch without its padding, and where its positions went.

    Args:
        mask: shape (rows, positions), 0 for padding, which is at the end of rows.
        inputs: the arguments of the base; those in the shape of the mask have a value for each position.

    Returns:
        The arguments for one long row, and, for each position of the batch that is no padding, its place there.
    """
    seen = mask.bool()
    kept = {
        name: value[seen][None] if getattr(value, "shape", None) == mask.shape else value
        for name, value in inputs.items()
    }
    return {**kept, **in_a_row(seen.sum(1))}, seen.flatten().cumsum(0) - 1
