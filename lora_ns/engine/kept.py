"""Tokenised rows that an earlier run kept: found by everything that determines them, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns import cache
from lora_ns.engine.dataset import Tally, Tokenized
from lora_ns.engine.libraries import versions
from lora_ns.engine.sources import Source
from lora_ns.engine.targets import problem_type_of
from lora_ns.formats import Format
from lora_ns.recipe.load import LoadedRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_VERSION = 3
"""To be raised whenever the same rows are to give other tokens or another mask."""
_TALLY = "tally.json"


def rows_key(
    loaded: LoadedRecipe,
    source: Source,
    form: Format,
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
    labels: Sequence[str],
) -> str:
    """SHA-256 over all that determines the tokens of a source and what is learned of them."""
    recipe = loaded.recipe
    table = recipe.sft if recipe.task_type == "CAUSAL_LM" else recipe.classification
    of_the_loss = {"packing", "loss_type", "neftune_noise_alpha", "class_weights", "threshold", "problem_type"}
    determined_by: dict[str, Any] = {
        "version": TOKENS_VERSION,
        "packages": {name: version for name, version in versions().items() if name in {"tokenizers", "transformers"}},
        "rows": source.sha256,
        "task": recipe.task_type,
        "settings": table.model_dump(mode="json", exclude=of_the_loss),
        "format": [form.name, asdict(form.columns)],  # type: ignore[attr-defined]
        "tokenizer": _tokenizer_state(tokenizer),
        "template": tokenizer.chat_template,
        "stops": list(stops),
        "problem_type": problem_type_of(form),
        "labels": list(labels),
    }
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True, default=str).encode()).hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return [type(tokenizer).__name__, hashlib.sha256(whole.encode()).hexdigest(), str(tokenizer.special_tokens_map)]


def find_rows(key: str) -> Tokenized | None:
    """The rows of a key, mapped from the disk; None if they are not there or cannot be read."""
    import datasets

    folder = cache.find(key)
    if folder is None:
        return None
    try:
        tally = Tally(**json.loads((folder / _TALLY).read_text(encoding="utf-8")))
        return Tokenized(datasets.load_from_disk(str(folder / "rows")), tally)
    except (OSError, ValueError, TypeError):
        cache.drop(folder)
        return None


def keep_rows(key: str, tokenized: Tokenized) -> None:
    """Keep rows for later runs. A disk that is full or read-only costs the cache and not the run."""
    folder: Path | None = None
    try:
        folder = cache.new_folder()
        tokenized.dataset.save_to_disk(str(folder / "rows"))
        (folder / _TALLY).write_text(json.dumps(asdict(tokenized.tally)), encoding="utf-8")
        cache.keep(folder, key)
    except OSError:
        if folder is not None:
            cache.drop(folder)
