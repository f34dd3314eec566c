"""The child side of `lorans env-check`: programs whose imports may raise, hang or abort.

The parent starts `main` and reads one JSON object per line. Standard output is redirected before the first import,
because libraries print to it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any

_HUB_SECONDS = 5.0


_MATRIX_ROWS = 64


def main(name: str, arguments: Sequence[str], timeout_s: float) -> None:
    """Run one program and write its results. At the time limit, write the traceback and end the process."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as results:
        os.dup2(2, 1)
        PROGRAMS[name](_Results(results, timeout_s), arguments)


class _Results:
    """Writer of results to the parent."""

    def __init__(self, file: IO[str], timeout_s: float) -> None:
        self._file = file
        self._timeout_s = timeout_s

    def attempt(self, name: str, action: Callable[[], Mapping[str, Any] | None]) -> None:
        """Write a start record, run the action under the time limit, and write its result."""
        self._write({"begin": name})
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._file)
        try:
            facts = action() or {}
        except BaseException as error:  # SystemExit too: a library must not end the process
            self._write({"end": name, "error": last_line(error)})
        else:
            self._write({"end": name, "facts": facts})
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def last_line(error: BaseException) -> str:
    """Return the type of an error and the last non-empty line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _imports(results: _Results, modules: Sequence[str]) -> None:
    """Import modules in turn; `trl:SFTTrainer` also reads the name, because some packages import lazily."""
    for module in modules:
        results.attempt(module, partial(_import, module))


def _import(module: str) -> None:
    name, _, attribute = module.partition(":")
    imported = importlib.import_module(name)
    if attribute:
        getattr(imported, attribute)


def _torch(results: _Results, attempts: Sequence[str]) -> None:
    """Test `torch`, and `nf4` if bitsandbytes is installed, in one process so that torch is imported once."""
    for name, action in (("torch", _torch_facts), ("nf4", _nf4_facts)):
        if name in attempts:
            results.attempt(name, action)


def _torch_facts() -> dict[str, Any]:
    """Report torch's build, and a computation on every device that it sees."""
    import torch

    facts: dict[str, Any] = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "devices": [],
        "cuda_error": "",
        "arch_list": [],
    }
    if torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            facts["arch_list"] = torch.cuda.get_arch_list()
            facts["devices"] = [_cuda_device(index) for index in range(torch.cuda.device_count())]
        except (RuntimeError, AssertionError) as error:
            facts["cuda_error"] = last_line(error)
    return facts


def _cuda_device(index: int) -> dict[str, Any]:
    """Report one CUDA device and test it with a matrix product."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16
    error = ""
    try:
        square = torch.ones(_MATRIX_ROWS, _MATRIX_ROWS, dtype=dtype, device=f"cuda:{index}")
        total = (square @ square).float().sum().item()
        if total != _MATRIX_ROWS**3:
            error = f"a product of ones is {total:g} instead of {_MATRIX_ROWS**3}"
    except RuntimeError as failure:
        error = last_line(failure)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": capability,
        "error": error,
    }


def _nf4_facts() -> dict[str, Any]:
    """Quantise a matrix to 4 bits and back, and return the largest error relative to the largest weight."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(_MATRIX_ROWS, _MATRIX_ROWS, generator=generator).to(device)
    restored = dequantize_4bit(*quantize_4bit(weights, quant_type="nf4"))
    error = float((restored - weights).abs().max() / weights.abs().max())
    return {"error": error, "device": device}


def _hub(results: _Results, endpoint: Sequence[str]) -> None:
    results.attempt("hub", partial(_hub_facts, endpoint[0]))


def _hub_facts(endpoint: str) -> dict[str, Any]:
    """Request the hub's front page; any HTTP response counts."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS) as response:
            return {"status": response.status}
    except urllib.error.HTTPError as answer:
        return {"status": answer.code}
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason)) from error


PROGRAMS: Mapping[str, Callable[[_Results, Sequence[str]], None]] = {
    "imports": _imports,
    "torch": _torch,
    "hub": _hub,
}
"""Programs that the parent can run, by name."""
