"""Causes of rows that are not learned or not answered, concluded from the figures of trials."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lora_ns.recipe.recipe import Recipe
from lora_ns.services.learn.certificate import Cause, Control, Given, Trial
from lora_ns.services.learn.rows import Lesson, is_labelled

MOSTLY_CUT = 0.5
"""Share of cut rows in the whole data from which they are a fault even if eight others fit."""


def leak(leaking: int, rows: int) -> Cause | None:
    """The cause if prompts contain the answers."""
    if not leaking:
        return None
    what = f"the prompt contains the answer in {leaking} of {rows} rows: another answer gives another prompt"
    return Cause("prompt-has-answer", what, "remove the answer's column from the prompt", "dataset.prompt_template")


def cut(lesson: Lesson, trial: Trial) -> Cause | None:
    """The cause if answers are cut off at `max_seq_length`."""
    rows, count = sum(item.is_cut for item in lesson.items), len(lesson.items)
    if lesson.cut_share <= MOSTLY_CUT and (trial.is_learned or not rows):
        return None
    what = f"answers are cut off before their end: {lesson.cut_share:.0%} of all rows, {rows} of these {count}"
    return Cause("answers-cut", what, "raise it, or leave long rows out with `on_overflow`", "sft.max_seq_length")


def leaked(trial: Trial) -> Cause | None:
    """The cause if the trainer has tokens in the loss that the rows leave out."""
    loss = trial.loss
    if not loss.leaked or loss.learned < loss.answer_tokens:
        return None
    what = (
        f"the loss also covers {loss.leaked:,} tokens that the rows leave out of it, {loss.elsewhere:,} of them prompts"
    )
    return Cause("loss-on-prompts", what, "report this, with the output of `--json`")


def from_figures(lesson: Lesson, trial: Trial, recipe: Recipe) -> Cause | None:
    """The cause that the figures of one trial prove; None if other settings have to be tried."""
    is_text = not is_labelled(lesson.form)
    if is_text and not trial.loss.learned and not trial.loss.elsewhere and not trial.loss.learned_ends:
        what = f"no token is in the loss: 0 of {trial.loss.answer_tokens:,} answer tokens, and none before them"
        return Cause("nothing-in-loss", what, "inspect the rows with `lorans validate --show 2`")
    if cause := _frozen(trial):
        return cause
    if trial.broken or not is_text:
        return None
    return _masked(trial) or _not_answered(lesson, trial, recipe)


def _frozen(trial: Trial) -> Cause | None:
    if trial.change or _NOT_FINITE.search(trial.broken):
        return None
    count = f"{trial.trainable_parameters:,} trainable parameters"
    if trial.gradient:
        what = f"none of the {count} changed in {trial.steps} steps, with gradients of norm up to {trial.gradient:.2g}"
        return Cause("frozen", what, "choose another optimizer; the current one does not update them", "training.optim")
    what = f"none of the {count} has a gradient: the adapter does not affect the loss"
    return Cause("frozen", what, "choose other modules to adapt", "peft")


_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def _masked(trial: Trial) -> Cause | None:
    """The cause if answer tokens are not in the loss."""
    loss = trial.loss
    if loss.learned == loss.answer_tokens:
        return None
    what = f"the loss covers {loss.learned:,} of {loss.answer_tokens:,} answer tokens"
    if loss.elsewhere:
        what += f", and {loss.elsewhere:,} tokens of the prompts"
        return Cause("loss-on-prompts", what, _MASK, "sft.train_on")
    return Cause("answer-not-in-loss", what, _MASK, "sft.chat_template")


_MASK = "see `lorans validate --show 2`, and correct `train_on` or the `{% generation %}` marks of the chat template"


def _not_answered(lesson: Lesson, trial: Trial, recipe: Recipe) -> Cause | None:
    """The cause if the rows are learned, but inference does not answer them; None if they are not learned."""
    rows = len(lesson.items)
    if trial.read_right < rows or not trial.answers:
        return None
    if trial.difference:
        what = f"learned, but under another prompt: {trial.difference}"
        remedy = "make the template's generation prompt the text before the answer in training"
        return Cause("other-template", what, remedy, "sft.chat_template")
    if trial.greedy == rows and (cause := _decoding(lesson, trial, recipe)):
        return cause
    if all(one.is_right or one.runs_on for one in trial.answers):
        return _endless(lesson, trial, recipe)
    wrong = next(one for one in trial.answers if not one.is_right)
    what = f"{trial.right} of {rows} right, although each answer is predicted when the row is read: {_shown(wrong)}"
    return Cause("other-answer", what, "report this, with the output of `--json`")


def _decoding(lesson: Lesson, trial: Trial, recipe: Recipe) -> Cause | None:
    """The setting of `[generation]` without which the answers are right."""
    generation, right = recipe.generation, f"greedy decoding answers all {len(lesson.items)} rows, these settings"
    if generation.do_sample:
        what = f"{right} {trial.right}: sampling at temperature {generation.temperature:g} draws other answers"
        remedy = "write `do_sample = false`, or lower `temperature` and `top_p`"
        return Cause("sampling", what, remedy, "generation.do_sample")
    if generation.repetition_penalty != 1.0:
        what = (
            f"{right} {trial.right}: a `repetition_penalty` of {generation.repetition_penalty:g} forbids their tokens"
        )
        return Cause("repetition-penalty", what, "remove it", "generation.repetition_penalty")
    return _too_long(lesson, recipe)


def _too_long(lesson: Lesson, recipe: Recipe) -> Cause | None:
    limit = recipe.generation.max_new_tokens
    if limit > lesson.longest:
        return None
    what = f"answers of up to {lesson.longest:,} tokens are cut off at {limit:,}"
    return Cause("answer-too-long", what, f"write at least {lesson.longest + 1:,}", "generation.max_new_tokens")


def _endless(lesson: Lesson, trial: Trial, recipe: Recipe) -> Cause:
    """The cause if answers are right and generation runs on."""
    loss, rows = trial.loss, len(lesson.items)
    endless = sum(one.runs_on for one in trial.answers)
    said = f"{endless} of {rows} answers are right and run on"
    if cause := _too_long(lesson, recipe):
        return cause
    if loss.ends < rows:
        what = f"{said}: {rows - loss.ends} of {rows} rows have no stop token after the answer"
        return Cause("no-end-token", what, "use a template that ends answers with a stop token", "sft.chat_template")
    if loss.learned_ends < loss.ends:
        what = f"{said}: the stop token is in the loss of {loss.learned_ends} of {rows} rows"
        remedy = "train it: a pad token that equals the end token, or the mask of the template, removes it"
        return Cause("end-not-in-loss", what, remedy)
    what = f"{said}: the token that ends answers in training does not stop generation"
    return Cause("other-stop-token", what, "add it to `eos_token_id` in the base's generation_config.json")


def _shown(given: Given) -> str:
    return f"{given.where} has {given.expected[:_SHOWN]!r}, the answer is {given.answer[:_SHOWN]!r}"


_SHOWN = 60
"""Characters of an answer to show."""


def rate(trial: Trial, again: Trial) -> Cause:
    """The cause if another learning rate learns the rows."""
    times = max(again.learning_rate / trial.learning_rate, trial.learning_rate / again.learning_rate)
    reached = f"{again.learning_rate:g} learns the rows in {again.steps} steps"
    if again.learning_rate > trial.learning_rate:
        what = f"{trial.learning_rate:g} is too low by about {times:.2g} x: {_falls(trial)}, and {reached}"
        return Cause("rate-too-low", what, f"write {again.learning_rate:g}", "training.learning_rate")
    what = f"{trial.learning_rate:g} is too high by about {times:.2g} x: {trial.broken}; {reached}"
    return Cause("diverged", what, f"write {again.learning_rate:g}", "training.learning_rate")


def diverged(trial: Trial) -> Cause:
    """The cause if the training breaks, and no lower rate learns the rows either."""
    what = f"the training breaks: {trial.broken}; lower rates do not learn the rows either"
    return Cause("diverged", what, "lower it, and check `model.dtype`", "training.learning_rate")


def method(peft: Any, trial: Trial, again: Trial) -> Cause:
    """The cause if LoRA on all linear layers learns what the recipe's method does not."""
    other = (
        f"LoRA on all linear layers ({again.trainable_parameters:,} parameters) learns the rows in {again.steps} steps"
    )
    figures = f"{trial.trainable_parameters:,} trainable parameters, {_falls(trial)} in {trial.steps} steps"
    targets = getattr(peft, "target_modules", None)
    if targets and not isinstance(targets, str):
        names = ", ".join(targets)
        what = f"`{names}` are not enough: {figures}; {other}"
        return Cause("targets", what, 'write `target_modules = "all-linear"`', "peft.target_modules")
    what = f"{peft.method} is too small for these rows, which need not be a fault: {figures}; {other}"
    return Cause("capacity", what, "raise its size, or choose LoRA", "peft.method")


def not_learned(trial: Trial, further: Sequence[Trial]) -> Cause:
    """The cause if nothing that was tried learns the rows."""
    tried = ", ".join(f"{one.learning_rate:g}" for one in (trial, *further))
    what = f"{_falls(trial)} in {trial.steps} steps; tried learning rates {tried}"
    return Cause("not-learned", what, "inspect the rows with `lorans validate --show 2`, and try a larger base")


def not_from_rows(control: Control) -> Cause | None:
    """The cause if the model gives a row's own answer although it learned another one."""
    if 2 * control.own < max(1, control.rows):
        return None
    what = f"trained on exchanged answers, the model still gives {control.own} of {control.rows} rows their own answer"
    return Cause(
        "answers-not-from-rows", what, "look for the answers in the prompts, or choose rows that the base fails"
    )


def _falls(trial: Trial) -> str:
    if trial.loss_before is None or trial.loss_after is None:
        return f"{trial.right} of {len(trial.answers)} labels are right"
    return f"the loss of the answers goes from {trial.loss_before:.3g} to {trial.loss_after:.3g}"
