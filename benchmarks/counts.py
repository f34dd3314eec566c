"""Operators and synchronisations of one training step, against a bare loop over the same adapter.

Counts do not depend on the machine, and hold for a GPU as far as its step dispatches the same operators: there, time
between kernels is most of a step (see docs/performance.md). So attention is that of a GPU. A synchronisation is an
operator whose result the host waits for, such as `.item()` or an index by a mask.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
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
attn_implementation = "sdpa"
[peft]
method = "lora"
lora_r = 16
[dataset]
path = "lorans:quickstart/train.jsonl"
max_samples = 256
[training]
output_dir = "{output}"
max_steps = 12
global_batch_size = {rows}
per_device_train_batch_size = {micro}
logging_steps = 100
save_steps = 100
[sft]
max_seq_length = 128
packing = {packing}
"""


class Counting(Observer):
    """Counts the operators of one step in the middle of a run, and times the steps."""

    def __init__(self, step: int) -> None:
        self.at, self.trainer = step, None
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    def ready(self, trainer: Any) -> None:
        """Profile one step of this trainer."""
        from transformers import TrainerCallback

        counting, load = self, trainer.get_train_dataloader

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

        def loaded() -> Any:
            loader = load()
            collate = loader.collate_fn

            def collated(rows: Any) -> Any:
                with torch.profiler.record_function(HOST):
                    return collate(rows)

            loader.collate_fn = collated
            return loader

        trainer.add_callback(Counter())
        trainer.get_train_dataloader, self.trainer = loaded, trainer


HOST = "on the host"


def counted(profile: Any) -> collections.Counter[str]:
    """Count the operators that call no other operator, which are the launches of a GPU, by name.

    What the host does before a batch reaches the device waits for nothing, nor does a fused optimizer on a GPU, whose
    count of steps is on the device.
    """
    found: collections.Counter[str] = collections.Counter()
    for event in profile.events():
        name = event.name.removeprefix("aten::")
        found["operators"] += name != event.name
        is_leaf = name != event.name and not any(child.name.startswith("aten::") for child in event.cpu_children)
        if is_leaf and name not in NO_LAUNCH:
            found["launches"] += 1
            found[name] += 1
            found["waits"] += name in WAITS and not is_on_host(event)
    return found


def is_on_host(event: Any) -> bool:
    """Return whether an operator is one of the collator or the optimizer."""
    while event := event.cpu_parent:
        if event.name == HOST or event.name.startswith("Optimizer.step"):
            return True
    return False


NO_LAUNCH = frozenset(
    {
        *("view", "as_strided", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "permute"),
        *("reshape", "_unsafe_view", "empty", "empty_like", "empty_strided", "detach", "detach_", "result_type"),
        *("alias", "unbind", "split", "split_with_sizes", "chunk", "narrow", "resize_", "set_", "to", "lift_fresh"),
        *("unfold", "resolve_conj", "resolve_neg", "numpy_T", "is_same_size", "item", "_has_same_storage_numel"),
    }
)
"""Operators that compute nothing on a device."""


@dataclass(frozen=True)
class Settings:
    """What the counts depend on."""

    dtype: str
    micro_batches: int
    packing: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, {self.micro_batches} micro-batches{', packed' if self.packing else ''}"


SETTINGS = (
    *(Settings(dtype, count) for dtype in ("float32", "bfloat16") for count in (1, 4)),
    Settings("bfloat16", 1, packing=True),
)
ROWS = 16


def both(settings: Settings, folder: Path, model: str = "lorans:nano") -> dict[str, Counting]:
    """Count a step of lorans, and one of a bare loop over the same rows."""
    recipe = RECIPE.format(
        model=json.dumps(model),
        output=str(folder / "run"),
        dtype=settings.dtype,
        rows=ROWS,
        micro=ROWS // settings.micro_batches,
        packing=str(settings.packing).lower(),
    )
    ours = lorans(folder, recipe)
    path = find_base(model, "main", [], download=False).path
    return {"lorans": ours, "bare": bare(str(path), settings, ours.trainer)}


def lorans(folder: Path, recipe: str) -> Counting:
    """Train with lorans, and count a step that does not log."""
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    counting = Counting(step=6)
    with Noise() as noise:
        train(load_recipe(folder / "recipe.toml", []), counting, noise=noise, overwrite=True)
    return counting


def bare(path: str, settings: Settings, trainer: Any) -> Counting:
    """Train the same adapter in a loop of ten lines, on rows of the same run, and count a step."""
    import peft
    import transformers

    kind, micro = getattr(torch, settings.dtype), ROWS // settings.micro_batches
    base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=kind)
    model = peft.get_peft_model(base, peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rows = [trainer.train_dataset[number] for number in range(ROWS)]
    batches = [trainer.data_collator(rows[start : start + micro]) for start in range(0, ROWS, micro)]
    for batch in batches:
        batch.pop("scored_positions", None)
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
    """Print a table of the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lorans:nano", help="folder of a causal language model")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--names", action="store_true", help="also print the operators whose numbers differ")
    given = parser.parse_args()
    prepare(detect())
    print("| settings | program | operators | launches | waits | CPU time of a step, ms |\n|---|---|---|---|---|---|")
    figures = []
    for settings in SETTINGS:
        with tempfile.TemporaryDirectory() as name:
            found = both(settings, Path(name), given.model)
        for who, counting in found.items():
            counts, seconds = counting.counts, statistics.median(counting.seconds)
            figures.append({"settings": str(settings), "program": who, **counts})
            numbers = f"{counts['operators']:,} | {counts['launches']:,} | {counts['waits']}"
            print(f"| {settings} | {who} | {numbers} | {1e3 * seconds:.0f} |", flush=True)
        ours, theirs = found["lorans"].counts, found["bare"].counts
        if given.names:
            for key in sorted({*ours, *theirs}, key=lambda key: theirs[key] - ours[key]):
                if ours[key] != theirs[key]:
                    print(f"    {key:<40} {ours[key]:>6} {theirs[key]:>6}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
