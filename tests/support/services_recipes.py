"""Recipes for runs on the embedded base, and a function that runs one."""

import json
import os
from pathlib import Path

from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.resume import resume
from lora_ns.services.train import train

RECIPE = """\
task_name = "task"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "lorans:quickstart/train.jsonl"
eval_path = "lorans:quickstart/eval.jsonl"
format = "messages"
max_samples = 64
max_eval_samples = 8
[training]
output_dir = "run"
max_steps = 6
global_batch_size = 8
learning_rate = 5e-3
[sft]
max_seq_length = 128
"""

CLASSES = """\
task_name = "classes"
task_type = "SEQ_CLS"
[model]
name_or_path = "lorans:nano"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "classes.jsonl"
eval_path = "classes.jsonl"
[training]
output_dir = "run"
max_steps = 30
save_steps = 30
eval_steps = 30
global_batch_size = 16
learning_rate = 5e-3
[classification]
max_seq_length = 64
"""


def class_rows() -> list[dict[str, object]]:
    words = ["plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint"]
    upper = [{"text": word.upper(), "label": "loud"} for word in words]
    return [row for word, loud in zip(words, upper, strict=True) for row in ({"text": word, "label": "quiet"}, loud)]


def interrupt(run: RunDir, last: int) -> None:
    """Reset a finished run to its state before the last checkpoint."""
    run.update(status="interrupted")
    (run.checkpoints / f"checkpoint-{last}").rename(run.path / "later")


def resumed(run: RunDir, observer: Observer | None = None, count: int | None = None) -> None:
    """Resume an interrupted run, with so many processes if the number changes."""
    with Noise() as noise:
        resume(run, observer or SilentObserver(), noise, count=count)


def check_resumes_to_the_same_bits(run: RunDir, last: int) -> None:
    """Check that a run, reset to before its last checkpoint and resumed, saves the same adapter as before."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(run.adapter / WEIGHTS)
    interrupt(run, last)
    resumed(run)
    found = load_file(run.adapter / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def run_recipe(folder: Path, text: str, *overrides: str, observer: Observer | None = None) -> RunDir:
    (folder / "recipe.toml").write_text(text)
    (folder / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in class_rows()))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with Noise() as noise:
            result = train(load_recipe(folder / "recipe.toml", overrides), observer or SilentObserver(), noise)
    finally:
        os.chdir(before)
    return RunDir.open(Path(result.run))
