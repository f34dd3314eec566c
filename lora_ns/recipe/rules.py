"""Rules that join keys of several tables: plain functions from a recipe to a finding, or to nothing.

They run after every table has been read, so that one mistake does not hide another.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lora_ns.formats import FORMATS
from lora_ns.formats.detection import FORMAT_OF_TASK
from lora_ns.recipe.base import Table
from lora_ns.recipe.peft import Ia3, Lora, PromptTuning
from lora_ns.recipe.recipe import Recipe
from lora_ns.upstream import SET_BY_ENGINE, SET_BY_PLAN, optimizer_names, peft_config_fields, training_argument_fields


@dataclass(frozen=True)
class Finding:
    """A rule that is broken: the keys that clash (the last is the one to point at), what is wrong, what to write."""

    keys: tuple[str, ...]
    what: str
    remedy: str


Rule = Callable[[Recipe], Finding | None]

COMMIT = re.compile(r"[0-9a-f]{40}")

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

_WITHOUT_TEMPLATES = {"sharegpt", "alpaca", "question-answer", "text"}


def is_written(recipe: Recipe, key: str) -> bool:
    """Whether the recipe itself gives this dotted key, rather than leaving it to its default."""
    table: object = recipe
    for name in key.split("."):
        if not isinstance(table, Table) or name not in table.model_fields_set:
            return False
        table = getattr(table, name)
    return True


def template_fields(template: str) -> tuple[str, ...]:
    """Columns that a template names, in order.

    Raises:
        ValueError: if the braces do not balance or a field is more than a plain name.
    """
    fields = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or not re.fullmatch(r"[\w\- ]+", name):
            raise ValueError(f"`{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}`")
        fields.append(name)
    return tuple(dict.fromkeys(fields))


def one_source(recipe: Recipe) -> Finding | None:
    """The rows come from the hub or from a file."""
    if recipe.dataset.name and recipe.dataset.path:
        return Finding(("dataset.name", "dataset.path"), "`name` and `path` are both given", "keep one of them")
    if not recipe.dataset.name and not recipe.dataset.path:
        return Finding(("dataset",), "no data is named", 'write `path = "train.jsonl"`, or `name` with a hub id')
    return None


def one_evaluation_source(recipe: Recipe) -> Finding | None:
    """The evaluation rows come from one place."""
    keys = tuple(
        f"dataset.{key}" for key in ("eval_split", "eval_path", "eval_fraction") if getattr(recipe.dataset, key)
    )
    if len(keys) > 1:
        return Finding(keys, f"{' and '.join(f'`{key}`' for key in keys)} are both given", "keep one of them")
    return None


def hub_keys_need_a_hub_name(recipe: Recipe) -> Finding | None:
    """Splits and revisions belong to the hub."""
    for key in ("subset", "revision", "train_split", "eval_split"):
        if recipe.dataset.path and is_written(recipe, f"dataset.{key}"):
            return Finding(
                (f"dataset.{key}",), f"`{key}` is for hub data sets, and `path` is a file", f"remove `{key}`"
            )
    return None


def bad_rows_are_in_files(recipe: Recipe) -> Finding | None:
    """A hub data set has no rows that cannot be read."""
    data = recipe.dataset
    if data.name and not data.eval_path and is_written(recipe, "dataset.max_bad_rows"):
        return Finding(("dataset.max_bad_rows",), "`max_bad_rows` is for files, and `name` is on the hub", "remove it")
    return None


def one_batch_size(recipe: Recipe) -> Finding | None:
    """The global batch is given once."""
    if recipe.training.global_batch_size and recipe.training.gradient_accumulation_steps:
        return Finding(
            ("training.global_batch_size", "training.gradient_accumulation_steps"),
            "`global_batch_size` and `gradient_accumulation_steps` both say how large a batch is",
            "keep `global_batch_size`",
        )
    return None


def global_batch_divides(recipe: Recipe) -> Finding | None:
    """The global batch consists of whole micro-batches."""
    whole, part = recipe.training.global_batch_size, recipe.training.per_device_train_batch_size
    if whole and part != "auto" and whole % part:
        return Finding(
            ("training.global_batch_size", "training.per_device_train_batch_size"),
            f"{part} does not divide the global batch of {whole}",
            'write a divisor, or "auto"',
        )
    return None


def one_length_of_training(recipe: Recipe) -> Finding | None:
    """Steps or epochs."""
    if recipe.training.max_steps and is_written(recipe, "training.num_train_epochs"):
        return Finding(
            ("training.num_train_epochs", "training.max_steps"),
            "`num_train_epochs` has no effect beside `max_steps`",
            "keep one of them",
        )
    return None


def one_warm_up(recipe: Recipe) -> Finding | None:
    """Warm-up in steps or as a share."""
    if recipe.training.warmup_steps is not None and is_written(recipe, "training.warmup_ratio"):
        return Finding(
            ("training.warmup_ratio", "training.warmup_steps"),
            "`warmup_ratio` has no effect beside `warmup_steps`",
            "keep one of them",
        )
    return None


def templates_come_together(recipe: Recipe) -> Finding | None:
    """A prompt needs an answer."""
    given = [key for key in ("prompt_template", "completion_template") if getattr(recipe.dataset, key) is not None]
    if len(given) == 1:
        other = "completion_template" if given[0] == "prompt_template" else "prompt_template"
        return Finding((f"dataset.{given[0]}",), f"`{given[0]}` needs `{other}` beside it", f"add `{other}`")
    return None


def templates_are_well_formed(recipe: Recipe) -> Finding | None:
    """Templates hold plain column names in braces."""
    for key in ("prompt_template", "completion_template", "system_template"):
        template = getattr(recipe.dataset, key)
        try:
            template_fields(template or "")
        except ValueError as error:
            return Finding(
                (f"dataset.{key}",),
                f"not a template: {error}",
                "write column names in single braces, `{question}`; a literal brace is doubled, `{{`",
            )
    return None


def completion_template_has_a_column(recipe: Recipe) -> Finding | None:
    """An answer that is the same in each row is a mistake; a prompt may be."""
    template = recipe.dataset.completion_template
    if template is None or recipe.dataset.prompt_template is None:
        return None
    try:
        fields = template_fields(template)
    except ValueError:
        return None  # told by another rule
    if fields:
        return None
    what = f"`{template}` names no column: every row would have the same answer"
    return Finding(("dataset.completion_template",), what, "write a column in braces, such as ` {answer}`")


def system_turn_needs_chat_form(recipe: Recipe) -> Finding | None:
    """Plain text has no system turn."""
    if recipe.dataset.system_template is not None and recipe.dataset.format != "messages":
        return Finding(
            ("dataset.system_template",),
            "`system_template` needs rows in chat form",
            'add `format = "messages"`, or put the text into `prompt_template`',
        )
    return None


def templates_fit_the_format(recipe: Recipe) -> Finding | None:
    """Templates make the text of formats that have no columns of their own."""
    if recipe.dataset.prompt_template is not None and recipe.dataset.format in _WITHOUT_TEMPLATES:
        return Finding(
            ("dataset.format", "dataset.prompt_template"),
            f'`prompt_template` has no effect with `format = "{recipe.dataset.format}"`',
            'write `format = "messages"` for its chat form, or "prompt-completion" for plain text',
        )
    return None


def columns_are_read(recipe: Recipe) -> Finding | None:
    """Columns are given names that a format looks for."""
    data = recipe.dataset
    own = FORMAT_OF_TASK.get(recipe.task_type)
    if recipe.task_type == "SEQ_CLS" or (data.format in FORMAT_OF_TASK.values() and data.format != own):
        return None  # the rules about the task say it
    if data.columns and data.prompt_template is not None:
        what = "`columns` has no effect beside templates, which name the data's own columns"
        return Finding(("dataset.prompt_template", "dataset.columns"), what, "remove it")
    fitting = [own] if own else [name for name in FORMATS if name not in FORMAT_OF_TASK.values()]
    kinds = [FORMATS[name] for name in fitting if data.format in {"auto", name}]
    known = list(dict.fromkeys(name for kind in kinds for name in (*kind.reads, *kind.aliases)))
    for key in data.columns:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            what = "no format has such a column" if data.format == "auto" else f"{data.format} has no such column"
            return Finding((f"dataset.columns.{key}",), what, f"{hint}known: {', '.join(known)}")
    return None


PASSED_TO_TEMPLATES = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
        *("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"),
    }
)
"""What a template gets from the rows, the tokenizer or the renderer."""


def template_kwargs_are_the_templates_own(recipe: Recipe) -> Finding | None:
    """What the rows and the tokenizer give to a chat template is not given twice."""
    for key in recipe.sft.chat_template_kwargs:
        if key in PASSED_TO_TEMPLATES:
            what = f"`{key}` is given to the chat template by the rows or the tokenizer"
            return Finding((f"sft.chat_template_kwargs.{key}",), what, "remove it")
    return None


def tables_fit_the_task(recipe: Recipe) -> Finding | None:
    """No key is accepted that the task never reads."""
    for key in _INERT_FOR_TASK[recipe.task_type]:
        if is_written(recipe, key):
            shown = f"`{key}`" if "." in key else f"`[{key}]`"
            return Finding(
                ("task_type", key), f'{shown} has no effect with `task_type = "{recipe.task_type}"`', "remove it"
            )
    return None


def format_fits_the_task(recipe: Recipe) -> Finding | None:
    """Texts are classified, conversations are not."""
    wanted = recipe.dataset.format
    own = FORMAT_OF_TASK.get(recipe.task_type)
    if wanted != "auto" and (wanted != own if own else wanted in FORMAT_OF_TASK.values()):
        return Finding(
            ("task_type", "dataset.format"),
            f'"{wanted}" does not fit `task_type = "{recipe.task_type}"`',
            'write "auto"',
        )
    return None


def pair_needs_its_first_text(recipe: Recipe) -> Finding | None:
    """The second text of a pair comes after a first."""
    if recipe.dataset.text_pair_column and not recipe.dataset.text_column:
        return Finding(("dataset.text_pair_column",), "`text_pair_column` needs `text_column` beside it", "add it")
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


def checkpointing_works(recipe: Recipe) -> Finding | None:
    """Gradient checkpointing only where the method allows it."""
    checkpointing = recipe.peft.capabilities.gradient_checkpointing
    if recipe.training.gradient_checkpointing is True and checkpointing is not True:
        return Finding(
            ("peft.method", "training.gradient_checkpointing"),
            f"gradient checkpointing does not work with {recipe.peft.method}: {checkpointing}",
            'write "auto"',
        )
    return None


def remote_code_is_pinned(recipe: Recipe) -> Finding | None:
    """Code from the hub only at a commit that was looked at."""
    if recipe.model.trust_remote_code and not COMMIT.fullmatch(recipe.model.revision):
        return Finding(
            ("model.trust_remote_code",),
            "code from a repository that can change at any time",
            "pin `revision` to the full commit hash that you have read",
        )
    return None


def prompt_text_and_init_agree(recipe: Recipe) -> Finding | None:
    """`prompt_tuning_init_text` goes with `TEXT`, and `TEXT` with it."""
    if not isinstance(recipe.peft, PromptTuning):
        return None
    if (recipe.peft.prompt_tuning_init == "TEXT") != bool(recipe.peft.prompt_tuning_init_text):
        return Finding(
            ("peft.prompt_tuning_init", "peft.prompt_tuning_init_text"),
            '`prompt_tuning_init = "TEXT"` and `prompt_tuning_init_text` need each other',
            "give both or neither",
        )
    return None


def ia3_targets_come_together(recipe: Recipe) -> Finding | None:
    """PEFT takes both lists of IA3 or neither."""
    if isinstance(recipe.peft, Ia3) and (recipe.peft.target_modules == "auto") != (
        recipe.peft.feedforward_modules == "auto"
    ):
        return Finding(
            ("peft.target_modules", "peft.feedforward_modules"),
            "`target_modules` and `feedforward_modules` of ia3 come together",
            "give both or neither",
        )
    return None


def method_works_on_the_base(recipe: Recipe) -> Finding | None:
    """A base in few bits only under methods that do not compute with its weights."""
    bits = recipe.quantization.bits
    works = {None: True, 4: recipe.peft.capabilities.nf4, 8: recipe.peft.capabilities.int8}[bits]
    if works is not True:
        return Finding(
            ("quantization.method", "peft.method"),
            f"{recipe.peft.method} does not train over a base in {bits} bits: {works}",
            "write `lora`, or remove `[quantization]`; `lorans methods` has a table",
        )
    return None


def start_works_on_the_base(recipe: Recipe) -> Finding | None:
    """Starts that decompose the base weights need weights that are not packed into 4 or 8 bits."""
    if (
        isinstance(recipe.peft, Lora)
        and recipe.quantization.bits
        and recipe.peft.init_lora_weights in {"mica", "pissa", "orthogonal"}
    ):
        return Finding(
            ("quantization.method", "peft.init_lora_weights"),
            f'"{recipe.peft.init_lora_weights}" cannot decompose a base in {recipe.quantization.bits} bits',
            'write "default" or "olora", or remove `[quantization]`',
        )
    return None


SAMPLING_KEYS = ("temperature", "top_p", "top_k")


def sampling_keys_need_it(recipe: Recipe) -> Finding | None:
    """The details of drawing tokens need the drawing."""
    for key in SAMPLING_KEYS:
        if is_written(recipe, f"generation.{key}") and not recipe.generation.do_sample:
            what = f"`{key}` has no effect without `do_sample = true`: the likeliest token is taken"
            return Finding((f"generation.{key}",), what, "add it, or remove this key")
    return None


def exact_match_has_rows(recipe: Recipe) -> Finding | None:
    """Answers are compared on evaluation rows."""
    data = recipe.dataset
    if recipe.evaluation.exact_match and not (data.eval_split or data.eval_path or data.eval_fraction):
        return Finding(
            ("evaluation.exact_match",),
            "there are no evaluation rows to answer",
            "add `eval_path`, `eval_split` or `eval_fraction`",
        )
    return None


def exact_match_keys_need_it(recipe: Recipe) -> Finding | None:
    """The details of a comparison need the comparison."""
    for key in ("answer_pattern", "group_by", "max_samples"):
        if is_written(recipe, f"evaluation.{key}") and not recipe.evaluation.exact_match:
            return Finding((f"evaluation.{key}",), f"`{key}` has no effect without `exact_match = true`", "add it")
    return None


def answer_pattern_is_a_pattern(recipe: Recipe) -> Finding | None:
    """The answer's pattern is a regular expression with one group at most."""
    try:
        groups = re.compile(recipe.evaluation.answer_pattern or "").groups
    except re.error as error:
        return Finding(("evaluation.answer_pattern",), f"not a regular expression: {error}", 'such as "#### (.+)"')
    if groups > 1:
        return Finding(
            ("evaluation.answer_pattern",), f"{groups} groups", "mark the answer by one group, others as `(?:...)`"
        )
    return None


def optimizer_is_known(recipe: Recipe) -> Finding | None:
    """The optimizer is one of the installed transformers."""
    known, optim = optimizer_names(), recipe.training.optim
    if known is None or optim in known:
        return None
    close = difflib.get_close_matches(optim, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else 'such as "adamw_torch" or "paged_adamw_8bit"'
    return Finding(("training.optim",), f'the installed transformers has no optimizer "{optim}"', hint)


def warm_up_ends(recipe: Recipe) -> Finding | None:
    """The learning rate gets to where it is to rise."""
    warmup, steps = recipe.training.warmup_steps, recipe.training.max_steps
    if warmup and steps and warmup >= steps:
        return Finding(
            ("training.max_steps", "training.warmup_steps"),
            f"a run of {steps} step{'s' * (steps > 1)} ends in its warm-up of {warmup}",
            f"write at most {steps - 1}",
        )
    return None


def training_extra_is_known(recipe: Recipe) -> Finding | None:
    """`[training.extra]` passes fields of the installed `TrainingArguments` that the recipe has no key for."""
    return _extra("training.extra", recipe.training.extra, training_argument_fields(), SET_BY_PLAN, "TrainingArguments")


def peft_extra_is_known(recipe: Recipe) -> Finding | None:
    """`[peft.extra]` passes fields of the method's PEFT configuration that the recipe has no key for."""
    peft = recipe.peft
    own = frozenset({*peft.model_copy(update={"extra": {}}).to_kwargs(), *SET_BY_ENGINE})
    known = peft_config_fields(peft.config_file, peft.config_class, peft.parents)
    return _extra("peft.extra", peft.extra, known, own, peft.config_class)


def _extra(
    table: str, extra: Mapping[str, object], known: frozenset[str] | None, own: frozenset[str], owner: str
) -> Finding | None:
    for key in extra:
        if key in own:
            return Finding((f"{table}.{key}",), f"`{key}` is decided by the recipe's own keys", "remove it")
        if known is not None and key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else "remove it"
            return Finding((f"{table}.{key}",), f"the installed `{owner}` has no field `{key}`", hint)
    return None


RULES: tuple[Rule, ...] = (
    one_source,
    one_evaluation_source,
    hub_keys_need_a_hub_name,
    bad_rows_are_in_files,
    one_batch_size,
    global_batch_divides,
    one_length_of_training,
    one_warm_up,
    warm_up_ends,
    optimizer_is_known,
    templates_come_together,
    templates_are_well_formed,
    completion_template_has_a_column,
    system_turn_needs_chat_form,
    templates_fit_the_format,
    columns_are_read,
    template_kwargs_are_the_templates_own,
    sampling_keys_need_it,
    tables_fit_the_task,
    format_fits_the_task,
    pair_needs_its_first_text,
    method_fits_the_task,
    labels_fit_the_problem,
    weights_fit_the_labels,
    packing_keeps_documents_apart,
    checkpointing_works,
    remote_code_is_pinned,
    prompt_text_and_init_agree,
    ia3_targets_come_together,
    method_works_on_the_base,
    start_works_on_the_base,
    exact_match_has_rows,
    exact_match_keys_need_it,
    answer_pattern_is_a_pattern,
    training_extra_is_known,
    peft_extra_is_known,
)


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Every broken rule."""
    for rule in RULES:
        finding = rule(recipe)
        if finding:
            yield finding
