"""Run directories as training leaves them, written without training."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from minimal_recipe import MINIMAL
from plans import plan_of

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BaseRecord, DataRecord, Manifest, SealRecord, SourceRecord

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)

LABELS = """\
task_name = "labels"
task_type = "SEQ_CLS"
[model]
name_or_path = "lorans:nano"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
[classification]
max_seq_length = 64
"""


def falling(steps: int = 40) -> list[dict[str, Any]]:
    """The rows of a healthy training: the loss falls from 3, and the evaluation loss with it."""
    rows: list[dict[str, Any]] = [{"step": 0, "eval_loss": 3.0}]
    for step in range(1, steps + 1):
        rows.append(
            {
                "step": step,
                "loss": 3 * math.exp(-step / 10) + 0.02 * (step % 3),
                "grad_norm": 1.0 + step % 2,
                "learning_rate": 1e-3 * (1 - step / steps),
                "num_input_tokens_seen": 100 * step,
                "train_runtime": 0.5 * step,
                "memory_bytes": 10**9 + step,
            }
        )
    return [*rows, {"step": steps, "eval_loss": 0.2}]


def suite(verdict: str = "better", before: float = 0.2, after: float = 0.8) -> dict[str, Any]:
    """The record of a suite in `results.json`."""
    figures = {"exact_match": {name: {"value": value, "low": value - 0.1, "high": value + 0.1}
                               for name, value in (("after", after), ("before", before))}}  # fmt: skip
    contest = {
        "figure": "exact_match", "system": "after", "against": "before", "difference": after - before,
        "low": after - before - 0.1, "high": after - before + 0.1, "p_value": 1e-6, "test": "exact McNemar",
        "wins": 60, "ties": 40, "losses": 0, "smallest": 0.1, "verdict": verdict, "reason": "",
    }  # fmt: skip
    whole = {"items": 100, "figures": figures, "contests": [contest]}
    return {"name": "exact-match", "kind": "exact_match", "whole": whole, "groups": {}, "shares": ["exact_match"]}


def add_evaluation(run: RunDir, suites: list[dict[str, Any]], items: list[dict[str, Any]] | None = None) -> None:
    folder = run.evaluations / "1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"created": "2026-01-01T01:00:00+00:00", "suites": suites}))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items or []))


def write_reported_run(
    folder: Path,
    logged: list[dict[str, Any]] | None = None,
    recipe: str = MINIMAL,
    status: str = "finished",
    **fields: Any,
) -> RunDir:
    file = folder / "recipe.toml"
    file.write_text(recipe)
    loaded = load_recipe(file, ["training.seed=7"])
    rows = SourceRecord(source="rows.jsonl", sha256="0" * 64, rows=100, tokens=1000, trained_tokens=300)
    manifest = Manifest(
        run_id="20260101-000000-abcdef01",
        created="2026-01-01T00:00:00+00:00",
        updated="2026-01-01T00:00:00+00:00",
        recipe=loaded.recipe,
        overrides=loaded.overrides,
        plan=plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(100, 10)),
        base=BaseRecord(name="a/b", path="/b", commit=None, fingerprint="f", tokenizer_fingerprint="t", parameters=1),
        data=DataRecord(format="messages", columns={}, train=rows, eval=rows),
        seed=7,
    )
    run = RunDir(folder / "run")
    run.create(recipe, manifest)
    seal = SealRecord(rows=4, largest_difference=0.0, adapter_effect=0.5) if status == "finished" else None
    run.update(status=status, **{"seal": seal, **fields})
    given = falling() if logged is None else logged
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in given))
    return run
