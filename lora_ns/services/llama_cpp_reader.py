"""llama.cpp itself as a second reader of a GGUF file, through llama-cpp-python, where that is installed."""

from __future__ import annotations

import atexit
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.answers.probes import Probe, Reply
from lora_ns.errors import ModelError, Problem, first_line

_FACTOR = 2.0
"""Its bound in bounds of the file: llama.cpp rounds the inputs of layers as it rounds their weights."""

_FLOAT32 = 0
"""ggml's number of the type. By default, llama.cpp keeps keys and values in float16."""


def is_installed() -> bool:
    """True if llama-cpp-python can be found."""
    return importlib.util.find_spec("llama_cpp") is not None


@dataclass(frozen=True)
class LlamaCppReader:
    """A model in a GGUF file, with an adapter or without."""

    model: Path
    adapter: Path | None
    bound: float
    """Largest difference of two logits that rounding explains."""
    has_same_tokens: bool
    texts: Sequence[tuple[str, list[int], bool]]
    """Texts with their tokens, and whether special tokens are added."""

    @property
    def name(self) -> str:
        """llama.cpp with the version of its binding."""
        return f"llama.cpp {_binding().__version__}"

    def other_ids(self) -> tuple[str, list[int], list[int]] | None:
        """Return the first text with other tokens than it should have, those, and what it has."""
        with self._opened(8) as opened:
            for text, expected, is_whole in self.texts:
                found = list(opened.tokenize(text.encode(), add_bos=is_whole, special=True))
                if found != expected:
                    return text, expected, found
        return None

    def ask(self, probes: Sequence[Probe]) -> list[Reply]:
        """Return the answers, computed with keys and values in float32. Raises `ModelError` if it cannot be loaded."""
        import torch

        rows = [list(probe.inputs["input_ids"]) for probe in probes]
        replies = []
        with self._opened(max(map(len, rows))) as opened:
            for row in rows:
                opened.reset()
                opened.eval(row)
                logits = torch.from_numpy(opened.scores[: len(row)].copy())
                replies.append(Reply(logits[-1].clone(), tuple(logits.argmax(-1).tolist())))
        return replies

    @contextmanager
    def _opened(self, length: int) -> Iterator[Any]:
        """The model with room for so many tokens, on as many threads as torch."""
        import torch

        threads = torch.get_num_threads()
        adapter = {} if self.adapter is None else {"lora_path": str(self.adapter)}
        try:
            opened = _binding().Llama(
                str(self.model),
                n_ctx=length,
                n_batch=length,
                n_threads=threads,
                n_threads_batch=threads,
                logits_all=True,
                verbose=False,
                type_k=_FLOAT32,
                type_v=_FLOAT32,
                **adapter,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(Problem(str(self.model), f"llama.cpp does not load it: {first_line(error)}", "")) from None
        try:
            yield opened
        finally:
            opened.close()


def reader_of(
    model: Path,
    bound: float,
    has_same_tokens: bool,
    texts: Sequence[tuple[str, list[int], bool]],
    adapter: Path | None = None,
) -> LlamaCppReader:
    """Return the reader of a file whose own bound is known."""
    return LlamaCppReader(model, adapter, _FACTOR * bound, has_same_tokens, texts)


@functools.cache
def _binding() -> Any:
    """The module of llama-cpp-python. Raises `ModelError` if it is there and broken."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        what = f"llama-cpp-python cannot be imported: {first_line(error)}"
        raise ModelError(Problem("", what, "install it again, or uninstall it")) from None
    for name in ("outnull_file", "errnull_file"):  # it leaves them open, which Python would warn of at the end
        if file := getattr(getattr(llama_cpp, "_utils", None), name, None):
            atexit.register(file.close)
    return llama_cpp
