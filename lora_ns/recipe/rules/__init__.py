"""Rules that join keys of several tables: plain functions from a recipe to a finding, or to nothing.

They run after every table has been read, so that one mistake does not hide another.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterator

from lora_ns.deadline import OverrunError, bounded
from lora_ns.formats import FORMATS
from lora_ns.formats.detection import FORMAT_OF_TASK
from lora_ns.optimizers import OPTIMIZERS
from lora_ns.recipe.base import Table
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.distributed_rules import (
    machines_can_meet,
    processes_train_together,
    rows_can_be_divided,
    weights_can_be_divided,
    zero_keys_fit_together,
)
from lora_ns.recipe.explain import UNIONS, known_keys, tag_of
from lora_ns.recipe.finding import Finding, Rule
from lora_ns.recipe.peft import Ia3, Lora, PromptTuning
from lora_ns.recipe.peft.lora import READ_ROWS
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.slices import parse_slice
from lora_ns.spelling import close_to
from lora_ns.upstream import (
    NEEDS,
    REFUSED_ARGUMENTS,
    SET_BY_ENGINE,
    SET_BY_PLAN,
    peft_config_fields,
    training_argument_fields,
)

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
        ValueError: if the braces do not balance or a field is more than the name of a column or a path into one.
    """
    fields = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or not re.fullmatch(r"[\w\-. ]+", name):
            raise ValueError(f"`{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}`")
        fields.append(name)
    return tuple(dict.fromkeys(fields))


def one_source(recipe: Recipe) -> Finding | None:
    """The rows come from the hub, from files, or from several of these."""
    given = [key for key in ("name", "path", "sources") if getattr(recipe.dataset, key)]
    if len(given) > 1:
        keys = tuple(f"dataset.{key}" for key in given)
        return Finding(keys, f"{' and '.join(f'`{key}`' for key in given)} are both given", "keep one of them")
    if not given:
        return Finding(("dataset",), "no data is named", 'write `path = "train.jsonl"`, or `name` with a hub id')
    return None


def each_source_is_named(recipe: Recipe) -> Finding | None:
    """Each of several sources is a hub id or files, with the keys of its kind."""
    for number, source in enumerate(recipe.dataset.sources):
        place = f"dataset.sources.{number}"
        if source.name and source.path:
            what = "`name` and `path` are both given"
            return Finding((f"{place}.name", f"{place}.path"), what, "make them two sources")
        if not source.name and not source.path:
            return Finding((place,), "no data is named", 'write `path = "train.jsonl"`, or `name` with a hub id')
        for key in ("subset", "revision", "split"):
            if source.path and key in source.model_fields_set:
                what = f"`{key}` is for hub data sets, and `path` is a file"
                return Finding((f"{place}.{key}",), what, f"remove `{key}`")
    return None


def all_sources_are_weighted(recipe: Recipe) -> Finding | None:
    """Sources are mixed by their weights, or follow one another."""
    sources = recipe.dataset.sources
    without = [number for number, source in enumerate(sources) if source.weight is None]
    if without and len(without) < len(sources):
        what = "no `weight`, and other sources have one"
        keys = [f"dataset.sources.{number}.weight" for number in range(len(sources))]
        return Finding((*keys, f"dataset.sources.{without[0]}"), what, "give each a `weight`, or none")
    if len(without) == len(sources) and is_written(recipe, "dataset.stopping_strategy"):
        what = "`stopping_strategy` has no effect without sources that have a `weight`"
        return Finding(("dataset.stopping_strategy",), what, "remove it")
    return None


def slices_are_parts(recipe: Recipe) -> Finding | None:
    """A slice can be read, and is of rows that are read."""
    data = recipe.dataset
    slices = {f"{place}.slice": part.slice for place, part in data.parts().items()}
    for key, text in {**slices, "dataset.slice": data.slice, "dataset.eval_slice": data.eval_slice}.items():
        try:
            parse_slice(text or ":")
        except ValueError as error:
            return Finding((key,), f"not a slice: {error}", 'such as "1000:2000", ":10%" or "-500:"')
    if data.slice and data.sources:
        what = "`slice` is of one source, and there are several"
        return Finding(("dataset.slice",), what, "write it into those that it is meant for")
    if data.eval_slice and not data.eval_path and not data.eval_split:
        what = "`eval_slice` is of `eval_path` or `eval_split`, and neither is given"
        return Finding(("dataset.eval_slice",), what, "remove it")
    return None


def layouts_are_of_files(recipe: Recipe) -> Finding | None:
    """Only the files of a path have a layout to name, and each column of a table has a name of its own."""
    data = recipe.dataset
    for place, part in data.parts().items():
        names = part.column_names
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            return Finding((f"{place}.column_names",), f"column `{twice}` is there twice", "rename one of them")
        if part.delimiter in {'"', "\r", "\n"}:
            what = "`delimiter` is a quote or ends a line"
            return Finding((f"{place}.delimiter",), what, 'name what is between two cells, such as "\\t"')
        given = [key for key in _LAYOUT if key in (data.source_at(place) or data).model_fields_set]
        if given and not part.path and not (place == "dataset" and data.eval_path):
            what = f"`{given[0]}` is for files, and `path` names none"
            return Finding((f"{place}.{given[0]}",), what, "remove it: a data set of the hub says it itself")
    given = [key for key in _LAYOUT if is_written(recipe, f"dataset.{key}")]
    if given and data.sources and not data.eval_path:
        what = f"`{given[0]}` is of one source, and there are several"
        return Finding((f"dataset.{given[0]}",), what, "write it into those that it is meant for")
    return None


_LAYOUT = ("column_names", "delimiter", "sample_by")


def stratified_rows_are_set_aside(recipe: Recipe) -> Finding | None:
    """Only what is set aside is drawn by a column."""
    if is_written(recipe, "dataset.stratify_by_column") and not recipe.dataset.eval_fraction:
        what = "`stratify_by_column` has no effect without `eval_fraction`"
        return Finding(("dataset.stratify_by_column",), what, "remove it")
    return None


def a_stream_has_steps(recipe: Recipe) -> Finding | None:
    """A stream is trained on for a number of steps."""
    if recipe.dataset.streaming and recipe.training.max_steps is None:
        what = "nobody knows how many rows a stream has, so epochs cannot be counted"
        return Finding(("training.max_steps", "dataset.streaming"), what, "write `max_steps` into `[training]`")
    return None


def a_stream_is_read_as_it_comes(recipe: Recipe) -> Finding | None:
    """What needs all rows at once, or one process only, has no stream."""
    if not recipe.dataset.streaming:
        return None
    table = recipe.classification
    has_classes = recipe.task_type != "CAUSAL_LM" and table.problem_type != "regression"
    refused = (
        ("dataset.sources", bool(recipe.dataset.sources), "sources are mixed once all are read", "name one by `path`"),
        (
            "dataset.eval_fraction",
            bool(recipe.dataset.eval_fraction),
            "no share of a stream is known",
            "give `eval_path`",
        ),
        ("sft.packing", recipe.sft.packing, "rows are packed once all are read", "write `packing = false`"),
        (
            "peft.init_lora_weights",
            isinstance(recipe.peft, Lora) and recipe.peft.reads_rows,
            "this start looks at rows drawn from all of them",
            'write "default" or "pissa"',
        ),
        (
            "training.group_by_length",
            recipe.training.group_by_length and is_written(recipe, "training.group_by_length"),
            "rows are grouped by length once all are read",
            "remove it: a stream is never grouped",
        ),
        (
            "training.dataloader_num_workers",
            recipe.training.dataloader_num_workers > 0,
            "each of these processes would read the whole stream",
            "write 0",
        ),
        (
            "classification.labels",
            has_classes and not table.labels,
            "the classes of a stream are not known before it is read",
            "name them here" + (', or write `problem_type = "regression"`' if recipe.task_type == "SEQ_CLS" else ""),
        ),
        (
            "classification.class_weights",
            has_classes and table.class_weights == "balanced",
            "how many rows of a stream each class has is not known before it is read",
            "write a weight for each",
        ),
    )
    for key, is_broken, what, remedy in refused:
        if is_broken:
            return Finding(("dataset.streaming", key), what, remedy)
    return _slice_of_a_stream(recipe)


def _slice_of_a_stream(recipe: Recipe) -> Finding | None:
    try:
        is_known = parse_slice(recipe.dataset.slice or ":").is_from_begin
    except ValueError:
        return None  # another rule says it
    what = "where this is in a stream is not known before it is read"
    return (
        None if is_known else Finding(("dataset.streaming", "dataset.slice"), what, 'count from the first row: "100:"')
    )


def shuffle_buffer_is_of_a_stream(recipe: Recipe) -> Finding | None:
    """Rows that are all there are shuffled whole."""
    if is_written(recipe, "dataset.shuffle_buffer_size") and not recipe.dataset.streaming:
        what = "`shuffle_buffer_size` has no effect without `streaming = true`: all rows are shuffled"
        return Finding(("dataset.shuffle_buffer_size",), what, "remove it")
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
    data = recipe.dataset
    if data.name:
        return None
    for key in ("subset", "revision", "train_split", "eval_split"):
        if is_written(recipe, f"dataset.{key}"):
            instead = "`path` is a file" if data.path else "the rows are those of `sources`"
            what = f"`{key}` is for hub data sets, and {instead}"
            return Finding((f"dataset.{key}",), what, f"remove `{key}`")
    return None


def bad_rows_are_in_files(recipe: Recipe) -> Finding | None:
    """A hub data set has no rows that cannot be read."""
    data = recipe.dataset
    is_file = data.eval_path or any(part.path and not part.name for part in data.parts().values())
    if not is_file and is_written(recipe, "dataset.max_bad_rows"):
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


def _each_form(recipe: Recipe) -> Iterator[tuple[Dataset, Callable[[str], str]]]:
    """Every way in which rows are read, and where the recipe says its keys."""
    for place, part in recipe.dataset.parts().items():
        source = recipe.dataset.source_at(place)
        own = source.model_fields_set if source else frozenset()

        def locate(key: str, place: str = place, own: Collection[str] = own) -> str:
            return f"{place if key.partition('.')[0] in own else 'dataset'}.{key}"

        yield part, locate


def templates_come_together(recipe: Recipe) -> Finding | None:
    """A prompt needs an answer."""
    for data, key_of in _each_form(recipe):
        given = [key for key in ("prompt_template", "completion_template") if getattr(data, key) is not None]
        if len(given) == 1:
            other = "completion_template" if given[0] == "prompt_template" else "prompt_template"
            return Finding((key_of(given[0]),), f"`{given[0]}` needs `{other}` beside it", f"add `{other}`")
    return None


def templates_are_well_formed(recipe: Recipe) -> Finding | None:
    """Templates hold column names, or paths into columns, in braces."""
    for data, key_of in _each_form(recipe):
        for key in ("prompt_template", "completion_template", "system_template"):
            try:
                template_fields(getattr(data, key) or "")
            except ValueError as error:
                return Finding(
                    (key_of(key),),
                    f"not a template: {error}",
                    "write column names in single braces, `{question}`; a literal brace is doubled, `{{`",
                )
    return None


def completion_template_has_a_column(recipe: Recipe) -> Finding | None:
    """An answer that is the same in each row is a mistake; a prompt may be."""
    for data, key_of in _each_form(recipe):
        template = data.completion_template
        if template is None or data.prompt_template is None:
            continue
        try:
            fields = template_fields(template)
        except ValueError:
            continue  # told by another rule
        if not fields:
            what = f"`{template}` names no column: every row would have the same answer"
            return Finding((key_of("completion_template"),), what, "write a column in braces, such as ` {answer}`")
    return None


def system_turn_needs_chat_form(recipe: Recipe) -> Finding | None:
    """Plain text has no system turn."""
    for data, key_of in _each_form(recipe):
        if data.system_template is not None and data.format != "messages":
            return Finding(
                (key_of("system_template"),),
                "`system_template` needs rows in chat form",
                'add `format = "messages"`, or put the text into `prompt_template`',
            )
    return None


def templates_fit_the_format(recipe: Recipe) -> Finding | None:
    """Templates make the text of formats that have no columns of their own."""
    for data, key_of in _each_form(recipe):
        if data.prompt_template is not None and data.format in _WITHOUT_TEMPLATES:
            return Finding(
                (key_of("format"), key_of("prompt_template")),
                f'`prompt_template` has no effect with `format = "{data.format}"`',
                'write `format = "messages"` for its chat form, or "prompt-completion" for plain text',
            )
    return None


def columns_are_read(recipe: Recipe) -> Finding | None:
    """Columns are given names that a format looks for."""
    own = FORMAT_OF_TASK.get(recipe.task_type)
    for data, key_of in _each_form(recipe):
        if recipe.task_type == "SEQ_CLS" or (data.format in FORMAT_OF_TASK.values() and data.format != own):
            return None  # the rules about the task say it
        if data.columns and data.prompt_template is not None:
            what = "`columns` has no effect beside templates, which name the data's own columns"
            return Finding((key_of("prompt_template"), key_of("columns")), what, "remove it")
        fitting = [own] if own else [name for name in FORMATS if name not in FORMAT_OF_TASK.values()]
        kinds = [FORMATS[name] for name in fitting if data.format in {"auto", name}]
        known = list(dict.fromkeys(name for kind in kinds for name in (*kind.reads, *kind.aliases)))
        for key in data.columns:
            if key not in known:
                close = close_to(key, known)
                hint = f"did you mean `{close[0]}`? " if close else ""
                what = "no format has such a column" if data.format == "auto" else f"{data.format} has no such column"
                return Finding((key_of(f"columns.{key}"),), what, f"{hint}known: {', '.join(known)}")
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


def pair_needs_its_first_text(recipe: Recipe) -> Finding | None:
    """The second text of a pair comes after a first."""
    for data, key_of in _each_form(recipe):
        if data.text_pair_column and not data.text_column:
            what = "`text_pair_column` needs `text_column` beside it"
            return Finding((key_of("text_pair_column"),), what, "add it")
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
    """A base in few bits only under methods that do not compute with its weights, or know how they are packed."""
    quantization = recipe.quantization
    works = getattr(recipe.peft.capabilities, quantization.capability) if quantization.capability else True
    if works is not True:
        by = "" if quantization.method.startswith("bnb-") else f" by {quantization.method}"
        return Finding(
            ("quantization.method", "peft.method"),
            f"{recipe.peft.method} does not train over a base in {quantization.bits} bits{by}: {works}",
            "write `lora`, or remove `[quantization]`; `lorans methods` has a table",
        )
    return None


def dora_works_on_the_base(recipe: Recipe) -> Finding | None:
    """DoRA computes with the base weights, which PEFT unpacks for some layers only."""
    quantization = recipe.quantization
    if not (isinstance(recipe.peft, Lora) and recipe.peft.use_dora and quantization.capability == "gptq"):
        return None
    what = f"DoRA needs the norms of the base weights, which PEFT does not unpack from {quantization.method}"
    return Finding(("quantization.method", "peft.use_dora"), what, "remove `use_dora`, or take another base")


def start_works_on_the_base(recipe: Recipe) -> Finding | None:
    """Starts that decompose the base weights need weights that are not packed into 4 or 8 bits."""
    peft, bits = recipe.peft, recipe.quantization.bits
    if not isinstance(peft, Lora) or not bits:
        return None
    start = peft.init_lora_weights
    if start == "olora":
        what = f'what "olora" leaves of a base in {bits} bits does not fit into them: the adapter would not reload'
    elif peft.moves_base or start in {"mica", "orthogonal"}:
        what = f'"{start}" cannot decompose a base in {bits} bits'
    else:
        return None
    keys = ("quantization.method", "peft.init_lora_weights")
    return Finding(keys, what, 'write "default" or "eva", or remove `[quantization]`')


_START_OF_KEY = {
    "init_samples": READ_ROWS,
    "eva_rho": frozenset({"eva"}),
    "corda_method": frozenset({"corda"}),
}
"""Starts that read a key."""


def start_keys_are_read(recipe: Recipe) -> Finding | None:
    """The details of a start need the start."""
    if not isinstance(recipe.peft, Lora):
        return None
    for key, starts in _START_OF_KEY.items():
        if is_written(recipe, f"peft.{key}") and recipe.peft.init_lora_weights not in starts:
            named = " or ".join(f'"{start}"' for start in sorted(starts))
            what = f"`{key}` has no effect without `init_lora_weights` = {named}"
            return Finding((f"peft.{key}",), what, "remove it")
    return None


def start_fits_the_adapter(recipe: Recipe) -> Finding | None:
    """What a start does not combine with."""
    peft = recipe.peft
    if not isinstance(peft, Lora):
        return None
    start, key = peft.init_lora_weights, "peft.init_lora_weights"
    if peft.target_parameters and (peft.starts_later or start in {"mica", "orthogonal"}):
        what = f'"{start}" starts layers, and `target_parameters` are none'
        return Finding(("peft.target_parameters", key), what, 'write "default"')
    rows = "model.add_tokens" if recipe.model.add_tokens else "peft.trainable_token_indices"
    if (recipe.model.add_tokens or peft.trainable_token_indices) and start == "eva":
        what = f'"eva" does not start embeddings, which `{rows.rpartition(".")[2]}` adapts'
        return Finding((rows, key), what, 'write "lora_ga" or "pissa"')
    if peft.use_dora and start == "mica":
        return Finding(("peft.use_dora", key), 'PEFT has no DoRA of "mica"', 'write "default"')
    odd = [rank for rank in (peft.lora_r, *peft.rank_pattern.values()) if rank % 2]
    if odd and start == "orthogonal":
        return Finding(("peft.lora_r", key), f'"orthogonal" needs even ranks, and one is {odd[0]}', "write even ranks")
    return None


def added_tokens_are_trained(recipe: Recipe) -> Finding | None:
    """New tokens need rows that are trained, which LoRA has beside its layers."""
    tokens = recipe.model.add_tokens
    if tokens and not isinstance(recipe.peft, Lora):
        what = f"{recipe.peft.method} leaves the rows of new tokens as they are made, all alike"
        return Finding(("model.add_tokens", "peft.method"), what, 'write `method = "lora"`')
    twice = next((token for number, token in enumerate(tokens) if token in tokens[:number]), None)
    if twice is not None:
        return Finding(("model.add_tokens",), f"`{twice}` is there twice", "remove one of them")
    return None


def one_factor_alone_is_trained(recipe: Recipe) -> Finding | None:
    """LoRA-FA is an optimizer of its own, and of the two factors alone."""
    peft = recipe.peft
    if not isinstance(peft, Lora) or not peft.use_lora_fa:
        return None
    for key, is_given in (
        ("peft.loraplus_lr_ratio", peft.loraplus_lr_ratio is not None),
        ("peft.use_dora", peft.use_dora),
        ("peft.target_parameters", bool(peft.target_parameters)),
        ("peft.trainable_token_indices", bool(peft.trainable_token_indices)),
        ("model.add_tokens", bool(recipe.model.add_tokens)),
        ("training.optim", is_written(recipe, "training.optim")),
    ):
        if is_given:
            what = f"`use_lora_fa` and `{key.rpartition('.')[2]}` do not go together"
            return Finding(("peft.use_lora_fa", key), what, "remove one of them")
    return None


_KASA_KEYS = ("kasa_beta", "kasa_gamma")


def kasa_cuts_the_base_alone(recipe: Recipe) -> Finding | None:
    """KaSA is a form of the adapter and of the base below it, and PEFT combines it with few others."""
    peft = recipe.peft
    if not isinstance(peft, Lora):
        return None
    if not peft.use_kasa:
        inert = next((key for key in _KASA_KEYS if is_written(recipe, f"peft.{key}")), None)
        what = f"`{inert}` has no effect without `use_kasa = true`"
        return Finding((f"peft.{inert}",), what, "add it, or remove this key") if inert else None
    bits = recipe.quantization.bits
    if bits:
        what = f"over a base in {bits} bits PEFT trains a plain LoRA in the place of KaSA"
        return Finding(("quantization.method", "peft.use_kasa"), what, "remove it, or `[quantization]`")
    start = peft.init_lora_weights
    if start not in {"default", "gaussian"}:
        what = f'"{start}" starts from the whole base weights, and `use_kasa` cuts them'
        return Finding(("peft.use_kasa", "peft.init_lora_weights"), what, 'write "default" or "gaussian"')
    for key in ("use_dora", "use_lora_fa", "target_parameters"):
        if getattr(peft, key):
            what = f"`use_kasa` and `{key}` do not go together"
            return Finding(("peft.use_kasa", f"peft.{key}"), what, "remove one of them")
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
        groups = bounded(lambda: re.compile(recipe.evaluation.answer_pattern or "")).groups
    except (re.error, RecursionError, OverflowError, OverrunError) as error:
        return Finding(("evaluation.answer_pattern",), f"not a regular expression: {error}", 'such as "#### (.+)"')
    if groups > 1:
        return Finding(
            ("evaluation.answer_pattern",), f"{groups} groups", "mark the answer by one group, others as `(?:...)`"
        )
    return None


def optimizer_is_known(recipe: Recipe) -> Finding | None:
    """The optimizer is one of transformers', and trains adapters."""
    optim = recipe.training.optim
    found = OPTIMIZERS.get(optim)
    if found is None:
        known = [name for name, row in OPTIMIZERS.items() if not row.refused]
        close = close_to(optim, known)
        hint = f"did you mean `{close[0]}`?" if close else 'such as "adamw_torch" or "paged_adamw_8bit"'
        return Finding(("training.optim",), f'there is no optimizer "{optim}"', hint)
    if found.refused:
        what = f'"{optim}" does not train an adapter: {found.refused}'
        return Finding(("training.optim",), what, 'write "adamw_torch", or "paged_adamw_8bit" to save memory')
    return None


def optimizer_takes_its_settings(recipe: Recipe) -> Finding | None:
    """What an optimizer does not read is not given, and one that schedules itself is not scheduled."""
    training = recipe.training
    found = OPTIMIZERS.get(training.optim)
    if found is None or found.refused:
        return None  # another rule says it
    for key in ("adam_beta1", "adam_beta2"):
        if not found.reads_betas and is_written(recipe, f"training.{key}"):
            what = f'`{key}` has no effect with `optim = "{training.optim}"`'
            return Finding(("training.optim", f"training.{key}"), what, "remove it")
    if found.schedules_itself and training.lr_scheduler_type != "constant":
        what = f'"{training.optim}" takes the place of a schedule, and "{training.lr_scheduler_type}" is one'
        return Finding(("training.optim", "training.lr_scheduler_type"), what, 'write "constant"')
    return None


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


_PUSHING = frozenset(
    {"push_to_hub", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token", "hub_model_id"}
    | {"hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision"}
)
"""Fields of `TrainingArguments` by which the trainer uploads what it saves."""


def nothing_is_pushed(recipe: Recipe) -> Finding | None:
    """Nothing is uploaded while it is trained: what would be is no checked adapter, and the token is kept with it."""
    key = next((key for key in recipe.training.extra if key in _PUSHING), None)
    if key is None:
        return None
    remedy = "remove it; `hf upload NAME RUN/adapter` uploads the adapter of a finished run"
    return Finding((f"training.extra.{key}",), f"`{key}`: lorans uploads nothing while it trains", remedy)


def checkpoints_are_whole(recipe: Recipe) -> Finding | None:
    """A checkpoint has all that a run goes on from."""
    if not recipe.training.extra.get("save_only_model"):
        return None
    what = "`save_only_model`: a run could not be resumed from checkpoints without the optimizer's state"
    return Finding(("training.extra.save_only_model",), what, "remove it; the finished adapter has no such state")


def training_extra_is_known(recipe: Recipe) -> Finding | None:
    """`[training.extra]` passes fields of the installed `TrainingArguments` that the recipe has no key for."""
    return _extra(recipe, "training", training_argument_fields(), SET_BY_PLAN, "TrainingArguments")


def training_extra_has_an_effect(recipe: Recipe) -> Finding | None:
    """No field is taken that would be ignored, or break what is promised of every run."""
    extra = recipe.training.extra
    for key in extra:
        place = (f"training.extra.{key}",)
        if reason := REFUSED_ARGUMENTS.get(key):
            return Finding(place, f"`{key}`: {reason}", "remove it")
        if key.startswith("ddp_") and recipe.distributed.strategy not in {"ddp", "auto"}:
            return Finding(place, f'`{key}` has no effect without `[distributed] strategy = "ddp"`', "remove it")
        if key.startswith("trackio_") and "trackio" not in recipe.tracking.report_to:
            return Finding(place, f'`{key}` has no effect without `tracking.report_to = ["trackio"]`', "remove it")
        if key in NEEDS and not any(other in extra for other in NEEDS[key]):
            others = " or ".join(f"`{other}`" for other in NEEDS[key])
            return Finding(place, f"`{key}` has no effect without {others}", "remove it")
    return None


def peft_extra_is_known(recipe: Recipe) -> Finding | None:
    """`[peft.extra]` passes fields of the method's PEFT configuration that the recipe has no key for."""
    peft = recipe.peft
    own = frozenset({*peft.model_copy(update={"extra": {}}).to_kwargs(), *SET_BY_ENGINE})
    known = peft_config_fields(peft.config_file, peft.config_class, peft.parents)
    return _extra(recipe, "peft", known, own, peft.config_class)


def _extra(recipe: Recipe, table: str, known: frozenset[str] | None, own: frozenset[str], owner: str) -> Finding | None:
    extra = getattr(recipe, table).extra
    for key in extra:
        place = (f"{table}.extra.{key}",)
        if key in own:
            named = _own_keys(recipe, table).get(key) if table == "training" else None
            remedy = f"write `{named}`" if named else "remove it"
            return Finding(place, f"`{key}` is decided by the recipe's own keys", remedy)
        if known is not None and key not in known:
            return Finding(
                place, f"the installed `{owner}` has no field `{key}`", _meant(recipe, table, key, known - own)
            )
    return None


def _meant(recipe: Recipe, table: str, key: str, fields: frozenset[str]) -> str:
    """What to write in the place of a field that there is not: a key of the recipe's own, or a field that is taken."""
    own = _own_keys(recipe, table)
    if key in own:
        return f"write `{own[key]}`"
    beside = {name for name, dotted in own.items() if dotted.startswith(f"{table}.")}
    close = close_to(key, sorted(fields | beside))
    if not close or (close[0] not in beside and _is_refused(recipe, table, key, close[0])):
        return "remove it"
    return f"did you mean `{own[close[0]] if close[0] in beside else close[0]}`?"


def _own_keys(recipe: Recipe, table: str) -> dict[str, str]:
    """The dotted keys that this recipe could have, by their last names; those of one table come first."""
    tags = {union: {tag_of(union): getattr(getattr(recipe, union), tag_of(union))} for union in UNIONS}
    inert = (*_INERT_FOR_TASK[recipe.task_type], "extra")
    keys = [key for key in known_keys(tags) if "." in key and {key, *key.split(".")}.isdisjoint(inert)]
    keys.sort(key=lambda key: not key.startswith(f"{table}."))
    return {key.partition(".")[2]: key for key in reversed(keys)}


def _is_refused(recipe: Recipe, table: str, key: str, name: str) -> bool:
    """Whether a field would not be taken in the place of another."""
    owner = getattr(recipe, table)
    renamed = {name: owner.extra[key], **{other: value for other, value in owner.extra.items() if other != key}}
    tried = recipe.model_copy(update={table: owner.model_copy(update={"extra": renamed})})
    found = [rule(tried) for rule in (nothing_is_pushed, checkpoints_are_whole, training_extra_has_an_effect)]
    return any(finding and f"{table}.extra.{name}" in finding.keys for finding in found)


RULES: tuple[Rule, ...] = (
    one_source,
    each_source_is_named,
    all_sources_are_weighted,
    slices_are_parts,
    layouts_are_of_files,
    stratified_rows_are_set_aside,
    a_stream_has_steps,
    a_stream_is_read_as_it_comes,
    shuffle_buffer_is_of_a_stream,
    one_evaluation_source,
    hub_keys_need_a_hub_name,
    bad_rows_are_in_files,
    one_batch_size,
    global_batch_divides,
    one_length_of_training,
    one_warm_up,
    warm_up_ends,
    optimizer_is_known,
    optimizer_takes_its_settings,
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
    dora_works_on_the_base,
    start_works_on_the_base,
    start_keys_are_read,
    start_fits_the_adapter,
    added_tokens_are_trained,
    one_factor_alone_is_trained,
    kasa_cuts_the_base_alone,
    exact_match_has_rows,
    exact_match_keys_need_it,
    answer_pattern_is_a_pattern,
    processes_train_together,
    weights_can_be_divided,
    zero_keys_fit_together,
    rows_can_be_divided,
    machines_can_meet,
    nothing_is_pushed,
    checkpoints_are_whole,
    training_extra_is_known,
    training_extra_has_an_effect,
    peft_extra_is_known,
)


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Every broken rule."""
    for rule in RULES:
        finding = rule(recipe)
        if finding:
            yield finding
