"""`[dataset]`: the source of the rows, and their conversion to text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lora_ns.formats import FORMATS
from lora_ns.table import Column, Fraction, Name, NonNegativeInt, PositiveFloat, PositiveInt, Table

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[("auto", *FORMATS)]


SampleBy = Literal["document", "line"]
"""Ways to divide a text file into rows, by their names in `datasets`."""


Delimiter = Annotated[str, Field(min_length=1, max_length=1)]


_FORM = (
    "format",
    "columns",
    "prompt_template",
    "fallback_prompt_templates",
    "completion_template",
    "system_template",
    "text_column",
    "text_pair_column",
    "label_column",
    "ignore_columns",
)
"""Keys that set the format of the rows."""


_PLACE = ("name", "subset", "revision", "path", "slice", "max_samples", "column_names", "delimiter", "sample_by")
"""Keys that locate the rows of one source."""


class RowSource(Table):
    """One of several sources of training rows. Format keys replace those of `[dataset]` for this source."""

    name: Name | None = None
    """Hub id; or give `path`."""
    subset: Name | None = None
    """Configuration of the hub dataset."""
    revision: Name = "main"
    """Branch, tag or commit of the hub dataset."""
    split: Name = "train"
    """Split of the hub dataset."""
    path: Name | tuple[Name, ...] | None = None
    """File, folder or glob pattern, or a list of them."""
    weight: PositiveFloat | None = None
    """Mixing weight, relative to the other sources. Without weights, the sources are concatenated."""
    slice: Name | None = None
    """Part of the rows, like `dataset.slice`."""
    max_samples: PositiveInt | None = None
    """Maximum number of rows, from the start of the slice."""
    column_names: tuple[Column, ...] = ()
    """Column names of tables without a header, like `dataset.column_names`."""
    delimiter: Delimiter | None = None
    """Cell separator of tables, like `dataset.delimiter`."""
    sample_by: SampleBy = "document"
    """Unit of a `.txt` file that makes a row, like `dataset.sample_by`."""
    format: FormatName | None = None
    """Row format of this source. If given, no templates and columns are taken from `[dataset]`."""
    columns: dict[Column, Column] | None = None
    """Column mapping, instead of the mapping and the templates of `[dataset]`."""
    prompt_template: str | None = None
    """Prompt template, instead of the template or the column mapping of `[dataset]`."""
    fallback_prompt_templates: tuple[str, ...] | None = None
    """Prompt templates for rows in which a column of `prompt_template` is empty."""
    completion_template: str | None = None
    """Completion template."""
    system_template: str | None = None
    """System message template."""
    text_column: Column | None = None
    """Column of the text to classify."""
    text_pair_column: Column | None = None
    """Column of the second text of a pair."""
    label_column: Column | None = None
    """Column of the label."""
    ignore_columns: tuple[Name, ...] | None = None
    """Columns to leave out on purpose."""

    def form(self) -> dict[str, Any]:
        """Return the format keys given here, and defaults for the keys of `[dataset]` that they replace."""
        given = {key: value for key in _FORM if (value := getattr(self, key)) is not None}
        without: dict[str, Any] = {}
        if "format" in given:
            without = {key: info.get_default() for key, info in Dataset.model_fields.items() if key in _FORM}
        elif any(key.endswith("_template") for key in given):
            without = {"columns": {}}
        elif "columns" in given:
            without = {key: None for key in _FORM if key.endswith("_template")} | {"fallback_prompt_templates": ()}
        return {**without, **given}


class Dataset(Table):
    """Training and evaluation rows, from the hub or from files."""

    name: Name | None = None
    """Hub id such as `openai/gsm8k`; or give `path`."""
    subset: Name | None = None
    """Configuration of the hub dataset, such as `main`."""
    revision: Name = "main"
    """Branch, tag or commit of the hub dataset."""
    train_split: Name = "train"
    """Split to train on."""
    eval_split: Name | None = None
    """Split to evaluate on."""
    path: Name | tuple[Name, ...] | None = None
    """Training file, folder or glob pattern (`data/*.jsonl`), or a list; docs/data.md lists the file types."""
    eval_path: Name | tuple[Name, ...] | None = None
    """Evaluation files, given like `path`. Both are relative to the recipe, then to the current folder."""
    sources: tuple[RowSource, ...] = ()
    """Several sources instead of one: each `[[dataset.sources]]` has `name` or `path`, and a `weight` to mix them."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """End of weighted mixing: the first source is used up, or all are, while smaller ones repeat."""
    slice: Name | None = None
    """Part of the training rows, such as `"1000:2000"`, `":10%"` or `"-500:"`; `max_samples` counts within it."""
    eval_slice: Name | None = None
    """Part of the evaluation rows of `eval_path` or `eval_split`."""
    streaming: bool = False
    """Read, render and tokenise rows during training, not before; needs `training.max_steps`."""
    shuffle_buffer_size: NonNegativeInt = 10_000
    """Size of the buffer, in rows, that a stream is shuffled in; 0 keeps the order of the files."""
    column_names: tuple[Column, ...] = ()
    """Column names, in order, of tables without a header: `.csv`, `.tsv`, and `.txt` with tabs."""
    delimiter: Delimiter | None = None
    """Cell separator of tables, such as `"\\t"`. Default: detected from the first line of a `.csv`."""
    sample_by: SampleBy = "document"
    """Rows of a `.txt` file: the whole file (`document`), or each `line`."""
    max_bad_rows: NonNegativeInt = 0
    """Maximum number of unreadable rows of files to skip and report; one more is an error."""
    eval_fraction: Fraction = 0.0
    """Fraction of the training rows to hold out for evaluation, drawn with `training.seed`."""
    stratify_by_column: Column = "auto"
    """Column to stratify the held-out rows by: `auto` is the class for `SEQ_CLS`, `none` turns it off."""
    max_samples: PositiveInt | None = None
    """Maximum number of training rows, from the start."""
    max_eval_samples: PositiveInt | None = None
    """Maximum number of evaluation rows, from the start."""

    format: FormatName = "auto"
    """Row format; `auto` detects it from the columns and reports it."""
    columns: dict[Column, Column] = Field(default={})
    """Mapping of the format's columns to yours, such as `{ prompt = "question", completion = "reply" }`."""
    prompt_template: str | None = None
    """Prompt template with columns in braces, such as `"Question: {question}\\nAnswer:"`."""
    fallback_prompt_templates: tuple[str, ...] = ()
    """Prompt templates for rows with an empty column of `prompt_template`; the first with filled columns is used."""
    completion_template: str | None = None
    """Template of the text to learn, such as `" {answer}"`."""
    system_template: str | None = None
    """System message template with columns in braces; only for rows in chat form."""
    text_column: Column | None = None
    """Column of the text to classify. Default: found by the usual names."""
    text_pair_column: Column | None = None
    """Column of the second text of a pair."""
    label_column: Column = "label"
    """Column of the label: a class by name or number, a list of labels, or a score."""
    ignore_columns: tuple[Name, ...] = ()
    """Columns to leave out on purpose. Other unused columns are reported, or refused."""

    def parts(self) -> dict[str, Dataset]:
        """Return the sources by their dotted keys, each as a table with one source."""
        if not self.sources:
            return {"dataset": self}
        return {f"dataset.sources.{number}": self._part(source) for number, source in enumerate(self.sources)}

    def source_at(self, key: str) -> RowSource | None:
        """Return the source that `parts` has under a key, None if there is only one."""
        return self.sources[int(key.rpartition(".")[2])] if self.sources else None

    def _part(self, source: RowSource) -> Dataset:
        own = {key: getattr(source, key) for key in _PLACE}
        return self.model_copy(update={**own, "train_split": source.split, "sources": (), **source.form()})
