"""Rules between a task, its rows, its method and its objective."""

from __future__ import annotations

from lora_ns.formats.detection import FORMAT_OF_TASK
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.conflict import Finding
from lora_ns.recipe.rules.dataset import _each_form
from lora_ns.recipe.rules.written import is_written

_WRITING_TEXT = (
    "sft",
    "generation",
    "dataset.prompt_template",
    "dataset.completion_template",
    "dataset.system_template",
    "evaluation.exact_match",
    "evaluation.answer_pattern",
    "evaluation.group_by",
    "evaluation.max_samples",
)


_TEXT_AND_LABEL = ("dataset.text_column", "dataset.text_pair_column", "dataset.label_column")


_INERT_FOR_TASK = {
    "CAUSAL_LM": ("classification", *_TEXT_AND_LABEL),
    "SEQ_CLS": (*_WRITING_TEXT, "dataset.columns"),
    "TOKEN_CLS": (*_WRITING_TEXT, *_TEXT_AND_LABEL, "classification.problem_type", "classification.threshold"),
}


def tables_fit_the_task(recipe: Recipe) -> Finding | None:
    """No key is accepted that the task never reads."""
    for key in _INERT_FOR_TASK[recipe.task_type]:
        name = key.removeprefix("dataset.")
        places = [
            f"dataset.sources.{number}.{name}"
            for number, source in enumerate(recipe.dataset.sources)
            if name in source.model_fields_set
        ]
        for place in [key] if is_written(recipe, key) else places:
            shown = f"`{key}`" if "." in key else f"`[{key}]`"
            what = f'{shown} has no effect with `task_type = "{recipe.task_type}"`'
            return Finding(("task_type", place), what, "remove it")
    return None


def format_fits_the_task(recipe: Recipe) -> Finding | None:
    """Texts are classified, conversations are not."""
    own = FORMAT_OF_TASK.get(recipe.task_type)
    for data, key_of in _each_form(recipe):
        wanted = data.format
        if wanted != "auto" and (wanted != own if own else wanted in FORMAT_OF_TASK.values()):
            return Finding(
                ("task_type", key_of("format")),
                f'"{wanted}" does not fit `task_type = "{recipe.task_type}"`',
                'write "auto"',
            )
    return None


def method_fits_the_task(recipe: Recipe) -> Finding | None:
    """Classifiers only under methods that save their heads and leave a row as long as its tags."""
    capabilities = recipe.peft.capabilities
    works = {
        "CAUSAL_LM": True,
        "SEQ_CLS": capabilities.classifier,
        "TOKEN_CLS": capabilities.token_classification,
    }[recipe.task_type]
    if works is not True:
        what = f'{recipe.peft.method} does not fit `task_type = "{recipe.task_type}"`: {works}'
        return Finding(("task_type", "peft.method"), what, "write `lora`; `lorans methods` has a table")
    return None


def labels_fit_the_problem(recipe: Recipe) -> Finding | None:
    """No key of a label's kind beside another kind."""
    table = recipe.classification
    if is_written(recipe, "classification.problem_type") and table.problem_type != "auto":
        for key in INERT_FOR_PROBLEM[table.problem_type]:
            if is_written(recipe, key):
                what = f'`{key.rpartition(".")[2]}` has no effect with `problem_type = "{table.problem_type}"`'
                return Finding(("classification.problem_type", key), what, "remove it")
    return None


INERT_FOR_PROBLEM = {
    "single_label_classification": ("classification.threshold",),
    "multi_label_classification": (),
    "regression": ("classification.threshold", "classification.labels", "classification.class_weights"),
}
"""By what a label is, the keys that are not read."""


def weights_fit_the_labels(recipe: Recipe) -> Finding | None:
    """A weight for each class."""
    labels, weights = recipe.classification.labels, recipe.classification.class_weights
    if labels and isinstance(weights, tuple) and len(weights) != len(labels):
        return Finding(
            ("classification.labels", "classification.class_weights"),
            f"{len(weights)} `class_weights` for {len(labels)} `labels`",
            "give one for each, in their order",
        )
    return None


def packing_keeps_documents_apart(recipe: Recipe) -> Finding | None:
    """Packing only where the method keeps the documents of a row apart."""
    packing = recipe.peft.capabilities.packing
    if recipe.sft.packing and packing is not True:
        return Finding(
            ("peft.method", "sft.packing"),
            f"packing does not work with {recipe.peft.method}: {packing}",
            "write `packing = false`",
        )
    return None
