"""Log-probabilities of labelled positions only.

TRL's fused head finds the labelled positions on the device, so that a GPU stands still until the host knows how many
there are. On a CPU it projects every position onto the vocabulary, prompts and padding too, and its backward pass
projects them again, in float32. This module computes the same numbers from positions that the host knows, projected
once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.model.modules import is_rescaled
from lora_ns.model.short_rows import BOUNDS
from lora_ns.plan.memory.estimate import normalised_at_once, positions_at_once
from lora_ns.table import IGNORED
from lora_ns.training.causal_attention import attention_without_mask
from lora_ns.training.padding_free import PaddingFree, without_padding

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


POSITIONS = "scored_positions"
"""Key of a batch for the labelled positions, see `ScoredCollator`."""


@dataclass(frozen=True)
class Scores:
    """The scores of the labelled positions of a batch, each of shape (positions,)."""

    log_probs: torch.Tensor
    entropy: torch.Tensor
    is_top1: torch.Tensor


class ScoredCollator:
    """A collator that adds the positions whose next token is in the loss, while the batch is on the host."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self._collator = collator

    def __call__(self, rows: Any) -> Any:
        """Collate rows, with their labelled positions if they have labels."""
        return with_positions(self._collator(rows))


def with_positions(batch: Any) -> Any:
    """Add the labelled positions to a batch, if it is padded at the end of the rows.

    No token before that padding attends to it, so that a causal model needs no mask for it.
    """
    mask = batch.get("attention_mask")
    if "labels" in batch and (mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all())):
        batch[POSITIONS] = labelled_positions(batch["labels"])
    return batch


def labelled_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the indices, into all positions of a batch, of those whose next token has a label.

    Args:
        labels: shape (rows, positions), `IGNORED` for positions without a label.
    """
    import torch

    is_scored = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))
    return is_scored.flatten().nonzero()[:, 0]


class AnswerScorer:
    """Scores the labelled positions of a batch with a frozen linear head, on a CPU or a GPU."""

    def __init__(self, model: Any, accelerator: Accelerator) -> None:
        self._model = model
        self._base = _adapted(model).get_base_model()
        self._accelerator = accelerator

    @staticmethod
    def fits(model: Any) -> bool:
        """Test that the model is a backbone with a frozen linear head, alone or wrapped by DDP."""
        import torch
        from peft import PeftModel

        adapted = _adapted(model)
        if not isinstance(adapted, PeftModel) or adapted.active_peft_config.is_prompt_learning:
            return False
        base = adapted.get_base_model()
        head = base.get_output_embeddings()
        return (
            base.device.type in ("cpu", "cuda")
            and type(head) is torch.nn.Linear
            and not any(parameter.requires_grad for parameter in head.parameters())
            and not is_rescaled(base)
            and (adapted is model or _keeps_few_logits(type(base).forward))
        )

    def __call__(self, labels: torch.Tensor, positions: torch.Tensor, **inputs: Any) -> Scores:
        """Score a batch.

        Args:
            labels: shape (rows, positions), `IGNORED` for positions without a label.
            positions: those whose next token has a label, see `labelled_positions`.
            inputs: the arguments of the backbone.
        """
        return self._scored(inputs, positions, labels.reshape(-1).index_select(0, positions + 1))

    def _scored(self, inputs: Mapping[str, Any], positions: torch.Tensor, targets: torch.Tensor) -> Scores:
        """The scores of targets, each at a position of all rows."""
        with self._accelerator.autocast():
            hidden = self._hidden(inputs)
            scored = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
            return Scores(*self._score(scored, targets))

    def without_mask(
        self, padding_free: PaddingFree | None = None, *, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> Scores:
        """Score a batch whose rows are padded at their end; see `causal_attention` and `padding_free`."""
        if attention_mask is None:  # packed rows, whose positions say where each begins
            bounds = inputs.get(BOUNDS)
            one_by_one = padding_free is not None and bounds is not None and padding_free.pays_for_documents(bounds)
            with attention_without_mask(self._base) if one_by_one else contextlib.nullcontext():
                return self(**inputs)
        is_free = padding_free is not None and padding_free.pays(attention_mask)
        with attention_without_mask(self._base):
            if not is_free:
                return self(**inputs)
            labels, positions = inputs.pop("labels").reshape(-1), inputs.pop("positions")
            inputs, places = without_padding(attention_mask, inputs)
            return self._scored(inputs, places[positions], labels[positions + 1])

    def _hidden(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The hidden states before the head, of shape (rows, positions, width).

        DDP reduces only the gradients of its own forward pass, so there the whole model is called, with as few logits
        as possible.
        """
        if self._model is _adapted(self._model):
            hidden: torch.Tensor = self._base.base_model(**inputs).last_hidden_state
            return hidden
        few = {"logits_to_keep": 1} if _keeps_few_logits(type(self._base).forward) else {}
        found = self._model(**inputs, output_hidden_states=True, **few)
        last: torch.Tensor = found.hidden_states[-1]
        return last

    def _score(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For each position: log-probability of the target, entropy, and a flag for a target that is most likely."""
        head = self._base.get_output_embeddings()
        scored: tuple[torch.Tensor, ...] = scoring_function().apply(hidden, head.weight, head.bias, targets)
        return scored


@functools.cache
def _keeps_few_logits(forward: Callable[..., Any]) -> bool:
    """Test that a model's forward pass can return the logits of its last positions only."""
    return "logits_to_keep" in inspect.signature(forward).parameters


def _adapted(model: Any) -> Any:
    """The model without its DDP or DeepSpeed wrapper."""
    from torch.nn.parallel import DistributedDataParallel

    is_engine = hasattr(model, "zero_optimization_stage")
    return model.module if is_engine or isinstance(model, DistributedDataParallel) else model


class HeadScorer(AnswerScorer):
    """A scorer for a head with trainable token rows, which TRL's loss would read without those rows.

    The head is called as the model calls it, so its gradient equals the model's, on any device.
    """

    @staticmethod
    def fits(model: Any) -> bool:
        """Test that the head has trainable token rows."""
        from peft import PeftModel
        from peft.utils.other import TrainableTokensWrapper

        adapted = _adapted(model)
        return isinstance(adapted, PeftModel) and isinstance(
            adapted.get_base_model().get_output_embeddings(), TrainableTokensWrapper
        )

    def _score(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch
        from torch.utils.checkpoint import checkpoint

        # A batch may have no labelled position, such as one that replaces missing rows.
        step = positions_at_once(self._base.config.get_text_config().vocab_size, hidden.device.type == "cpu")
        parts = [slice(start, start + step) for start in range(0, max(1, len(targets)), step)]
        scored = [checkpoint(self._score_part, hidden[part], targets[part], use_reentrant=False) for part in parts]
        return tuple(torch.cat(part) for part in zip(*scored, strict=True))

    def _score_part(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self._base.get_output_embeddings()(hidden).float()
        logs = logits.log_softmax(-1)
        entropy = -(logs.detach().exp() * logs.detach()).sum(-1)
        return logs.gather(-1, targets[:, None])[:, 0], entropy, logits.argmax(-1) == targets


class _Normaliser:
    """Turns the logits of positions into scores, and into the slope of the log-probabilities by the logits.

    Its room serves for all positions: the C library would ask the system for such room again each time, which takes as
    long as what is computed in it. On a CPU, it fits the cache.
    """

    def __init__(self, positions: int, vocabulary: int, device: torch.device, with_slopes: bool) -> None:
        import torch

        self._with_slopes = with_slopes
        self._step = normalised_at_once(vocabulary, device.type == "cpu")
        shape = 2, min(self._step, positions), vocabulary
        self._exact, self._logs = torch.empty(shape, device=device)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, scores: Sequence[torch.Tensor]) -> None:
        """Overwrite logits with slopes, if they are wanted.

        Args:
            logits: shape (positions, vocabulary), in any dtype.
            targets: shape (positions,).
            scores: where log-probabilities, entropies and flags of likely targets go, each of shape (positions,).
        """
        for start in range(0, len(logits), self._step):
            part = slice(start, start + self._step)
            self._normalise(logits[part], targets[part, None], [score[part] for score in scores])

    def _normalise(self, logits: torch.Tensor, target: torch.Tensor, scores: Sequence[torch.Tensor]) -> None:
        import torch

        exact, logs = self._exact[: len(logits)], self._logs[: len(logits)]
        log_probs, entropy, top1 = scores
        exact.copy_(logits)
        torch.eq(exact.argmax(-1), target[:, 0], out=top1)
        torch.log_softmax(exact, -1, out=logs)
        log_probs.copy_(logs.gather(1, target)[:, 0])
        probs = torch.exp(logs, out=exact)
        torch.sum(logs.mul_(probs), -1, out=entropy).neg_()
        if self._with_slopes:
            logits.copy_(probs.neg_().scatter_add_(1, target, torch.ones_like(target, dtype=probs.dtype)))


@functools.cache
def scoring_function() -> Any:
    """The autograd function that maps hidden states of shape (positions, width) to their scores."""
    import torch

    class Scoring(torch.autograd.Function):
        """For each position: log-probability of the target, entropy, and a flag for a target that is most likely.

        A log-probability depends only on its own hidden state. Its gradient is computed in the forward pass, while the
        probabilities are in memory, and only scaled in the backward pass (as in Liger Kernel, arXiv 2410.10989).
        """

        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any) -> tuple[Any, Any, Any]:
            device, kind = hidden.device, hidden.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            log_probs, entropy = (torch.empty(len(hidden), device=device) for _ in range(2))
            top1 = torch.empty(len(hidden), dtype=torch.bool, device=device)
            gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            with torch.autocast(kind, enabled=False):
                step = positions_at_once(len(weight), kind == "cpu")
                room = torch.empty(min(step, len(hidden)), len(weight), dtype=dtype, device=device)
                normalise = _Normaliser(len(room), len(weight), device, with_slopes=gradient is not None)
                for start in range(0, len(hidden), step):
                    part = slice(start, start + step)
                    logits = torch.mm(hidden[part].to(dtype), weight.t(), out=room[: len(targets[part])])
                    if bias is not None:
                        logits.add_(bias)
                    normalise(logits, targets[part], (log_probs[part], entropy[part], top1[part]))
                    if gradient is not None:
                        gradient[part] = logits @ weight
            ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(entropy, top1)
            return log_probs, entropy, top1

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> tuple[Any, None, None, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * outer[0][:, None].to(gradient.dtype), None, None, None

    return Scoring
