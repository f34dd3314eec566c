"""One trial of `validate --learn`: rows are trained, saved, reopened and asked as by `train` and `infer`."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_ns.answers.opened import Opened, open_trained
from lora_ns.data.rows import Row
from lora_ns.data.source import columns_of
from lora_ns.errors import DataError, InterruptedRunError, Problem, RunError
from lora_ns.files.temporary import temporary_folder
from lora_ns.formats import TextClassification
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.generation import Generation
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer
from lora_ns.services.infer import infer, prompts
from lora_ns.services.learn.certificate import Given, Trial
from lora_ns.services.learn.rows import Item, Lesson, is_labelled
from lora_ns.services.learn.watch import Watch
from lora_ns.services.train import train
from lora_ns.services.validate import Prepared

MOST_STEPS = 150
"""Steps of a trial, if the rows are not learned before."""

SPARE = 16
"""Tokens after the longest answer in which the model has to stop."""

SAMPLES = 3
"""Seeds with which sampled answers are drawn."""


@dataclass(frozen=True)
class Lab:
    """Everything that all trials of a recipe share."""

    loaded: LoadedRecipe
    prepared: Prepared
    noise: Noise
    observer: Observer


def attempt(lab: Lab, lesson: Lesson, learning_rate: float, peft: Any = None, asks_base: bool = False) -> Trial:
    """Train the rows of a lesson in a temporary folder, and ask the saved adapter.

    Args:
        lab: the recipe.
        lesson: the rows.
        learning_rate: the constant learning rate.
        peft: the `[peft]` table, if not that of the recipe.
        asks_base: whether to count the rows that the base answers before training.

    Raises:
        LoransError: any error of `train`, except those of a training that breaks, which the trial has.
    """
    started = time.monotonic()
    watch = _watch(lab, lesson, asks_base)
    with temporary_folder() as folder:
        _write(folder / "rows.jsonl", [item.values for item in lesson.items])
        recipe = _recipe(lab, lesson, folder, learning_rate, peft)
        answered = _Answered()
        try:
            train(recipe, watch, lab.noise, use_cache=False)
        except InterruptedRunError as error:
            problem = Problem("--learn", "stopped before the verdict; nothing was kept", "repeat the command")
            raise InterruptedRunError(error.signal_number, problem) from None
        except DataError as error:
            raise DataError([_placed(problem, folder / "rows.jsonl", lesson) for problem in error.problems]) from None
        except RunError as error:
            watch.fail(str(error))
        else:
            answered = _ask(lab, lesson, RunDir.open(folder / "run"))
        finally:
            lab.noise.detach()
    gc.collect()
    return Trial(
        learning_rate=learning_rate,
        steps=watch.steps,
        seconds=round(time.monotonic() - started, 1),
        trainable_parameters=watch.trainable,
        loss_before=watch.loss_before,
        loss_after=watch.loss_after,
        read_right=watch.read_right,
        known=watch.known,
        gradient=watch.gradient,
        change=watch.change,
        loss=watch.covered,
        answers=answered.answers,
        greedy=answered.greedy,
        broken=watch.broken,
        difference=answered.difference,
    )


def _placed(problem: Problem, file: Path, lesson: Lesson) -> Problem:
    """Name the user's row instead of the temporary one."""
    name, _, line = problem.where.rpartition(":")
    if name != str(file) or not line.isdigit():
        return replace(problem, where="--learn") if problem.where == str(file) else problem
    return replace(problem, where=lesson.items[int(line) - 1].where)


def _watch(lab: Lab, lesson: Lesson, asks_base: bool) -> Watch:
    is_text = not is_labelled(lesson.form)
    renderer = lab.prepared.rows.renderer
    asked: list[list[int]] = []
    if is_text and asks_base:
        asked = [renderer.prompt(lesson.form.prompt(item.asked)) for item in lesson.items]  # type: ignore[arg-type]
    before = Generation(max_new_tokens=lesson.longest + 1)
    return Watch(lab.observer, lesson.items, is_text, renderer.stops, before, asked)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8")


def _recipe(lab: Lab, lesson: Lesson, folder: Path, learning_rate: float, peft: Any) -> LoadedRecipe:
    """The recipe with these rows alone, a constant learning rate, and nothing that a trial does not need."""
    recipe = lab.loaded.recipe.as_trial()
    columns = {name: value for name, value in vars(columns_of(lesson.form)).items() if name in Dataset.model_fields}
    dataset = Dataset().model_copy(update={**columns, "format": lesson.form.name, "path": str(folder / "rows.jsonl")})
    training = {
        "output_dir": str(folder / "run"),
        "max_steps": max(MOST_STEPS, recipe.peft.least_steps),
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "warmup_ratio": 0.0,
        "global_batch_size": len(lesson.items),
        "gradient_accumulation_steps": None,
        "per_device_train_batch_size": "auto",
        "logging_steps": 1,
        "save_steps": 10 * MOST_STEPS,
        "eval_steps": None,
        "extra": {key: value for key, value in recipe.training.extra.items() if not key.startswith("lr_scheduler")},
    }
    changed = recipe.model_copy(
        update={
            "dataset": dataset,
            "training": recipe.training.model_copy(update=training),
            "objective": _objective(lab, lesson),
            **({"peft": peft} if peft else {}),
        }
    )
    return replace(lab.loaded, recipe=changed)


def _objective(lab: Lab, lesson: Lesson) -> Any:
    """The objective, with the labels of all rows."""
    objective = lab.loaded.recipe.objective
    update: dict[str, Any] = {"labels": lab.prepared.rows.labels} if is_labelled(lesson.form) else {}
    if isinstance(lesson.form, TextClassification) and lesson.form.problem_type:
        update["problem_type"] = lesson.form.problem_type
    return objective.model_copy(update=update)


@dataclass(frozen=True)
class _Answered:
    """The answers of a saved adapter."""

    answers: tuple[Given, ...] = ()
    greedy: int | None = None
    difference: str = ""


def _ask(lab: Lab, lesson: Lesson, run: RunDir) -> _Answered:
    """Open a run as `lorans infer` does, and ask its rows."""
    opened = open_trained(run)
    if is_labelled(lesson.form):
        return _Answered(_labels(opened, lesson))
    longest = lesson.longest + SPARE
    own = lab.loaded.recipe.generation
    own = own.model_copy(update={"max_new_tokens": min(own.max_new_tokens, longest)})
    answers = _asked(opened, lesson, own)
    for extra in range(1, SAMPLES if own.do_sample else 1):
        again = _asked(opened, lesson, own.model_copy(update={"seed": own.seed + extra}))
        answers = tuple(one if not one.is_right else two for one, two in zip(answers, again, strict=True))
    if all(one.is_right for one in answers):
        return _Answered(answers)
    greedy = _asked(opened, lesson, Generation(max_new_tokens=longest, batch_size=own.batch_size))
    return _Answered(answers, sum(one.is_right for one in greedy), _difference(opened, lesson))


def _questions(lesson: Lesson) -> list[Row]:
    return [Row(item.where, item.asked) for item in lesson.items]


def _asked(opened: Opened, lesson: Lesson, generation: Generation) -> tuple[Given, ...]:
    rows = _questions(lesson)
    found = infer(opened, rows, generation).rows
    return tuple(
        _given(item, str(row["output"]), str(row["finish_reason"]))
        for item, row in zip(lesson.items, found, strict=True)
    )


def _given(item: Item, answer: str, finish_reason: str) -> Given:
    is_right = answer in item.expected and finish_reason == "stop"
    runs_on = not is_right and any(answer.startswith(expected) for expected in item.expected)
    return Given(item.where, item.expected[0], answer, finish_reason, is_right, runs_on)


def _labels(opened: Opened, lesson: Lesson) -> tuple[Given, ...]:
    """The predicted labels of the rows."""
    rows = _questions(lesson)
    found = infer(opened, rows, Generation(batch_size=len(rows))).rows
    column = "tags" if not isinstance(lesson.form, TextClassification) else "output"
    values = [row[column] for row in found]
    return tuple(
        Given(item.where, item.expected[0], str(_plain(value)), "", _is_label(lesson, item, value))
        for item, value in zip(lesson.items, values, strict=True)
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


CLOSE = 0.1
"""Share of the range of scores by which a learned score may differ."""


def _is_label(lesson: Lesson, item: Item, value: Any) -> bool:
    if isinstance(value, float):
        scores = [float(one.expected[0]) for one in lesson.items]
        return abs(value - float(item.expected[0])) <= CLOSE * ((max(scores) - min(scores)) or 1.0)
    return str(_plain(value)) == item.expected[0]


def _difference(opened: Opened, lesson: Lesson) -> str:
    """Show the first token by which a prompt at inference differs from what precedes the answer in training."""
    rows = _questions(lesson)
    for item, prompt in zip(lesson.items, prompts(opened, rows), strict=True):
        before = list(item.input_ids[: item.start])
        if before != prompt and not item.is_cut:
            return _shown_difference(opened, before, prompt)
    return ""


def _shown_difference(opened: Opened, trained: Sequence[int], asked: Sequence[int]) -> str:
    pairs = enumerate(zip(trained, asked, strict=False))
    place = next((at for at, (one, two) in pairs if one != two), min(len(trained), len(asked)))
    around = opened.tokenizer.decode(list(trained[max(0, place - _CONTEXT) : place]))

    def token(ids: Sequence[int]) -> str:
        if place >= len(ids):
            return "the answer"
        return f"{opened.tokenizer.decode([ids[place]])!r} (id {ids[place]})"

    return f"after {around!r}, at token {place}, training has {token(trained)} and inference {token(asked)}"


_CONTEXT = 12
"""Tokens to show before a difference."""
