"""`lorans infer -o FILE --resume` after a kill: the file is that of a command that was never killed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

import lora_ns.answers.work
from lora_ns.cli.app import app

WORDS = ["river", "cat", "plum", "stone", "cloud", "maple", "otter"]


def write_rows(folder, count):
    draw = random.Random(3)
    texts = [f"Write {' '.join(draw.choices(WORDS, k=draw.randint(1, 5)))} in capitals." for _ in range(count)]
    (folder / "in.txt").write_text("\n".join(texts) + "\n")


def arguments(run, folder, output, *options):
    words = ["infer", run.path, "--input-file", folder / "in.txt", "-o", folder / output, *options]
    return [str(word) for word in (*words, "--set", "generation.max_new_tokens=4", "--set", "generation.batch_size=2")]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_rest_is_answered_as_it_would_have_been(lora_run, tmp_path, monkeypatch, sampled):
    write_rows(tmp_path, 7)
    settings = ["--set", f"generation.do_sample={str(sampled).lower()}"]
    lorans = CliRunner()
    assert lorans.invoke(app, arguments(lora_run, tmp_path, "whole.jsonl", *settings)).exit_code == 0
    batch, count = lora_ns.answers.work.compute_batch, iter(range(100))

    def killed(*given):
        if next(count) == 2:
            raise SystemExit(137)
        return batch(*given)

    monkeypatch.setattr(lora_ns.answers.work, "compute_batch", killed)
    lorans.invoke(app, arguments(lora_run, tmp_path, "o.jsonl", *settings))
    assert not (tmp_path / "o.jsonl").exists()
    done = lorans.invoke(app, arguments(lora_run, tmp_path, "o.jsonl", "--resume", *settings))
    assert done.exit_code == 0, done.output
    assert next(count) == 5  # the two batches that were left
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / ".o.jsonl.lorans-answers").exists()


@pytest.mark.matrix
def test_a_command_that_is_killed_at_twenty_moments_ends_with_the_same_file(lora_run, tmp_path):
    write_rows(tmp_path, 500)
    whole = [sys.executable, "-m", "lora_ns", *arguments(lora_run, tmp_path, "whole.jsonl")]
    began = time.monotonic()
    subprocess.run(whole, check=True, capture_output=True)
    lasted, draw, kills = time.monotonic() - began, random.Random(7), 0
    while kills < 20:
        resume = ["--resume"] if (tmp_path / ".o.jsonl.lorans-answers").is_file() and kills else []
        command = [sys.executable, "-m", "lora_ns", *arguments(lora_run, tmp_path, "o.jsonl", *resume)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0, lasted))
            assert process.returncode in {0, 2}, "it ended, or had nothing to go on with"
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills
    if not (tmp_path / "o.jsonl").exists():
        journal = tmp_path / ".o.jsonl.lorans-answers"
        resume = ["--resume"] if journal.is_file() and len(journal.read_text().splitlines()) > 1 else []
        last = [sys.executable, "-m", "lora_ns", *arguments(lora_run, tmp_path, "o.jsonl", *resume)]
        subprocess.run(last, check=True, capture_output=True)
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [json.loads(line)["output"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]
