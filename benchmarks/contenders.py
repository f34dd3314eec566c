"""Programs that fine-tune the same model on the same rows, each run as its users would run it.

Each contender has an environment of its own, so that it has the versions that it asks for. `prepare` writes what it
reads into a folder, and `train` returns the seconds that its trainer reports, without start-up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BARE = Path(__file__).with_name("bare_trainer.py")


@dataclass(frozen=True)
class Work:
    """What is trained: a model folder, rows, and the settings that all contenders share."""

    folder: Path
    model: str
    kind: str
    """`chat` or `pairs`, see `training.py`."""
    batch: int
    epochs: int
    dtype: str
    """`bfloat16` or `float32`: the faster one on this machine."""
    environments: Path


def run(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command, and return all that it prints."""
    done = subprocess.run(
        list(words),
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-4000:]}")
    return done.stdout


def make_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Create a virtual environment with these packages, unless it is there, and return its `bin`."""
    done = folder / "made"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "-q", *packages], check=True)
        done.touch()
    return folder / "bin"


def last_number(pattern: str, text: str) -> float:
    """Return the last number that follows a pattern."""
    found: list[str] = re.findall(pattern + r"'?\"?:?\s*=?\s*'?([\d.e+-]+)", text)
    if not found:
        raise SystemExit(f"no {pattern} in:\n{text[-3000:]}")
    return float(found[-1])


class Contender:
    """A program that trains."""

    name = ""
    packages: tuple[str, ...] = ()
    """What its environment installs; none if it runs in that of lorans."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(work.folder / "hub")}
        self.programs = Path(sys.executable).parent
        if self.packages:
            self.programs = make_environment(work.environments / type(self).__name__.lower(), self.packages)
        self.environment["PATH"] = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        self.prepare()

    def prepare(self) -> None:
        """Write the files that the program reads."""

    def train(self) -> float:
        """Train once, and return the seconds that the trainer took."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Return the versions of what it trains with."""
        command = [str(self.programs / "python"), "-c", VERSIONS, *self.packages]
        found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return found


VERSIONS = """
import importlib.metadata, json, sys
names = (*sys.argv[1:], "torch", "transformers", "peft", "trl")
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
"""


RECIPE = """\
task_name = "training"
task_type = "{task}"
[model]
name_or_path = {model}
[peft]
method = "lora"
lora_r = 16
{targets}
[dataset]
path = "rows.jsonl"
[training]
output_dir = "lorans"
num_train_epochs = {epochs}
global_batch_size = {batch}
{more}
"""
KINDS = {
    "chat": {"task": "CAUSAL_LM", "targets": "", "more": "[sft]\nmax_seq_length = 1024"},
    "pairs": {
        "task": "SEQ_CLS",
        "targets": 'target_modules = ["query", "key", "value", "dense"]',
        "more": "learning_rate = 5e-4",
    },
}
"""What differs in the recipe, by kind of work."""


class Lorans(Contender):
    """`lorans train` with its defaults."""

    name = "lorans"

    def prepare(self) -> None:
        work = self.work
        model = json.dumps(work.model)
        text = RECIPE.format(model=model, batch=work.batch, epochs=work.epochs, **KINDS[work.kind])
        (self.work.folder / "recipe.toml").write_text(text, encoding="utf-8")
        self.environment |= {"PYTHONPATH": str(ROOT), "LORANS_CACHE": str(self.work.folder / "cache")}

    def train(self) -> float:
        command = [sys.executable, "-m", "lora_ns", "train", "recipe.toml", "--overwrite"]
        run(command, self.work.folder, self.environment)
        return float(self.manifest()["metrics"]["train_runtime"])

    def manifest(self) -> dict[str, dict[str, float]]:
        """The manifest of the last run."""
        found: dict[str, dict[str, float]] = json.loads((self.work.folder / "lorans/manifest.json").read_text("utf-8"))
        return found


class Bare(Contender):
    """The shortest script with transformers' `Trainer` and PEFT, with its default padding and order."""

    name = "bare Trainer"

    def train(self) -> float:
        work = self.work
        words = [work.model, work.kind, "rows.jsonl", "bare", str(work.batch), str(work.epochs), work.dtype]
        told = run([sys.executable, str(BARE), *words], work.folder, self.environment)
        return last_number("train_runtime", told)


class Trl(Contender):
    """`trl sft` with its defaults."""

    name = "trl sft"

    def train(self) -> float:
        command = [
            *("trl", "sft", "--model_name_or_path", self.work.model, "--dataset_name", "rows", "--use_peft"),
            *("--lora_r", "16", "--lora_target_modules", "all-linear", "--output_dir", "trl", "--save_strategy", "no"),
            *("--per_device_train_batch_size", str(self.work.batch), "--num_train_epochs", str(self.work.epochs)),
            *("--report_to", "none", "--use_cpu"),
        ]
        return last_number("train_runtime", run(command, self.work.folder, self.environment))


LLAMA_FACTORY = """\
model_name_or_path: {model}
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
dataset_dir: llamafactory
dataset: rows
template: default
cutoff_len: 1024
output_dir: llamafactory/run
overwrite_output_dir: true
per_device_train_batch_size: {batch}
gradient_accumulation_steps: 1
num_train_epochs: {epochs}
learning_rate: 1.0e-4
lr_scheduler_type: cosine
logging_steps: 10
save_strategy: "no"
report_to: none
use_cpu: true
bf16: {bf16}
"""
ROWS = {
    "rows": {
        "file_name": "rows.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
}


class LlamaFactory(Contender):
    """`llamafactory-cli train` with the settings of its own LoRA example."""

    name = "LLaMA-Factory"
    packages = ("llamafactory",)

    def prepare(self) -> None:
        folder = self.work.folder / "llamafactory"
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes((self.work.folder / "rows.jsonl").read_bytes())
        (folder / "dataset_info.json").write_text(json.dumps(ROWS), encoding="utf-8")
        bf16 = str(self.work.dtype == "bfloat16").lower()
        text = LLAMA_FACTORY.format(model=self.work.model, batch=self.work.batch, epochs=self.work.epochs, bf16=bf16)
        (folder / "train.yaml").write_text(text, encoding="utf-8")

    def train(self) -> float:
        run(["llamafactory-cli", "train", "llamafactory/train.yaml"], self.work.folder, self.environment)
        results = self.work.folder / "llamafactory/run/train_results.json"
        return float(json.loads(results.read_text(encoding="utf-8"))["train_runtime"])


class Swift(Contender):
    """`swift sft` of ms-swift with the settings of its own LoRA example."""

    name = "ms-swift"
    packages = ("ms-swift",)

    def train(self) -> float:
        command = [
            *("swift", "sft", "--model", self.work.model, "--use_hf", "true", "--model_type", "llama"),
            *("--template", "chatml", "--dataset", "rows.jsonl", "--tuner_type", "lora", "--lora_rank", "16"),
            *("--target_modules", "all-linear", "--torch_dtype", self.work.dtype, "--output_dir", "swift"),
            *("--per_device_train_batch_size", str(self.work.batch), "--gradient_accumulation_steps", "1"),
            *("--num_train_epochs", str(self.work.epochs), "--max_length", "1024", "--logging_steps", "10"),
            *("--save_strategy", "no", "--eval_strategy", "no", "--split_dataset_ratio", "0", "--report_to", "none"),
            *("--use_cpu", "true"),
        ]
        return last_number("train_runtime", run(command, self.work.folder, self.environment))


CONTENDERS: dict[str, tuple[type[Contender], ...]] = {
    "chat": (Lorans, Trl, Bare, LlamaFactory, Swift),
    "pairs": (Lorans, Bare),
}
