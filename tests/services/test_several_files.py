"""A run on rows from several files, some of which cannot be read."""

import gzip
import json

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, class_rows
from typer.testing import CliRunner

from lora_ns.cli.app import app

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}).encode()


def test_a_run_on_several_files_says_what_it_left_out(trained, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/b.jsonl").write_bytes(b"x\n" + ROW + b"\n[]\n")
    (tmp_path / "rows/a.jsonl.gz").write_bytes(gzip.compress(ROW + b"\n" + ROW))
    run = trained(
        RECIPE,
        'dataset.path=["rows", "rows/a*"]',
        "dataset.eval_path=rows/b.jsonl",
        "dataset.max_bad_rows=2",
        "training.max_steps=1",
    )
    manifest = run.read()
    place = f"2 left out as unreadable, the first at {tmp_path}/rows/b.jsonl:1"
    assert manifest.plan.notes[:2] == (f"training rows: {place}", f"evaluation rows: {place}")
    assert (manifest.data.train.source, manifest.data.train.rows) == ("rows, rows/a* (3 files)", 5)
    assert (manifest.data.eval.source, manifest.data.eval.rows) == (str(tmp_path / "rows/b.jsonl"), 1)


MIXED = RECIPE.replace('path = "lorans:quickstart/train.jsonl"\neval_path = "lorans:quickstart/eval.jsonl"\n', "")
MIXED = MIXED.replace('format = "messages"\nmax_samples = 64\nmax_eval_samples = 8\n', "eval_fraction = 0.2\n")
MIXED += """[[dataset.sources]]
path = "a.jsonl"
weight = 1
[[dataset.sources]]
path = "b.jsonl"
weight = 1
"""


def write_two(folder):
    (folder / "a.jsonl").write_bytes((ROW + b"\n") * 5)
    (folder / "b.jsonl").write_text("".join(f'{{"text": "plum {number}"}}\n' for number in range(50)))


def test_a_run_on_mixed_sources_has_a_record_of_each(trained, tmp_path):
    """What the manifest says of each source adds up to what is trained on, and cached rows are those of the mix."""
    write_two(tmp_path)
    overrides = ["dataset.stopping_strategy=all_exhausted", "training.max_steps=1"]
    data = trained(MIXED, *overrides).read().data
    first, second = data.sources
    assert [(part.format, part.rows, part.held_out, part.weight) for part in data.sources] == [
        ("messages", 4, 1, 1),
        ("text", 40, 10, 1),
    ]
    assert (second.used, second.repeated, first.repeated) == (40, 0, first.used - 4)
    assert first.used + second.used == data.train.rows
    again = trained(MIXED, *overrides, f"training.output_dir={tmp_path / 'again'}").read()
    assert again.data == data
    assert trained(MIXED, f"training.output_dir={tmp_path / 'less'}", "training.max_steps=1").read().data != data


def test_every_source_has_a_line_of_its_own(tmp_path):
    write_two(tmp_path)
    (tmp_path / "recipe.toml").write_text(MIXED.replace("weight = 1\n", ""))
    shown = CliRunner().invoke(app, ["validate", "recipe.toml", "--data"], catch_exceptions=False).stdout
    assert [line.replace(f"{tmp_path}/", "") for line in shown.splitlines() if line.startswith("source")] == [
        "source  a.jsonl: 4 rows, 1 set aside; messages, by column `messages`",
        "source  b.jsonl: 40 rows, 10 set aside; text, by column `text`",
    ]


def test_a_run_on_a_table_without_a_header_measures_and_answers_others_like_it(trained, tmp_path):
    rows = "".join(f"{row['text']}\t{row['label']}\n" for row in class_rows())
    (tmp_path / "rows.tsv").write_text(rows)
    run = trained(CLASSES, "dataset.path=rows.tsv", 'dataset.column_names=["text", "label"]', "training.max_steps=1")
    assert run.read().labels == ("loud", "quiet")
    for arguments in (["eval", "--data"], ["infer", "--input-file"]):
        name, option = arguments
        done = CliRunner().invoke(app, [name, str(run.path), option, "rows.tsv", "--json"], catch_exceptions=False)
        assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == len(class_rows())
