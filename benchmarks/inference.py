"""Tokens per second of `lorans infer`, and of `generate` for one prompt after the other; and whether they agree."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from lora_ns.answers.opened import load, open_run
from lora_ns.data.files.read import read_rows
from lora_ns.run.directory import RunDir
from lora_ns.services.infer import infer, prompts

if TYPE_CHECKING:
    from lora_ns.answers.opened import Trained
    from lora_ns.data.rows import Row


def in_file_order(trained: Trained, asked: list[list[int]], most: int) -> tuple[float, list[int]]:
    """Seconds and the number of tokens of each answer, one prompt after the other."""
    begin, counts = time.perf_counter(), []
    for ids in asked:
        inputs = torch.tensor([ids])
        with torch.no_grad():
            output = trained.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                max_new_tokens=most,
                eos_token_id=list(trained.manifest.stop_token_ids),
                pad_token_id=trained.tokenizer.pad_token_id,
            )
        counts.append(output.shape[1] - len(ids))
        _TEXTS.append(trained.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip())
    return time.perf_counter() - begin, counts


_TEXTS: list[str] = []


def by_lorans(trained: Trained, rows: list[Row], settings: Any) -> tuple[float, list[int], list[str]]:
    """Seconds, the number of tokens of each answer, and the answers."""
    begin = time.perf_counter()
    found = infer(trained, rows, settings).rows
    spent = time.perf_counter() - begin
    return spent, [row["output_tokens"] for row in found], [str(row["output"]).strip() for row in found]


def main() -> None:
    """Measure both alternately."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory of a text run")
    parser.add_argument("--rows", type=Path, required=True, help="rows in the format of the run")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=1)
    asked = parser.parse_args()

    trained = load(open_run(RunDir(asked.run)))
    rows = list(read_rows(asked.rows))[: asked.count]
    ids = prompts(trained, rows)
    changed = {"max_new_tokens": asked.max_new_tokens, "do_sample": False, "repetition_penalty": 1.0}
    settings = trained.manifest.recipe.generation.model_copy(update=changed)
    in_file_order(trained, ids[:1], 2)
    rates, same = [], 1.0
    for _ in range(asked.repeat):
        _TEXTS.clear()
        alone, alone_tokens = in_file_order(trained, ids, asked.max_new_tokens)
        spent, tokens, texts = by_lorans(trained, rows, settings)
        rates.append((sum(alone_tokens) / alone, sum(tokens) / spent))
        same = min(same, sum(one == other for one, other in zip(_TEXTS, texts, strict=True)) / len(rows))
    one, other = (statistics.median(column) for column in zip(*rates, strict=True))
    print(f"{len(rows)} prompts, up to {asked.max_new_tokens} tokens, batch size {settings.batch_size}:")
    print(f"one after the other {one:.0f} tokens/s, lorans {other:.0f} tokens/s: x {other / one:.1f}")
    print(f"{same:.1%} of the answers are the same")


if __name__ == "__main__":
    main()
