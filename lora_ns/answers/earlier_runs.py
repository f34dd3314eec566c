"""Earlier runs whose adapters a new run uses: checked against its base and tokenizer, and copied into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.changed_files import REFUSED_ALWAYS, check_unchanged, names_saved
from lora_ns.errors import PlanError, Problem, UsageError
from lora_ns.files.disk import follow_umask, sha256_file, telling_disk_errors
from lora_ns.files.marks import mark_folder
from lora_ns.files.reading import read_json
from lora_ns.files.removal import remove
from lora_ns.formats import FORMATS, Labelled, PromptCompletion, RawText, Tagged
from lora_ns.methods import PeftMethod
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import Base
from lora_ns.model.tokenizer import template_hash
from lora_ns.recipe.keys import as_toml
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.earlier import BASE_KEY, EarlierRun, EarlierRuns, open_earlier
from lora_ns.run.manifest import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONFIG = "adapter_config.json"


def find_earlier(recipe: Recipe, folder: Path, base: Base, tokenizer: PreTrainedTokenizerBase) -> EarlierRuns:
    """Open the runs whose adapters a recipe uses, and check that they fit it and are as they were saved.

    Args:
        recipe: the recipe, resolved for its base.
        folder: the folder of the recipe.
        base: the base of the new run.
        tokenizer: its tokenizer, with added tokens and chat template.

    Raises:
        UsageError: names the first run that is not finished, has changed, or was trained on something else.
    """
    found = open_earlier(recipe, folder)
    for number, one in enumerate(found.all):
        problem = _misfit(one, recipe, base, tokenizer) or _other_base(one, found.merged[:number])
        if problem:
            raise PlanError(problem)
        check_unchanged(one.run, one.manifest, base, names_saved(one.run, one.manifest), REFUSED_ALWAYS)
    return found


def check_labels(earlier: EarlierRuns, labels: Sequence[str], problem_type: str | None) -> None:
    """Check that a classifier that is trained further has the labels of its rows. Raises `PlanError`."""
    one = earlier.init
    if one is None or (tuple(one.manifest.labels), one.manifest.problem_type) == (tuple(labels), problem_type):
        return
    names = [", ".join(f"`{label}`" for label in given[:5]) or "none" for given in (one.manifest.labels, labels)]
    what = f"the labels of {one.name} are {names[0]}, and those of the rows are {names[1]}"
    raise PlanError(Problem("", what, "train a new adapter", key=one.key))


def _misfit(one: EarlierRun, recipe: Recipe, base: Base, tokenizer: PreTrainedTokenizerBase) -> Problem | None:
    """Return the first reason why an adapter does not belong to this base, task or tokenizer."""
    record, its = one.manifest.base, one.manifest.recipe
    if not base.is_fingerprint(record.fingerprint):
        what = f"{one.name} was trained on another base: {record.name} ({record.fingerprint[:12]})"
        return Problem("", what, f"name that base; this one is {base.name} ({base.fingerprint[:12]})", key=one.key)
    if base.tokenizer_fingerprint != record.tokenizer_fingerprint:
        what = f"{one.name} was trained with another tokenizer than the base has now"
        return Problem("", what, "restore the tokenizer of the base", key=one.key)
    if problem := _other_task(one, recipe):
        return problem
    if its.model.add_tokens != recipe.model.add_tokens and (one.key != BASE_KEY or its.model.add_tokens):
        said = [as_toml(list(tokens)) for tokens in (its.model.add_tokens, recipe.model.add_tokens)]
        what = f"{one.name} was trained with `add_tokens = {said[0]}`, and the recipe says {said[1]}"
        return Problem("", what, f"write `add_tokens = {said[0]}`", key=one.key)
    if _uses_template(one.manifest) and one.manifest.chat_template_sha256 != template_hash(tokenizer):
        what = f"{one.name} was trained with another chat template"
        return Problem("", what, _template_remedy(one.manifest, recipe), key=one.key)
    return None


def _other_task(one: EarlierRun, recipe: Recipe) -> Problem | None:
    its = one.manifest.recipe
    if one.key == BASE_KEY:
        can = its.peft.capabilities.merge
        if can is not True:
            return Problem("", f"{one.name} cannot be merged, since {its.peft.tag()} cannot: {can}", key=one.key)
        if its.task_type != "CAUSAL_LM":
            what = f"{one.name} trained a head for `{its.task_type}`, which a base does not have"
            return Problem("", what, "name runs with `CAUSAL_LM`, or use `init_adapter`", key=one.key)
        return None
    same = (its.task_type, its.objective.answers) == (recipe.task_type, recipe.objective.answers)
    if same:
        return None
    what = f"{one.name} was trained by `[{its.objective.toml}]` with `{its.task_type}`"
    what += f", whose head is not that of `[{recipe.objective.toml}]`"
    remedy = (
        f'write `base_adapters = ["{one.name}"]` instead' if its.task_type == "CAUSAL_LM" else "train a new adapter"
    )
    return Problem("", what, remedy, key=one.key)


def _uses_template(manifest: Manifest) -> bool:
    """True if the rows of a run were rendered by its chat template."""
    form = FORMATS.get(manifest.data.format)
    return form is not None and not {RawText, PromptCompletion, Labelled, Tagged}.intersection(form.makes)


def _template_remedy(manifest: Manifest, recipe: Recipe) -> str:
    its, key = manifest.recipe.objective.rendering.chat_template, recipe.objective.key("chat_template")
    return f"write `{key} = {as_toml(its)}`" if its else f"remove `{key}`, or restore the template of the base"


def _other_base(one: EarlierRun, merged: Sequence[EarlierRun]) -> Problem | None:
    """Return a problem if an adapter was trained on a base with other adapters merged into it than those before it."""
    its = one.manifest.base_adapters
    if [record.sha256 for record in its] == [other.record.sha256 for other in merged]:
        return None
    before = [record.run for record in its]
    what = f"{one.name} was trained on " + (
        f"the base with {', '.join(before)} merged in" if before else "the base alone"
    )
    listed = [*before, *([one.name] if one.key == BASE_KEY else [])]
    remedy = (
        f"write `base_adapters = {as_toml(listed)}`" if listed else "remove `base_adapters`, or merge that run as well"
    )
    return Problem("", what, remedy, key=one.key)


def keep_earlier(run: RunDir, earlier: EarlierRuns, method: PeftMethod) -> None:
    """Copy the adapters of earlier runs into a new run, which needs them to go on and to be used.

    A copy rather than a path: the run directory is all that the later commands read, and an adapter is small.

    Args:
        run: the new run.
        earlier: the runs, checked.
        method: the method of the new run: the adapter that is trained further gets its dropout.

    Raises:
        UsageError: if an adapter has changed since it was checked.
    """
    for number, one in enumerate(earlier.merged):
        _copy(one, run.base_adapter(number), {})
    if earlier.init:
        settings = {key: value for key, value in method.to_kwargs().items() if key.endswith("dropout")}
        _copy(earlier.init, run.start, settings)


def _copy(one: EarlierRun, folder: Path, settings: Mapping[str, Any]) -> None:
    staged = folder.with_name(f".{folder.name}.new")
    with telling_disk_errors(folder):
        remove(staged)
        staged.mkdir(parents=True)
        shutil.copyfile(one.run.adapter / WEIGHTS, staged / WEIGHTS)
        config = {**read_json(one.run.adapter / _CONFIG), **settings}
        (staged / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if sha256_file(staged / WEIGHTS) != one.record.sha256:
            remove(staged)
            raise UsageError(Problem(str(one.run.adapter / WEIGHTS), "changed while it was read", "repeat the command"))
        follow_umask(staged)
        mark_folder(staged)
        remove(folder)
        staged.rename(folder)
