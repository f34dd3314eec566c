"""Rules between an objective, its rows and its method."""

from __future__ import annotations

from lora_ns.formats import Preference
from lora_ns.formats.detection import makes_one_of
from lora_ns.formats.registry import FORMATS
from lora_ns.objectives import objective_of
from lora_ns.recipe.distributed import DeepSpeed, Fsdp
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.dataset import each_form
from lora_ns.recipe.rules.written import is_written
from lora_ns.table import Conflict, Refusal, first_of


def tables_fit_the_task(recipe: Recipe) -> Conflict | None:
    """Keys that the objective never uses are refused."""
    for key in recipe.objective.inert:
        name = key.removeprefix("dataset.")
        places = [
            f"dataset.sources.{number}.{name}"
            for number, source in enumerate(recipe.dataset.sources)
            if name in source.model_fields_set
        ]
        for place in [key] if is_written(recipe, key) else places:
            shown = f"`{key}`" if "." in key else f"`[{key}]`"
            is_usual = isinstance(recipe.objective, objective_of(recipe.task_type))
            what = f"{shown} has no effect with `" + (
                f'task_type = "{recipe.task_type}"`' if is_usual else f"[{recipe.objective.toml}]`"
            )
            return Conflict(("task_type", place), what, "remove it")
    return None


def format_fits_the_task(recipe: Recipe) -> Conflict | None:
    """The row format must suit the task: conversations cannot be classified."""
    for data, key_of in each_form(recipe):
        wanted = data.format
        if wanted != "auto" and not makes_one_of(FORMATS[wanted], recipe.objective.examples):
            return Conflict(
                ("task_type", key_of("format")),
                f'"{wanted}" does not fit `task_type = "{recipe.task_type}"`',
                'write "auto"',
            )
    return None


def method_fits_the_task(recipe: Recipe) -> Conflict | None:
    """Classification needs a method that saves the head; tagging, one that does not lengthen the row."""
    works = recipe.peft.capabilities.trains(recipe.task_type)
    if works is not True:
        what = f'{recipe.peft.method} does not fit `task_type = "{recipe.task_type}"`: {works}'
        return Conflict(("task_type", "peft.method"), what, "write `lora`; `lorans methods` lists the methods")
    return None


def reference_is_the_start(recipe: Recipe) -> Conflict | None:
    """The reference of an objective is the start of training: the base for a new adapter. It has no dropout."""
    method, toml = recipe.peft, recipe.objective.toml
    if not recipe.objective.has_reference:
        return None
    starts, is_new = method.capabilities.starts_at_base, recipe.model.init_adapter is None
    dropout = _dropout_of(recipe)
    row = first_of(
        Refusal("peft.method", is_new and starts is not True, f"{method.tag()}: {starts}", "write `lora`"),
        Refusal("peft.init_lora_weights", is_new and method.starts_later, _COMPUTED, 'write "default"'),
        Refusal(f"peft.{dropout}", bool(dropout), "the reference would differ by chance", "write 0"),
    )
    return row and Conflict((toml, row.key), f"`{row.key}` does not fit `[{toml}]`: {row.what}", row.remedy)


def adapter_can_be_copied(recipe: Recipe) -> Conflict | None:
    """TRL keeps the reference of rewards as a second adapter, which not every method can have."""
    objective = recipe.objective
    if not (objective.has_reference and objective.copies_adapter):
        return None
    row = first_of(*recipe.peft.refused_with_a_copy())
    if row is None:
        return None
    what = f"`{row.key}` does not fit `[{objective.toml}]`, whose reference is a copy of the adapter: {row.what}"
    return Conflict((objective.toml, row.key), what, f"{row.remedy}, or write `beta = 0`")


_HEADS = frozenset({"lm_head", "embed_out"})
"""Names of the head in causal language models of transformers."""


def adapted_head(recipe: Recipe) -> str:
    """The head, if the recipe adapts it like a layer; otherwise empty."""
    targets = recipe.peft.targets
    named = () if isinstance(targets, str) else targets
    return next((name for name in named if name.rpartition(".")[2] in _HEADS), "")


def adapter_is_in_the_layers(recipe: Recipe) -> Conflict | None:
    """A loss of hidden states and the weight of the head cannot train virtual tokens or an adapter on the head."""
    method, toml = recipe.peft, recipe.objective.toml
    if not recipe.objective.reads_hidden_states:
        return None
    virtual, head = method.capabilities.virtual_tokens, adapted_head(recipe)
    row = first_of(
        Refusal("peft.method", virtual, f"TRL ignores the virtual tokens of {method.tag()}", "write `lora`"),
        Refusal("peft.target_modules", bool(head), f"TRL ignores an adapter on `{head}`", f"remove `{head}`"),
        Refusal("model.add_tokens", bool(recipe.model.add_tokens), "its teacher does not know new tokens", "remove it"),
    )
    return row and Conflict((toml, row.key), f"`{row.key}` does not fit `[{toml}]`: {row.what}", row.remedy)


def start_has_answers(recipe: Recipe) -> Conflict | None:
    """An initialisation that is computed from rows needs rows with one answer each, not prompts or pairs."""
    method, toml = recipe.peft, recipe.objective.toml
    if method.reads_rows and recipe.objective.generates:
        what = f"`[{toml}]` trains on prompts, and this initialisation is computed from rows with answers"
    elif method.reads_tokens and Preference in recipe.objective.examples and not recipe.objective.has_reference:
        what = f"`[{toml}]` trains on pairs, and this initialisation is computed from single rows"
    else:
        return None
    return Conflict((toml, "peft.init_lora_weights"), what, 'write "default"')


def dropout_is_used(recipe: Recipe) -> Conflict | None:
    """Dropout has no effect with an objective whose trainer turns it off."""
    key, toml = _dropout_of(recipe), recipe.objective.toml
    if not recipe.objective.disables_dropout or not key:
        return None
    what = f"`peft.{key}` has no effect with `[{toml}]`, whose trainer turns dropout off"
    return Conflict((toml, f"peft.{key}"), what, "remove it")


def _dropout_of(recipe: Recipe) -> str:
    """The key of the method's dropout, if it is above 0."""
    method = recipe.peft
    return next((key for key in type(method).model_fields if key.endswith("dropout") and getattr(method, key)), "")


_COMPUTED = "the reference is the base without the adapter, from which this initialisation takes a part"


def objective_divides_weights(recipe: Recipe) -> Conflict | None:
    """DeepSpeed and FSDP need an objective that was shown to train the same with them."""
    strategy, works = recipe.distributed, recipe.objective.divides_weights
    if works is True or not isinstance(strategy, DeepSpeed | Fsdp):
        return None
    what = f'`[{recipe.objective.toml}]` does not train with `strategy = "{strategy.strategy}"`: {works}'
    return Conflict((recipe.objective.toml, "distributed.strategy"), what, 'write "ddp"')


def compared_rows_are_mixed(recipe: Recipe) -> Conflict | None:
    """A loss that compares the rows of a batch needs two of them, in random order."""
    objective, training = recipe.objective, recipe.training
    if not objective.compares_rows:
        return None
    names = ("global_batch_size", "per_device_train_batch_size", "per_device_eval_batch_size")
    sizes = {name: getattr(training, name) for name in names}
    alone = next((name for name, size in sizes.items() if size == 1), "")
    grouped = training.group_by_length and is_written(recipe, "training.group_by_length")
    row = first_of(
        Refusal(f"training.{alone}", bool(alone), "its loss compares the rows of a batch", "write 2 or more"),
        Refusal("training.group_by_length", grouped, "its loss compares rows drawn at random", "write false"),
    )
    return row and Conflict(
        (objective.toml, row.key), f"`{row.key}` does not fit `[{objective.toml}]`: {row.what}", row.remedy
    )


def a_step_has_whole_groups(recipe: Recipe) -> Conflict | None:
    """A step has all completions of each of its prompts."""
    objective, total = recipe.objective, recipe.training.global_batch_size
    group = objective.group_size
    if total is None or total % group == 0:
        return None
    fits = sorted({max(group, total // group * group), (total // group + 1) * group})
    what = f"{total} completions of a step are not a multiple of `{objective.key('num_generations')} = {group}`"
    remedy = f"write {' or '.join(map(str, fits))}, or another `num_generations`"
    return Conflict(("training.global_batch_size",), what, remedy)


def vllm_writes_as_the_model_does(recipe: Recipe) -> Conflict | None:
    """Over a quantised base, vLLM generates from a merged copy of the model, which differs from the one that learns."""
    objective, method = recipe.objective, recipe.quantization.method
    allowed = "vllm_from_merged" in objective.key_names() and getattr(objective, "vllm_from_merged", False)
    if not objective.uses_vllm or recipe.quantization.bits is None or allowed:
        return None
    what = f"over a base in {method}, vLLM generates from a merged copy, whose answers differ from the model's own"
    remedy = "remove `use_vllm`, or write `vllm_from_merged = true` to accept that"
    return Conflict(("quantization.method", objective.key("use_vllm")), what, remedy)


def packing_keeps_documents_apart(recipe: Recipe) -> Conflict | None:
    """Packing needs a method that keeps the documents of a row apart."""
    packing = recipe.peft.capabilities.packing
    if recipe.objective.packs and packing is not True:
        return Conflict(
            ("peft.method", recipe.objective.key("packing")),
            f"packing does not work with {recipe.peft.method}: {packing}",
            "write `packing = false`",
        )
    return None
