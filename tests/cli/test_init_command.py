"""`lorans init` on the command line: it asks on a terminal, and says why it chose what."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from command_line import lorans
from terminals import plain

ROWS = "".join(json.dumps({"question": f"How many are {n}?", "answer": f"{n} plums"}) + "\n" for n in range(20))
FREE = "text,label\n" + "".join(f"a plum {n},it fell {n} times\n" for n in range(20))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "free.csv").write_text(FREE)
    return tmp_path


_LONGEST = 300
"""Seconds after which a command counts as hanging; on a busy machine, the imports alone may take a minute."""

_PATIENCE = 5
"""Seconds of silence after which Ctrl-C is pressed again."""

_CTRL_C = b"\x03"


def on_a_terminal(folder, answers, *words):
    """The exit code of `lorans init` on a terminal and what it shows; each answer follows a prompt.

    Ctrl-C is pressed again after `_PATIENCE` seconds of silence, as a person would: the interpreter may lose one that
    arrives between its own look for signals and readline's wait for a key.
    """
    above, below = pty.openpty()
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from lora_ns.cli.app import main; main(['init', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, *words]
    process = subprocess.Popen(command, cwd=folder, stdin=below, stdout=below, stderr=below, start_new_session=True)
    os.close(below)
    shown, given, begin = b"", 0, time.monotonic()
    pressed = begin
    while time.monotonic() - begin < _LONGEST:
        ready, _, _ = select.select([above], [], [], 0.2)
        if ready:
            try:
                block = os.read(above, 4096)
            except OSError:
                break
            if not block:
                break
            shown += block
            if given < len(answers) and shown.count(b"]:") > given:
                os.write(above, answers[given])
                given, pressed = given + 1, time.monotonic()
        elif process.poll() is not None:
            break
        elif answers[given - 1 : given] == [_CTRL_C] and time.monotonic() - pressed > _PATIENCE:
            os.write(above, _CTRL_C)
            pressed = time.monotonic()
    code = process.wait(timeout=_LONGEST)
    os.close(above)  # not before: a terminal that hangs up ends a process that is still on its way out
    return code, plain(shown.decode())


def test_a_terminal_is_asked_for_all_that_is_not_given(here):
    code, shown = on_a_terminal(here, [b"mine\n", b"rows.jsonl\n", b"\n", b"\n"])
    assert code == 0
    assert "folder to create [my-task]:" in shown
    assert "base model (a hub id, a folder or a GGUF file) [lorans:nano]:" in shown
    assert "task: CAUSAL_LM, because the rows have the columns `question`, `answer`" in shown
    assert (here / "mine/recipe.toml").is_file()


def test_enter_takes_the_quickstart(here):
    code, _ = on_a_terminal(here, [b"\n"] * 4)
    assert code == 0
    assert "lorans:quickstart" in (here / "my-task/recipe.toml").read_text()


def test_an_open_question_is_asked_again_until_it_is_answered(here):
    code, shown = on_a_terminal(here, [b"7\n", b"2\n"], "mine", "--data", "free.csv")
    assert code == 0
    assert "`7` is not a number from 1 to 2" in shown
    assert 'task_type = "SEQ_CLS"' in (here / "mine/recipe.toml").read_text()


@pytest.mark.parametrize(("end", "code"), [(_CTRL_C, 130), (b"\x04", 2)])
def test_who_stops_leaves_nothing_behind(here, end, code):
    ended, shown = on_a_terminal(here, [b"mine\n", end])
    assert ended == code
    assert "Traceback" not in shown
    assert sorted(path.name for path in here.iterdir()) == ["free.csv", "rows.jsonl"]


def test_without_a_terminal_nothing_is_asked(here):
    done = lorans("init")
    assert (done.returncode, "no folder given" in done.stderr) == (2, True)
    done = lorans("init", "mine", "--data", "free.csv")
    assert done.returncode == 2
    assert "`--task CAUSAL_LM` or `--task SEQ_CLS`" in done.stderr
    assert not (here / "mine").exists()


def test_yes_takes_the_defaults(here):
    assert lorans("init", "--yes", "--data", "rows.jsonl").returncode == 0
    assert (here / "rows/recipe.toml").is_file()
    assert lorans("init", "--yes").returncode == 0
    assert lorans("validate", "my-task/recipe.toml").returncode == 0


@pytest.mark.parametrize(
    ("option", "name", "meant"),
    [
        ("--recipe", "gsm8", "gsm8k"),
        ("--method", "lorra", "lora"),
        ("--task", "SEQCLS", "SEQ_CLS"),
        ("--objective", "rewrd", "reward"),
    ],
)
def test_a_name_that_is_not_known_is_told_with_the_one_that_is_meant(here, option, name, meant):
    done = lorans("init", "mine", option, name)
    assert done.returncode == 2
    assert f"did you mean `{meant}`?" in done.stderr


def test_a_key_is_set_in_what_is_written(here):
    assert lorans("init", "mine", "--data", "rows.jsonl", "--set", "training.seed=7").returncode == 0
    assert "seed = 7" in (here / "mine/recipe.toml").read_text()
