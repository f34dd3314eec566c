"""A run on rows from several files, some of which cannot be read."""

import gzip
import json

from services_recipes import RECIPE

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
    place = f"2 left out that cannot be read, the first at {tmp_path}/rows/b.jsonl:1"
    assert manifest.plan.notes[:2] == (f"training rows: {place}", f"evaluation rows: {place}")
    assert (manifest.data.train.source, manifest.data.train.rows) == ("rows, rows/a* (3 files)", 5)
    assert (manifest.data.eval.source, manifest.data.eval.rows) == (str(tmp_path / "rows/b.jsonl"), 1)
