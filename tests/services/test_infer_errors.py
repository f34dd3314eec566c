"""`lorans infer --errors rows`: a row that cannot be answered has an error, and the others their answers."""

import json

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import LoransError

SHORT = ("--set", "generation.max_new_tokens=4", "--set", "generation.batch_size=2")


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def turn(text):
    return json.dumps({"messages": [{"role": "user", "content": text}], "id": text[:4]})


GOOD = ["plum", "What is 12 + 7?", "Spell planet backwards."]
BAD = {
    "not json": ("{", "not JSON"),
    "another type": ('{"messages": 3}', "instead of a list of turns"),
    "no turns": ('{"messages": []}', "no turns"),
    "no room": (turn("plum " * 600), "positions"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_row_without_an_answer_has_an_error(lora_run, tmp_path, bad):
    line, what = BAD[bad]
    alone, mixed = tmp_path / "alone.jsonl", tmp_path / "mixed.jsonl"
    alone.write_text("\n".join(map(turn, GOOD)))
    mixed.write_text("\n".join([turn(GOOD[0]), line, *map(turn, GOOD[1:]), line]))
    expected = [
        json.loads(row)
        for row in call("infer", lora_run.path, "--input-file", alone, "--json", *SHORT).stdout.splitlines()
    ]
    with pytest.raises(LoransError, match=r"mixed.jsonl:2"):
        call("infer", lora_run.path, "--input-file", mixed, "--json", *SHORT)
    output = tmp_path / "o.jsonl"
    done = call("infer", lora_run.path, "--input-file", mixed, "-o", output, "--errors", "rows", *SHORT)
    assert done.exit_code == 0, done.output
    assert "2 of 5 rows could not be answered: they have an `error`" in done.stderr
    found = [json.loads(row) for row in output.read_text().splitlines()]
    assert [found[0], *found[2:4]] == expected
    for place in (1, 4):
        assert found[place]["error"]["where"] == f"{mixed}:{place + 1}"
        assert what in found[place]["error"]["what"]
        assert "output" not in found[place]
    assert {*found[1]} - {"error"} == ({*json.loads(line)} if line != "{" else set())


def test_blank_lines_and_labels_too(classifier_run, tmp_path):
    texts = tmp_path / "in.txt"
    texts.write_text("plum\n \nSTONE\n")
    done = call("infer", classifier_run.path, "--input-file", texts, "--errors", "rows", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("output") for row in found] == ["quiet", None, "loud"]
    assert (found[1]["error"]["where"], found[1]["error"]["what"]) == (f"{texts}:2", "the line is blank")
    plain = call("infer", classifier_run.path, "--input-file", texts, "--errors", "rows").stdout.splitlines()
    assert plain[1] == "error: the line is blank"


def test_a_command_without_any_answer_fails_and_columns_are_kept(lora_run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": 3}\n{\n')
    done = call("infer", lora_run.path, "--input-file", rows, "-o", tmp_path / "o.jsonl", "--errors", "rows")
    assert done.exit_code == 1
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2
    rows.write_text('{"messages": [{"role": "user", "content": "plum"}], "error": 1}\n')
    with pytest.raises(LoransError, match="column `error` would be replaced"):
        call("infer", lora_run.path, "--input-file", rows, "--errors", "rows")
    both = call("infer", lora_run.path, "--input-file", rows, "--base-too", "--json", *SHORT)
    assert json.loads(both.stdout)["error"] == 1
