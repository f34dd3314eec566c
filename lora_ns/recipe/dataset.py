"""`[dataset]`: where the rows come from and how a row becomes text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_ns.recipe.base import Fraction, Name, NonNegativeInt, PositiveInt, Table


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
    """Training file, folder, pattern (`data/*.jsonl`), or a list: JSON, CSV, TSV, text, CoNLL, Parquet, Arrow."""
    eval_path: Name | tuple[Name, ...] | None = None
    """Evaluation rows, named like `path`; both are relative to the recipe, then to the current folder."""
    max_bad_rows: NonNegativeInt = 0
    """Leave out up to this many rows of the files that cannot be read, and say so; one more is an error."""
    eval_fraction: Fraction = 0.0
    """Share of the training rows to set aside for evaluation, chosen by `training.seed`."""
    max_samples: PositiveInt | None = None
    """Use only this many training rows, the first ones."""
    max_eval_samples: PositiveInt | None = None
    """Use only this many evaluation rows, the first ones."""

    format: Literal[
        "auto",
        "messages",
        "sharegpt",
        "alpaca",
        "question-answer",
        "prompt-completion",
        "text",
        "classification",
        "token-classification",
    ] = "auto"
    """How a row is read; `auto` goes by the columns and says what it found."""
    columns: dict[str, Name] = Field(default={})
    """Names of columns, the format's to the data's, such as `{ prompt = "question", completion = "reply" }`."""
    prompt_template: str | None = None
    """Text of the prompt with `{column}` in it, such as `"Question: {question}\\nAnswer:"`."""
    completion_template: str | None = None
    """Text that the model is to answer, such as `" {answer}"`."""
    system_template: str | None = None
    """Text of a system turn, with `{column}` in it; only for rows rendered in chat form."""
    text_column: Name | None = None
    """Text to classify; found among the usual names if absent."""
    text_pair_column: Name | None = None
    """Second text of a pair."""
    label_column: Name = "label"
    """Label of a row: a class by name or number, a list of labels, or a score."""
