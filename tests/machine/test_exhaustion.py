"""Too little memory is one message, and other errors stay what they are."""

import pytest

from lora_ns.answers.work import Task, row_progress
from lora_ns.errors import RunError
from lora_ns.machine.exhaustion import telling_memory_errors


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        RuntimeError("unable to mmap 4 bytes from file <x>: Cannot allocate memory (12)"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_too_little_memory_is_a_message(error):
    with pytest.raises(RunError, match="no room"), telling_memory_errors(lambda: "no room", "less"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), OSError(2, "no such file")])
def test_others_stay_what_they_are(error):
    with pytest.raises(type(error)), telling_memory_errors(lambda: "no room", "less"):
        raise error


def test_rows_that_are_measured_and_answered_are_counted_once():
    told = []
    tell = row_progress(
        [Task("loss", range(200), []), Task("write", range(200), [])], lambda *told_: told.append(told_)
    )
    for done in (0, 5, 200, 400):
        tell(done)
    assert told == [(0, 200), (2, 200), (100, 200), (200, 200)]
