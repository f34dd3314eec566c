"""Run directories written by hand: what the commands that look at runs read, without a training."""

import json
import math
from pathlib import Path


def manifest(name="run", status="finished", **changes):
    """The values of a manifest that tables, comparisons and displays read."""
    table = {
        "version": 2,
        "lorans": "0.1.0",
        "run_id": name,
        "status": status,
        "created": "2026-01-02T03:04:05+00:00",
        "updated": "2026-01-02T03:05:05+00:00",
        "recipe": {
            "task_name": "task",
            "task_type": "CAUSAL_LM",
            "peft": {"method": "lora", "lora_r": 16},
            "training": {"output_dir": f"/runs/{name}", "learning_rate": 1e-4, "extra": {}},
            "objective": {"table": "sft", "packing": False},
        },
        "overrides": [],
        "plan": {
            "max_steps": {"value": 100, "origin": "computed"},
            "objective": {"value": "sft", "origin": "recipe"},
            "memory_bytes": {"value": 10**9, "origin": "computed"},
        },
        "base": {"name": "owner/base", "fingerprint": "f" * 64},
        "data": {"format": "messages", "train": {"source": "rows.jsonl", "sha256": "a" * 64, "rows": 64}},
        "packages": {"torch": "2.13.0"},
        "machine": {"cores": 2, "available_bytes": 1},
        "metrics": {},
        "error": None,
    }
    return table | changes


def rows(count=100, rate=1.0, eval_every=25, since=0.0):
    """Logged rows: a loss that falls, and evaluations."""
    for step in range(1, count + 1):
        clock = {"num_input_tokens_seen": 100 * step, "train_runtime": since + 2.0 * step}
        yield {"step": step, "loss": 4 * math.exp(-rate * step / 50) + 0.5, "epoch": step / 50, **clock}
        if step % eval_every == 0:
            yield {"step": step, "eval_loss": 4 * math.exp(-rate * step / 50) + 0.6}


def write_run(folder, table=None, logged=(), recipe='task_name = "task"\n[training]\nlearning_rate = 1e-4\n', log=""):
    """Write a run directory and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    text = table if isinstance(table, str) else json.dumps(table or manifest(folder.name))
    (folder / "manifest.json").write_text(text)
    (folder / "recipe.toml").write_text(recipe)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in logged))
    (folder / "train.log").write_text(log)
    return folder


def write_evaluation(run, scores, number=1, name="exact_match", suite="exact match", figure=None):
    """Write an evaluation of a run with these scores of the adapter, one for each item; returns its folder."""
    folder = Path(run) / "evaluations" / str(number)
    folder.mkdir(parents=True)
    mean = sum(scores) / len(scores)
    figures = {name: {"adapter": figure or {"value": mean, "low": mean - 0.1, "high": mean + 0.1}}}
    whole = {"items": len(scores), "figures": figures, "contests": []}
    made = {"name": suite, "kind": name, "whole": whole, "groups": {}, "shares": [name], "lower_is_better": []}
    (folder / "results.json").write_text(json.dumps({"created": "2026-01-02T03:04:05+00:00", "suites": [made]}))
    items = (
        {"suite": suite, "item": f"rows.jsonl:{place}", "question": f"q{place}", "scores": {"adapter": {name: score}}}
        for place, score in enumerate(scores)
    )
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return folder


HOSTILE = '<script>alert(1)<script>&"\x1b[31m\u202e'
"""A name of a run with markup, a terminal escape and a reversed text direction."""


def is_inert(text):
    """True if a page shows hostile text instead of running it."""
    return "<script>alert" not in text and "<img" not in text and "\x1b" not in text and "\u202e" not in text
