"""`[dataset]`: where the rows come from and how a row becomes text."""

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
"""The names that `datasets` gives to the ways of reading a text file."""


Delimiter = Annotated[str, Field(min_length=1, max_length=1)]


_FORM = (
    "format",
    "columns",
    "prompt_template",
    "completion_template",
    "system_template",
    "text_column",
    "text_pair_column",
    "label_column",
    "ignore_columns",
)
"""The keys that say how a row is read."""


_PLACE = ("name", "subset", "revision", "path", "slice", "max_samples", "column_names", "delimiter", "sample_by")
"""The keys that say where the rows of one source are."""


class RowSource(Table):
    """One of several sources of training rows, in their order; how its rows are read is said here where they differ."""

    name: Name | None = None
    """Hub id; or give `path`."""
    subset: Name | None = None
    """Configuration of the hub data set."""
    revision: Name = "main"
    """Branch, tag or commit of the hub data set."""
    split: Name = "train"
    """Split of the hub data set."""
    path: Name | tuple[Name, ...] | None = None
    """File, folder, pattern, or a list of them."""
    weight: PositiveFloat | None = None
    """Share of this source in the mixed rows, in proportion to the others; without weights, one follows the other."""
    slice: Name | None = None
    """Part of the rows, as `dataset.slice`."""
    max_samples: PositiveInt | None = None
    """Use only this many rows, the first ones of the slice."""
    column_names: tuple[Column, ...] = ()
    """Columns of tables without a header, as `dataset.column_names`."""
    delimiter: Delimiter | None = None
    """What separates the cells of a table, as `dataset.delimiter`."""
    sample_by: SampleBy = "document"
    """What a row of a `.txt` file is, as `dataset.sample_by`."""
    format: FormatName | None = None
    """How these rows are read; with it, no template and no column is taken from `[dataset]`."""
    columns: dict[Column, Column] | None = None
    """Names of columns, instead of those of `[dataset]` and its templates."""
    prompt_template: str | None = None
    """Text of the prompt, instead of what `[dataset]` says."""
    completion_template: str | None = None
    """Text of the answer."""
    system_template: str | None = None
    """Text of a system turn."""
    text_column: Column | None = None
    """Text to classify."""
    text_pair_column: Column | None = None
    """Second text of a pair."""
    label_column: Column | None = None
    """Label of a row."""
    ignore_columns: tuple[Name, ...] | None = None
    """Columns that are not learned from, on purpose."""

    def form(self) -> dict[str, Any]:
        """What is said here of how a row is read, and what of `[dataset]` has no effect beside it."""
        said = {key: value for key in _FORM if (value := getattr(self, key)) is not None}
        without: dict[str, Any] = {}
        if "format" in said:
            without = {key: info.get_default() for key, info in Dataset.model_fields.items() if key in _FORM}
        elif any(key.endswith("_template") for key in said):
            without = {"columns": {}}
        elif "columns" in said:
            without = {key: None for key in _FORM if key.endswith("_template")}
        return {**without, **said}


class Dataset(Table):
    """Training and evaluation rows, from the hub or from files."""

    name: Name | None = None
    """Hub id such as `openai/gsm8k`; or give `path`."""
    subset: Name | None = None
    """Configuration of the hub data set, such as `main`."""
    revision: Name = "main"
    """Branch, tag or commit of the hub data set."""
    train_split: Name = "train"
    """Split to train on."""
    eval_split: Name | None = None
    """Split to evaluate on."""
    path: Name | tuple[Name, ...] | None = None
    """Training file, folder, pattern (`data/*.jsonl`), or a list; docs/data.md has the kinds, such as JSON and CSV."""
    eval_path: Name | tuple[Name, ...] | None = None
    """Evaluation rows, named like `path`; both are relative to the recipe, then to the current folder."""
    sources: tuple[RowSource, ...] = ()
    """Several sources instead of one, each `[[dataset.sources]]` with `name` or `path`, and a `weight` to mix them."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """Weighted sources are mixed until one has given all its rows, or until all have, the smaller ones repeated."""
    slice: Name | None = None
    """Part of the training rows, such as `"1000:2000"`, `":10%"`, `"-500:"`; `max_samples` counts within it."""
    eval_slice: Name | None = None
    """Part of the evaluation rows of `eval_path` or `eval_split`."""
    streaming: bool = False
    """Read, render and tokenise training rows while they are trained on; needs `training.max_steps`."""
    shuffle_buffer_size: NonNegativeInt = 10_000
    """Rows of a stream among which the next one is drawn; 0 keeps the order of the files."""
    column_names: tuple[Column, ...] = ()
    """Columns of tables without a header, in their order: `.csv`, `.tsv`, and `.txt` with tabs."""
    delimiter: Delimiter | None = None
    """What separates the cells of a table, such as `"\\t"`; if absent, the first line of a `.csv` shows it."""
    sample_by: SampleBy = "document"
    """Whether a `.txt` file is one row (`document`) or has one on each `line`."""
    max_bad_rows: NonNegativeInt = 0
    """Leave out up to this many rows of the files that cannot be read, and say so; one more is an error."""
    eval_fraction: Fraction = 0.0
    """Share of the training rows to set aside for evaluation, chosen by `training.seed`."""
    stratify_by_column: Column = "auto"
    """Column whose values have their share in the rows set aside: `auto` is the class of `SEQ_CLS`, `none` is none."""
    max_samples: PositiveInt | None = None
    """Use only this many training rows, the first ones."""
    max_eval_samples: PositiveInt | None = None
    """Use only this many evaluation rows, the first ones."""

    format: FormatName = "auto"
    """How a row is read; `auto` goes by the columns and says what it found."""
    columns: dict[Column, Column] = Field(default={})
    """Names of columns, the format's to the data's, such as `{ prompt = "question", completion = "reply" }`."""
    prompt_template: str | None = None
    """Text of the prompt with `{column}` in it, such as `"Question: {question}\\nAnswer:"`."""
    completion_template: str | None = None
    """Text that the model is to answer, such as `" {answer}"`."""
    system_template: str | None = None
    """Text of a system turn, with `{column}` in it; only for rows rendered in chat form."""
    text_column: Column | None = None
    """Text to classify; found among the usual names if absent."""
    text_pair_column: Column | None = None
    """Second text of a pair."""
    label_column: Column = "label"
    """Label of a row: a class by name or number, a list of labels, or a score."""
    ignore_columns: tuple[Name, ...] = ()
    """Columns that are not learned from, on purpose: others that nothing reads are reported, or refused."""

    def parts(self) -> dict[str, Dataset]:
        """The sources by their keys, each as a table with one source."""
        if not self.sources:
            return {"dataset": self}
        return {f"dataset.sources.{number}": self._part(source) for number, source in enumerate(self.sources)}

    def source_at(self, key: str) -> RowSource | None:
        """The one of several sources that `parts` has under a key; None where there is only one."""
        return self.sources[int(key.rpartition(".")[2])] if self.sources else None

    def _part(self, source: RowSource) -> Dataset:
        own = {key: getattr(source, key) for key in _PLACE}
        return self.model_copy(update={**own, "train_split": source.split, "sources": (), **source.form()})
