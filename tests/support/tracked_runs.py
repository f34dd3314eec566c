"""Runs as their files show them to trackers, without training."""

import json
from pathlib import Path
from types import SimpleNamespace

from minimal_recipe import MINIMAL
from plans import plan_of

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BaseRecord, DataRecord, Manifest, SourceRecord

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)


def make_run(folder: Path, *overrides: str) -> RunDir:
    """A run in training that has no rows yet."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(MINIMAL)
    loaded = load_recipe(folder / "recipe.toml", overrides)
    manifest = Manifest(
        run_id="20260101-000000-abcdef01",
        created="2026-01-01T00:00:00+00:00",
        updated="2026-01-01T00:00:00+00:00",
        status="running",
        recipe=loaded.recipe,
        plan=plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(100, 10)),
        base=BaseRecord(
            name="a/b", path="/cache/b", commit=None, fingerprint="f", tokenizer_fingerprint="t", parameters=1
        ),
        data=DataRecord(format="messages", columns={}, train=SourceRecord(source="a.jsonl", sha256="0", rows=100)),
        seed=7,
    )
    run = RunDir(folder / "run")
    run.create("# as written\n", manifest)
    return run


def write_rows(run: RunDir, rows) -> None:
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
