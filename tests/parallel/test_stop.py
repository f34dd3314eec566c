"""Signals end a training: at once before a step is complete, afterwards only once it is looked at."""

import signal
from importlib.util import find_spec

import pytest

from lora_ns.errors import InterruptedRunError
from lora_ns.parallel.stop import CAUGHT, EndedEarly, StopSignal

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="asks the other processes through torch")


@pytest.fixture(params=CAUGHT, ids=lambda number: number.name)
def number(request):
    return request.param


def test_terminals_users_and_schedulers_are_listened_to():
    assert {number.name for number in CAUGHT} == {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}


def interrupted(work):
    """Do work that is listened for; what comes of its end."""
    with pytest.raises(InterruptedRunError) as caught, StopSignal().listening(lambda: "do it again"):
        work()
    return caught.value


def test_before_a_step_is_complete_a_signal_ends_what_runs(number):
    done = []

    def work():
        signal.raise_signal(number)
        done.append("more")

    error = interrupted(work)
    assert (str(error), error.signal_number) == ("stopped before the first step was complete (do it again)", number)
    assert done == []


@needs_torch
def test_afterwards_it_is_noted_and_may_come_again(number):
    with StopSignal().listening() as stop:
        stop.begin(lambda: None)
        assert stop.requested() == 0
        signal.raise_signal(number)
        assert stop.requested() == number
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        else:
            signal.raise_signal(number)


@needs_torch
def test_what_waits_for_the_first_step_is_done_once_and_not_after_a_signal(number):
    done = []
    stop = StopSignal()
    for _ in range(2):
        stop.begin(lambda: done.append("began"))
    assert done == ["began"]
    with pytest.raises(EndedEarly):  # a signal that something has swallowed
        StopSignal(int(number)).begin(lambda: done.append("lost"))
    assert done == ["began"]


@needs_torch
def test_a_signal_of_the_launcher_counts_before_the_first_step(tmp_path, number):
    (tmp_path / "stop").write_text(str(int(number)))
    with pytest.raises(EndedEarly):
        StopSignal(file=tmp_path / "stop").begin(pytest.fail)


def test_a_signal_that_was_ignored_stays_ignored_unless_a_script_did_it_for_the_background(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal(is_noted=True).listening() as stop:
            signal.raise_signal(number)
            assert stop.number == (number if number == signal.SIGINT else 0)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with StopSignal().listening():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once_and_other_signals_do_not_end_the_way_out():
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    assert interrupted(work).signal_number == signal.SIGTERM
