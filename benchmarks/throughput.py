"""Tokens per second of `lorans train` and of `trl sft` with its defaults, on the same model, rows and adapter."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BATCH = 8
RECIPE = """\
task_name = "throughput"
task_type = "CAUSAL_LM"
[model]
name_or_path = {model}
[peft]
method = "lora"
lora_r = 16
[dataset]
path = "rows.jsonl"
[training]
output_dir = "lorans"
num_train_epochs = 1
global_batch_size = {batch}
[sft]
max_seq_length = 1024
"""


def lorans(folder: Path, environment: dict[str, str]) -> float:
    """Tokens per second over one epoch, without padding, from the time and the tokens that the run records."""
    command = [sys.executable, "-m", "lora_ns", "train", "recipe.toml", "--overwrite", "--json"]
    result = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    seconds = json.loads(result.stdout)["metrics"]["train_runtime"]
    manifest = json.loads((folder / "lorans/manifest.json").read_text(encoding="utf-8"))
    return float(manifest["data"]["train"]["tokens"] / seconds)


def trl(folder: Path, environment: dict[str, str], model: str) -> float:
    """Tokens per second over one epoch, without padding, from the output of the command."""
    program = str(Path(sys.executable).with_name("trl"))
    command = [
        *(program, "sft", "--model_name_or_path", model, "--dataset_name", str(folder / "rows")),
        *("--use_peft", "--lora_r", "16", "--lora_target_modules", "all-linear", "--output_dir", str(folder / "trl")),
        *("--num_train_epochs", "1", "--save_strategy", "no", "--logging_steps", "1"),
        *(() if torch_has_cuda() else ("--use_cpu",)),
    ]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    told = result.stdout + result.stderr
    if result.returncode:
        raise SystemExit(f"trl sft failed:\n{told[-3000:]}")
    (seconds,) = re.findall(r"'train_runtime': '?([\d.e+]+)", told)
    tokens = re.findall(r"'num_tokens': '?([\d.e+]+)", told)
    return float(tokens[-1]) / float(seconds)


def torch_has_cuda() -> bool:
    """Test for a GPU in a child process, so that this process holds no GPU memory."""
    command = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of an instruct model")
    parser.add_argument("--rows", required=True, type=Path, help="JSONL with `question` and `answer`")
    parser.add_argument("--count", type=int, default=32, help="number of rows to train on")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    model = str(Path(options.model).resolve())
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()[: options.count]]
    turns = [[("user", row["question"]), ("assistant", row["answer"])] for row in rows]
    chats = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows").mkdir()
        for file in (folder / "rows.jsonl", folder / "rows/train.jsonl"):
            file.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        (folder / "recipe.toml").write_text(RECIPE.format(model=json.dumps(model), batch=BATCH), encoding="utf-8")
        environment["LORANS_CACHE"] = str(folder / "cache")
        ratios = []
        for _ in range(options.rounds):
            theirs, ours = trl(folder, environment, model), lorans(folder, environment)
            ratios.append(ours / theirs)
            print(f"trl sft {theirs:6.1f} tokens/s   lorans {ours:6.1f} tokens/s   ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}, target: at least 3")


if __name__ == "__main__":
    main()
