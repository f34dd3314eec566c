"""Suites of lm-evaluation-harness, asked of a loaded run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import SimpleNamespace
from typing import Any

from lora_ns.answers.harness_tasks import SEED, first_line
from lora_ns.answers.opened import Trained, format_of
from lora_ns.errors import DataError, LoransError, Problem, UsageError
from lora_ns.formats import PromptCompletion, RawText
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.load import computing
from lora_ns.run.manifest import Manifest
from lora_ns.suites import Gold, LmEvalSuite

Scored = dict[str, Any]
"""An answer: what the model wrote or its log-likelihoods, as `answer`, and its `scores` by metric."""


@dataclass
class HarnessAnswers:
    """The answers of several systems to the items of a suite."""

    suite: LmEvalSuite
    tasks: Mapping[str, Any]
    """The tasks of the harness, by name."""
    golds: list[Gold] = field(default_factory=list)
    by_system: dict[str, list[Scored]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    """Metrics without a value for each item, or that are better the lower they are."""

    def ask(self, system: str, trained: Trained, like: Manifest) -> None:
        """Ask a system, with the weights that its model has now.

        Raises:
            UsageError: if it has no chat template, and the suite asks for it.
            DataError: if the harness cannot ask or score the items.
            RunError: if there is not enough memory.
        """
        samples = _samples(self.suite, self.tasks, trained, like)
        found: list[tuple[Gold, Scored]] = []
        for name, of_task in samples.items():
            task, by_item = self.tasks[name], _by_item(of_task)
            kept = self._figures(task, of_task)
            for number, several in by_item.items():
                scores = {figure: several[key][metric] for figure, (metric, key) in kept.items()}
                first = next(iter(several.values()))
                found.append((_gold(task, f"{name} {number}", first), {"answer": _plain(first), "scores": scores}))
        self._keep_common(found)
        self.golds = self.golds or [gold for gold, _ in found]
        self.by_system[system] = [scored for _, scored in found]

    def answers(self) -> dict[str, list[Scored]]:
        """The answers by system. A metric that is 0 or 1 for each item of all systems has truth values."""
        everything = [scored["scores"] for answers in self.by_system.values() for scored in answers]
        for name in everything[0]:
            is_share = all(scores[name] in {0, 1} for scores in everything)
            for scores in everything:
                scores[name] = bool(scores[name]) if is_share else float(scores[name])
        return self.by_system

    def notes(self) -> tuple[str, ...]:
        """A note that names the metrics that are left out."""
        if not self.left_out:
            return ()
        names = ", ".join(f"`{name}`" for name in sorted(self.left_out))
        return (
            f"suite {self.suite.title}: not compared: {names} (only metrics of all its tasks that are the mean of "
            "a value for each item, and better the higher it is)",
        )

    def _figures(self, task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
        """The metric and filter of each figure: those that are the mean of a number for each item."""
        from lm_eval.api.metrics import mean

        aggregated, higher = task.aggregation(), task.higher_is_better()
        found = {}
        for metric, key in dict.fromkeys((metric, one["filter"]) for one in samples for metric in one["metrics"]):
            name = metric if key == "none" else f"{metric}.{key}"
            values = [one.get(metric) for one in samples if one["filter"] == key]
            is_mean = aggregated.get(metric) is mean and higher.get(metric) is not False
            if is_mean and all(isinstance(value, Real) for value in values):
                found[name] = (metric, key)
            else:
                self.left_out.add(name)
        return found

    def _keep_common(self, found: Sequence[tuple[Gold, Scored]]) -> None:
        """Leave out the figures that only some of the tasks have. Raises `DataError` if none is left."""
        names = [set(scored["scores"]) for _, scored in found]
        common = set.intersection(*names) if names else set()
        self.left_out |= set().union(*names) - common
        if not common:
            what = f"the task `{self.suite.task}` has no metric with a value for each item, which could be compared"
            raise DataError(Problem(f"suite {self.suite.title}", what, "choose another task"))
        for _, scored in found:
            scored["scores"] = {name: value for name, value in scored["scores"].items() if name in common}


class _Model:
    """A loaded model as the harness calls it: under the autocast of the run, without the logits of virtual tokens.

    It is no module, so that the harness does not tie its weights again.
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._model: Any = trained.model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, input_ids: Any) -> SimpleNamespace:
        """The logits of each position."""
        with self._computing():
            logits = self._model(input_ids=input_ids, use_cache=False).logits
        return SimpleNamespace(logits=logits[:, -input_ids.shape[1] :])

    def generate(self, **arguments: Any) -> Any:
        """The prompts with their answers, which end at the stop tokens of the run, too."""
        with self._computing():
            return self._model.generate(eos_token_id=list(self._trained.manifest.stop_token_ids), **arguments)

    def _computing(self) -> Any:
        return computing(self._model.device.type, self._trained.manifest.plan.dtype.value)


def _samples(
    suite: LmEvalSuite, tasks: Mapping[str, Any], trained: Trained, like: Manifest
) -> dict[str, list[dict[str, Any]]]:
    """The items of each task with their answers and scores, as the harness logs them."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import set_seed

    size, in_chat = like.recipe.generation.batch_size, _in_chat_template(suite, trained, like)
    trained.model.eval()
    set_seed(SEED)
    for task in tasks.values():
        task.set_fewshot_seed(seed=SEED)
    model = HFLM(
        pretrained=_Model(trained),
        backend="causal",
        tokenizer=trained.tokenizer,
        max_length=trained.room(),
        batch_size=size,
        chat_template_args=dict(like.recipe.objective.rendering.chat_template_kwargs) if in_chat else None,
    )
    remedy = "set a smaller `generation.batch_size`" if size > 1 else "free memory, or choose another task"
    try:
        with telling_memory_errors(lambda: f"out of memory at batch size {size:,}", remedy):
            found = evaluate(
                model,
                {"tasks": dict(tasks)},
                limit=suite.max_samples,
                bootstrap_iters=0,
                apply_chat_template=in_chat,
                fewshot_as_multiturn=in_chat,
            )
    except LoransError:
        raise
    except Exception as error:
        what = f"lm-evaluation-harness cannot ask the task `{suite.task}`: {first_line(error)}"
        raise DataError(Problem(f"suite {suite.title}", what, "correct its task file")) from error
    return dict(found["samples"])


def _in_chat_template(suite: LmEvalSuite, trained: Trained, like: Manifest) -> bool:
    """Whether a system is asked in its chat template. Raises `UsageError` if it has none that it could be asked in."""
    has_one = trained.tokenizer.chat_template is not None
    if suite.apply_chat_template is None:
        return has_one and not {PromptCompletion, RawText} & {*format_of(like).makes}
    if suite.apply_chat_template and not has_one:
        what = f"the suite `{suite.title}` asks in the chat template, and {trained.base.name} has none"
        raise UsageError(Problem(f"suite {suite.title}", what, "write `apply_chat_template = false`"))
    return suite.apply_chat_template


def _by_item(samples: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Mapping[str, Any]]]:
    """The samples of each item, by filter."""
    found: dict[int, dict[str, Mapping[str, Any]]] = {}
    for one in samples:
        found.setdefault(int(one["doc_id"]), {})[one["filter"]] = one
    return dict(sorted(found.items()))


def _gold(task: Any, where: str, sample: Mapping[str, Any]) -> Gold:
    """An item with its question, without solved examples, and the expected answer."""
    doc, target = sample["doc"], sample["target"]
    question = task.doc_to_text(doc)
    choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    asked = question if isinstance(question, str) else str(sample["arguments"][0][0])
    return Gold(where, str(target), {**doc}, question=asked)


def _plain(sample: Mapping[str, Any]) -> Any:
    """What the model answered, as JSON: its text, or the log-likelihood of each choice."""
    found = list(_unpacked(sample["filtered_resps"]))
    return found[0] if len(found) == 1 else found


def _unpacked(answers: Sequence[Any]) -> Iterator[Any]:
    """Yield texts as they are, and of log-likelihoods only the number."""
    for one in answers:
        yield float(one[0]) if isinstance(one, tuple) else one
