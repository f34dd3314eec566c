"""Operators and synchronisations of one training step, against a bare loop over the same adapter.

Counts do not depend on the machine, and hold for a GPU as far as its step dispatches the same operators: there, time
between kernels is most of a step (see docs/performance.md). A synchronisation is an operator whose result the host
waits for, such as `.item()` or an index by a mask.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise, prepare
from lora_ns.model.files import find_base
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import Observer
from lora_ns.services.train import train

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")
RECIPE = """\
task_name = "counts"
task_type = "CAUSAL_LM"
[model]
name_or_path = {model}
dtype = "{dtype}"
[peft]
method = "lora"
lora_r = 16
[dataset]
path = "lorans:quickstart/train.jsonl"
max_samples = 256
[training]
output_dir = "{output}"
max_steps = 12
global_batch_size = 16
per_device_train_batch_size = {micro}
logging_steps = 100
save_steps = 100
[sft]
max_seq_length = 128
packing = {packing}
"""


class Counting(Observer):
    """Counts the operators of one step in the middle of a run, and times the steps before it."""

    def __init__(self, step: int) -> None:
        self.at, self.trainer, self.batches = step, None, []
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    def ready(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        counting = self

        class Counter(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
                self.began = time.thread_time()
                if state.global_step == counting.at:
                    self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
                    self.profile.__enter__()

            def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
                counting.seconds.append(time.thread_time() - self.began)
                if state.global_step == counting.at + 1:
                    self.profile.__exit__(None, None, None)
                    counting.counts = counted(self.profile)

        trainer.add_callback(Counter())
        self.trainer = trainer


def counted(profile: Any) -> collections.Counter[str]:
    """Count the operators that call no other operator, which are the launches of a GPU, by name."""
    found: collections.Counter[str] = collections.Counter()
    for event in profile.events():
        is_leaf = event.name.startswith("aten::") and not any(c.name.startswith("aten::") for c in event.cpu_children)
        found["operators"] += event.name.startswith("aten::")
        if is_leaf and event.name.removeprefix("aten::") not in NO_LAUNCH:
            found["launches"] += 1
            found[event.name.removeprefix("aten::")] += 1
    return found


NO_LAUNCH = frozenset(
    {
        *("view", "as_strided", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "permute"),
        *("reshape", "_unsafe_view", "empty", "empty_like", "empty_strided", "detach", "detach_", "result_type"),
        *("alias", "unbind", "split", "split_with_sizes", "chunk", "narrow", "resize_", "set_", "to", "lift_fresh"),
        *("unfold", "resolve_conj", "resolve_neg", "numpy_T", "is_same_size", "item", "_has_same_storage_numel"),
    }
)


def lorans(folder: Path, recipe: str) -> Counting:
    """Train with lorans, and count a step that does not log."""
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    counting = Counting(step=6)
    with Noise() as noise:
        train(load_recipe(folder / "recipe.toml", []), counting, noise=noise, overwrite=True)
    return counting


def bare(model_name: str, dtype: str, micro: int, trainer: Any) -> Counting:
    """Train the same adapter in a loop of ten lines, on rows of the same run, and count a step."""
    import peft
    import transformers

    kind = getattr(torch, dtype)
    base = transformers.AutoModelForCausalLM.from_pretrained(model_name, dtype=kind)
    model = peft.get_peft_model(base, peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rows = [trainer.train_dataset[number] for number in range(16)]
    batches = [trainer.data_collator(rows[start : start + micro]) for start in range(0, 16, micro)]
    found = Counting(step=0)
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    for step in range(5):
        with profile if step == 3 else contextlib.nullcontext():
            began = time.thread_time()
            for batch in batches:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is not torch.float32):
                    loss = model(**batch, use_cache=False).loss / len(batches)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            found.seconds.append(time.thread_time() - began)
    found.counts = counted(profile)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lorans:nano", help="folder of a causal language model")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--names", action="store_true", help="also print the operators that differ")
    given = parser.parse_args()
    prepare(detect())
    path = find_base(given.model, "main", [], download=False).path
    print(f"{'settings':<34} {'':<8} {'operators':>9} {'launches':>9} {'waits':>6} {'Python, ms':>11}")
    figures = []
    for dtype, micro, packing in itertools.product(("float32", "bfloat16"), (16, 4), ("false", "true")):
        if packing == "true" and micro != 16:
            continue
        with tempfile.TemporaryDirectory() as name:
            recipe = RECIPE.format(
                model=json.dumps(given.model), dtype=dtype, micro=micro, packing=packing, output=f"{name}/run"
            )
            ours = lorans(Path(name), recipe)
            theirs = bare(str(path), dtype, micro, ours.trainer)
        settings = f"{dtype}, {16 // micro} micro-batches" + (", packed" if packing == "true" else "")
        both = {"lorans": ours, "bare": theirs}
        for who, found in both.items():
            waits = sum(found.counts[name] for name in WAITS)
            seconds = sorted(found.seconds)[len(found.seconds) // 2]
            figures.append({"settings": settings, "who": who, "waits": waits, **found.counts})
            counts = f"{found.counts['operators']:>9,} {found.counts['launches']:>9,} {waits:>6}"
            print(f"{settings:<34} {who:<8} {counts} {1e3 * seconds:>11.1f}", flush=True)
        ratio = ours.counts["launches"] / theirs.counts["launches"]
        print(f"{'':<34} {'ratio':<8} {ours.counts['operators'] / theirs.counts['operators']:>9.2f} {ratio:>9.2f}")
        if given.names:
            names = sorted({*ours.counts, *theirs.counts}, key=lambda key: theirs.counts[key] - ours.counts[key])
            for key in names:
                if ours.counts[key] != theirs.counts[key]:
                    print(f"    {key:<40} {ours.counts[key]:>6} {theirs.counts[key]:>6}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
