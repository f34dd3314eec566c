"""Following files that another process appends to."""

import json

from run_folders import rows, write_run

from lora_ns.run.tail import MetricsTail, last_warnings


def test_each_row_is_read_once_when_its_line_is_complete(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = MetricsTail(file)
    assert tail.read() == ([], False)
    file.write_text('{"step": 1}\n{"st')
    assert tail.read() == ([{"step": 1}], False)
    assert tail.read() == ([], False)
    with file.open("a") as opened:
        opened.write('ep": 2}\nnot a row\n{"step": 3}\n')
    assert tail.read() == ([{"step": 2}, {"step": 3}], False)


def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path):
    run = write_run(tmp_path / "run", logged=rows(10))
    tail = MetricsTail(run / "metrics.jsonl")
    assert len(tail.read()[0]) == 10
    shorter = tmp_path / "shorter"
    shorter.write_text("".join(f"{json.dumps(row)}\n" for row in rows(4)))
    shorter.replace(run / "metrics.jsonl")
    found, is_new = tail.read()
    assert is_new
    assert [row["step"] for row in found] == [1, 2, 3, 4]


def test_the_last_different_warnings_are_shown_printable_and_without_secrets(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "UserWarning: one\nfine\nError: \x1b[31mtwo\nUserWarning: one\nwarning: https://me:hunter2@example.org\n"
    )
    found = last_warnings(log)
    assert len(found) == 3
    assert not any("\x1b" in line or "hunter2" in line for line in found)
    assert last_warnings(log, 1) == found[-1:]
    assert last_warnings(tmp_path / "missing") == []


def test_what_libraries_print_whenever_they_are_imported_is_no_warning_of_the_run(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "W1130 20:25:03.562000 19551 torch/utils/_pytree.py:630] <enum 'KernelPreference'> is an Enum subclass; error\n"
        "[2026-11-30 20:25:05,413] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU.\n"
        "UserWarning: of this run\n"
    )
    assert last_warnings(log) == ["UserWarning: of this run"]
