"""The suites of a recipe, exact match included, asked of the model in training: before, during and after it."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.ask import Asked, ask
from lora_ns.answers.opened import Trained, kept_rows, make_writer
from lora_ns.answers.work import OnProgress, compute_here
from lora_ns.data.suite_rows import read_suite
from lora_ns.errors import Problem, RunError
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.objectives.prompt_trainer import Sample
from lora_ns.parallel.group import of_first_rank
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.statistics import Measure, value_of
from lora_ns.training.prepared import folders_of

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

SAMPLES = 4
"""Answers of each evaluation in training that are kept to be read."""

Answers = Sequence[Sequence[Any]]
"""For each suite, the answer to each item."""


@dataclass(frozen=True)
class OwnSuites:
    """What a run asks the model that it trains."""

    trained: Trained
    asked: Sequence[Asked]

    @classmethod
    def of(cls, trained: Trained, observer: Observer) -> OwnSuites | None:
        """Render the suites of a run, on its own evaluation rows or those of their files; None if it asks none.

        Suites that are left to `lorans eval` are reported as a warning.

        Raises:
            DataError: names the rows that cannot be asked, or lack what their answers are measured by.
        """
        manifest = trained.manifest
        suites = manifest.recipe.evaluation.asked
        if left := _left(manifest):
            observer.warn(left)
        if not suites or manifest.recipe.distributed.shards:
            return None
        usual, folder = kept_rows(manifest), folders_of(manifest)[0]
        rows = [
            read_suite(suite, f"suite {suite.title}", manifest.recipe, folder) if suite.path else usual
            for suite in suites
        ]
        return cls(trained, [ask(trained, suite, some, manifest) for suite, some in zip(suites, rows, strict=True)])

    def first(self, count: int) -> OwnSuites:
        """The first rows of each suite."""
        return replace(self, asked=[_first(one, count) for one in self.asked])

    def ask(self, file: Path | None, observer: Observer) -> dict[str, float]:
        """Ask everything, write the answers to a file, if one is given, and return their figures."""
        answers = self.answers(observer.rows)
        if file:
            self._save(file, answers)
        return self.figures(answers)

    def answers(self, tell: OnProgress = lambda *_: None) -> Answers:
        """The model's current answers. Mode and random numbers of training are the same afterwards."""
        with _as_before(self.trained.model):
            results = compute_here(self.trained, tell)([one.task() for one in self.asked])
        return [one.answers(found) for one, found in zip(self.asked, results, strict=True)]

    def samples(self) -> list[Sample]:
        """Greedy answers of the current model to the first prompts of the first suite; no random number is drawn."""
        trained, first = self.trained, _first(self.asked[0], SAMPLES)
        prompts = first.items[:: first.suite.samples]
        generation = self.asked[0].generation.model_copy(update={"do_sample": False})
        written = make_writer(trained.manifest, trained.model, trained.tokenizer).answer(prompts, generation)
        texts = trained.tokenizer.batch_decode(prompts)
        return [Sample(text, answer.text, {}) for text, answer in zip(texts, written, strict=True)]

    def figures(self, answers: Answers) -> dict[str, float]:
        """The figures of answers, equal on all ranks: `exact_match`, `NAME.FIGURE`, and `NAME.FIGURE/GROUP`."""
        return of_first_rank(lambda: _values(self.measures(answers)))

    def measures(self, answers: Answers) -> dict[str, Measure]:
        """The figures of answers with their items, by the names of `figures`."""
        found: dict[str, Measure] = {}
        for one, given in zip(self.asked, answers, strict=True):
            title = "" if one.suite.title == "exact-match" else f"{one.suite.title}."
            for ending, places in _parts(one):
                golds, some = [one.golds[place] for place in places], [given[place] for place in places]
                measures = one.suite.measure(golds, some)
                found |= {f"{title}{name}{ending}": measure for name, measure in measures.items()}
        return found

    def _save(self, file: Path, answers: Answers) -> None:
        """Write the items of each suite with their answers. Raises `RunError`."""
        table = {
            one.suite.title: {
                "items": [asdict(replace(gold, lacking=None)) for gold in one.golds],
                "answers": list(given),
            }
            for one, given in zip(self.asked, answers, strict=True)
        }
        with telling_disk_errors(file):
            file.parent.mkdir(exist_ok=True)
        write_atomic(file, json.dumps(table, ensure_ascii=False, default=str) + "\n")


def _values(measures: Mapping[str, Measure]) -> dict[str, float]:
    return {name: value_of(measure) for name, measure in measures.items()}


def _left(manifest: Manifest) -> str:
    """A warning that suites are left to `lorans eval`, and why; empty if none is."""
    evaluation, is_sharded = manifest.recipe.evaluation, manifest.recipe.distributed.shards
    suites = [suite for suite in evaluation.suites if suite.asks != "label"]  # training has its own figures of labels
    left = [suite for suite in suites if is_sharded or suite not in evaluation.asked]
    if not left:
        return ""
    judge, harness = "a judge is asked only with `--allow-judge`", "lm-evaluation-harness needs the finished run"
    reasons = (judge if suite.is_against_base else harness for suite in left)
    why = "the weights are sharded" if is_sharded else ", and ".join(dict.fromkeys(reasons))
    return f"left to `lorans eval`, because {why}: {', '.join(f'`{suite.title}`' for suite in left)}"


def _first(asked: Asked, count: int) -> Asked:
    """The first rows of a suite, with all their items."""
    kept = [place for place, owner in enumerate(asked.owners) if owner < count]
    return replace(
        asked,
        golds=asked.golds[:count],
        items=[asked.items[place] for place in kept],
        owners=[asked.owners[place] for place in kept],
    )


def _parts(asked: Asked) -> Iterator[tuple[str, Sequence[int]]]:
    """All rows, then those of each group, with what the name of a figure ends in."""
    yield "", range(len(asked.golds))
    yield from ((f"/{group}", places) for group, places in asked.suite.groups(asked.golds).items())


@contextlib.contextmanager
def _as_before(model: Any) -> Iterator[None]:
    """Restore the mode of a model and the state of all random numbers."""
    import numpy as np
    import torch

    was_training, drawn, drawn_by_numpy = model.training, random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)
            model.train(was_training)


def asking_in_training(
    suites: OwnSuites,
    observer: Observer,
    shown: Mapping[str, str],
    trainer: Callable[[], Trainer],
    kept: dict[str, Measure],
) -> TrainerCallback:
    """A callback that asks suites at each evaluation, and adds their figures to its metrics.

    The trainer chooses the best checkpoint by these metrics after all callbacks have seen them.

    Args:
        suites: the suites, with as many rows as are asked each time.
        observer: told which figures to show.
        shown: the metrics that it shows besides.
        trainer: gives the trainer, once training has begun.
        kept: receives the figures of the last evaluation with their items, on rank 0.
    """
    from transformers import TrainerCallback

    class Asking(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `asking_in_training`."""

        def on_evaluate(self, _args: Any, _state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
            answers = suites.answers()

            def measure() -> dict[str, float]:
                kept.update(suites.measures(answers))
                return _values(kept)

            found = of_first_rank(measure)
            observer.shows({**shown, **{name: name for name in found if "/" not in name}})
            row = {f"eval_{name}": value for name, value in found.items()}
            _check_new(row, metrics)
            metrics.update(row)
            trainer().log(dict(row))

    return Asking()


def _check_new(row: Mapping[str, float], metrics: Mapping[str, float]) -> None:
    """Check that no figure has the name of a metric. Raises `RunError`."""
    if taken := sorted(row.keys() & metrics.keys()):
        what = f"the trainer has a metric `{taken[0]}`, too"
        raise RunError(Problem("", what, "write another `name`", key="evaluation.suites"))
