"""Rules of `[training]`, and of arguments that are passed to upstream classes."""

from __future__ import annotations

from lora_ns.errors import did_you_mean
from lora_ns.objectives import OBJECTIVE_TABLES
from lora_ns.recipe.advise import Adviser
from lora_ns.recipe.best_metric import best_metric, is_higher_better, is_of_a_suite, known_metrics
from lora_ns.recipe.keys import UNIONS, known_keys, tag_of
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.recipe.upstream import (
    REFUSED_ARGUMENTS,
    SET_BY_ENGINE,
    SET_BY_PLAN,
    peft_config_fields,
    training_argument_fields,
)
from lora_ns.table import Conflict


def one_batch_size(recipe: Recipe) -> Conflict | None:
    """The global batch is set by one key."""
    if recipe.training.global_batch_size and recipe.training.gradient_accumulation_steps:
        return Conflict(
            ("training.global_batch_size", "training.gradient_accumulation_steps"),
            "`global_batch_size` and `gradient_accumulation_steps` both set the batch size",
            "keep `global_batch_size`",
        )
    return None


def global_batch_divides(recipe: Recipe) -> Conflict | None:
    """The global batch consists of whole micro-batches."""
    whole, part = recipe.training.global_batch_size, recipe.training.per_device_train_batch_size
    if whole and part != "auto" and whole % part:
        return Conflict(
            ("training.global_batch_size", "training.per_device_train_batch_size"),
            f"the global batch of {whole} is not divisible by {part}",
            'write a divisor, or "auto"',
        )
    return None


def one_length_of_training(recipe: Recipe) -> Conflict | None:
    """The length of training is set in steps or in epochs."""
    if recipe.training.max_steps and is_written(recipe, "training.num_train_epochs"):
        return Conflict(
            ("training.num_train_epochs", "training.max_steps"),
            "`num_train_epochs` has no effect with `max_steps`",
            "keep one of them",
        )
    return None


def one_warm_up(recipe: Recipe) -> Conflict | None:
    """The warm-up is set in steps or as a fraction."""
    if recipe.training.warmup_steps is not None and is_written(recipe, "training.warmup_ratio"):
        return Conflict(
            ("training.warmup_ratio", "training.warmup_steps"),
            "`warmup_ratio` has no effect with `warmup_steps`",
            "keep one of them",
        )
    return None


def checkpointing_works(recipe: Recipe) -> Conflict | None:
    """Gradient checkpointing needs a method that allows it."""
    checkpointing = recipe.peft.capabilities.gradient_checkpointing
    if recipe.training.gradient_checkpointing is True and checkpointing is not True:
        return Conflict(
            ("peft.method", "training.gradient_checkpointing"),
            f"gradient checkpointing does not work with {recipe.peft.method}: {checkpointing}",
            'write "auto"',
        )
    return None


def optimizer_is_known(recipe: Recipe) -> Conflict | None:
    """The optimizer exists in transformers, and can train adapters."""
    optim = recipe.training.optim
    found = OPTIMIZERS.get(optim)
    if found is None:
        known = [name for name, row in OPTIMIZERS.items() if not row.refused]
        advice = Adviser({}).on_value("training.optim", optim)
        hint = advice or did_you_mean(optim, known) or 'such as "adamw_torch_fused" or "paged_adamw_8bit"'
        return Conflict(("training.optim",), f'there is no optimizer "{optim}"', hint)
    if found.refused:
        what = f'"{optim}" does not train an adapter: {found.refused}'
        return Conflict(("training.optim",), what, 'write "adamw_torch_fused", or "paged_adamw_8bit" to save memory')
    return None


def optimizer_takes_its_settings(recipe: Recipe) -> Conflict | None:
    """Settings that the optimizer does not use are refused, and a schedule for an optimizer that replaces it."""
    training = recipe.training
    found = OPTIMIZERS.get(training.optim)
    if found is None or found.refused:
        return None  # reported by another rule
    for key in ("adam_beta1", "adam_beta2"):
        if not found.reads_betas and is_written(recipe, f"training.{key}"):
            what = f'`{key}` has no effect with `optim = "{training.optim}"`'
            return Conflict(("training.optim", f"training.{key}"), what, "remove it")
    if found.schedules_itself and training.lr_scheduler_type != "constant":
        what = f'"{training.optim}" replaces the learning rate schedule, but "{training.lr_scheduler_type}" is one'
        return Conflict(("training.optim", "training.lr_scheduler_type"), what, 'write "constant"')
    return None


def warm_up_ends(recipe: Recipe) -> Conflict | None:
    """The learning rate reaches its peak before the run ends."""
    warmup, steps = recipe.training.warmup_steps, recipe.training.max_steps
    if warmup and steps and warmup >= steps:
        return Conflict(
            ("training.max_steps", "training.warmup_steps"),
            f"a run of {steps} step{'s' * (steps > 1)} ends during its warm-up of {warmup}",
            f"write at most {steps - 1}",
        )
    return None


def evaluations_can_be_chosen_from(recipe: Recipe) -> Conflict | None:
    """Choosing the best evaluation, and stopping early, need evaluation rows."""
    training, data = recipe.training, recipe.dataset
    asked = (
        ("metric_for_best_model", training.metric_for_best_model),
        ("load_best_model_at_end", training.load_best_model_at_end),
        ("early_stopping_patience", training.early_stopping_patience),
    )
    key = next((key for key, value in asked if value), None)
    if key is None or data.eval_split or data.eval_path or data.eval_fraction:
        return None
    what = f"`{key}` chooses among evaluations, and there are no evaluation rows"
    return Conflict((f"training.{key}",), what, "add `eval_path`, `eval_split` or `eval_fraction`")


def best_metric_is_measured(recipe: Recipe) -> Conflict | None:
    """The metric for the best model has a known direction, and is measured during training."""
    key, name = "training.metric_for_best_model", best_metric(recipe)
    if name is None or recipe.training.metric_for_best_model is None:
        return None
    if is_higher_better(recipe, name) is None:
        known = known_metrics(recipe)
        listed = f"one of: {', '.join(known)}; or `NAME.FIGURE` of a suite of the recipe"
        what = f"it is not known whether a higher `{name}` is better"
        return Conflict((key,), what, did_you_mean(name, known, beside=listed))
    if is_of_a_suite(recipe, name) and not recipe.evaluation.while_training:
        what = f"`{name}` is not measured during training"
        return Conflict((key,), what, "add `evaluation.while_training = true`")
    return None


def best_weights_can_be_loaded(recipe: Recipe) -> Conflict | None:
    """A run can only end with its best weights if the method can take them back."""
    capabilities = recipe.peft.capabilities
    if not recipe.training.load_best_model_at_end or capabilities.resume is True or capabilities.virtual_tokens:
        return None
    what = f"{recipe.peft.tag()} cannot end with its best weights: {capabilities.resume}"
    remedy = "write `metric_for_best_model` alone, and use `--checkpoint best`"
    return Conflict(("peft.method", "training.load_best_model_at_end"), what, remedy)


def early_stopping_threshold_needs_patience(recipe: Recipe) -> Conflict | None:
    """The threshold of an improvement has an effect on early stopping only."""
    if is_written(recipe, "training.early_stopping_threshold") and not recipe.training.early_stopping_patience:
        what = "`early_stopping_threshold` has no effect without `early_stopping_patience`"
        return Conflict(("training.early_stopping_threshold",), what, "add it, or remove the key")
    return None


_PUSHING = frozenset(
    {"push_to_hub", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token", "hub_model_id"}
    | {"hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision"}
)
"""Fields of `TrainingArguments` that make the trainer upload checkpoints."""


def nothing_is_pushed(recipe: Recipe) -> Conflict | None:
    """Nothing is uploaded during training: the adapter is not checked yet, and the token would be stored with it."""
    key = next((key for key in recipe.training.extra if key in _PUSHING), None)
    if key is None:
        return None
    remedy = "remove it; `hf upload NAME RUN/adapter` uploads the adapter of a finished run"
    return Conflict((f"training.extra.{key}",), f"`{key}`: lorans uploads nothing during training", remedy)


def checkpoints_are_whole(recipe: Recipe) -> Conflict | None:
    """A checkpoint has everything that a resumed run needs."""
    if not recipe.training.extra.get("save_only_model"):
        return None
    what = "`save_only_model`: a run cannot be resumed from checkpoints without the optimizer state"
    return Conflict(("training.extra.save_only_model",), what, "remove it; the finished adapter has no optimizer state")


def training_extra_is_known(recipe: Recipe) -> Conflict | None:
    """`[training.extra]` passes fields of the installed `TrainingArguments` that the recipe has no key for."""
    return _extra(recipe, "training", training_argument_fields(), SET_BY_PLAN, "TrainingArguments")


def training_extra_has_an_effect(recipe: Recipe) -> Conflict | None:
    """Fields that would be ignored, or break a guarantee of every run, are refused."""
    extra = recipe.training.extra
    for key in extra:
        place = (f"training.extra.{key}",)
        if reason := REFUSED_ARGUMENTS.get(key):
            return Conflict(place, f"`{key}`: {reason}", "remove it")
        if key.startswith("ddp_") and recipe.distributed.strategy not in {"ddp", "auto"}:
            return Conflict(place, f'`{key}` has no effect without `[distributed] strategy = "ddp"`', "remove it")
        if key.startswith("trackio_") and "trackio" not in recipe.tracking.report_to:
            return Conflict(place, f'`{key}` has no effect without `tracking.report_to = ["trackio"]`', "remove it")
        if key == "greater_is_better" and best_metric(recipe) is None:
            return Conflict(place, f"`{key}` has no effect without `training.metric_for_best_model`", "remove it")
    return None


def peft_extra_is_known(recipe: Recipe) -> Conflict | None:
    """`[peft.extra]` passes fields of the method's PEFT configuration that the recipe has no key for."""
    peft = recipe.peft
    own = frozenset({*peft.model_copy(update={"extra": {}}).to_kwargs(), *SET_BY_ENGINE})
    known = peft_config_fields(peft.config_file, peft.config_class, peft.parents)
    return _extra(recipe, "peft", known, own, peft.config_class)


def _extra(
    recipe: Recipe, table: str, known: frozenset[str] | None, own: frozenset[str], owner: str
) -> Conflict | None:
    extra = getattr(recipe, table).extra
    for key in extra:
        place = (f"{table}.extra.{key}",)
        if key in own:
            named = _own_keys(recipe, table).get(key) if table == "training" else None
            remedy = f"write `{named}`" if named else "remove it"
            return Conflict(place, f"`{key}` is set by the recipe's own keys", remedy)
        if known is not None and key not in known:
            return Conflict(
                place, f"the installed `{owner}` has no field `{key}`", _meant(recipe, table, key, known - own)
            )
    return None


def _meant(recipe: Recipe, table: str, key: str, fields: frozenset[str]) -> str:
    """Suggest a replacement for an unknown field: a recipe key, or a field that is accepted."""
    own = _own_keys(recipe, table)
    if key in own:
        return f"write `{own[key]}`"
    beside = {name for name, dotted in own.items() if dotted.startswith(f"{table}.")}

    def write(name: str) -> str | None:
        if name in beside:
            return own[name]
        return None if _is_refused(recipe, table, key, name) else name

    return did_you_mean(key, sorted(fields | beside), write=write) or "remove it"


def _own_keys(recipe: Recipe, table: str) -> dict[str, str]:
    """Return the dotted keys that this recipe can have, by their last names. Keys of `table` take precedence."""
    tags = {union: {tag_of(union): getattr(getattr(recipe, union), tag_of(union))} for union in UNIONS}
    inert = (*recipe.objective.inert, "extra")
    known = known_keys({**tags, "task_type": recipe.task_type})
    keys = [key for key in known if "." in key and {key, *key.split(".")}.isdisjoint(inert) and _is_own(recipe, key)]
    keys.sort(key=lambda key: not key.startswith(f"{table}."))
    return {key.partition(".")[2]: key for key in reversed(keys)}


def _is_own(recipe: Recipe, key: str) -> bool:
    """Return whether a key does not belong to another objective only."""
    table, _, name = key.partition(".")
    return table not in OBJECTIVE_TABLES or (table == recipe.objective.toml and name in recipe.objective.key_names())


def _is_refused(recipe: Recipe, table: str, key: str, name: str) -> bool:
    """Return whether a rule would refuse the field `name` in place of `key`."""
    owner = getattr(recipe, table)
    renamed = {name: owner.extra[key], **{other: value for other, value in owner.extra.items() if other != key}}
    tried = recipe.model_copy(update={table: owner.model_copy(update={"extra": renamed})})
    found = [rule(tried) for rule in (nothing_is_pushed, checkpoints_are_whole, training_extra_has_an_effect)]
    return any(finding and f"{table}.extra.{name}" in finding.keys for finding in found)
