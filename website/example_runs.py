"""Train short runs of every kind that pages show, on the embedded base: `python website/example_runs.py FOLDER`.

One is healthy, one diverges, one is interrupted; others have labels, tags, scores, preferences and rewards. Some rows
hold markup and terminal escapes, which every page must show as text. Runs that are there already are kept.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NANO = ROOT / "recipes" / "nano"

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint", "heron", "cedar", "quartz", "willow")
HOSTILE = "<script>alert('row')</script> <b>bold</b> \x1b[31mred\x1b[0m \u202ereversed & \"quoted\""

LABELS = """\
task_name = "{name}"
task_type = "{kind}"

[model]
name_or_path = "lorans:nano"

[peft]
method = "lora"

[dataset]
path = "{name}.jsonl"
eval_path = "{name}.jsonl"

[training]
output_dir = "{name}"
max_steps = 16
global_batch_size = 16
learning_rate = 1e-2
eval_steps = 4

[classification]
max_seq_length = 64
"""

SHORT = ("training.logging_steps=1", "training.eval_steps=8", "dataset.max_eval_samples=40")

RUNS: Mapping[str, tuple[str, Sequence[str]]] = {
    "healthy": ("quickstart", (*SHORT, "training.max_steps=48")),
    "diverged": ("quickstart", (*SHORT, "training.max_steps=24", "training.learning_rate=0.5")),
    "interrupted": ("quickstart", (*SHORT, "training.max_steps=48", "training.save_steps=8")),
    "dpo": ("dpo", (*SHORT, "training.max_steps=24")),
    "grpo": ("grpo", (*SHORT, "training.max_steps=16")),
}
"""Recipe and overrides of each run on rows of the package."""


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run with labels: how loud a word is written."""
    for number, word in enumerate(WORDS):
        other = WORDS[(number + 5) % len(WORDS)]
        if name == "tagging":
            for words in ([word, other], [word.upper(), other], [word, other.upper(), word]):
                yield {"tokens": words, "tags": ["B-loud" if one.isupper() else "O" for one in words]}
        else:
            texts = (f"{word} {other}", f"{word.capitalize()} {other}", f"{word} {other}".upper())
            labels = (0.5, 2.0, 3.5) if name == "regression" else ("quiet", "named", "loud <b>&</b>")
            yield from ({"text": text, "label": label} for text, label in zip(texts, labels, strict=True))
    if name != "tagging":
        yield {"text": HOSTILE, "label": 0.5 if name == "regression" else "quiet"}


def train(name: str, recipe: Path, overrides: Sequence[str], folder: Path) -> int:
    """Train one run; the one to interrupt gets SIGINT after its first checkpoint. Returns the exit code."""
    options = [part for one in (*overrides, f"training.output_dir={folder / name}") for part in ("--set", one)]
    command = [sys.executable, "-m", "lora_ns", "train", str(recipe), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        if name == "interrupted":
            _interrupt_at(process, folder / name / "metrics.jsonl", '"step": 12')
        return process.wait()


def _interrupt_at(process: "subprocess.Popen[bytes]", file: Path, mark: str) -> None:
    while process.poll() is None:
        if file.is_file() and mark in file.read_text(encoding="utf-8"):
            process.send_signal(signal.SIGINT)
            return
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue


def make(folder: Path) -> None:
    """Train all runs that are not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    of_package = [(name, NANO / f"{recipe}.toml", overrides) for name, (recipe, overrides) in RUNS.items()]
    of_labels = []
    for name, kind in (("classification", "SEQ_CLS"), ("tagging", "TOKEN_CLS"), ("regression", "SEQ_CLS")):
        file = folder / f"{name}.toml"
        file.write_text(LABELS.format(name=name, kind=kind), encoding="utf-8")
        lines = (json.dumps(row) + "\n" for row in rows_of(name))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        of_labels.append((name, file, ()))
    for name, file, overrides in (*of_labels, *of_package):
        if not (folder / name / "manifest.json").is_file():
            code = train(name, file, overrides, folder)
            sys.stdout.write(f"{name}: exit code {code}, {folder / name}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make(Path(sys.argv[1]).absolute())
