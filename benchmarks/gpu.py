"""A billion parameters on one GPU: one process, DDP with one rank, nf4, packed, ZeRO-2 with the optimizer on the CPU.

Reports tokens per second, the share of the matrix rate (MFU), and planned and used memory. `--all` is what to run on a
GPU that is lent for minutes: the tests of `tests/gpu`, the runs below at three lengths, 7 billion parameters in nf4,
a profile of one step, and `trl sft` on the same rows, in the order of what matters most. What does not fit into
`--minutes` is left out and named. Everything is written to `--json` as it is found.

python benchmarks/gpu.py --all --json "$OUT/gpu.json"
python benchmarks/gpu.py --all --device cpu --hidden 64 --layers 2 --steps 3 --lengths 64 128 --minutes 4
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPE = """\
task_name = "gpu"
task_type = "CAUSAL_LM"
[model]
name_or_path = "base"
dtype = "bfloat16"
[peft]
method = "lora"
lora_r = 16
[dataset]
path = "rows.jsonl"
format = "text"
[training]
output_dir = "run"
max_steps = {steps}
global_batch_size = {batch}
per_device_train_batch_size = {batch}
save_steps = {steps}
[sft]
max_seq_length = {length}
"""
DDP = ("distributed.strategy=ddp", "distributed.num_processes=1")
ZERO = ("distributed.strategy=deepspeed", "distributed.num_processes=1", "distributed.zero_stage=2")
NF4 = ("quantization.method=bnb-4bit",)
RUNS: dict[str, tuple[str, ...]] = {
    "bf16": (),
    "bf16, DDP with one rank": DDP,
    "nf4": NF4,
    "nf4, DDP with one rank": (*NF4, *DDP),
    "bf16, ZeRO-2": ZERO,
    "bf16, ZeRO-2, optimizer on the CPU": (*ZERO, "distributed.offload_optimizer=cpu"),
}
MAKE_BASE = """
import sys, torch, transformers
from lora_ns.model.files import find_base
folder, hidden, layers, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
tokenizer = transformers.AutoTokenizer.from_pretrained(find_base("lorans:nano", "main", [], download=False).path)
config = transformers.LlamaConfig(
    vocab_size=32_000, hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
    num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 512), max_position_embeddings=16384,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
)
torch.manual_seed(0)
with torch.device(device):
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(folder)
tokenizer.save_pretrained(folder)
import json, pathlib
counts = {"all": model.num_parameters() - 32_000 * hidden, "width": hidden * layers}
pathlib.Path(folder, "parameters.json").write_text(json.dumps(counts))
print(f"Llama with {model.num_parameters() / 1e9:.2f} billion random parameters")
"""


def run(words: Sequence[str], folder: Path) -> str:
    """Run a command, and return its output."""
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(words, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def trained(folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Train with these overrides, and return tokens per second, memory in GB and the other figures."""
    lorans = (sys.executable, "-m", "lora_ns")
    said = [word for override in overrides for word in ("--set", override)]
    if "distributed.strategy=ddp" in overrides:  # `lorans train` would use a single process without DDP
        command = run([*lorans, "launch-command", "recipe.toml", "--overwrite", *said], folder)
        run(["bash", "-c", command], folder)
    else:
        run([*lorans, "train", "recipe.toml", "--overwrite", *said], folder)
    manifest = json.loads((folder / "run/manifest.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert manifest["status"] == "finished"
    metrics, plan, data = manifest["metrics"], manifest["plan"], manifest["data"]["train"]
    share = plan["max_steps"]["value"] * plan["global_batch_size"]["value"] / data["rows"]
    return {
        "tokens/s": share * data["tokens"] / metrics["train_runtime"],
        "loss": [row["loss"] for row in rows if "loss" in row][-1],
        "planned": (plan["memory_bytes"]["value"] or 0) / 1e9,
        "tensors": metrics.get("peak_memory_bytes", 0) / 1e9,
        "reserved": metrics.get("peak_reserved_bytes", 0) / 1e9,
        "seal": manifest["seal"]["largest_difference"],
    }


def write_work(folder: Path, length: int, steps: int, batch: int) -> None:
    """Write rows that have nearly this length in tokens of the embedded tokenizer, and their recipe."""
    words = max(1, length // 19)
    text = "".join(json.dumps({"text": f"{number} words of no use. " * words}) + "\n" for number in range(400))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE.format(steps=steps, batch=batch, length=length), encoding="utf-8")


def matrix_rate(device: str) -> float:
    """Return the rate of a large bfloat16 product in TFLOP/s."""
    return float(run([sys.executable, "-c", MATRIX_RATE, device], ROOT).split()[-1])


MATRIX_RATE = """
import sys, time, torch
device = sys.argv[1]
side, times = (8192, 20) if device == "cuda" else (1024, 3)
a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
a @ b; wait(); begin = time.perf_counter()
for _ in range(times): a @ b
wait(); print(2 * side**3 * times / (time.perf_counter() - begin) / 1e12)
"""
PROFILE = """
import sys, torch
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import Observer
from lora_ns.services.train import train
class Profiling(Observer):
    def ready(self, trainer):
        from transformers import TrainerCallback
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        class Steps(TrainerCallback):
            def on_step_begin(self, args, state, control, **more):
                if state.global_step == state.max_steps - 1:
                    self.profile = torch.profiler.profile(activities=kinds)
                    self.profile.__enter__()
            def on_step_end(self, args, state, control, **more):
                if state.global_step == state.max_steps:
                    self.profile.__exit__(None, None, None)
                    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
                    open(sys.argv[1], "w").write(self.profile.key_averages().table(sort_by=key, row_limit=40))
        trainer.add_callback(Steps())
with Noise() as noise:
    train(load_recipe("recipe.toml", ["training.logging_steps=100"]), Profiling(), noise=noise, overwrite=True)
"""
SEVEN = {"hidden": 4096, "layers": 32}
"""Sizes of about 7 billion parameters."""


class Lent:
    """The time on a borrowed machine, and what was found in it."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder, self.began = asked, folder, time.monotonic()
        self.found: dict[str, Any] = {"versions": versions(), "steps": {}, "left_out": []}

    def left(self) -> float:
        """Seconds that are left."""
        return 60.0 * float(self.asked.minutes) - (time.monotonic() - self.began)

    def try_step(self, name: str, work: Callable[[], object], needs: float) -> None:
        """Do a step if it fits into the time left. A step that fails is recorded, and the next one begins."""
        if self.left() < needs:
            self.found["left_out"].append(name)
            print(f"{name}: left out, {self.left():.0f} s are left", flush=True)
            return
        begin = time.monotonic()
        try:
            result = work()
        except (SystemExit, subprocess.SubprocessError, AssertionError, OSError, KeyError) as error:
            result = {"failed": str(error)[-3000:]}
        seconds = time.monotonic() - begin
        self.found["steps"][name] = {"seconds": round(seconds, 1), "result": result}
        print(f"{name} ({seconds:.0f} s): {json.dumps(result)[:300]}", flush=True)
        if self.asked.json:
            self.asked.json.write_text(json.dumps(self.found, indent=1), encoding="utf-8")

    def train(self, base: Path, length: int, overrides: Sequence[str], batch: int) -> dict[str, float]:
        """Train, and add the share of the matrix rate and the error of the plan."""
        write_work(self.folder, length, self.asked.steps, batch)
        found = trained(self.folder, (f"model.name_or_path={json.dumps(str(base))}", *overrides))
        parameters = json.loads((base / "parameters.json").read_text(encoding="utf-8"))
        flops = found["tokens/s"] * (4 * parameters["all"] + 6 * length * parameters["width"])
        rate = self.found["steps"].get("matrix rate", {}).get("result") or float("nan")
        taken = found["reserved"] + CONTEXT if found["reserved"] else found["tensors"]
        return {**found, "MFU": flops / rate / 1e12, "planned/taken": found["planned"] / taken}


CONTEXT = 0.6
"""GB of a CUDA context, which torch does not count."""


def versions() -> dict[str, str]:
    """Return the versions of what is measured."""
    names = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
    return {name: importlib.metadata.version(name) for name in names}


def make_base(folder: Path, hidden: int, layers: int, device: str) -> Path:
    """Write a Llama with random weights, unless it is there."""
    if not folder.exists():
        print(run([sys.executable, "-c", MAKE_BASE, str(folder), str(hidden), str(layers), device], ROOT), end="")
    return folder


def everything(asked: argparse.Namespace, folder: Path) -> None:
    """Do all that a borrowed GPU is for, the most important first."""
    lent, device, lengths = Lent(asked, folder), asked.device, asked.lengths
    base = make_base(folder / "base", asked.hidden, asked.layers, device)
    lent.try_step("matrix rate", lambda: matrix_rate(device), 10)
    rows = max(1, 4096 // lengths[0]) if device == "cuda" else 2
    first = lengths[0]
    lent.try_step(f"bf16, {first}", lambda: lent.train(base, first, (), rows), 60)
    packed = ("sft.packing=true",)
    lent.try_step(f"bf16, packed, {first}", lambda: lent.train(base, first, packed, rows), 40)
    profile = str((asked.json or folder / "x").with_name("profile.txt"))
    lent.try_step("profile", lambda: run([sys.executable, "-c", PROFILE, profile], folder)[-200:], 40)
    lent.try_step(f"nf4, {first}", lambda: lent.train(base, first, NF4, rows), 40)
    for length in lengths[1:]:
        few = max(1, rows * first // length)
        for name, overrides in (("bf16", ()), ("bf16, packed", packed), ("nf4", NF4)):
            work = functools.partial(lent.train, base, length, overrides, few)
            lent.try_step(f"{name}, {length}", work, 40)
    tests = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-m", "gpu or not gpu", "-n", "0"]
    lent.try_step("tests/gpu", lambda: run(tests, ROOT)[-400:], 90)
    if device == "cuda":
        lent.try_step("trl sft", lambda: trl(folder, base, rows, asked.steps), 60)
        seven = folder / "seven"
        lent.try_step("7 billion", lambda: str(make_base(seven, SEVEN["hidden"], SEVEN["layers"], device)), 90)
        lent.try_step("7 billion, nf4", lambda: lent.train(seven, 2048, NF4, 1), 60)
    lent.try_step("ZeRO-2, offloaded", lambda: lent.train(base, first, RUNS[OFFLOADED], rows), 120)
    print(f"left out: {', '.join(lent.found['left_out']) or 'nothing'}")


OFFLOADED = "bf16, ZeRO-2, optimizer on the CPU"


def trl(folder: Path, base: Path, batch: int, steps: int) -> dict[str, float]:
    """Train the same rows with `trl sft` and its defaults."""
    program = str(Path(sys.executable).with_name("trl"))
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows/train.jsonl").write_bytes((folder / "rows.jsonl").read_bytes())
    told = run(
        [
            *(program, "sft", "--model_name_or_path", str(base), "--dataset_name", "rows", "--use_peft"),
            *("--lora_r", "16", "--lora_target_modules", "all-linear", "--output_dir", "trl", "--dtype", "bfloat16"),
            *("--per_device_train_batch_size", str(batch), "--max_steps", str(steps), "--save_strategy", "no"),
        ],
        folder,
    )
    seconds = float(re.findall(r"'train_runtime': '?([\d.e+]+)", told)[-1])
    return {"tokens/s": float(re.findall(r"'num_tokens': '?([\d.e+]+)", told)[-1]) / seconds}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--device", default="cuda", help="device that initialises the base")
    parser.add_argument("--only", nargs="*", choices=[*RUNS], help="names of the runs to make")
    parser.add_argument("--all", action="store_true", help="everything, within `--minutes`")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", type=Path, help="file for the figures of `--all`")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.all:
            everything(asked, folder)
            return
        make_base(folder / "base", asked.hidden, asked.layers, asked.device)
        write_work(folder, asked.lengths[0], asked.steps, asked.batch)
        for kind in asked.only or RUNS:
            found = trained(folder, RUNS[kind])
            taken = f"tensors {found['tensors']:5.1f}   reserved {found['reserved']:5.1f}"
            memory = f"planned {found['planned']:5.1f} GB   {taken}"
            end = f"loss {found['loss']:.3f}   adapter check {found['seal']:.1e}"
            print(f"{kind:<36} {found['tokens/s']:8,.0f} tokens/s   {memory}   {end}", flush=True)


if __name__ == "__main__":
    main()
