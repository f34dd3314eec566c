"""Settings, output and versions of the heavy libraries (torch, transformers, PEFT and others)."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType

from lora_ns.errors import MissingError, Problem
from lora_ns.files.disk import telling_disk_errors
from lora_ns.files.shortage import exhaustion
from lora_ns.files.temporary import temporary_file
from lora_ns.machine import garbage
from lora_ns.machine.builds import end_abandoned_builds
from lora_ns.machine.hardware import TRAINING_PYTHON, Machine
from lora_ns.machine.without_torch import without_torch
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.safety.printable import make_file_readable

_ALWAYS = (
    *("accelerate", "bitsandbytes", "datasets", "gguf", "huggingface_hub", "peft", "safetensors", "tokenizers"),
    *("torch", "transformers", "trl"),
)


PACKAGES = tuple(sorted({*_ALWAYS, *(name for kind in QUANTIZATIONS.values() for name in kind.packages)}))
"""Packages whose versions the manifest records."""


_SETTINGS = {
    "DATASETS_VERBOSITY": "warning",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def prepare(machine: Machine, processes: int = 1) -> None:
    """Set up the libraries before their first import: no telemetry, no progress bars, one GPU, all cores.

    Args:
        machine: the resources to train with.
        processes: number of processes that train together. Each of several sees all GPUs and gets its share of the
            cores.

    Raises:
        MissingError: if torch or a library that builds on it is not installed.
    """
    os.environ.update(_SETTINGS)
    if processes == 1 and len(machine.gpus) > 1 and "torch" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with _telling_missing(), garbage.paused():
        import peft  # noqa: F401
        import torch
        import transformers
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call, unused-ignore]
    garbage.collect_as_usual()
    end_abandoned_builds()
    if not machine.gpus:
        torch.set_num_threads(max(1, machine.cores // processes))


def prepare_tokenizers() -> None:
    """Set up transformers for its tokenizers alone, without torch, in a process that never loads a model.

    Raises:
        MissingError: if transformers is not installed.
    """
    os.environ.update(_SETTINGS)
    with _telling_missing(), garbage.paused(), without_torch():
        import transformers
        from transformers import AutoTokenizer  # noqa: F401
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call, unused-ignore]


@contextlib.contextmanager
def _telling_missing() -> Iterator[None]:
    """Turn the failed import of a library into a `MissingError`."""
    try:
        yield
    except ImportError as error:
        if exhaustion(error):
            raise
        what = f"`{error.name or error}` cannot be imported"
        remedy = "`pip install lora-ns`; `lorans env-check` shows the cause"
        if sys.version_info < TRAINING_PYTHON:
            remedy = "transformers and trl need Python 3.11 or later: install lora-ns in such an environment"
        raise MissingError(Problem("", what, remedy)) from None


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that influence a result."""
    found = {package: version for package in PACKAGES if (version := _version(package))}
    return {**found, "python": sys.version.split()[0]}


@functools.cache
def _version(package: str) -> str | None:
    """Return a package's version, cached for the life of the process because reading metadata is slow."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Noise:
    """Output, logs and warnings of the libraries, collected in a file instead of on the screen.

    It redirects the file descriptors, so that it also catches output of native code. Until `attach`, it collects in a
    temporary file.
    """

    def __init__(self) -> None:
        self._saved: tuple[int, int] | None = None
        self._file, self._path = _temporary_file()
        self._attached = False
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> Noise:
        _flush()
        self._saved = (os.dup(1), os.dup(2))
        self._redirect()
        self._filters.__enter__()
        warnings.simplefilter("default")
        logging.captureWarnings(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _flush()
        logging.captureWarnings(False)
        self._filters.__exit__(kind, error, trace)
        if self._saved:
            os.dup2(self._saved[0], 1)
            os.dup2(self._saved[1], 2)
            os.close(self._saved[0])
            os.close(self._saved[1])
        self._file.close()
        if not self._attached:
            self._path.unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError):  # the folder may be gone, which is reported elsewhere
                make_file_readable(self._path)

    def attach(self, path: Path) -> None:
        """Move the output so far to this file and continue there. Raises `RunError` if it cannot be written."""
        _flush()
        collected = self._path.read_bytes()
        with telling_disk_errors(path):
            file = path.open("ab", buffering=0)
            file.write(collected)
        self._path.unlink()
        self._file.close()
        self._file = file
        self._path, self._attached = path, True
        self._redirect()

    def detach(self) -> None:
        """Collect in a temporary file again, because the attached file is about to go away."""
        if not self._attached:
            return
        _flush()
        self._file.close()
        self._file, self._path = _temporary_file()
        self._attached = False
        self._redirect()

    def _redirect(self) -> None:
        """Point stdout and stderr at the file, once the originals are saved."""
        if self._saved:
            os.dup2(self._file.fileno(), 1)
            os.dup2(self._file.fileno(), 2)

    @property
    def terminal(self) -> int:
        """Descriptor of the original standard error, for output that must still reach the terminal."""
        return self._saved[1] if self._saved else 2


def _temporary_file() -> tuple[FileIO, Path]:
    with telling_disk_errors(Path(tempfile.gettempdir())):
        handle, path = temporary_file(".log")
    return os.fdopen(handle, "ab", buffering=0), path


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
