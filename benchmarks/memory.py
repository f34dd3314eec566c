"""Compare the planned memory of training runs with their peak, over models, batches, lengths and dtypes.

python benchmarks/memory.py --smollm2 SmolLM2-135M-Instruct/ --minilm all-MiniLM-L6-v2/ --json memory.json
python benchmarks/memory.py ... --json memory.json --again      # plan the stored runs again, without training
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

WORDS = [
    "the",
    "and",
    "of",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "on",
    "be",
    "at",
    "by",
    "this",
    "had",
    "not",
    "are",
    "but",
]

ROWS, STEPS = 64, 2
CHAT_TOKENS = 60
"""Tokens that a chat template and a question add to an answer, at most."""


@dataclass(frozen=True)
class Case:
    """A run of the grid."""

    model: str
    batch: int
    length: int
    dtype: str = "bfloat16"
    checkpointing: bool = False
    packing: bool = False
    bits: int = 0
    rank: int = 16
    dropout: float = 0.0
    evaluates: bool = False

    @property
    def name(self) -> str:
        """The settings in one line."""
        flags = [flag for flag in ("checkpointing", "packing", "evaluates") if getattr(self, flag)]
        bits = ["nf4"] if self.bits else []
        dropout = [f"dropout {self.dropout}"] if self.dropout else []
        return ", ".join([self.dtype, f"r {self.rank}", *bits, *dropout, *flags])


@dataclass
class Result:
    """A case with its bytes."""

    case: Case
    measured: int
    predicted: int = 0
    terms: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    """Tokens of the longest row."""
    mean: float = 0.0
    """Tokens of a row, or of a document of packed rows, on average."""
    share: float = 1.0
    """Part of the tokens that are in the loss."""

    @property
    def error(self) -> float:
        """Prediction over measurement, minus one."""
        return self.predicted / self.measured - 1


def cases() -> Iterator[Case]:
    """Yield the grid."""
    for dtype, batch, length in [
        ("float32", 1, 128), ("float32", 8, 256), ("float32", 32, 64), ("float32", 32, 512), ("float32", 16, 512),
        ("bfloat16", 8, 512), ("bfloat16", 32, 256), ("bfloat16", 32, 512),
    ]:  # fmt: skip
        yield Case("nano", batch, length, dtype)
    yield Case("nano", 32, 512, "float32", checkpointing=True)
    yield Case("nano", 32, 512, "float32", packing=True)
    yield Case("nano", 16, 512, "float32", bits=4)
    yield Case("nano", 32, 256, "float32", rank=64)
    for batch, length in [(1, 64), (1, 512), (1, 2048), (2, 256), (2, 1024), (4, 128), (4, 512), (8, 64), (8, 256),
                          (16, 64), (16, 128), (32, 64)]:  # fmt: skip
        yield Case("smollm2", batch, length)
    for batch, length in [(1, 128), (2, 512), (8, 128)]:
        yield Case("smollm2", batch, length, "float32")
    for batch, length in [(1, 2048), (4, 512), (8, 256), (16, 128)]:
        yield Case("smollm2", batch, length, checkpointing=True)
    yield Case("smollm2", 2, 1024, "float32", checkpointing=True)
    yield Case("smollm2", 2, 512, packing=True)
    yield Case("smollm2", 1, 1024, packing=True)
    for batch, length in [(1, 256), (2, 512), (8, 64)]:
        yield Case("smollm2", batch, length, bits=4)
    yield Case("smollm2", 4, 512, bits=4, checkpointing=True)
    yield Case("smollm2", 2, 256, "float32", bits=4)
    yield Case("smollm2", 4, 256, rank=64)
    yield Case("smollm2", 2, 512, rank=128)
    yield Case("smollm2", 4, 256, rank=4)
    yield Case("smollm2", 4, 256, dropout=0.1)
    yield Case("smollm2", 4, 256, evaluates=True)
    for batch, length, dtype in [
        (1, 128, "float32"), (8, 128, "float32"), (32, 64, "float32"), (32, 128, "float32"), (16, 256, "float32"),
        (8, 512, "float32"), (32, 128, "bfloat16"), (8, 512, "bfloat16"),
    ]:  # fmt: skip
        yield Case("minilm", batch, length, dtype)
    yield Case("minilm", 16, 512, "float32", checkpointing=True)
    yield Case("minilm", 32, 128, "float32", rank=64)


def held_out() -> Iterator[Case]:
    """Yield other shapes, to which no figure of the plan was fitted."""
    yield Case("nano", 24, 400, "float32")
    for batch, length in [(1, 1400), (3, 300), (6, 160), (12, 96)]:
        yield Case("smollm2", batch, length)
    for batch, length in [(3, 700), (6, 320)]:
        yield Case("smollm2", batch, length, checkpointing=True)
    yield Case("smollm2", 3, 400, bits=4)
    yield Case("smollm2", 4, 200, packing=True)
    yield Case("smollm2", 3, 300, rank=32)
    yield Case("smollm2", 5, 200, "float32")
    for batch, length, dtype in [(6, 400, "bfloat16"), (12, 200, "bfloat16"), (20, 80, "float32")]:
        yield Case("minilm", batch, length, dtype)


def write_rows(case: Case, base: Path, file: Path) -> None:
    """Write rows of the case's length; with packing, of up to half of it."""
    from tokenizers import Tokenizer

    tokenizer, draw = Tokenizer.from_file(str(base / "tokenizer.json")), random.Random(0)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    each = len(tokenizer.encode(" " + " ".join(WORDS), add_special_tokens=False).ids) / len(WORDS)
    other = 6 if case.model == "minilm" else min(CHAT_TOKENS, case.length * 3 // 4)
    with file.open("w", encoding="utf-8") as stream:
        for number in range(ROWS * (8 if case.packing else 1)):
            part = draw.uniform(0.05, 0.5) if case.packing else 1
            count = max(4, int((part * case.length - other) / each))
            words = (WORDS * (count // len(WORDS) + 1))[:count]
            draw.shuffle(words)
            text = " ".join(words)
            question = {"role": "user", "content": "write"}
            chat = {"messages": [question, {"role": "assistant", "content": text}]}
            stream.write(json.dumps({"text": text, "label": number % 2} if case.model == "minilm" else chat) + "\n")


def recipe_of(case: Case, base: str, folder: Path) -> str:
    """Return the case as a recipe."""
    labels = case.model == "minilm"
    tables: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": base, "dtype": case.dtype},
        "peft": {"method": "lora", "lora_r": case.rank, "lora_dropout": case.dropout},
        "dataset": {"path": str(folder / "rows.jsonl")},
        "training": {
            "output_dir": str(folder / "run"),
            "max_steps": STEPS,
            "per_device_train_batch_size": case.batch,
            "global_batch_size": case.batch,
            "gradient_checkpointing": case.checkpointing,
        },
        "classification" if labels else "sft": {"max_seq_length": case.length},
    }
    if case.packing:
        tables["sft"]["packing"] = True
    if case.evaluates:
        tables["dataset"]["eval_fraction"] = 0.5
    if case.bits:
        tables["quantization"] = {"method": "bnb-4bit"}
    lines = ['task_name = "memory"', f'task_type = "{"SEQ_CLS" if labels else "CAUSAL_LM"}"']
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


def measure(case: Case, base: str, threads: str | None) -> Result:
    """Train in a process of its own; its peak is the largest resident size that the kernel saw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = ROOT / "lora_ns/assets/nano" if base == "lorans:nano" else Path(base)
        write_rows(case, path, folder / "rows.jsonl")
        recipe = folder / "recipe.toml"
        recipe.write_text(recipe_of(case, base, folder), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORANS_CACHE": str(folder / "cache")}
        if threads:
            environment["OMP_NUM_THREADS"] = threads
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", "lora_ns", "train", str(recipe)]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{case}: {(folder / 'log').read_text()[-2000:]}")
        manifest = json.loads((folder / "run/manifest.json").read_text())
        result = Result(case, usage.ru_maxrss * 1024, _planned(manifest["plan"]))
        result.longest, result.mean, result.share = read_lengths(folder / "run/data/train")
        return result


def _planned(plan: dict[str, Any]) -> int:
    """Return the planned size of the process, with the files that stay mapped."""
    return int(plan["memory_bytes"]["value"] + plan["mapped_bytes"])


def read_lengths(rows: Path) -> tuple[int, float, float]:
    """Return the tokens of the longest row and of a row or document on average, and the part that is in the loss."""
    import datasets

    found = datasets.load_from_disk(str(rows))
    lengths = [len(row) for row in found["input_ids"]]
    documents = sum(map(len, found["seq_lengths"])) if "seq_lengths" in found.column_names else len(lengths)
    if "labels" not in found.column_names or not isinstance(found[0]["labels"], list):
        return max(lengths), sum(lengths) / documents, 1.0
    share = sum(label != -100 for row in found["labels"] for label in row) / sum(lengths)
    return max(lengths), sum(lengths) / documents, share


def plan_again(result: Result, base: str) -> None:
    """Plan a stored run with the current model of memory."""
    from lora_ns.machine.hardware import detect
    from lora_ns.model.files import find_base
    from lora_ns.plan.fit import choose_batch
    from lora_ns.plan.plan import DataFacts
    from lora_ns.plan.settle import settle
    from lora_ns.recipe.load import load_recipe

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "recipe.toml"
        file.write_text(recipe_of(result.case, base, Path(name)), encoding="utf-8")
        machine, found = detect(), find_base(base, "main", [], download=False)
        settled = settle(load_recipe(file), machine, found)
        assert found is not None
        rows = DataFacts(longest=result.longest, mean_length=result.mean or result.longest, trained_share=result.share)
        batch = choose_batch(settled, machine, found.facts, result.case.dtype, rows, 1)
    assert batch.memory is not None
    result.predicted, result.terms = batch.memory.total + batch.memory.mapped, asdict(batch.memory)


def table(results: list[Result]) -> str:
    """Return the results as Markdown, with the worst and the median error."""
    lines = ["| model | batch | tokens | settings | planned | measured | error |", "|---|---|---|---|---|---|---|"]
    for found in results:
        case = found.case
        planned, measured = f"{found.predicted / 1e6:,.0f} MB", f"{found.measured / 1e6:,.0f} MB"
        where = f"| {case.model} | {case.batch} | {found.longest} | {case.name} "
        lines.append(f"{where}| {planned} | {measured} | {found.error:+.1%} |")
    errors = [abs(found.error) for found in results]
    worst = max(results, key=lambda found: abs(found.error))
    over = sum(error > 0.15 for error in errors)
    lines += ["", f"{len(results)} runs: median error {statistics.median(errors):.1%}, {over} above 15 %; worst "]
    lines[-1] += f"{worst.error:+.1%} ({worst.case.model}, {worst.case.batch} x {worst.longest}, {worst.case.name})"
    return "\n".join(lines)


def stored(file: Path) -> dict[Case, Result]:
    """Read the results of an earlier call."""
    if not file.is_file():
        return {}
    entries: list[Mapping[str, Any]] = json.loads(file.read_text())
    results = [Result(**{**entry, "case": Case(**entry["case"])}) for entry in entries]
    return {result.case: result for result in results}


def main() -> None:
    """Measure what is not in the JSON file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--minilm", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--json", type=Path, default=Path("memory.json"))
    parser.add_argument("--again", action="store_true", help="plan the stored runs again, without training")
    parser.add_argument("--threads", help="value of OMP_NUM_THREADS for the runs")
    parser.add_argument("--held-out", action="store_true", help="measure shapes to which nothing was fitted")
    parser.add_argument("--part", default="0/1", help="with 0/2 and 1/2, two calls share the grid")
    given = parser.parse_args()
    bases = {"nano": "lorans:nano", "smollm2": given.smollm2, "minilm": given.minilm}
    results = stored(given.json)
    number, parts = map(int, given.part.split("/"))
    grid = list(held_out() if given.held_out else cases())[number::parts]
    for case in [] if given.again else grid:
        if case not in results and bases[case.model]:
            try:
                results[case] = measure(case, bases[case.model], given.threads)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                continue
            print(f"{case.model} {case.batch} x {case.length} {case.name}: {results[case].error:+.1%}", file=sys.stderr)
            given.json.write_text(json.dumps([asdict(result) for result in results.values()], indent=1))
    for result in results.values():
        if bases[result.case.model]:
            plan_again(result, bases[result.case.model])
    given.json.write_text(json.dumps([asdict(result) for result in results.values()], indent=1))
    print(table(list(results.values())))


if __name__ == "__main__":
    main()
