"""The pool under fire: decoders that hang, crash, exit and run out of memory, and parents that die. Nothing is faked:
a named pipe that delivers nothing hangs a decoder as a dead network drive would, and signals are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.film import encode

from vfc.cache_schema.values.errors import Refused
from vfc.extract.decode import Clip, Decoders, Failure, Job, messages, process, read_job

SOON = 30.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / "a.mp4", count=30, g="10")


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """A file that can be opened for reading and never delivers a byte."""
    path = tmp_path / "stuck.mp4"
    os.mkfifo(path)
    return path


def job(path: Path, name: str = "", frames: int = 4) -> Job:
    return Job(name or path.name, path, "tsn-centre", frames)


def children() -> set[int]:
    """Worker processes of this process, zombies left out."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(parent) == os.getpid() and state != "Z" and b"vfc.extract.decode.worker" in command:
                found.add(int(entry.name))
    return found


def wait_for(condition: Any, seconds: float = SOON) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return value


def hold(path: Path) -> int:
    """Wait until a decoder waits for the named pipe `path`, and keep it waiting: a writer that writes nothing."""

    def opened() -> int | None:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return None

    writer = wait_for(opened)
    assert isinstance(writer, int)
    return writer


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert not children()
    assert threading.active_count() == before


def same(answer: Clip | Failure, path: Path, frames: int = 4) -> bool:
    expected = read_job(job(path, frames=frames))
    assert isinstance(answer, Clip), answer
    return (
        np.array_equal(answer.frames, expected.frames)
        and answer.metadata() == expected.metadata()
        and answer.seconds.dtype == np.float64
        and answer.indices.dtype == np.int64
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_clips_come_back_whole_and_in_order(film: Path, tmp_path: Path, workers: int) -> None:
    missing = tmp_path / "no\udce4 such.mp4"  # not valid UTF-8 on disk
    jobs = [job(missing, "gone") if i % 5 == 2 else job(film, f"v{i}", frames=1 + i % 7) for i in range(17)]
    answers = list(Decoders(workers, SOON).clips(jobs, ahead=5))
    assert [asked for asked, _ in answers] == jobs
    for i, (_, answer) in enumerate(answers):
        if i % 5 == 2:
            assert isinstance(answer, Failure)
            assert answer.name == "gone"
            assert answer.reason.startswith("There is no file")
        else:
            assert same(answer, film, frames=1 + i % 7)


def test_no_jobs_and_one_job(film: Path) -> None:
    assert list(Decoders(2, SOON).clips([], ahead=4)) == []
    assert [type(a) for _, a in Decoders(2, SOON).clips([job(film)], ahead=1)] == [Clip]


def test_a_large_clip_passes_through_the_pipe(tmp_path: Path) -> None:
    path = encode(tmp_path / "large.mp4", count=40, size=(320, 240))
    large = Job("large", path, "all", 0)
    ((_, answer),) = Decoders(1, SOON).clips([large], ahead=1)
    assert isinstance(answer, Clip)
    assert np.array_equal(answer.frames, read_job(large).frames)


def test_a_hanging_decoder_fails_only_its_video(film: Path, stuck: Path) -> None:
    jobs = [job(film, "a"), job(stuck, "b"), job(film, "c"), job(film, "d")]
    answers = [answer for _, answer in Decoders(1, 2.5).clips(jobs, ahead=2)]
    assert answers[1] == Failure("b", "decoding it took longer than the 2.5 s that a video may take")
    assert all(same(answers[i], film) for i in (0, 2, 3))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "its decoder process was ended by SIGKILL; the system does that when memory runs out"),
        (signal.SIGSEGV, "its decoder process was ended by SIGSEGV"),
        (signal.SIGABRT, "its decoder process was ended by SIGABRT"),
    ],
)
def test_a_crashing_decoder_fails_only_its_video(film: Path, stuck: Path, number: int, reason: str) -> None:
    found = Decoders(1, SOON).clips([job(film, "a"), job(stuck, "b"), job(film, "c")], ahead=3)
    assert same(next(found)[1], film)
    writer = hold(stuck)
    (pid,) = children()
    os.kill(pid, number)
    assert next(found)[1] == Failure("b", reason)
    os.close(writer)
    assert same(next(found)[1], film)
    assert next(found, None) is None


def test_a_decoder_that_exits(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that calls exit() in the middle of a job, with a last word on standard error."""
    source = (
        "import os, sys\n"
        "import vfc.extract.decode.worker as worker\n"
        "inner = worker.read_job\n"
        "def read_job(job, threads):\n"
        "    if job.name == 'leave':\n"
        "        print('the library says goodbye', file=sys.stderr, flush=True); os._exit(7)\n"
        "    print('chatter on standard output')\n"
        "    return inner(job, threads)\n"
        "worker.read_job = read_job\n"
        "worker.main(int(sys.argv[1]), int(sys.argv[2]))\n"
    )
    launch_with(monkeypatch, source)
    answers = [a for _, a in Decoders(1, SOON).clips([job(film, "a"), job(film, "leave"), job(film, "b")], ahead=2)]
    assert answers[1] == Failure("leave", "its decoder ended the process with exit status 7 (the library says goodbye)")
    assert same(answers[0], film)
    assert same(answers[2], film)


def launch_with(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Let worker processes run `source` in place of the worker module; they are real processes all the same."""
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        at = command.index("-m")
        return real([*command[:at], "-c", source, *command[at + 2 :]], **options)

    monkeypatch.setattr(process.subprocess, "Popen", popen)


def test_a_decoder_that_needs_too_much_memory_fails_only_its_video(film: Path, tmp_path: Path) -> None:
    wide = encode(tmp_path / "wide.mp4", "mpeg4", count=2, size=(400, 300))
    greedy = Job("greedy", wide, "linspace", 40_000)  # 40,000 x 400 x 300 x 3 bytes: 14 GB of one repeated frame
    answers = [a for _, a in Decoders(1, SOON, memory_bytes=4 << 30).clips([greedy, job(film, "a")], ahead=2)]
    assert answers[0] == Failure("greedy", "decoding it needs more memory than one decoder may take")
    assert same(answers[1], film)


def test_several_errors_at_once_with_several_workers(film: Path, tmp_path: Path) -> None:
    jobs = []
    for i in range(24):
        path = film
        if i % 8 == 1:
            path = tmp_path / f"stuck{i}.mp4"
            os.mkfifo(path)
        jobs.append(job(path, f"v{i}"))
    answers = list(Decoders(3, 3.0).clips(jobs, ahead=6))
    assert [asked.name for asked, _ in answers] == [f"v{i}" for i in range(24)]
    assert [isinstance(a, Failure) for _, a in answers] == [i % 8 == 1 for i in range(24)]


def test_look_ahead_is_bounded(film: Path) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for i in range(30):
            taken.append(i)
            yield job(film, str(i))

    found = Decoders(2, SOON).clips(jobs(), ahead=3)
    for i in range(10):
        next(found)
        wait_for(lambda i=i: len(taken) == i + 4)
        time.sleep(0.02)
        assert len(taken) == i + 4  # the ones handed out, and three under way or waiting
    found.close()  # type: ignore[attr-defined]


def test_work_goes_on_while_the_caller_is_busy(film: Path) -> None:
    found = Decoders(1, SOON).clips([job(film, str(i)) for i in range(6)], ahead=6)
    next(found)
    before = len(children())
    time.sleep(0.5)
    started = time.monotonic()
    assert len(list(found)) == 5
    assert before == 1
    assert time.monotonic() - started < SOON


def test_an_exception_in_the_loop_ends_the_workers(film: Path, stuck: Path) -> None:
    def loop() -> None:
        for _ in Decoders(2, SOON).clips([job(film), job(stuck), *[job(film)] * 5], ahead=4):
            assert children()
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop()
    wait_for(lambda: not children())
    assert time.monotonic() - started < SOON / 2  # and does not wait for the one that hangs


def test_an_error_in_the_list_of_jobs_reaches_the_caller(film: Path) -> None:
    def jobs() -> Iterator[Job]:
        yield job(film)
        raise RuntimeError("the list broke off")

    with pytest.raises(RuntimeError, match="the list broke off"):
        list(Decoders(2, SOON).clips(jobs(), ahead=4))


def test_a_worker_that_died_between_jobs_is_replaced(film: Path) -> None:
    worker = process.Worker(Decoders(1, SOON))
    try:
        for _ in range(3):
            assert same(worker.decode(job(film)), film)
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not children())
    finally:
        worker.close()


def test_a_worker_killed_while_it_starts_is_started_again(film: Path) -> None:
    found = Decoders(1, SOON).clips([job(film)], ahead=1)
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(next, found)
        (pid,) = wait_for(children)
        os.kill(pid, signal.SIGKILL)
        assert same(answer.result()[1], film)
    assert next(found, None) is None


def test_workers_ignore_interrupts_of_the_terminal(film: Path) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole group; the parent must still get its clips to commit them."""
    found = Decoders(1, SOON).clips([job(film, str(i)) for i in range(3)], ahead=1)
    assert same(next(found)[1], film)
    for pid in children():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    assert all(same(answer, film) for _, answer in found)


def test_a_worker_that_cannot_start_is_no_fault_of_a_video(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch_with(monkeypatch, "import sys; print('no module named av', file=sys.stderr); sys.exit(1)")
    with pytest.raises(Refused, match=r"(?s)cannot be started: no module named av\..*fewer decode workers"):
        list(Decoders(2, SOON).clips([job(film)], ahead=2))


def test_time_while_suspended_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that sleeps, a job that is suspended: the clock jumps by an hour between two looks at the pipe."""
    clock = iter([0.0, 3600.0, 3600.0, 3600.1])
    monkeypatch.setattr(messages.time, "monotonic", lambda: next(clock))
    budget = messages.Budget(10.0)

    class Empty:
        def poll(self, _: float) -> list[Any]:
            return []

    nothing: Any = Empty()
    assert not budget.wait(nothing)
    assert not budget.wait(nothing)
    assert 8.0 < budget.left < 10.0


PARENT = """
import os, sys, time
from pathlib import Path
from vfc.extract.decode import Decoders, Job
film, stuck = map(Path, sys.argv[1:3])
jobs = [Job("a", film, "tsn-centre", 2), Job("b", stuck, "tsn-centre", 2), Job("c", film, "tsn-centre", 2)]
found = Decoders(2, 600).clips(jobs, 3)
next(found)
print("first", flush=True)
next(found)
"""


def family(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children")
    every = [Path(f"/proc/{pid}/task/{t}/children").read_text().split() for t in os.listdir(text.parent.parent)]
    return [int(p) for line in every for p in line]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_parent(film: Path, stuck: Path, number: int) -> None:
    """Whatever kills the parent, and though one worker hangs; from a script without a __main__ guard."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(film), str(stuck)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"first\n"
        workers = wait_for(lambda: len(family(parent.pid)) == 2 and family(parent.pid))
        parent.send_signal(number)
        parent.wait(SOON)
        for pid in workers:
            wait_for(lambda pid=pid: gone(pid))


def test_modules_in_the_working_folder_are_not_imported(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder must not shadow what workers import."""
    for name in ("av", "numpy", "json", "vfc"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    ((_, answer),) = Decoders(1, SOON).clips([job(film)], ahead=1)
    assert same(answer, film)


def test_workers_load_neither_torch_nor_transformers_nor_zarr() -> None:
    code = "import vfc.extract.decode.worker, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "av" in loaded
    assert not {"torch", "transformers", "zarr", "h5py", "typer", "rich"} & set(loaded)
