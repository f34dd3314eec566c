"""The caches of the Hugging Face Hub, without importing its libraries.

Layout and environment variables are those of `huggingface_hub` (`models--owner--name/snapshots/COMMIT`) and `datasets`
(`owner___name/CONFIG/VERSION/COMMIT`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from lora_ns.errors import UsageError
from lora_ns.files.reading import is_folder, read_json

Kind = Literal["models", "datasets"]


_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


_COMMIT = re.compile(r"[0-9a-f]{40}")


_HUB_ID = re.compile(r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)
"""The pattern of `huggingface_hub.utils.validate_repo_id`."""


# Folders


def hub_home() -> Path:
    """Return the folder of all caches of the hub's libraries."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(os.environ.get("HF_HOME") or f"{cache}/huggingface")


def hub_cache() -> Path:
    """Return the folder of downloaded repositories, models and datasets."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hub_home() / "hub"


def datasets_cache() -> Path:
    """Return the folder of datasets that `datasets` has prepared."""
    named = os.environ.get("HF_DATASETS_CACHE")
    return _expanded(named) if named else hub_home() / "datasets"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def offline_variable(kind: Kind = "models") -> str | None:
    """Return the environment variable that turns on offline mode; None if the hub may be accessed."""
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
    if kind == "datasets" and "HF_DATASETS_OFFLINE" in os.environ:
        names = ["HF_DATASETS_OFFLINE"]
    # The first one that is set decides, even if it is false.
    decides = next((name for name in names if os.environ.get(name)), None)
    return decides if decides and os.environ[decides].upper() in _TRUE else None


# Contents


def is_hub_id(name: str) -> bool:
    """True if a name is a valid hub id: `name` or `owner/name`."""
    return bool(_HUB_ID.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def is_downloaded(name: str, kind: Kind = "models") -> bool:
    """True if the cache has a repository, in any revision."""
    return is_folder(_repository(name, kind) / "snapshots")


def _repository(name: str, kind: Kind) -> Path:
    return hub_cache() / f"{kind}--{name.replace('/', '--')}"


def cached_snapshot(name: str, revision: str, kind: Kind = "models") -> Path | None:
    """Return the cached folder of a repository at a branch, tag or commit; None if it is not cached."""
    repository = _repository(name, kind)
    commit: str | None = revision
    if not _COMMIT.fullmatch(revision):
        commit = _first_word(repository / "refs" / revision)
    folder = repository / "snapshots" / commit if commit else None
    return folder if folder and is_folder(folder) else None


def is_dataset_cached(name: str) -> bool:
    """True if a hub dataset is in one of the caches, in any revision."""
    return is_downloaded(name, "datasets") or is_folder(_read_dataset(name))


def cached_split_rows(name: str, subset: str | None, split: str) -> int | None:
    """Return the number of rows of a split that `datasets` has prepared; None if it is not known.

    Args:
        name: hub id.
        subset: configuration; None for the only one in the cache.
        split: name of the split, such as `train`.
    """
    folder = _read_dataset(name)
    try:
        configurations = [folder / subset] if subset else [path for path in folder.iterdir() if path.is_dir()]
        if len(configurations) != 1:
            return None
        found = sorted(configurations[0].glob("*/*/dataset_info.json"), key=lambda path: path.stat().st_mtime)
        info = read_json(found[-1], UsageError) if found else {}
        count = info["splits"][split]["num_examples"]
    except (OSError, ValueError, UsageError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _read_dataset(name: str) -> Path:
    """Return the folder of a dataset in the cache of `datasets`."""
    *owner, last = name.split("/")
    parted = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last))
    return datasets_cache() / "___".join([*owner, parted.lower()])


def _first_word(file: Path) -> str | None:
    """Return the commit in a reference file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")[:100].strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None
