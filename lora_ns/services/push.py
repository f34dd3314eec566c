"""Pushing an artefact that is the trained model to the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError, Problem, RunError, UsageError, first_line
from lora_ns.exports.lineage import REPORT
from lora_ns.files.reading import is_file, is_folder, read_json
from lora_ns.run.observer import Observer, SilentObserver

_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"

_REFUSED = {
    401: ("the hub does not know who you are, or does not show you this repository", _LOG_IN),
    403: ("your token may not write there", _LOG_IN),
    404: ("there is no such repository or owner, or your token may not see it", _LOG_IN),
    409: ("someone else wrote to the repository meanwhile", "run the command again"),
    413: ("the hub refuses files of this size", "export it again with a smaller `--max-shard-size`"),
}
"""What an answer of the hub means, and the remedy, by HTTP status."""

_AGAIN = "run the command again: what has arrived is not sent again"

_STALE = ["*.safetensors", "*.safetensors.index.json", "*.bin"]
"""Weights that the repository has and the artefact has not are removed: a reader may prefer them."""


@dataclass(frozen=True)
class PushResult:
    """The result of `lorans push`."""

    url: str
    commit: str
    files: int
    size: int
    """Bytes of all files."""
    private: bool


def push(folder: Path, repo: str, public: bool = False, observer: Observer | None = None) -> PushResult:
    """Push an exported folder to a repository of models, which is created as a private one if it is not there.

    Args:
        folder: a folder of `lorans export`, whose report says that it is the trained model.
        repo: the repository, as OWNER/NAME.
        public: whether the repository may be public; a new one then is.
        observer: receives the stages.

    Raises:
        UsageError: if the folder is not verified, or the hub refuses it.
        RunError: if the connection breaks, or the hub fails. Files that have arrived are not sent again.
    """
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE

    observer = observer or SilentObserver()
    if not _NAME.fullmatch(repo):
        raise UsageError(Problem("", f"`{repo}` is no repository", "write OWNER/NAME"))
    report = _verified(folder)
    if HF_HUB_OFFLINE:
        raise UsageError(Problem("HF_HUB_OFFLINE", "forbids any connection to the hub", "unset it"))
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    api, size = huggingface_hub.HfApi(), sum(file.stat().st_size for file in files)
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        is_private = bool(api.repo_info(repo).private)
        if not is_private and not public:
            raise UsageError(Problem(repo, "is a public repository", "add `--public`, or choose another"))
        observer.stage(f"sending {len(files):,} files ({size / 1e9:,.2f} GB)")
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"{report['kind']} of lorans run {report['run_id']}",
            ignore_patterns=[".*"],
            delete_patterns=_STALE,
        )
        there = set(api.list_repo_files(repo))
    except LoransError:
        raise
    except Exception as error:
        raise _told(repo, error) from error
    names = {str(file.relative_to(folder)) for file in files}
    if missing := sorted(names - there):
        raise RunError(Problem(repo, f"{missing[0]} did not arrive", _AGAIN))
    return PushResult(f"{api.endpoint}/{repo}", str(done.oid), len(files), size, is_private)


def _verified(folder: Path) -> dict[str, Any]:
    """The report of a folder. Raises `UsageError` if it does not say that this is the trained model."""
    if not is_folder(folder):
        raise UsageError(Problem(str(folder), "is no folder", "name a folder that `lorans export` wrote"))
    if not is_file(folder / REPORT):
        what = f"has no {REPORT}, so it is not known whether it is the trained model"
        raise UsageError(Problem(str(folder), what, "write it with `lorans export RUN --to plain` or `--to merged`"))
    report = read_json(folder / REPORT)
    if not isinstance(report, dict) or report.get("verified") is not True:
        what = "is not the trained model, as its report says"
        raise UsageError(Problem(str(folder / REPORT), what, "export it again"))
    return {"kind": "artefact", "run_id": "unknown", **report}


def _told(repo: str, error: Exception) -> LoransError:
    """An error of the hub or the connection as a `LoransError`. Anything else is raised as it is."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return UsageError(Problem(repo, "you are not logged in", _LOG_IN))
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in _REFUSED:
            what, remedy = _REFUSED[status]
            return UsageError(Problem(repo, f"{what} (HTTP {status})", remedy))
        return RunError(Problem(repo, f"the hub answers with HTTP {status}: {first_line(error)}", _AGAIN))
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return _told(repo, error.__cause__)
    if isinstance(error, HfHubHTTPError.__bases__):  # the errors of its HTTP client, and OSError
        return RunError(Problem(repo, f"the connection broke: {first_line(error)}", _AGAIN))
    raise error
