"""What the commands write to a terminal has nothing in it that would steer it, wherever the text comes from."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL
from terminals import command, on_a_terminal

import lora_ns.cli
from lora_ns.cli import terminal
from lora_ns.cli.complete import recipe_files
from lora_ns.cli.show import Progress, note, print_json, print_pairs

PLANTED = "\x1b]0;title\x07\x1b]52;c;cm0=\x07\u202e\x9b31m"
HARMFUL = ("\x1b]", "\x07", "\u202e", "\x9b")


def progress(stream):
    with Progress(stream.fileno()) as shown:
        shown.warn(PLANTED)
        shown.stage(PLANTED)


def unknown_key(folder):
    (folder / "r.toml").write_text(MINIMAL + json.dumps(PLANTED) + " = 1\n")
    return command("validate", folder / "r.toml")


def override(folder):
    (folder / "r.toml").write_text(MINIMAL)
    return command("validate", folder / "r.toml", "--set", f"training.{PLANTED}=1")


def column(folder):
    (folder / "train.jsonl").write_text(json.dumps({PLANTED: 1}) + "\n")
    (folder / "r.toml").write_text(MINIMAL)
    return command("plan", folder / "r.toml")


def conll(folder):
    (folder / "train.conll").write_text(f"word{PLANTED}\n" * 3, encoding="utf-8")
    text = MINIMAL.replace("train.jsonl", "train.conll").replace("CAUSAL_LM", "TOKEN_CLS")
    (folder / "r.toml").write_text(text)
    return command("plan", folder / "r.toml")


def manifest(_):
    from lora_ns.cli.submit import _lines
    from lora_ns.services.submit import RunStatus

    fields = {field.name: None for field in dataclasses.fields(RunStatus)}
    return lambda _: print_pairs(_lines(RunStatus(**{**fields, "run": PLANTED, "status": PLANTED, "error": PLANTED})))


def log(folder):
    from lora_ns.services import submit

    def write(stream):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(submit, "log", lambda _: PLANTED + "\n")
            command("status", folder, "--log")(stream)

    return write


def shown_row(folder):
    from lora_ns.cli.findings import print_row
    from lora_ns.services.validate import Piece, Shown

    row = Shown(PLANTED, 1, 1, (Piece(PLANTED, "trained", (1,)),), PLANTED)
    return lambda _: (print_row(row, ids=False), print_row(row, ids=True))


def finding(_):
    from lora_ns.cli.findings import print_by_file
    from lora_ns.data.audit import Finding

    return lambda _: print_by_file(Finding("DUP001", PLANTED, (f"{PLANTED}:3 (as {PLANTED})",), PLANTED))


def plan(_):
    from lora_ns.cli.plan import _Line, _table

    return lambda _: terminal.draw(_table([_Line("format", PLANTED, "computed", PLANTED)]))


PLACES = {
    "an unknown key": unknown_key,
    "a column": column,
    "a word of CoNLL": conll,
    "a manifest": manifest,
    "a log": log,
    "a row": shown_row,
    "a file": lambda folder: command("validate", folder / PLANTED),
    "a folder": lambda folder: command("infer", folder / PLANTED, "-i", "x"),
    "an override": override,
    "a word of the command line": lambda _: command(PLANTED),
    "an option": lambda _: command("validate", f"--{PLANTED}"),
    "a choice": lambda _: command("infer", "x", "--dtype", PLANTED),
    "progress": lambda _: progress,
    "a finding": finding,
    "a plan": plan,
    "a note": lambda _: lambda _: note(PLANTED),
    "a pair": lambda _: lambda _: print_pairs([(PLANTED, PLANTED)]),
    "a result": lambda _: lambda _: print_json({PLANTED: PLANTED}),
    "an answer": lambda _: lambda _: terminal.hand_over(PLANTED),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_terminal_is_not_steered(place, tmp_path):
    text = on_a_terminal(PLACES[place](tmp_path))
    assert "title" in text
    assert not [character for character in HARMFUL if character in text]


SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8x"
RESULTS = ("a row", "a result", "an answer")
"""What was asked for, and is handed over with whatever is in it."""


@pytest.mark.parametrize("place", [place for place in PLACES if place not in RESULTS])
def test_no_secret_reaches_a_terminal(place, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PLANTED", f":{SECRET} ")
    text = on_a_terminal(PLACES[place](tmp_path))
    assert "***" in text
    assert SECRET not in text


def test_no_secret_reaches_standard_error_by_a_traceback_a_warning_or_a_handler():
    code = (
        "import logging, sys, warnings; from lora_ns.cli import terminal as t; t.make_errors_readable();"
        "logging.basicConfig(); logging.error(sys.argv[1]); warnings.warn(sys.argv[1]); raise ValueError(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, SECRET], capture_output=True, text=True, check=False)
    assert done.stderr.count("***") == 3
    assert SECRET not in done.stderr


def test_a_row_is_shown_as_it_is(capsys):
    from lora_ns.cli.findings import print_row
    from lora_ns.services.validate import Piece, Shown

    print_row(Shown("row 1", 1, 1, (Piece(f"my {SECRET}", "trained", (1,)),), None), ids=False)
    assert SECRET in capsys.readouterr().out


def test_standard_error_is_printable_in_a_log_and_a_result_is_raw_in_a_pipe(capsys):
    terminal.hand_over("a\x1b")
    terminal.say("b\x1b")
    note("c\x1b")
    assert capsys.readouterr() == ("a\x1b\nb\\x1b\n", "note: c\\x1b\n")


def test_a_traceback_is_printable():
    code = "from lora_ns.cli import terminal as t; t.make_errors_readable(); raise ValueError('\\x1b]0;title')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert r"ValueError: \x1b]0;title" in done.stderr


def test_an_unknown_command_is_printable_in_a_log():
    assert r"\x1b]0;title" in lorans(PLANTED).stderr


def test_what_a_stream_cannot_encode_is_shown_by_code_point():
    code = "from lora_ns.cli.terminal import say; say('é'); say('█', err=True)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True
    )
    assert (done.stdout, done.stderr) == (b"\\xe9\n", b"\\u2588\n")


def test_a_full_disk_behind_standard_output_is_a_message():
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "lora_ns", "schema"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: cannot be written: No space left on device")
    assert len(done.stderr.splitlines()) == 1


def test_the_shell_is_offered_printable_names(tmp_path):
    (tmp_path / "a\x1b.toml").touch()
    (tmp_path / "b.toml").touch()
    assert recipe_files(f"{tmp_path}/") == [str(tmp_path / "b.toml")]


def test_there_is_one_way_out():
    """Commands write by `terminal`; three others draw live displays, whose foreign text is made readable."""
    found = set()
    for file in Path(lora_ns.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                written = ast.unparse(node.func)
                is_stream = written.startswith(("sys.stdout.write", "sys.stderr.write", "os.write"))
                if written in {"print", "typer.echo", "typer.secho", "echo", "Console"} or is_stream:
                    found.add((file.name, written))
    displays = {(name, "Console") for name in ("show.py", "env_check.py", "watch.py")}
    assert found == {("terminal.py", "typer.echo"), ("terminal.py", "Console"), *displays}
