"""Checks that a run learns: trainable parameters have gradients and change, and the loss falls."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, RunError
from lora_ns.methods import PeftMethod
from lora_ns.objectives.watches import Watch
from lora_ns.parallel.sharding import whole
from lora_ns.run.observer import Observer

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

LOOKED_AT = 5
"""Optimizer steps before gradients are judged. While one LoRA factor is zero, the other has no gradient, and the first
step of a warm-up changes nothing."""


_MAY_REST = ("ranknum", "trainable_tokens", "experts")
"""Name parts of parameters that may lack a gradient: counts, tokens absent from the first rows, unused experts."""


FLAT = 1e-3
"""Relative change of the evaluation loss below which it counts as flat."""


FLAT_IN_TRAINING = 2e-2
"""Relative fall of the training loss, from the first quarter of a run to the last, below which it counts as flat."""


HOPELESS = 0.1
"""Share of a sensitive method's typical learning rate below which a flat loss is blamed on the rate."""


_ENOUGH_STEPS = 20


def learning_watch(
    method: PeftMethod,
    learning_rate: float,
    observer: Observer,
    may_be_zero: bool = False,
    skipped: Collection[int] = (),
) -> TrainerCallback:
    """A callback that warns about parameters that do not learn and about a flat loss, with the cause.

    Args:
        method: the recipe's `[peft]`.
        learning_rate: the peak of the schedule.
        observer: receives the warnings.
        may_be_zero: True if some steps have nothing to learn, so that no parameter has a gradient.
        skipped: the steps that were skipped because their gradient was not finite.
    """
    from transformers import TrainerCallback

    gradients, losses = Gradients(may_be_zero, skipped), Losses(method, learning_rate)

    class LearningWatch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `learning_watch`."""

        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            gradients.begin(model)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            warming = args.get_warmup_steps(state.max_steps) > LOOKED_AT
            for text in gradients.look(model, state.global_step + 1, args.fp16, warming):
                observer.warn(text)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            losses.add(logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            losses.steps += 1

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            early = max(_ENOUGH_STEPS, args.get_warmup_steps(state.max_steps), state.max_steps // 10)
            self._warn(early)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._warn(LOOKED_AT)

        def _warn(self, least: int) -> None:
            if losses.steps >= least and (warning := losses.warning()):
                observer.warn(warning)

    return LearningWatch()


def metric_watch(watches: Sequence[Watch], earlier: Iterable[Mapping[str, Any]], observer: Observer) -> TrainerCallback:
    """A callback that shows every logged row to the watches of an objective, and reports their warnings.

    Args:
        watches: the watches.
        earlier: rows that a resumed run has logged before; what they show has been reported.
        observer: receives the warnings.
    """
    from transformers import TrainerCallback

    for row in earlier:
        _warned(watches, row)

    class MetricWatch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `metric_watch`."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            for text in _warned(watches, logs or {}):
                observer.warn(f"step {state.global_step:,}: {text}")

    return MetricWatch()


def _warned(watches: Sequence[Watch], row: Mapping[str, Any]) -> list[str]:
    return [warning for watch in watches if (warning := watch.look(row))]


class Gradients:
    """The gradients and changes of all trainable parameters in the first steps."""

    def __init__(self, may_be_zero: bool = False, skipped: Collection[int] = ()) -> None:
        self._steps, self._may_be_zero, self._skipped = 0, may_be_zero, skipped
        self._begun: dict[str, tuple[float, float]] = {}
        self._reached: set[str] = set()

    def begin(self, model: nn.Module) -> None:
        """Record the initial values of the trainable parameters."""
        self._begun = _numbers(model)

    def look(self, model: nn.Module, step: int, overflows: bool = False, warming: bool = False) -> Sequence[str]:
        """Check the gradients of one step; after `LOOKED_AT` steps, report parameters without gradient or change.

        Args:
            model: the model, right after the optimizer step.
            step: number of the step.
            overflows: whether a non-finite gradient only means that the loss scale is lowered.
            warming: whether warm-up may keep the learning rate too low to change a parameter.

        Raises:
            RunError: if a gradient is not finite, or no parameter has one.
        """
        if self._steps >= LOOKED_AT or step in self._skipped:
            return ()
        norms = _gradient_norms(model)
        broken = next((name for name, norm in norms.items() if not math.isfinite(norm)), None)
        if broken and overflows:
            return ()
        if broken:
            what = f"step {step}: the gradient of `{broken}` is {norms[broken]}"
            raise RunError(Problem("", what, "lower `training.learning_rate`, or set `model.dtype`"))
        if self._may_be_zero and not any(norms.values()):
            return ()
        self._steps += 1
        self._reached |= {name for name, norm in norms.items() if norm}
        return self._judged(model, warming) if self._steps == LOOKED_AT else ()

    def _judged(self, model: nn.Module, warming: bool) -> Sequence[str]:
        now = _numbers(model)
        if not self._reached and any(numbers != self._begun[name] for name, numbers in now.items()):
            return []  # parameters that change have gradients: DeepSpeed keeps them elsewhere
        dry = [name for name in now if name not in self._reached]
        moved = {name for name, numbers in now.items() if warming or numbers != self._begun[name]}
        still = [name for name in now if name in self._reached - moved]
        if now and len(dry) == len(now):
            what = f"no gradient in {LOOKED_AT} steps: no trainable parameter, such as `{dry[0]}`, affects the loss"
            raise RunError(Problem("", what, "choose other `target_modules`, or report this"))
        return [
            *_warnings(dry, len(now), "have no gradient", "their modules do not affect the loss"),
            *_warnings(still, len(now), "do not change", "their updates round to zero; raise `training.learning_rate`"),
        ]


def _warnings(names: Sequence[str], total: int, fault: str, cause: str) -> list[str]:
    if not names:
        return []
    return [
        f"{len(names):,} of {total:,} trainable parameters {fault} in {LOOKED_AT} steps, such as `{names[0]}`: {cause}"
    ]


def _trainables(model: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad and not any(part in name for part in _MAY_REST)
    }


def _numbers(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and norm of each trainable parameter. Any step changes them, and they need no copy of the weights."""
    import torch

    sums = {}
    for name, parameter in _trainables(model).items():
        value = whole(parameter).detach()
        sums[name] = torch.stack([value.sum(dtype=torch.float64), torch.linalg.vector_norm(value, dtype=torch.float64)])
    found = torch.stack(list(sums.values())).tolist() if sums else []
    return {name: (total, norm) for name, (total, norm) in zip(sums, found, strict=True)}


def _gradient_norms(model: nn.Module) -> dict[str, float]:
    """The gradient norm of each trainable parameter that has a gradient."""
    import torch

    gradients = {name: value.grad for name, value in _trainables(model).items() if value.grad is not None}
    norms = [torch.linalg.vector_norm(whole(gradient)) for gradient in gradients.values()]
    return dict(zip(gradients, torch.stack(norms).tolist() if norms else [], strict=True))


class Losses:
    """The losses of a run, from which a learning rate that is far too low is detected."""

    def __init__(self, method: PeftMethod, learning_rate: float) -> None:
        typical = method.capabilities.typical_learning_rate
        self._hopeless = method.capabilities.is_sensitive and learning_rate < HOPELESS * typical
        self._cause = f"a learning rate of {learning_rate:g} is too low for {method.tag()}"
        self._remedy = f"set `training.learning_rate`; {typical:g} is typical"
        self._training: list[float] = []
        self._evaluation: list[float] = []
        self.steps = 0

    def add(self, logs: dict[str, float]) -> None:
        """Take the losses of a logged row."""
        if "loss" in logs:
            self._training.append(logs["loss"])
        if "eval_loss" in logs:
            self._evaluation.append(logs["eval_loss"])

    def warning(self) -> str | None:
        """A warning that the loss is flat, with the cause; None if it is not flat or was reported before."""
        if not self._hopeless:
            return None
        first, last, flat = self._ends()
        if not last > first * (1 - flat):
            return None
        self._hopeless = False
        return f"the loss is flat after {self.steps:,} steps, {first:.4f} to {last:.4f}: {self._cause} ({self._remedy})"

    def _ends(self) -> tuple[float, float, float]:
        """The first loss, the last loss, and the relative fall that counts as flat.

        Evaluation losses are preferred, since they come from the same rows.
        """
        if len(self._evaluation) > 1:
            return self._evaluation[0], self._evaluation[-1], FLAT
        part = max(1, len(self._training) // 4)
        if len(self._training) < 2 * part:
            return math.inf, 0.0, 0.0
        return sum(self._training[:part]) / part, sum(self._training[-part:]) / part, FLAT_IN_TRAINING
