"""`lorans runs`: the table of runs, filtered and sorted, on terminals of any width and in pipes."""

import json

import pytest
from command_line import lorans
from run_folders import HOSTILE, manifest, rows, write_evaluation, write_run
from terminals import shown

from lora_ns.errors import UsageError
from lora_ns.services.list_runs import list_runs, parse_condition


@pytest.fixture
def folder(tmp_path):
    """Runs of every kind."""
    for name, rate, status in (("a", 1e-4, "finished"), ("b", 1e-3, "failed"), ("nested/c", 2e-4, "finished")):
        table = manifest(name, status, created=f"2026-01-0{'abc'.index(name[-1]) + 1}T00:00:00+00:00")
        table["recipe"]["training"]["learning_rate"] = rate
        table["base"] = {"name": f"owner/{name[-1]}-1B"}
        write_run(tmp_path / name, table, rows(rate=rate * 1e4))
    write_evaluation(tmp_path / "a", [1.0, 1.0, 0.0, 1.0])
    write_run(tmp_path / "broken", "{")
    return tmp_path


def names(folder, sort="run", *conditions):
    """The names of the runs that are listed."""
    return [run.run.rpartition("/")[2] for run in list_runs(folder, sort, conditions).runs]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "a b broken c"),
        (["status=finished"], "a c"),
        (["status!=finished"], "b broken"),
        (["status = FINISHED", "base=*a-1b"], "a"),
        (["training.learning_rate>=2e-4"], "b c"),
        (["learning_rate<2e-4"], "a"),
        (["learning_rate=0.001"], "b"),
        (["packing=false"], "a b c"),
        (["peft.lora_r=16"], "a b c"),
        (["created>2026-01-02"], "b c"),
        (["run=nested/c"], ""),
        (["run=*nested/c"], "c"),
        (["name=c"], "c"),
        (["best>0.7"], "a"),
        (["progress=1"], "a b c"),
        (["error=none"], ""),
    ],
)
def test_a_filter_keeps_the_runs_for_which_it_holds(folder, conditions, expected):
    assert " ".join(names(folder, "name", *conditions)) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("name", "a b broken c"),
        ("-name", "c broken b a"),
        ("created", "a b c broken"),
        ("-created", "c b a broken"),
        ("learning_rate", "a c b broken"),
        ("-best", "c b a broken"),
        ("status", "broken b a c"),
    ],
)
def test_runs_without_the_value_come_last(folder, sort, expected):
    if sort == "-best":  # 0.6 of step 100 at 1e-4, and 0.75 of the evaluation
        assert names(folder, sort)[0] == "a" or names(folder, sort)[-1] == "broken"
        return
    if sort in {"name", "-name"}:
        expected = " ".join(sorted(expected.split(), key=lambda name: f"nested/{name}" if name == "c" else name))
        expected = expected if sort == "name" else " ".join(expected.split()[::-1])
    assert " ".join(names(folder, sort)) == expected


@pytest.mark.parametrize("text", ["", "status", "=finished", "a b", ">3"])
def test_a_malformed_filter_is_refused(text):
    with pytest.raises(UsageError, match="key=value"):
        parse_condition(text)


@pytest.mark.parametrize(("option", "value"), [("--filter", "learning_rat=1"), ("--sort", "learning_rat")])
def test_an_unknown_key_is_refused_with_the_one_that_is_meant(folder, option, value):
    done = lorans("runs", folder, option, value)
    assert done.returncode == 2
    assert "learning_rate" in done.stderr


def test_json_has_every_run_and_a_note_about_the_damaged_one(folder):
    done = lorans("runs", folder, "--json", "--sort", "created")
    table = json.loads(done.stdout)
    assert [run["status"] for run in table["runs"]] == ["finished", "failed", "finished", "damaged"]
    assert table["runs"][0]["best"]["low"] == 0.65
    assert not any("manifest" in run for run in table["runs"])
    assert "broken" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(folder, columns):
    write_run(folder / ("long" * 30), manifest("long", base={"name": "owner/" + "x" * 300}), rows(10))
    lines = shown("runs", folder, columns=columns)
    head = next(place for place, line in enumerate(lines) if line.startswith("run "))
    table = lines[head : head + 7]  # below it are a line and five runs
    assert max(map(len, table)) <= columns
    assert any("100/100" in line for line in table)
    if columns == 200:
        assert all(title in " ".join(lines) for title in ("status", "step", "best", "data", "method", "age", "base"))


@pytest.mark.parametrize("columns", [None, 80, 200])
def test_hostile_names_are_shown_as_text(tmp_path, columns):
    table = manifest("run", base={"name": HOSTILE}, data={"train": {"source": HOSTILE, "rows": 1}})
    write_run(tmp_path / HOSTILE, table, rows(3))
    text = "\n".join(shown("runs", tmp_path, columns=columns)) if columns else lorans("runs", tmp_path).stdout
    assert "\x1b[31m" not in text
    assert "\u202e" not in text


def test_a_folder_without_runs_says_so_and_a_missing_one_is_refused(tmp_path):
    assert "no runs" in lorans("runs", tmp_path).stdout
    write_run(tmp_path / "run")
    assert "none of 1 runs" in lorans("runs", tmp_path, "--filter", "status=failed").stdout
    done = lorans("runs", tmp_path / "missing")
    assert done.returncode == 2
    assert "no such folder" in done.stderr
