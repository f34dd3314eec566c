"""Code of others ends: in time, within memory, and without a trace in the process that called it."""

import re
import resource
import signal
import subprocess
import sys
import threading

import pytest

from lora_ns.safety.deadline import OverrunError, bounded

SHORT = 0.2
ADDRESSES = resource.getrlimit(resource.RLIMIT_AS)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    yield
    assert resource.getrlimit(resource.RLIMIT_AS) == ADDRESSES


def loops():
    while True:
        pass


def goes_on():
    for _ in range(3):
        try:
            loops()
        except Exception:  # as jinja does, where it computes what is constant
            continue


def doubles():
    text = "a"
    while True:
        text += text


def appends():
    rows = []
    while True:
        rows.append([0] * 1000)


ENDLESS = {
    "a loop": loops,
    "a loop that goes on after errors": goes_on,
    "a text that doubles": doubles,
    "a list that grows": appends,
    "one allocation": lambda: "a" * 10**11,
    "a pattern": lambda: re.search("(a+)+$", "a" * 60 + "b"),
}
IN_ANY_THREAD = [name for name in ENDLESS if name != "a pattern"]
"""Python's own patterns hold the interpreter, and only ask for signals."""


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_ended(name):
    with pytest.raises(OverrunError, match="takes more than"):
        bounded(ENDLESS[name], SHORT, memory=64 * 2**20)


@pytest.mark.parametrize("name", IN_ANY_THREAD)
def test_what_has_no_end_is_ended_in_another_thread(name):
    raised = []

    def call():
        try:
            bounded(ENDLESS[name], SHORT, memory=64 * 2**20)
        except OverrunError as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(30)
    assert len(raised) == 1


@pytest.mark.parametrize("call", [int, loops], ids=["ends", "is ended"])
def test_limits_hold_for_the_call_alone(call):
    def mine(number, frame):
        raise AssertionError

    handler = signal.signal(signal.SIGVTALRM, mine)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
        if call is int:
            assert bounded(call, SHORT) == 0
        else:
            with pytest.raises(OverrunError):
                bounded(call, SHORT)
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 900
        assert signal.getsignal(signal.SIGVTALRM) is mine
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def test_the_limit_of_memory_is_that_of_the_call():
    assert len(bounded(lambda: bytes(128 * 2**20), memory=256 * 2**20)) == 128 * 2**20
    with pytest.raises(OverrunError, match="takes more than 64 MB of memory"):
        bounded(lambda: bytes(128 * 2**20), memory=64 * 2**20)


def test_an_error_of_the_call_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0)


CALLS = """\
import sys
from lora_ns.safety.deadline import OverrunError, bounded

def calls(depth):
    return [0] * 50, calls(depth - 1) if depth else 0

def fills():
    kept = []
    while True:
        kept.append(calls(400))

before = sys.getrefcount(calls)
for _ in range(8):
    try:
        bounded(fills, memory=2**24)
    except OverrunError:
        continue
    sys.exit("no end")
if sys.getrefcount(calls) != before:
    sys.exit("the references of a function are miscounted")
"""


def test_the_interpreter_is_as_it_was_after_all_memory_is_taken():
    """Python 3.10 to 3.12 miscount the references of a function that cannot be called for lack of memory."""
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
