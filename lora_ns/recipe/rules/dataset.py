"""Rules of `[dataset]`: sources, slices, columns and templates."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterator

from lora_ns.errors import did_you_mean
from lora_ns.formats import FORMATS, Labelled, Prompt, Tagged
from lora_ns.formats.detection import makes_one_of
from lora_ns.formats.prompts import Prompts
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.recipe.slices import parse_slice
from lora_ns.table import Conflict

_WITHOUT_TEMPLATES = {
    name for name, form in FORMATS.items() if not form.templates and not {Labelled, Tagged}.intersection(form.makes)
}
"""Text formats that use no templates. Label formats are left out: no task with templates has labels."""


def template_fields(template: str) -> tuple[str, ...]:
    """Return the columns in a template, in order.

    Raises:
        ValueError: if the braces are unbalanced, or a field is not a column name or a path into a column.
    """
    fields = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or not re.fullmatch(r"[\w\-. ]+", name):
            raise ValueError(f"`{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}`")
        fields.append(name)
    return tuple(dict.fromkeys(fields))


def one_source(recipe: Recipe) -> Conflict | None:
    """The rows come from the hub, from files, or from several sources."""
    given = [key for key in ("name", "path", "sources") if getattr(recipe.dataset, key)]
    if len(given) > 1:
        keys = tuple(f"dataset.{key}" for key in given)
        return Conflict(keys, f"{' and '.join(f'`{key}`' for key in given)} are both given", "keep one of them")
    if not given:
        return Conflict(
            ("dataset",), "no source of rows is given", 'write `path = "train.jsonl"`, or `name` with a hub id'
        )
    return None


def each_source_is_named(recipe: Recipe) -> Conflict | None:
    """Each source is a hub id or files, and has no keys of the other kind."""
    for number, source in enumerate(recipe.dataset.sources):
        place = f"dataset.sources.{number}"
        if source.name and source.path:
            what = "`name` and `path` are both given"
            return Conflict((f"{place}.name", f"{place}.path"), what, "make them two sources")
        if not source.name and not source.path:
            return Conflict(
                (place,), "no source of rows is given", 'write `path = "train.jsonl"`, or `name` with a hub id'
            )
        for key in ("subset", "revision", "split"):
            if source.path and key in source.model_fields_set:
                what = f"`{key}` is for hub datasets, but `path` is a file"
                return Conflict((f"{place}.{key}",), what, f"remove `{key}`")
    return None


def all_sources_are_weighted(recipe: Recipe) -> Conflict | None:
    """Either all sources have a weight, or none."""
    sources = recipe.dataset.sources
    without = [number for number, source in enumerate(sources) if source.weight is None]
    if without and len(without) < len(sources):
        what = "`weight` is missing, but others have one"
        keys = [f"dataset.sources.{number}.weight" for number in range(len(sources))]
        return Conflict((*keys, f"dataset.sources.{without[0]}"), what, "give each a `weight`, or none")
    if len(without) == len(sources) and is_written(recipe, "dataset.stopping_strategy"):
        what = "`stopping_strategy` has no effect without sources that have a `weight`"
        return Conflict(("dataset.stopping_strategy",), what, "remove it")
    return None


def slices_are_parts(recipe: Recipe) -> Conflict | None:
    """Slices are valid, and belong to rows that the recipe reads."""
    data = recipe.dataset
    slices = {f"{place}.slice": part.slice for place, part in data.parts().items()}
    for key, text in {**slices, "dataset.slice": data.slice, "dataset.eval_slice": data.eval_slice}.items():
        try:
            parse_slice(text or ":")
        except ValueError as error:
            return Conflict((key,), f"invalid slice: {error}", 'write for example "1000:2000", ":10%" or "-500:"')
    if data.slice and data.sources:
        what = "`slice` is for a single source, but there are several"
        return Conflict(("dataset.slice",), what, "move it to the sources that it is for")
    if data.eval_slice and not data.eval_path and not data.eval_split:
        what = "`eval_slice` has no effect without `eval_path` or `eval_split`"
        return Conflict(("dataset.eval_slice",), what, "remove it")
    return None


def layouts_are_of_files(recipe: Recipe) -> Conflict | None:
    """Layout keys need files, and column names are unique."""
    data = recipe.dataset
    for place, part in data.parts().items():
        names = part.column_names
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            return Conflict((f"{place}.column_names",), f"column `{twice}` is given twice", "rename one of them")
        if part.delimiter in {'"', "\r", "\n"}:
            what = "`delimiter` is a quote or a line break"
            return Conflict((f"{place}.delimiter",), what, 'write the character between two cells, such as "\\t"')
        given = [key for key in _LAYOUT if key in (data.source_at(place) or data).model_fields_set]
        if given and not part.path and not (place == "dataset" and data.eval_path):
            what = f"`{given[0]}` is for files, but `path` is missing"
            return Conflict((f"{place}.{given[0]}",), what, "remove it: hub datasets do not need it")
    given = [key for key in _LAYOUT if is_written(recipe, f"dataset.{key}")]
    if given and data.sources and not data.eval_path:
        what = f"`{given[0]}` is for a single source, but there are several"
        return Conflict((f"dataset.{given[0]}",), what, "move it to the sources that it is for")
    return None


_LAYOUT = ("column_names", "delimiter", "sample_by")


def stratified_rows_are_set_aside(recipe: Recipe) -> Conflict | None:
    """Stratification needs held-out rows."""
    if is_written(recipe, "dataset.stratify_by_column") and not recipe.dataset.eval_fraction:
        what = "`stratify_by_column` has no effect without `eval_fraction`"
        return Conflict(("dataset.stratify_by_column",), what, "remove it")
    return None


def a_stream_has_steps(recipe: Recipe) -> Conflict | None:
    """Streaming needs `max_steps`."""
    if recipe.dataset.streaming and recipe.training.max_steps is None:
        what = "the number of rows in a stream is unknown, so epochs cannot be counted"
        return Conflict(("training.max_steps", "dataset.streaming"), what, "add `max_steps` to `[training]`")
    return None


def a_stream_is_read_as_it_comes(recipe: Recipe) -> Conflict | None:
    """Settings that need all rows at once, or a single process, exclude streaming."""
    if not recipe.dataset.streaming:
        return None
    refused = (
        (
            "dataset.sources",
            bool(recipe.dataset.sources),
            "sources are mixed after reading all of them",
            "write a single `path`",
        ),
        (
            "dataset.eval_fraction",
            bool(recipe.dataset.eval_fraction),
            "the size of a stream is unknown, so no fraction can be held out",
            "write `eval_path`",
        ),
        *((key, True, what, remedy) for key, what, remedy in recipe.objective.lost_in_a_stream()),
        (
            "peft.init_lora_weights",
            recipe.peft.reads_rows,
            "this initialisation needs rows drawn from all of them",
            'write "default" or "pissa"',
        ),
        (
            "training.group_by_length",
            recipe.training.group_by_length and is_written(recipe, "training.group_by_length"),
            "grouping by length needs all rows",
            "remove it: streams are never grouped",
        ),
        (
            "training.dataloader_num_workers",
            recipe.training.dataloader_num_workers > 0,
            "each worker process would read the whole stream",
            "write 0",
        ),
    )
    for key, is_broken, what, remedy in refused:
        if is_broken:
            return Conflict(("dataset.streaming", key), what, remedy)
    return _slice_of_a_stream(recipe)


def _slice_of_a_stream(recipe: Recipe) -> Conflict | None:
    try:
        is_known = parse_slice(recipe.dataset.slice or ":").is_from_begin
    except ValueError:
        return None  # reported by another rule
    what = "the position of this slice in a stream is unknown before reading it"
    return (
        None if is_known else Conflict(("dataset.streaming", "dataset.slice"), what, 'count from the first row: "100:"')
    )


def shuffle_buffer_is_of_a_stream(recipe: Recipe) -> Conflict | None:
    """A shuffle buffer needs streaming; other rows are shuffled as a whole."""
    if is_written(recipe, "dataset.shuffle_buffer_size") and not recipe.dataset.streaming:
        what = "`shuffle_buffer_size` has no effect without `streaming = true`: all rows are shuffled"
        return Conflict(("dataset.shuffle_buffer_size",), what, "remove it")
    return None


def one_evaluation_source(recipe: Recipe) -> Conflict | None:
    """The evaluation rows come from one source."""
    keys = tuple(
        f"dataset.{key}" for key in ("eval_split", "eval_path", "eval_fraction") if getattr(recipe.dataset, key)
    )
    if len(keys) > 1:
        return Conflict(keys, f"{' and '.join(f'`{key}`' for key in keys)} are both given", "keep one of them")
    return None


def hub_keys_need_a_hub_name(recipe: Recipe) -> Conflict | None:
    """Subsets, splits and revisions need a hub dataset."""
    data = recipe.dataset
    if data.name:
        return None
    for key in ("subset", "revision", "train_split", "eval_split"):
        if is_written(recipe, f"dataset.{key}"):
            instead = "`path` is a file" if data.path else "the rows come from `sources`"
            what = f"`{key}` is for hub datasets, but {instead}"
            return Conflict((f"dataset.{key}",), what, f"remove `{key}`")
    return None


def bad_rows_are_in_files(recipe: Recipe) -> Conflict | None:
    """Unreadable rows only exist in files."""
    data = recipe.dataset
    is_file = data.eval_path or any(part.path and not part.name for part in data.parts().values())
    if not is_file and is_written(recipe, "dataset.max_bad_rows"):
        return Conflict(
            ("dataset.max_bad_rows",), "`max_bad_rows` is for files, but `name` is a hub dataset", "remove it"
        )
    return None


def each_form(recipe: Recipe) -> Iterator[tuple[Dataset, Callable[[str], str]]]:
    """Yield the dataset settings of every source, and a function from their keys to those in the recipe."""
    for place, part in recipe.dataset.parts().items():
        source = recipe.dataset.source_at(place)
        own = source.model_fields_set if source else frozenset()

        def locate(key: str, place: str = place, own: Collection[str] = own) -> str:
            return f"{place if key.partition('.')[0] in own else 'dataset'}.{key}"

        yield part, locate


def _are_prompts(recipe: Recipe) -> bool:
    """Return whether the rows are prompts, whose templates have no completion."""
    return Prompt in recipe.objective.examples


def templates_come_together(recipe: Recipe) -> Conflict | None:
    """Prompt and completion templates come together."""
    for data, key_of in each_form(recipe):
        given = [key for key in ("prompt_template", "completion_template") if getattr(data, key) is not None]
        if len(given) == 1 and not (_are_prompts(recipe) and given == ["prompt_template"]):
            other = "completion_template" if given[0] == "prompt_template" else "prompt_template"
            return Conflict((key_of(given[0]),), f"`{given[0]}` needs `{other}`", f"add `{other}`")
        if data.fallback_prompt_templates and data.prompt_template is None:
            what = "`fallback_prompt_templates` needs `prompt_template`"
            return Conflict((key_of("fallback_prompt_templates"),), what, "add `prompt_template`")
    return None


def templates_are_well_formed(recipe: Recipe) -> Conflict | None:
    """Fields of templates are column names, or paths into columns."""
    for data, key_of in each_form(recipe):
        own = ((key, getattr(data, key)) for key in ("prompt_template", "completion_template", "system_template"))
        for key, template in (*own, *(("fallback_prompt_templates", text) for text in data.fallback_prompt_templates)):
            try:
                template_fields(template or "")
            except ValueError as error:
                return Conflict(
                    (key_of(key),),
                    f"invalid template: {error}",
                    "write column names in single braces, `{question}`, and double a literal brace, `{{`",
                )
    return None


def completion_template_has_a_column(recipe: Recipe) -> Conflict | None:
    """A completion must depend on the row; a prompt may be constant."""
    for data, key_of in each_form(recipe):
        template = data.completion_template
        if template is None or data.prompt_template is None:
            continue
        try:
            fields = template_fields(template)
        except ValueError:
            continue  # reported by another rule
        if not fields:
            what = f"`{template}` has no column: every row would have the same completion"
            return Conflict((key_of("completion_template"),), what, "write a column in braces, such as ` {answer}`")
    return None


def system_turn_needs_chat_form(recipe: Recipe) -> Conflict | None:
    """A system message needs rows in chat form."""
    for data, key_of in each_form(recipe):
        fills = FORMATS[data.format].templates if data.format in FORMATS else ()
        fills = Prompts.templates if _are_prompts(recipe) else fills
        if data.system_template is not None and "system_template" not in fills:
            return Conflict(
                (key_of("system_template"),),
                "`system_template` needs rows in chat form",
                'add `format = "messages"`, or put the text into `prompt_template`',
            )
    return None


def templates_fit_the_format(recipe: Recipe) -> Conflict | None:
    """Templates are for formats without columns of their own."""
    for data, key_of in each_form(recipe):
        if data.prompt_template is not None and data.format in _WITHOUT_TEMPLATES:
            return Conflict(
                (key_of("format"), key_of("prompt_template")),
                f'`prompt_template` has no effect with `format = "{data.format}"`',
                'write `format = "messages"` for its chat form, or "prompt-completion" for plain text',
            )
    return None


def columns_are_read(recipe: Recipe) -> Conflict | None:
    """The column mapping names columns of the format."""
    own = {name: kind for name, kind in FORMATS.items() if makes_one_of(kind, recipe.objective.examples)}
    for data, key_of in each_form(recipe):
        if "dataset.columns" in recipe.objective.inert or data.format not in {"auto", *own}:
            return None  # reported by the rules of the task
        if data.columns and data.prompt_template is not None and not _are_prompts(recipe):
            what = "`columns` has no effect with templates, which use the data's own column names"
            return Conflict((key_of("prompt_template"), key_of("columns")), what, "remove it")
        kinds = [kind for name, kind in own.items() if data.format in {"auto", name}]
        known = list(dict.fromkeys(name for kind in kinds for name in (*kind.reads, *kind.aliases)))
        for key in data.columns:
            if key not in known:
                remedy = did_you_mean(key, known, beside=f"known: {', '.join(known)}")
                what = "no format has such a column" if data.format == "auto" else f"{data.format} has no such column"
                return Conflict((key_of(f"columns.{key}"),), what, remedy)
    return None


def pair_needs_its_first_text(recipe: Recipe) -> Conflict | None:
    """The second text of a pair needs the first."""
    for data, key_of in each_form(recipe):
        if data.text_pair_column and not data.text_column:
            what = "`text_pair_column` needs `text_column`"
            return Conflict((key_of("text_pair_column"),), what, "add it")
    return None
