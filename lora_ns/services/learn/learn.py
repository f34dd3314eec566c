"""`learn`: the trial with the recipe's own settings, then its control, or the search for the cause."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from lora_ns.data.encode import refusals
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.machine.hardware import Machine
from lora_ns.machine.libraries import Noise
from lora_ns.methods.lora import Lora
from lora_ns.plan.rates import usual_rate_of
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.observer import Observer
from lora_ns.services.learn import causes
from lora_ns.services.learn.certificate import ROWS, Cause, Certificate, Control, Trial
from lora_ns.services.learn.rows import Lesson, choose_rows, exchange, leaks
from lora_ns.services.learn.trial import MOST_STEPS, Lab, attempt
from lora_ns.services.validate import plan_of, prepare_rows

COVERS = ("sft", "classification", "tagging")
"""Objectives that can be certified, by the names of their tables."""


def learn(loaded: LoadedRecipe, machine: Machine, observer: Observer, noise: Noise) -> Certificate:
    """Certify that a recipe learns eight of its rows and answers them, or name the cause.

    Args:
        loaded: the recipe.
        machine: this machine.
        observer: receives the stages.
        noise: library output.

    Raises:
        UsageError: if the objective is not covered.
        LoransError: any error of `train` before its first step.
    """
    check_covered(loaded)
    started = time.monotonic()
    prepared = prepare_rows(loaded, machine, observer)
    if problems := refusals(prepared.rows.sources.train, prepared.train):
        raise DataError(problems)
    lesson = choose_rows(prepared)
    lab = Lab(loaded, prepared, noise, observer)
    rate = plan_of(prepared, machine).learning_rate.value
    found = _Search(lab, lesson, rate).run()
    return replace(found, seconds=round(time.monotonic() - started, 1))


def check_covered(loaded: LoadedRecipe) -> None:
    """Refuse objectives without answers to learn by heart. Raises `UsageError`."""
    objective = loaded.recipe.objective
    if objective.table not in COVERS:
        what = (
            f"`--learn` covers [sft] and [classification], whose rows have one right answer, not `[{objective.toml}]`"
        )
        raise UsageError(Problem("--learn", what, "use `--step`, which trains one step of every objective"))


@dataclass
class _Search:
    """The trials of a recipe, until the verdict is known."""

    lab: Lab
    lesson: Lesson
    rate: float
    further: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> Certificate:
        """Try the recipe, then the control or other settings."""
        exchanged = exchange(self.lesson)
        leaking = leaks(self.lab.prepared.rows.renderer, self.lesson, exchanged) if exchanged else 0
        count, most = len(self.lesson.items), MOST_STEPS
        self.lab.observer.stage(f"learning {count} rows at a learning rate of {self.rate:g} in at most {most} steps")
        trial = attempt(self.lab, self.lesson, self.rate, asks_base=True)
        cause = causes.leak(leaking, count) or causes.cut(self.lesson, trial) or causes.leaked(trial)
        if cause or not trial.is_learned:
            return self._certificate(trial, cause or self._cause(trial, self.lesson))
        return self._controlled(trial, exchanged) if exchanged else self._certificate(trial, None)

    def _controlled(self, trial: Trial, exchanged: Lesson) -> Certificate:
        """Train the rows with each other's answers: then none may be answered with its own."""
        self.lab.observer.stage("control: learning the same rows with exchanged answers")
        try:
            other = attempt(self.lab, exchanged, self.rate)
        except DataError as error:
            self.notes.append(f"no control: {error.problems[0].what}, with exchanged answers")
            return self._certificate(trial, None)
        control = _compared(self.lesson, exchanged, other)
        if 2 * trial.known > len(self.lesson.items) and 2 * control.learned < control.rows:
            # The base knew the answers, so that only the exchanged ones show what the recipe learns.
            return self._certificate(trial, self._cause(other, exchanged), control)
        return self._certificate(trial, causes.not_from_rows(control), control)

    def _certificate(self, trial: Trial, cause: Cause | None, control: Control | None = None) -> Certificate:
        count, notes = len(self.lesson.items), list(self.notes)
        if count < ROWS:
            notes.append(f"only {count} rows with different prompts can be learned and asked")
        if control is None and trial.is_learned and not cause and not self.notes:
            notes.append("no control: the answers cannot be exchanged in this format")
        if trial.known:
            notes.append(f"the base answered {trial.known} of {count} rows before training")
        return Certificate(
            passed=cause is None,
            rows=tuple(item.where for item in self.lesson.items),
            seconds=0.0,
            trial=trial,
            control=control,
            cause=cause,
            further=tuple(self.further),
            notes=tuple(notes),
        )

    def _cause(self, trial: Trial, lesson: Lesson) -> Cause:
        """Name the cause from the figures, or from trials with other settings."""
        if cause := causes.from_figures(lesson, trial, self.lab.loaded.recipe):
            return cause
        lower = bool(trial.broken)
        for rate in self._lower() if lower else self._higher():
            self.lab.observer.stage(f"learning the rows at a learning rate of {rate:g}")
            again = attempt(self.lab, lesson, rate)
            self.further.append(again)
            if _has_taken_in(again):
                return causes.rate(trial, again)
        if lower:
            return causes.diverged(trial)
        return self._other_method(trial, lesson)

    def _higher(self) -> list[float]:
        usual = self._usual()
        if usual > 10 * self.rate:
            return [usual, 3 * usual]
        return sorted({3 * self.rate, 10 * self.rate})

    def _lower(self) -> list[float]:
        usual = self._usual()
        return [usual] if usual < self.rate / 10 else [self.rate / 10, self.rate / 100]

    def _usual(self) -> float:
        return usual_rate_of(self.lab.prepared.settled.recipe, self.lab.prepared.base.facts)

    def _other_method(self, trial: Trial, lesson: Lesson) -> Cause:
        """Try LoRA on all linear layers: if it learns, the fault is in `[peft]`."""
        recipe = self.lab.prepared.settled.recipe
        plain = Lora(method="lora")
        if isinstance(recipe.peft, Lora) and recipe.peft.target_modules == plain.target_modules:
            return causes.not_learned(trial, self.further)
        self.lab.observer.stage("learning the rows with LoRA on all linear layers")
        rate = usual_rate_of(recipe.model_copy(update={"peft": plain}), self.lab.prepared.base.facts)
        again = attempt(self.lab, lesson, rate, plain)
        self.further.append(again)
        return (
            causes.method(recipe.peft, trial, again)
            if _has_taken_in(again)
            else causes.not_learned(trial, self.further)
        )


def _compared(lesson: Lesson, exchanged: Lesson, trial: Trial) -> Control:
    """Count the rows that a model answers as it learned them exchanged, and as they were before."""
    pairs = list(zip(lesson.items, exchanged.items, strict=True))
    differ = [number for number, (own, other) in enumerate(pairs) if own.expected[0] != other.expected[0]]
    answers = trial.answers
    own = sum(answers[number].answer in pairs[number][0].expected for number in differ if answers)
    return Control(len(differ), own, sum(answers[number].is_right for number in differ if answers), trial.steps)


def _has_taken_in(trial: Trial) -> bool:
    """True if the rows are learned, whatever the answers at inference are."""
    return trial.is_learned or (
        trial.loss_before is not None and not trial.broken and trial.read_right == len(trial.answers) > 0
    )
