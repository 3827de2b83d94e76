from __future__ import annotations

import os
import signal
import threading

import pytest

from vfc.extract.pipeline.signals import Interrupted, Interrupts


def strike(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_waits(signum: int) -> None:
    timer = threading.Timer(0.1, strike, (signum,))
    timer.start()
    with Interrupts(), pytest.raises(Interrupted) as caught:
        threading.Event().wait(10)
    assert caught.value.signum == signum


def record(steps: list[str], *events: int | type[Exception]) -> None:
    """A shielded record during which signals come and errors happen."""
    with Interrupts() as interrupts, interrupts.shielded():
        steps.append("begun")
        for event in events:
            if isinstance(event, int):
                strike(event)
            else:
                raise event
        steps.append("finished")


def test_a_record_at_hand_is_finished_first() -> None:
    steps: list[str] = []
    with pytest.raises(Interrupted):
        record(steps, signal.SIGINT)
    assert steps == ["begun", "finished"]


def test_who_asks_twice_need_not_wait() -> None:
    steps: list[str] = []
    with pytest.raises(Interrupted):
        record(steps, signal.SIGINT, signal.SIGTERM)
    assert steps == ["begun"]


def test_an_error_in_the_record_is_not_hidden_by_the_signal() -> None:
    with pytest.raises(ZeroDivisionError):
        record([], signal.SIGINT, ZeroDivisionError)


def test_nothing_tears_the_last_commit() -> None:
    with Interrupts() as interrupts:
        interrupts.ignore()
        strike(signal.SIGINT)
        strike(signal.SIGINT)


def test_the_ways_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_it_stays_out_of_the_way() -> None:
    outcome: list[bool] = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.shielded():
            outcome.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert outcome == [True]
