"""The caches of the Hugging Face Hub as folders: where they are and what they hold, without importing its libraries.

The layout is that of `huggingface_hub` (`models--owner--name/snapshots/COMMIT`) and of `datasets`
(`owner___name/CONFIG/VERSION/COMMIT`); the environment variables are theirs, too.
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
"""As `huggingface_hub.utils.validate_repo_id` has it."""


# Where


def hub_home() -> Path:
    """The folder of all that the hub's libraries keep."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(os.environ.get("HF_HOME") or f"{cache}/huggingface")


def hub_cache() -> Path:
    """The folder of repositories as they were fetched, models and datasets."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hub_home() / "hub"


def datasets_cache() -> Path:
    """The folder of datasets as `datasets` has read them."""
    named = os.environ.get("HF_DATASETS_CACHE")
    return _expanded(named) if named else hub_home() / "datasets"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def offline_variable(kind: Kind = "models") -> str | None:
    """The environment variable that forbids to reach the hub; None if it may be reached."""
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
    if kind == "datasets" and "HF_DATASETS_OFFLINE" in os.environ:
        names = ["HF_DATASETS_OFFLINE"]
    # The first one that says something decides, also where it says no.
    decides = next((name for name in names if os.environ.get(name)), None)
    return decides if decides and os.environ[decides].upper() in _TRUE else None


# What


def is_hub_id(name: str) -> bool:
    """Whether a repository of the hub can have this name: `name` or `owner/name`."""
    return bool(_HUB_ID.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def cached_snapshot(name: str, revision: str, kind: Kind = "models") -> Path | None:
    """The folder with the files of a repository at a branch, tag or commit; None if it is not in the cache."""
    repository = hub_cache() / f"{kind}--{name.replace('/', '--')}"
    commit: str | None = revision
    if not _COMMIT.fullmatch(revision):
        commit = _first_word(repository / "refs" / revision)
    folder = repository / "snapshots" / commit if commit else None
    return folder if folder and is_folder(folder) else None


def is_dataset_cached(name: str) -> bool:
    """Whether a dataset of the hub is in one of the caches, in any revision."""
    fetched = hub_cache() / f"datasets--{name.replace('/', '--')}" / "snapshots"
    return is_folder(fetched) or is_folder(_read_dataset(name))


def cached_split_rows(name: str, subset: str | None, split: str) -> int | None:
    """Rows of a split of a dataset as `datasets` read it last; None if it has not, or does not say.

    Args:
        name: hub id.
        subset: the configuration; if None, the only one that is there.
        split: such as `train`.
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
    """The folder that `datasets` keeps a dataset in."""
    *owner, last = name.split("/")
    parted = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last))
    return datasets_cache() / "___".join([*owner, parted.lower()])


def _first_word(file: Path) -> str | None:
    """The commit that a reference stands for."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")[:100].strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None
