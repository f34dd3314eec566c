"""A billion parameters on one GPU: one process, DDP with one rank, nf4, ZeRO-2 with the optimizer on the CPU.

Reports tokens per second, and planned and used memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
max_seq_length = 512
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
    num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 512), max_position_embeddings=2048,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
)
torch.manual_seed(0)
with torch.device(device):
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(folder)
tokenizer.save_pretrained(folder)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda", help="device that initialises the base")
    parser.add_argument("--only", nargs="*", choices=[*RUNS], help="names of the runs to make")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [str(asked.hidden), str(asked.layers), asked.device]
        print(run([sys.executable, "-c", MAKE_BASE, str(folder / "base"), *sizes], folder), end="")
        text = "".join(json.dumps({"text": f"{number} words of no use. " * 24}) + "\n" for number in range(400))
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")
        recipe = RECIPE.format(steps=asked.steps, batch=asked.batch)
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        for kind in asked.only or RUNS:
            found = trained(folder, RUNS[kind])
            taken = f"tensors {found['tensors']:5.1f}   reserved {found['reserved']:5.1f}"
            memory = f"planned {found['planned']:5.1f} GB   {taken}"
            end = f"loss {found['loss']:.3f}   adapter check {found['seal']:.1e}"
            print(f"{kind:<36} {found['tokens/s']:8,.0f} tokens/s   {memory}   {end}", flush=True)


if __name__ == "__main__":
    main()
