"""Output of `lorans validate --learn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_ns.cli.show import number, print_pairs
from lora_ns.cli.terminal import say_coloured, say_wrapped

if TYPE_CHECKING:
    from lora_ns.services.learn.certificate import Certificate, Given, Trial

MOST_ANSWERS = 3
"""Wrong answers to show."""


def print_certificate(found: Certificate) -> None:
    """Print the verdict, the figures behind it, and what to change."""
    cause, verdict = found.cause, ("certified", "green") if found.passed else ("not certified", "red")
    say_coloured([("learn: ", "cyan"), verdict, (f" in {found.seconds:.0f} s", None)])
    if found.trial:
        print_pairs([*_figures(found.trial, len(found.rows)), *_control(found)])
        wrong = [one for one in found.trial.answers if not one.is_right]
        for one in wrong[:MOST_ANSWERS]:
            say_wrapped(_answer(one), "  ", "    ")
    for trial in found.further:
        say_wrapped(f"also tried: {_tried(trial)}", "  ", "    ")
    for note in found.notes:
        say_wrapped(f"note: {note}", rest="      ")
    if cause:
        key = f"{cause.key}: " if cause.key else ""
        say_wrapped(f"error: [{cause.code}] {key}{cause.what}", rest="  ")
        say_wrapped(cause.remedy, "  ", "    ")


def _figures(trial: Trial, rows: int) -> list[tuple[str, str]]:
    """The figures of the trial with the recipe's own settings."""
    steps = f"{trial.steps} steps at a learning rate of {number(trial.learning_rate)}, {trial.seconds:.0f} s"
    pairs = [("trained", f"{rows} rows, {steps}")]
    if trial.loss_before is not None and trial.loss_after is not None:
        loss = trial.loss
        share = f"{loss.learned:,} of {loss.answer_tokens:,} tokens and {loss.learned_ends} of {rows} ends trained"
        pairs.append(("loss", f"{number(trial.loss_before)} to {number(trial.loss_after)} on the answers; {share}"))
        pairs.append(("read", f"{trial.read_right} of {rows} answers predicted while reading the training rows"))
    answered = f"{trial.right} of {rows} by the saved adapter, exact match"
    pairs.append(("answered", answered if trial.answers else f"none: {trial.broken or 'the training failed'}"))
    return pairs


def _control(found: Certificate) -> list[tuple[str, str]]:
    if found.control is None:
        return []
    control = found.control
    learned = f"{control.learned} of {control.rows} exchanged answers learned"
    return [("control", f"{learned}, {control.own} rows still give their own")]


def _answer(given: Given) -> str:
    ending = " and does not stop" if given.finish_reason == "length" else ""
    return f"{given.where}: expected {given.expected!r}, got {given.answer!r}{ending}"


def _tried(trial: Trial) -> str:
    result = f"broken: {trial.broken}" if trial.broken else f"{trial.right} of {len(trial.answers)} right"
    size = f"{number(trial.trainable_parameters)} trainable parameters"
    return f"learning rate {number(trial.learning_rate)}, {size}, {trial.steps} steps: {result}"
