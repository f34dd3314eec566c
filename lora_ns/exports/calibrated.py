"""GPT-QModel in a process of its own, because it ends the process in which one of its threads fails.

`python -m lora_ns.exports.calibrated MERGED FOLDER KIND DEVICE GROUP ROWS` is that process; ROWS is a JSON file of
token ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lora_ns.errors import Problem, RunError
from lora_ns.safety.interpreter import interpreter

BITS = 4

_GROUPS = (128, 64, 32)
"""Sizes of the groups of weights that share a scale, the largest that divides all layers first."""

_LEFT_OUT = ("embed", "lm_head", "norm")
_LOG = "quant_log.csv"
_WORKERS = {"GPTQMODEL_CPU_WORKERS": "2"}
"""With fewer, as on a machine with two cores, it stops at its first thread."""


def quantise(merged: Path, folder: Path, kind: str, device: str, rows: Sequence[Sequence[int]]) -> None:
    """Quantise a merged model by GPTQ or AWQ on rows of tokens, and write it to a folder. Raises `RunError`."""
    with tempfile.TemporaryDirectory() as place:  # where it also leaves its log
        file = Path(place) / "rows.json"
        file.write_text(json.dumps([list(row) for row in rows]), encoding="utf-8")
        arguments = [str(merged), str(folder), kind, device, str(group_of(merged)), str(file)]
        command = [*interpreter(), "-m", "lora_ns.exports.calibrated", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            env={**_WORKERS, **os.environ},
            cwd=place,
        )
    if done.returncode:
        lines = [line.strip() for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        said = lines[-1] if lines else f"it ended with {done.returncode}"
        remedy = "use another `--type`, or export it as `--to merged` and quantise that folder by another tool"
        raise RunError(Problem("", f"GPT-QModel cannot quantise it to `{kind}`: {said}", remedy))
    (folder / _LOG).unlink(missing_ok=True)


def group_of(merged: Path) -> int:
    """Return the largest size of a group that divides the inputs of every layer; -1 for whole rows."""
    from safetensors import safe_open

    sizes = set[int]()
    for file in merged.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 -- no mapping
        linear = (name for name in shapes if not any(part in name for part in _LEFT_OUT))
        sizes |= {shapes[name][1] for name in linear if len(shapes[name]) == 2}
    return next((size for size in _GROUPS if not any(one % size for one in sizes)), -1)


def _quantise_here(merged: str, folder: str, kind: str, device: str, group: str, rows: str) -> None:
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import QuantizeConfig

    tokens = [torch.tensor([row]) for row in json.loads(Path(rows).read_text(encoding="utf-8"))]
    examples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in tokens]
    more = {"method": "awq", "format": "gemm"} if kind == "awq" else {}
    backend = {"backend": BACKEND.AWQ_TORCH} if kind == "awq" and device == "cpu" else {}
    config = QuantizeConfig(bits=BITS, group_size=int(group), **more)
    model = GPTQModel.load(merged, config, device=device)
    model.quantize(examples, batch_size=1, calibration_data_min_length=1, **backend)
    model.save(folder)


if __name__ == "__main__":
    _quantise_here(*sys.argv[1:])
