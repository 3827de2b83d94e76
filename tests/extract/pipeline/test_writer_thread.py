from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from vfc.cache_schema.values.errors import RecordRejected, Refused
from vfc.cache_schema.values.record import Key, Record
from vfc.extract.pipeline.failures import FailureList, read_failures
from vfc.extract.pipeline.writer_thread import PATIENCE, FailedRecord, FinishedRecord, WriterThread


class FakeWriter:
    """Remembers what it was given; refuses names that start with `bad`, breaks at `full`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.held: set[Key] = set()
        self.commits = 0
        self.gate = threading.Event()
        self.gate.set()

    def __contains__(self, key: Key) -> bool:
        return key in self.held

    def add(self, record: Record) -> None:
        self.gate.wait(10)
        if record.key.name.startswith("bad"):
            raise RecordRejected(f"{record.key.name} overflows.", "Store it with --dtype bf16.")
        if record.key.name == "full":
            raise Refused("No space left on the device.", "Free some.")
        self.names.append(record.key.name)

    def commit(self) -> None:
        self.commits += 1


def made(name: str) -> FinishedRecord:
    return FinishedRecord(Record(Key("video", name), {"x": np.zeros(1, np.float32)}))


def failed(name: str, cause: Exception | None = None) -> FailedRecord:
    return FailedRecord(Key("video", name), f"{name}: {cause}", None, cause)


def writer_thread(
    writer: FakeWriter, store: Path, *, proven: bool = False, depth: int = 4, idle: float = 60.0
) -> WriterThread:
    return WriterThread(writer, FailureList(store, "r0"), proven=proven, depth=depth, idle_seconds=idle)


def listed(store: Path) -> set[str]:
    return {name for _, name in read_failures(store).listed}


def test_records_are_written_in_order_and_committed_at_the_end(tmp_path: Path) -> None:
    writer = FakeWriter()
    run = writer_thread(writer, tmp_path)
    for i in range(20):
        run.put(made(str(i)))
    run.finish()
    run.finish()
    assert writer.names == [str(i) for i in range(20)]
    assert (run.written, run.failed, writer.commits) == (20, [], 1)


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    writer = FakeWriter()
    writer.gate.clear()
    run = writer_thread(writer, tmp_path, depth=2)
    fed: list[int] = []

    def feed() -> None:
        for i in range(10):
            run.put(made(str(i)))
            fed.append(i)

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.5)
    assert len(fed) <= 3, "one at the writer, two in the queue"
    writer.gate.set()
    feeder.join(10)
    run.finish()
    assert len(writer.names) == 10


def test_what_breaks_the_thread_is_raised_by_the_next_put_and_nobody_hangs(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path, depth=1)

    def feed() -> None:
        for i in range(100):
            run.put(made("full" if i == 3 else str(i)))

    with pytest.raises(Refused, match="No space left"):
        feed()
    with pytest.raises(Refused, match="No space left"):
        run.finish()
    run.abandon()


def test_what_breaks_the_last_record_is_raised_by_finish(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)
    run.put(made("full"))
    with pytest.raises(Refused, match="No space left"):
        run.finish()


def test_abandoned_work_is_committed(tmp_path: Path) -> None:
    writer = FakeWriter()
    run = writer_thread(writer, tmp_path)
    run.put(made("a"))
    run.abandon()
    assert (writer.names, writer.commits) == (["a"], 1)


def test_an_idle_writer_commits(tmp_path: Path) -> None:
    writer = FakeWriter()
    run = writer_thread(writer, tmp_path, idle=0.02)
    run.put(made("a"))
    for _ in range(500):
        if writer.commits:
            break
        threading.Event().wait(0.01)
    assert writer.commits >= 1
    run.finish()


def test_bad_videos_are_listed_at_once(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)
    for i in range(2 * PATIENCE):
        run.put(failed(f"v{i}"))
    run.finish()
    assert len(run.failed) == 2 * PATIENCE
    assert listed(tmp_path) == {f"v{i}" for i in range(2 * PATIENCE)}


def test_a_rejected_record_costs_itself(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)
    for name in ("bad1", "good", "bad2"):
        run.put(made(name))
    run.finish()
    assert run.written == 1
    assert [(item.key.name, item.cause) for item in run.failed] == [("bad1", None), ("bad2", None)]
    assert run.failed[0].reason == "bad1 overflows. Store it with --dtype bf16."
    assert listed(tmp_path) == {"bad1", "bad2"}


def test_a_bug_that_costs_every_video_stops_the_run_and_is_not_listed(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)

    def feed() -> None:
        for i in range(1000):
            run.put(failed(f"v{i}", TypeError("a bug")))

    with pytest.raises(TypeError, match="a bug") as caught:
        feed()
    assert "record of 'v7'" in caught.value.__notes__[0]
    assert listed(tmp_path) == set()


def test_losing_everything_to_errors_is_an_error_however_few_there_were(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)
    run.put(made("bad"))
    with pytest.raises(RecordRejected, match="--dtype bf16"):
        run.finish()
    assert listed(tmp_path) == set()


def test_a_few_losses_beside_a_store_that_has_records_are_bad_luck(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path, proven=True)
    run.put(failed("odd", ValueError("one pixel")))
    run.finish()
    assert listed(tmp_path) == {"odd"}


def test_any_number_of_refused_records_beside_a_store_that_has_records_cost_themselves(tmp_path: Path) -> None:
    writer = FakeWriter()
    run = writer_thread(writer, tmp_path, proven=True)
    for i in range(2 * PATIENCE):
        run.put(made(f"bad{i}"))
        run.put(failed(f"long{i}", RecordRejected("A prompt is too long.", "Shorten it.")))
    run.put(made("good"))
    run.finish()
    assert writer.names == ["good"]
    assert len(listed(tmp_path)) == 4 * PATIENCE


def test_a_bug_beside_a_store_that_has_records_stops_the_run(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path, proven=True)

    def feed() -> None:
        for i in range(1000):
            run.put(failed(f"v{i}", TypeError("a bug")))

    with pytest.raises(TypeError, match="a bug"):
        feed()
    assert listed(tmp_path) == set()


def test_an_interrupted_run_does_not_judge(tmp_path: Path) -> None:
    run = writer_thread(FakeWriter(), tmp_path)
    run.put(failed("odd", ValueError("one pixel")))
    run.finish(judge=False)
    assert (run.failed, listed(tmp_path)) == ([], set())


def test_a_record_that_another_process_committed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    writer = FakeWriter()
    writer.held.add(Key("video", "bad but there"))
    run = writer_thread(writer, tmp_path)
    run.put(made("bad but there"))
    run.put(made("new"))
    run.finish()
    assert (run.written, run.already_stored, run.failed) == (1, 1, [])
