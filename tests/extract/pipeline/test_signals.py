"""Signals: what is written is written whole, and the process leaves with the code of its signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from suites import toy
from suites.toy import write_clips

from vfc.cache_schema.reader import open_store
from vfc.extract.pipeline.run import extract
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


def test_a_second_signal_does_not_wait() -> None:
    steps: list[str] = []
    with pytest.raises(Interrupted):
        record(steps, signal.SIGINT, signal.SIGTERM)
    assert steps == ["begun"]


def test_an_error_in_the_record_is_not_hidden_by_the_signal() -> None:
    with pytest.raises(ZeroDivisionError):
        record([], signal.SIGINT, ZeroDivisionError)


def test_signals_do_not_interrupt_the_last_commit() -> None:
    steps: list[str] = []
    with Interrupts() as interrupts:
        interrupts.ignore()
        for signum in (signal.SIGINT, signal.SIGTERM):
            strike(signum)
            steps.append("committed")
    assert steps == ["committed", "committed"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signalled_process_commits_and_leaves_with_its_code(signum: int, code: int, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 12)
    out = tmp_path / "store"
    settings = {"videos": str(tmp_path / "clips"), "out": str(out), "model": "toy", "threads": 1, "decode_workers": 1}
    environment = {**os.environ, "TOY_SECONDS": "0.2", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, toy.__file__, json.dumps(settings)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for _ in range(3):
            while not run.stdout.readline().startswith("advance"):
                assert run.poll() is None
        run.send_signal(signum)
        printed, error = run.communicate(timeout=60)
    assert run.returncode == code, error
    assert error == ""
    summary = json.loads(printed.splitlines()[-1])
    assert summary["signum"] == signum
    assert 3 <= summary["done"] < 12
    assert summary["left"] == 12 - summary["done"]
    assert not list((out / "tmp").glob("*"))
    assert not list((out / "failures").glob("*"))
    with open_store(out, verify="always") as reader:
        assert len(reader) == summary["done"]
        assert all(reader.read(key, "frames").any() for key in reader.keys("video"))
    with toy.toy_family():
        again = extract(toy.config_from(settings))
        whole = extract(toy.config_from({**settings, "out": str(tmp_path / "whole")}))
    assert (again.done, again.skipped) == (12 - summary["done"], summary["done"])
    assert again.digest == whole.digest


def test_the_handlers_of_before_come_back() -> None:
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


def test_a_closed_terminal_stops_a_run() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as stopped, Interrupts():
            strike(signal.SIGHUP)
        assert stopped.value.code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_nothing_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
