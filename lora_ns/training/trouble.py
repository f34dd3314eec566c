"""Steps without a finite gradient: they are skipped and recorded with their rows, and three in a row end the run.

An optimizer step with one NaN in the gradient destroys every weight, because clipping divides by the norm, and the
optimizer's moments keep it. In float16 the loss scaler skips such a step itself. On a GPU a fused optimizer skips it
while the host knows nothing of it yet, so that no step waits for the device.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.data.places import place_of, read_places
from lora_ns.errors import Problem, RunError
from lora_ns.training.later import Later
from lora_ns.training.learning import LOOKED_AT

if TYPE_CHECKING:
    import datasets
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase, TrainerCallback

MOST_BAD_STEPS = 3
"""Consecutive steps without a finite gradient that end a run."""

_LONGEST_TEXT = 400
"""Characters to record of a row."""


@dataclass
class BadSteps:
    """The steps that were skipped."""

    file: Path
    """`bad_batch.jsonl` of the run."""
    rank: int = 0
    places: Path | None = None
    """File with the places of the training rows, if the run has kept them."""
    skipped: set[int] = field(default_factory=set)
    batches: list[tuple[Any, Tensor]] = field(default_factory=list)
    """Inputs and loss of each micro-batch since the last optimizer step."""
    norm: Tensor | None = None
    """Norm of the gradient of the coming optimizer step."""
    sent: Later[tuple[int, list[tuple[Any, Tensor]]]] = field(default_factory=Later)
    """Step and micro-batches of each norm that is on its way to the host."""
    in_a_row: int = 0
    steps: int = 0
    """Steps of this process."""

    def seen(self, inputs: Any, loss: Tensor) -> None:
        """Remember a micro-batch until the optimizer step that it belongs to."""
        self.batches.append((inputs, loss))

    def measured(self, norm: Tensor) -> None:
        """Remember the norm of the gradient that the coming optimizer step uses."""
        self.norm = norm

    def sends(self, step: int, batches: list[tuple[Any, Tensor]], norm: Tensor) -> bool:
        """Send the norm of a step's gradient to the host; returns whether the host need not wait for it.

        It waits in the first steps, which are looked at closely anyway, see `learning_watch`.
        """
        self.sent.send((step, batches), norm)
        self.steps += 1
        return self.sent.is_late(norm) and self.steps > LOOKED_AT

    def found(self, wait: bool) -> Iterator[tuple[int, list[tuple[Any, Tensor]]]]:
        """Yield the steps that turned out to be bad since the last call, with their micro-batches.

        Args:
            wait: whether to wait for the norms that have not arrived yet.
        """
        for (step, batches), norm in self.sent.arrived(wait):
            if math.isfinite(float(norm.numpy(force=True))):
                self.in_a_row = 0
                continue
            self.skipped.add(step)
            self.in_a_row += 1
            yield step, batches

    def leave_out(self, step: int, optimizer: Any) -> None:
        """Make an optimizer skip a step that is known to be bad: it leaves parameters without gradient as they are."""
        if step in self.skipped:
            optimizer.zero_grad(set_to_none=True)

    def check(self) -> None:
        """Check that the run did not end because of such steps. Raises `RunError`."""
        if self.in_a_row >= MOST_BAD_STEPS:
            what = f"the gradient of {MOST_BAD_STEPS} steps in a row was not finite, up to step {max(self.skipped)}"
            remedy = (
                f"the weights before them are kept as a checkpoint; look at the rows in {self.file.name}, "
                "lower `training.learning_rate`, or set `model.dtype`"
            )
            raise RunError(Problem("", what, remedy))


@functools.cache
def showing_batches(trainer_class: Any) -> Any:
    """A trainer class that shows `watch`, if it has one, each micro-batch with its loss, and each gradient's norm.

    A loss that is not finite counts as the mean of those since the last logged step, as with transformers'
    `logging_nan_inf_filter`, which would wait for the device in each step.
    """

    class ShowingTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """See `showing_batches`."""

        watch: BadSteps | None = None

        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            """Train on a micro-batch."""
            loss = super().training_step(model, inputs, *rest, **more)
            if self.watch is not None:
                self.watch.seen(inputs, loss)
            usual = self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
            return loss.where(loss.isfinite(), usual)

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            """The norm of the gradient."""
            norm = super()._get_grad_norm(model, grad_norm)
            if self.watch is not None:
                self.watch.measured(norm)
            return norm

    return ShowingTrainer


def skipping_bad_steps(
    bad: BadSteps,
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    warn: Callable[[str], None],
) -> TrainerCallback:
    """A callback that skips steps without a finite gradient, and refuses to save weights that are not finite.

    Args:
        bad: receives them.
        rows: the training rows, in which the rows of a batch are found.
        tokenizer: decodes them.
        warn: receives a warning for each skipped step.
    """
    from transformers import TrainerCallback

    look = functools.partial(_report, bad, rows, tokenizer, warn)

    class SkippingBadSteps(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `skipping_bad_steps`."""

        def on_pre_optimizer_step(self, args: Any, state: Any, _control: Any, *, optimizer: Any, **_: Any) -> None:
            batches, bad.batches = bad.batches, []
            norm, bad.norm = bad.norm, None
            if args.fp16 or norm is None:
                return
            skips_itself = bad.sends(state.global_step + 1, batches, norm) and _tell_optimizer(optimizer, norm)
            look(wait=not skips_itself)
            if not skips_itself:
                bad.leave_out(state.global_step + 1, optimizer)

        def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, *, optimizer: Any, **_: Any) -> None:
            _tell_optimizer(optimizer, None)

        def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            look(wait=True)
            bad.check()

        def on_step_end(self, _args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            look(wait=any((control.should_log, control.should_save, control.should_evaluate)))
            if bad.in_a_row >= MOST_BAD_STEPS:
                control.should_save = control.should_training_stop = True
            if control.should_save:
                _check_finite(model, state.global_step)

    return SkippingBadSteps()


def _report(
    bad: BadSteps,
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    warn: Callable[[str], None],
    wait: bool,
) -> None:
    """Record and report the bad steps among those whose norms have arrived."""
    for step, batches in bad.found(wait):
        _record(bad, step, _rows_of(batches, rows, tokenizer, bad.places))
        warn(f"step {step} is skipped, because its gradient is not finite; its rows are in {bad.file.name}")


def _tell_optimizer(optimizer: Any, norm: Tensor | None) -> bool:
    """Let a fused optimizer skip the coming step if the norm is not finite; returns whether it can.

    This is how a loss scaler tells it (`torch.amp.GradScaler`). Without a norm, the optimizer is as it was before.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not getattr(inner, "defaults", {}).get("fused"):  # DeepSpeed's have none
        return False
    if norm is None:
        vars(inner).pop("found_inf", None)
    else:
        inner.found_inf = (~norm.isfinite()).float()
    return True


def _check_finite(model: nn.Module, step: int) -> None:
    """Check that all trainable weights are finite. Raises `RunError`."""
    import torch

    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    if not bool(torch.nn.utils.get_total_norm(trained).isfinite()):
        what = f"step {step}: the weights are not finite, so they are not saved"
        raise RunError(Problem("", what, "lower `training.learning_rate`; the last checkpoint is kept"))


def _record(bad: BadSteps, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append a skipped step to the file. Each rank appends its own rows."""
    line = json.dumps({"step": step, "rank": bad.rank, "rows": rows}, ensure_ascii=False)
    with bad.file.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _rows_of(
    batches: Sequence[tuple[Any, Any]], rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, places: Path | None
) -> list[dict[str, Any]]:
    """The rows of a step: numbers and places in the training data, text, and the loss of their micro-batch.

    If the loss of some micro-batches is not finite, the rows of the others are left out.
    """
    losses = [float(loss) for _, loss in batches]
    is_broken = [not math.isfinite(loss) for loss in losses]
    found: list[dict[str, Any]] = []
    for (inputs, _), loss, broken in zip(batches, losses, is_broken, strict=True):
        if broken or not any(is_broken):
            said = loss if math.isfinite(loss) else str(loss)
            found += [{"loss": said, "ids": ids} for ids in _sequences(inputs)]
    numbers = _numbers_of([tuple(row["ids"]) for row in found], rows)
    known = read_places(places) if places else []
    return [
        {
            "row": number,
            "where": place_of(known, number) if number else None,
            "loss": row["loss"],
            "text": tokenizer.decode(row["ids"])[:_LONGEST_TEXT],
        }
        for row, number in zip(found, numbers, strict=True)
    ]


def _sequences(inputs: Any) -> list[list[int]]:
    """The token ids of each row of a micro-batch, without padding."""
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        return []
    ids, mask = inputs["input_ids"].tolist(), inputs.get("attention_mask")
    if mask is None or list(mask.shape) != list(inputs["input_ids"].shape):
        return ids  # type: ignore[no-any-return]
    pairs = (zip(row, kept, strict=True) for row, kept in zip(ids, mask.tolist(), strict=True))
    return [[token for token, is_kept in pair if is_kept] for pair in pairs]


def _numbers_of(sequences: Sequence[tuple[int, ...]], rows: Any) -> list[int | None]:
    """The number of each sequence in the training rows, from 1; None for one that is not a row, as when packed."""
    wanted, numbers = set(sequences), dict[tuple[int, ...], int]()
    if not hasattr(rows, "__len__") or "input_ids" not in rows.column_names:
        return [None] * len(sequences)
    for number, ids in enumerate(rows.select_columns(["input_ids"]), start=1):
        if (key := tuple(ids["input_ids"])) in wanted:
            numbers.setdefault(key, number)
    return [numbers.get(sequence) for sequence in sequences]
