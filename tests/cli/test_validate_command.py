"""`lorans validate` of one recipe, of several, of folders and of all below: what is checked, said and returned."""

import json

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL
from terminals import command, on_a_terminal, plain, shown

from lora_ns.cli.findings import print_audit, print_by_file
from lora_ns.cli.problems import part_command, print_problems
from lora_ns.data.audit import Audit, Finding, Padding, SourceReport
from lora_ns.errors import MissingError, Problem, RunError
from lora_ns.services import check_recipe as service

GOOD = MINIMAL.replace("train.jsonl", "lorans:quickstart/train.jsonl")
BAD = GOOD + "sed = 1\n"
PYPROJECT = '[project]\nname = "p"\n[tool.ruff]\nline-length = 120\n'
ANOTHER_TRAINER = '[model]\nname = "m"\n[training]\nsteps = 1\n[optimizer]\nlr = 1.0\n'
"""Tables of the same names, for another tool."""


@pytest.fixture
def write(tmp_path):
    """Writes files by their paths."""

    def write_files(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write_files


def test_several_recipes_are_checked_whatever_becomes_of_the_others(write):
    write(a_toml=GOOD, b_toml=BAD, c_toml=GOOD)
    done = lorans("validate", "a.toml", "none.toml", "b.toml", "c.toml")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "a.toml: ok",
        "none.toml: not ok",
        "b.toml: not ok",
        "c.toml: ok",
        "4 recipes: 2 ok, 2 not ok",
    ]
    assert [line.partition(" (")[0] for line in done.stderr.splitlines()] == [
        "error: none.toml: no such file",
        "error: b.toml:15: training.sed: unknown key",
    ]


def test_several_recipes_are_one_object_of_json(write):
    write(a_toml=GOOD, b_toml=BAD)
    done = lorans("validate", "a.toml", "b.toml", "--json")
    found = json.loads(done.stdout)
    alone = {name: json.loads(lorans("validate", name, "--json").stdout) for name in ("a.toml", "b.toml")}
    assert (done.returncode, done.stderr) == (2, "")
    assert found == {"ok": False, "recipes": alone}
    assert alone["a.toml"] == {"ok": True, "problems": []}
    assert alone["b.toml"]["problems"][0]["key"] == "training.sed"


def test_overrides_and_strictness_are_for_all(write):
    write(a_toml=GOOD, b_toml=GOOD)
    every = ("validate", "a.toml", "b.toml", "--set", "dataset.path=none.jsonl", "--elsewhere")
    assert (lorans(*every).returncode, lorans(*every, "--strict").returncode) == (0, 2)
    assert lorans(*every, "--strict").stdout.endswith("2 recipes: 0 ok, 2 not ok\n")


CODES = {
    "ok": ([], 0),
    "usage": ([RunError(Problem("", "failed"))], 1),
    "2 over 1": ([RunError(Problem("", "failed")), None], 2),
    "3 over 2": ([MissingError(Problem("", "missing")), None], 3),
    "out of memory": ([MemoryError()], 1),
}


@pytest.mark.parametrize("name", CODES)
def test_the_exit_code_is_the_worst_one(write, monkeypatch, name):
    errors, code = CODES[name]
    folder = write(z_toml=GOOD)
    for number, error in enumerate(errors):
        (folder / f"{number}.toml").write_text(GOOD if error else BAD)
    check = service.check_recipe

    def checked(path, *how):
        error = errors[int(path.stem)] if path.stem.isdecimal() else None
        if error:
            raise error
        return check(path, *how)

    monkeypatch.setattr(service, "check_recipe", checked)
    assert lorans("validate", ".").returncode == code


def test_a_stop_ends_them_all(write, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    write(a_toml=GOOD, b_toml=GOOD)
    monkeypatch.setattr(service, "check_recipe", stop)
    done = lorans("validate", "a.toml", "b.toml")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_folder_stands_for_the_recipes_in_it_and_below_it(write):
    write(r__b_toml=GOOD, r__deep__er__a_toml=GOOD, r__pyproject_toml=PYPROJECT, r__deep__other_toml=ANOTHER_TRAINER)
    done = lorans("validate", "r")
    assert (done.returncode, done.stdout) == (0, "r/b.toml: ok\nr/deep/er/a.toml: ok\n2 recipes: 2 ok\n")
    assert done.stderr == (
        "note: skipped TOML files without `task_type` and `[peft]`: r/pyproject.toml, r/deep/other.toml\n"
    )


def test_all_leaves_out_what_nobody_wrote_as_a_recipe(write, tmp_path):
    write(
        a_toml=GOOD,
        run__recipe_toml=BAD,
        run__manifest_json="{}",
        run__adapter__more_toml=BAD,
        venv__pyvenv_cfg="",
        venv__lib__recipe_toml=BAD,
        web__manifest_json="{}",
        web__b_toml=GOOD,
    )
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/c.toml").write_text(BAD)
    (tmp_path / ".d.toml").write_text(BAD)
    done = lorans("validate", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a.toml: ok\nweb/b.toml: ok\n2 recipes: 2 ok\n"
    assert lorans("validate", "run", "--json").returncode == 2  # it is named


def test_the_same_recipe_is_checked_once(write, tmp_path):
    write(r__a_toml=GOOD)
    (tmp_path / "link.toml").symlink_to("r/a.toml")
    done = lorans("validate", "r/a.toml", "link.toml", "r", "./r/../r/a.toml")
    assert done.stdout == "r/a.toml: ok\n1 recipe: 1 ok\n"


RECIPES = {
    "whole": GOOD,
    "a key is wrong": BAD,
    "no task_type": GOOD.replace('task_type = "CAUSAL_LM"\n', ""),
    "no [peft]": GOOD.replace('[peft]\nmethod = "lora"\n', ""),
    "not TOML": GOOD + "sed = \n",
    "not TOML before the marks": "= 1\n" + GOOD,
    "a dotted key": 'peft.method = "lora"\n',
    "a table of peft's": "[peft.extra]\nx = 1\nx = 2\n",
}
OTHERS = {
    "pyproject": PYPROJECT,
    "another trainer": ANOTHER_TRAINER,
    "not TOML": "a = \n",
    "empty": "",
    "peft within": "[tool.peft]\na = 1\n",
    "peft in a value": 'a = "[peft]"\n',
    "peft in a comment": "# [peft]\na = \n",
}


@pytest.mark.parametrize(
    ("text", "is_one"),
    [*((text, True) for text in RECIPES.values()), *((text, False) for text in OTHERS.values())],
    ids=[*RECIPES, *(f"other: {name}" for name in OTHERS)],
)
def test_a_recipe_is_told_apart_by_what_only_recipes_have(write, text, is_one):
    write(r__x_toml=text, r__y_toml=GOOD)
    done = lorans("validate", "r")
    assert ("r/x.toml: " in done.stdout) == is_one
    assert ("skipped TOML files" in done.stderr) != is_one
    assert "r/x.toml" in lorans("validate", "r/x.toml").stdout + lorans("validate", "r/x.toml").stderr


REFUSED = {
    "nothing": ((), "no recipe given"),
    "no recipe below": (("--all",), "no recipe in this folder or below"),
    "an empty folder": (("a.toml", "empty"), "empty: no recipe in this folder or below"),
    "a folder of others": (("others",), "no recipe in this folder or below, and 1 other TOML file"),
    "all and one": (("a.toml", "--all"), "--all: already means all recipes below"),
    "elsewhere and here": (
        ("a.toml", "--elsewhere", "--data"),
        "--elsewhere: `--data`, `--model`, `--step`, `--learn` and `--show` need",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_recipe_to_check_is_an_error(write, tmp_path, name):
    words, expected = REFUSED[name]
    if "a.toml" in words:
        write(a_toml=GOOD)
    (tmp_path / "empty").mkdir()
    if name == "a folder of others":
        write(others__x_toml=PYPROJECT)
    done = lorans("validate", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr


def test_a_folder_that_cannot_be_read_is_said(write, tmp_path, monkeypatch):
    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/closed"))
        return iter([(str(folder), [], ["a.toml"])])

    write(r__a_toml=GOOD)
    monkeypatch.setattr("lora_ns.recipe.find.os.walk", walk)
    done = lorans("validate", "r")
    assert (done.returncode, done.stderr) == (
        0,
        "warning: r/closed: cannot be read: Permission denied (check its permissions)\n",
    )


# On a terminal


def test_a_terminal_names_a_file_once_and_then_its_lines(write):
    write(b_toml=GOOD.replace('"lora"', '"lora"\nlora_alfa = 1') + "sed = 1\n")
    assert shown("validate", "b.toml") == [
        "error: b.toml",
        "  line 9   peft.lora_alfa  unknown key",
        "           did you mean `lora_alpha`?",
        "  line 16  training.sed  unknown key",
        "           did you mean `seed`?",
    ]


def test_a_terminal_names_each_recipe_once(write):
    write(a_toml=GOOD, b_toml=BAD)
    assert shown("validate", "a.toml", "b.toml") == [
        "a.toml: ok",
        "error: b.toml",
        "  line 15  training.sed  unknown key",
        "           did you mean `seed`?",
        "2 recipes: 1 ok, 1 not ok",
    ]
    assert shown("validate", "a.toml", "b.toml", "--set", "training.sed=1")[-3:] == [
        "  did you mean `seed`?",
        "b.toml: not ok",
        "2 recipes: 0 ok, 2 not ok",
    ]


REMEDIES = {
    "`pip install trl`": ("", "pip install trl"),
    "`lorans train run --resume` goes on": ("this goes on:", "lorans train run --resume"),
    "accept its terms, then `hf auth login`": ("accept its terms, then:", "hf auth login"),
    "check `name`; `hf auth login`; or give a file": (
        "check `name`; `hf auth login`; or give a file",
        "hf auth login",
    ),
    "`lorans init NAME` writes one": ("`lorans init NAME` writes one", ""),
    "did you mean `seed`?": ("did you mean `seed`?", ""),
    "": ("", ""),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_command_is_parted_from_what_is_said_of_it(remedy):
    assert part_command(remedy) == REMEDIES[remedy]


def test_a_command_to_copy_is_alone_on_the_last_line_however_narrow_the_terminal(write):
    run = "outputs/a-run-with-a-long-name/that-does-not-fit"
    told = Problem("", "stopped after step 1 of 3", f"`lorans train {run} --resume` goes on")
    assert plain(on_a_terminal(lambda _: print_problems([told], "stopped"), columns=40)).splitlines() == [
        "stopped after step 1 of 3",
        "  this goes on:",
        f"    lorans train {run} --resume",
    ]
    assert shown("validate", "none.toml") == ["error: none.toml: no such file", "  create one with `lorans init NAME`"]


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_what_is_wrapped_keeps_every_word(write, columns):
    write(b_toml=BAD)
    words = ("validate", "b.toml", "--set", "dataset.eval_slice=x", "--set", "sft.packing=maybe")
    lines = shown(*words, columns=columns)
    assert max(map(len, lines)) <= columns
    piped = lorans(*words).stderr
    for word in " ".join(lines).split():
        assert word.strip(":,") in f"{piped} line"


@pytest.mark.parametrize("surroundings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colours_are_left_out_where_they_are_not_wanted(write, surroundings):
    write(a_toml=GOOD, b_toml=BAD)
    coloured = on_a_terminal(command("validate", "a.toml", "b.toml"))
    bare = on_a_terminal(command("validate", "a.toml", "b.toml"), **surroundings)
    assert "\x1b[" in coloured
    assert "\x1b" not in bare
    assert plain(coloured) == bare


def test_findings_name_a_file_once_and_then_its_rows():
    rows = tuple(f"rows.jsonl:{number} (as rows.jsonl:4)" for number in (21, 33)) + ("x.parquet, row 7",) * 5
    finding = Finding("DUP001", "rows.jsonl: rows that are there already", rows, "remove them")
    assert plain(on_a_terminal(lambda _: print_by_file(finding))).splitlines() == [
        "warning: [DUP001] rows.jsonl: rows that are there already: 7 rows",
        "  rows.jsonl: line 21 (as rows.jsonl:4), line 33 (as rows.jsonl:4)",
        "  x.parquet: row 7, row 7, row 7",
        "  and 2 more; `--json` lists all",
        "  remove them",
    ]


@pytest.mark.parametrize(
    ("counts", "tokens", "longest", "lines"),
    [
        ([0] * 9 + [4], 228, 57, ["every sequence has 57 tokens"]),
        ([0] * 9 + [4], 226, 57, ["every sequence has 55 to 57 tokens"]),
        ([0] * 9 + [4], 240, 300, ["every sequence has 55 to 60 tokens"]),  # cut at 60
        ([0] * 8 + [1, 3], 200, 57, [" " * 7 + "6" + " " * 42 + "0"]),
        ([], 0, 0, []),
    ],
)
def test_lengths_are_bars_only_if_they_differ(capsys, counts, tokens, longest, lines):
    histogram = tuple((6 * (place + 1), count) for place, count in enumerate(counts))
    rows = sum(counts)
    report = SourceReport("rows.jsonl", rows, rows, tokens, tokens, 0, 0, longest, 57, histogram)
    print_audit(Audit(report, None, "text", Padding(0.0, 0.0)))
    shown = capsys.readouterr().out.splitlines()
    between = shown[3:-1]
    assert between[: len(lines)] == lines
    assert len(between) == (10 if sum(map(bool, counts)) > 1 else len(lines))
    assert sum("█" in line for line in shown) == (2 if sum(map(bool, counts)) > 1 else 0)
