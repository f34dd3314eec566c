"""Cached rows that are ready for training: keyed by everything that determines them, and written atomically."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lora_ns
from lora_ns.data import cache
from lora_ns.data.places import Stretch, as_stretches
from lora_ns.data.sources import origins
from lora_ns.data.stream import Stream
from lora_ns.errors import RunError, UsageError
from lora_ns.files.marks import MARK, Fault, fault_of, mark_folder, read_mark
from lora_ns.files.reading import LARGEST_LIST, read_json
from lora_ns.machine.libraries import versions
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import DataRecord

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

_FACTS = "facts.json"


@dataclass(frozen=True)
class Preparation:
    """Rows as the trainer takes them, with facts about them."""

    train: datasets.Dataset
    eval: datasets.Dataset | None
    facts: DataFacts
    record: DataRecord
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    """Problem type of a text classifier, by transformers' name."""
    stream: Stream | None = None
    """The training rows, if they are a stream; `train` then only has the first ones. Streams are never cached."""
    places: Sequence[Stretch] = ()
    """Places of the training rows in their files; empty if they are packed."""

    @property
    def data(self) -> tuple[datasets.Dataset, datasets.Dataset | None]:
        """Training and evaluation dataset."""
        return self.train, self.eval


def preparation_key(recipe: Recipe, folder: Path, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> str:
    """Return the SHA-256 over everything that determines the tokens and the loss mask of a recipe's rows.

    The rows are not parsed; only the bytes of their files are hashed. Raises `DataError` if a file is missing.
    """
    evaluation = recipe.evaluation
    installed = versions()
    determined_by: dict[str, Any] = {
        "code": code_version(),
        "packages": {name: installed.get(name) for name in ("datasets", "tokenizers", "transformers", "trl")},
        "origins": origins(recipe, folder),
        "task": recipe.task_type,
        "dataset": recipe.dataset.model_dump(mode="json"),
        "objective": recipe.objective.model_dump(mode="json"),
        "seed": recipe.training.seed if recipe.dataset.eval_fraction or recipe.dataset.sources else None,
        "answered": evaluation.max_samples if evaluation.exact_match else 0,
        "suites": [suite.model_dump(mode="json") for suite in evaluation.suites],
        "tokenizer": _tokenizer_state(tokenizer),
        "template": tokenizer.chat_template,
        "stops": list(stops),
    }
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True, default=str).encode()).hexdigest()


BETWEEN = (
    *("data/**/*.py", "formats/**/*.py", "objectives/**/*.py", "files/reading.py", "table.py"),
    *("model/template_limits.py", "model/tokenizer.py", "model/tokenizing.py", "model/vocabulary.py"),
    *("recipe/dataset.py", "recipe/slices.py", "rewards/**/*.py"),
)
"""The code between a file and its tokens: a change of it may change the tokens."""


@functools.cache
def code_version(package: Path = Path(lora_ns.__file__).parent) -> str:
    """Return the SHA-256 over the code between a file and its tokens, in this package or a copy."""
    digest = hashlib.sha256()
    for file in sorted({file for place in BETWEEN for file in package.glob(place)}):
        digest.update(file.relative_to(package).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return [type(tokenizer).__name__, hashlib.sha256(whole.encode()).hexdigest(), str(tokenizer.special_tokens_map)]


def find_preparation(key: str, tell: Callable[[str], None] = lambda _: None) -> Preparation | None:
    """Load cached rows, mapped from the disk; None if they are missing, or damaged, which is reported."""
    folder = cache.find(key)
    if folder is None:
        return None
    if fault := fault_of(folder, read_mark(folder) or Fault(MARK, "is missing")):
        tell(f"the cached rows are damaged and computed again: {folder / fault.name} {fault.what}")
        cache.drop(folder)
        return None
    try:
        kept = read_json(folder / _FACTS, most=LARGEST_LIST)
        record = DataRecord.model_validate(kept["record"])
        train = saved_rows(folder / "train")
        evaluation = saved_rows(folder / "eval") if record.eval else None
        facts = DataFacts(**{**kept["facts"], "notes": tuple(kept["facts"]["notes"])})
        places = as_stretches(kept["places"])
        return Preparation(train, evaluation, facts, record, tuple(kept["labels"]), kept["problem_type"], None, places)
    except (OSError, ValueError, TypeError, KeyError, UsageError):
        cache.drop(folder)
        return None


def keep_preparation(key: str, prepared: Preparation) -> None:
    """Cache rows for later runs. If the disk is full or read-only, the run continues without a cache."""
    folder: Path | None = None
    try:
        folder = cache.new_folder()
        prepared.train.save_to_disk(str(folder / "train"))
        if prepared.eval is not None:
            prepared.eval.save_to_disk(str(folder / "eval"))
        record = prepared.record.model_dump(mode="json")
        kept = {
            "facts": asdict(prepared.facts),
            "record": record,
            "labels": prepared.labels,
            "problem_type": prepared.problem_type,
            "places": prepared.places,
        }
        (folder / _FACTS).write_text(json.dumps(kept), encoding="utf-8")
        mark_folder(folder)
        cache.keep(folder, key)
    except BaseException as error:
        if folder is not None:
            cache.drop(folder)
        if not isinstance(error, (OSError, RunError)):
            raise


def saved_rows(folder: Path) -> datasets.Dataset:
    """Load saved rows from the disk.

    Raises:
        ValueError: for any error of datasets. It trusts its files, so that a wrong value ends in an arbitrary Python
            error.
    """
    import datasets

    try:
        return datasets.Dataset.load_from_disk(str(folder))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error
