"""How fast the store is, against raw files and against zarr-python on the same bytes.

    python tests/benchmarks/store.py [--quick] [--folder DIR] [--table FILE]

Every figure is the median, over interleaved rounds in shuffled order, of the ratio (time of the reference / time of
the store) within one round, so that a busy machine slows both; in a round, warm reads count the best of five tries
and writes the better of two. The reference for reading is `np.memmap`, one row at a time, into a buffer that was
allocated and touched before; for writing, the same bytes into one file and one fsync.

Goals are those of the storage note: G1 to G5, G8 to G10, G12, and opening a store of a million records. About 4 GB of
disk and, without --quick, ten minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import zarr
from suites.page_cache import forget

from vfc.cache_schema import ArraySpec, Key, Recipe, Record, StoreReader, StoreWriter, open_store

Array = np.ndarray[Any, Any]
RECIPE = Recipe({"benchmark": "store"})


@dataclass
class Row:
    goal: str
    what: str
    figure: str
    wanted: str
    verdict: str


@dataclass
class Bench:
    """The rounds of one run and the table that comes out of them."""

    folder: Path
    quick: bool
    rounds: int = 11
    rows: list[Row] = field(default_factory=list)
    rng: Any = field(default_factory=lambda: np.random.default_rng(3))

    def interleaved(self, candidates: dict[str, Callable[[], float]], tries: int = 1) -> dict[str, list[float]]:
        """Seconds of every candidate in every round, each round in another order; one round goes before, uncounted.

        With several `tries` a candidate's time in a round is its best: what other processes took from it falls away.
        """
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for number in range(self.rounds + 1):
            order = list(candidates)
            random.Random(number).shuffle(order)
            for name in order:
                seconds = min(candidates[name]() for _ in range(tries))
                if number:
                    times[name].append(seconds)
        return times

    def judge(
        self,
        goal: str,
        what: str,
        value: float,
        wanted: float,
        unit: str = "x",
        *,
        most: bool = False,
        fail: float | None = None,
    ) -> None:
        """One line: `value` against at least (or at `most`) `wanted`; `fail` is where a miss becomes a failure."""
        met = value <= wanted if most else value >= wanted
        bound = wanted if fail is None else fail
        failed = value > bound if most else value < bound
        verdict = "holds" if met else "FAILS" if failed else "just below"
        sign = "≤" if most else "≥"
        self.rows.append(Row(goal, what, f"{value:.3g} {unit}".strip(), f"{sign} {wanted:g} {unit}".strip(), verdict))
        print(f"{goal:4} {what}: {value:.3g} {unit} ({sign} {wanted:g}) {verdict}", flush=True)


def ratio(times: dict[str, list[float]], reference: str, candidate: str) -> float:
    return statistics.median(a / b for a, b in zip(times[reference], times[candidate], strict=True))


def heavy_tailed(rng: Any, rows: int, width: int) -> Array:
    """float16 `[rows, width]` like a residual stream: log-normal channels, a few forty times larger."""
    channels = rng.lognormal(0, 1, width)
    channels[rng.choice(width, max(1, width // 1000), replace=False)] *= 40
    values = rng.standard_normal((rows, width), np.float32) * channels.astype(np.float32)
    values *= rng.lognormal(0, 0.3, (rows, 1)).astype(np.float32)
    halves: Array = np.clip(values, -65000, 65000).astype(np.float16)
    return halves


@dataclass
class Size:
    """One size of record: the store, the same bytes as one raw file, and how many make a batch."""

    name: str
    shape: tuple[int, ...]
    count: int
    batch: int
    root: Path
    raw: Path

    def __post_init__(self) -> None:
        self.memory = np.empty((self.batch, *self.shape), np.float16)
        self.memory.fill(1)

    def open_raw(self) -> Any:
        return np.memmap(self.raw, np.float16, "r", shape=(self.count, *self.shape))


def make_size(bench: Bench, name: str, shape: tuple[int, ...], count: int, batch: int, part_bytes: int) -> Size:
    size = Size(name, shape, count, batch, bench.folder / f"{name}.store", bench.folder / f"{name}.raw")
    rows, width = int(np.prod(shape[:-1])), shape[-1]
    blocks = [heavy_tailed(bench.rng, rows, width).reshape(shape) for _ in range(min(count, 16))]
    with StoreWriter(size.root, RECIPE, part_bytes=part_bytes, part_seconds=1e9) as writer, open(size.raw, "wb") as raw:
        writer.declare("video", [ArraySpec("x", "fp16", shape)])
        for i in range(count):
            values = np.roll(blocks[i % len(blocks)], i, axis=0)
            writer.add(Record(Key("video", f"{i:06}"), {"x": values}))
            raw.write(values)
    return size


def in_order(root: Path) -> list[Path]:
    """The parts of a store in order of commit."""
    folders = [path for path in (root / "parts").iterdir() if path.is_dir()]
    return sorted(folders, key=lambda p: json.loads((p / "zarr.json").read_bytes())["attributes"]["committed_ns"])


def timed(work: Callable[[], Any], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - start) / repeat


def batches_of(size: Size, rng: Any, repeat: int) -> list[Array]:
    return [rng.integers(0, size.count, size.batch) for _ in range(repeat)]


class Reads:
    """The ways to fetch random batches of one size, all warm."""

    def __init__(self, bench: Bench, size: Size, repeat: int) -> None:
        self.size, self.rng, self.repeat = size, bench.rng, repeat
        self.raw = size.open_raw()
        self.readers: dict[str, StoreReader] = {v: open_store(size.root, verify=v) for v in ("once", "always")}
        keys = [Key("video", f"{i:06}") for i in range(size.count)]
        self.rows = self.readers["once"].locate(keys)
        for start in range(0, size.count, size.batch):  # every page and every checksum touched once
            chunk = self.rows[start : start + size.batch]
            self.readers["once"].take(chunk, "x", size.memory[: len(chunk)])
            size.memory[: len(chunk)] = self.raw[start : start + len(chunk)]
        self.zarrs: list[Any] = [zarr.open(path, mode="r")["x"] for path in in_order(size.root)]
        self.first = np.cumsum([0, *(z.shape[0] for z in self.zarrs)])

    def _each(self, fetch: Callable[[Array], Any]) -> float:
        batches = batches_of(self.size, self.rng, self.repeat)
        start = time.perf_counter()
        for batch in batches:
            fetch(batch)
        return (time.perf_counter() - start) / self.repeat

    def loop(self) -> float:
        out, raw = self.size.memory, self.raw

        def fetch(batch: Array) -> None:
            for i, row in enumerate(batch.tolist()):
                out[i] = raw[row]

        return self._each(fetch)

    def contiguous_take(self) -> float:
        return self._each(lambda batch: np.take(self.raw, batch, axis=0, out=self.size.memory, mode="clip"))

    def take(self, verify: str = "once") -> float:
        reader, rows = self.readers[verify], self.rows
        return self._each(lambda batch: reader.take(rows[batch], "x", self.size.memory))

    def zarr_python(self) -> float:
        def fetch(batch: Array) -> None:
            for i, row in enumerate(batch.tolist()):
                part = int(np.searchsorted(self.first, row, "right")) - 1
                self.size.memory[i] = self.zarrs[part][row - self.first[part]]

        return timed(lambda: fetch(batches_of(self.size, self.rng, 1)[0]))

    def view(self) -> float:
        reader, rows = self.readers["once"], self.rows.tolist()

        def fetch(batch: Array) -> None:
            for row in batch.tolist():
                reader.view(rows[row], "x")

        before, self.repeat = self.repeat, 50
        seconds = self._each(fetch)
        self.repeat = before
        return seconds

    def view_and_touch(self) -> float:
        reader, rows = self.readers["once"], self.rows.tolist()
        return self._each(lambda batch: [touch(reader.view(rows[row], "x")) for row in batch.tolist()])

    def copy_and_touch(self) -> float:
        def fetch(batch: Array) -> None:
            for i, row in enumerate(batch.tolist()):
                self.size.memory[i] = self.raw[row]
            for values in self.size.memory:
                touch(values)

        return self._each(fetch)

    def ten_epochs(self, fetch: Callable[[Array], Any]) -> float:
        order = self.rng.permutation(self.size.count)
        start = time.perf_counter()
        for _ in range(10):
            for i in range(0, self.size.count - self.size.batch + 1, self.size.batch):
                fetch(order[i : i + self.size.batch])
        return time.perf_counter() - start

    def ten_epochs_fresh(self) -> float:
        reader, rows = open_store(self.size.root), self.rows
        return self.ten_epochs(lambda batch: reader.take(rows[batch], "x", self.size.memory))

    def ten_epochs_raw(self) -> float:
        raw, out = self.size.open_raw(), self.size.memory

        def fetch(batch: Array) -> None:
            for i, row in enumerate(batch.tolist()):
                out[i] = raw[row]

        return self.ten_epochs(fetch)


def touch(values: Array) -> int:
    """Read one byte of every cache line."""
    return int(values.reshape(-1).view(np.uint8)[::64].max())


def measure_reads(bench: Bench) -> None:
    """G1 to G5 and G9."""
    few = bench.quick
    sizes = {
        "16.8 MB": (make_size(bench, "large", (8, 256, 4096), 12 if few else 40, 10, 128 << 20), 1, 4.0),
        "1 MB": (make_size(bench, "middle", (256, 2048), 100 if few else 400, 50, 128 << 20), 3, 10.0),
        "25 KB": (make_size(bench, "small", (8, 1536), 2000 if few else 10000, 64, 64 << 20), 40, 80.0),
    }
    for label, (size, repeat, over_zarr) in sizes.items():
        reads = Reads(bench, size, repeat)
        candidates: dict[str, Callable[[], float]] = {
            "loop": reads.loop,
            "take": reads.take,
            "always": lambda reads=reads: reads.take("always"),  # type: ignore[misc]
            "zarr": reads.zarr_python,
            "contiguous": reads.contiguous_take,
            "view": reads.view,
        }
        if label == "16.8 MB":
            candidates |= {
                "view+touch": reads.view_and_touch,
                "copy+touch": reads.copy_and_touch,
            }
        times = bench.interleaved(candidates, tries=5)
        batch = f"{size.batch} records of {label}"
        if label == "25 KB":
            bench.judge("G3", f"{batch}, warm, against the memmap loop", ratio(times, "loop", "take"), 1.2)
            bench.judge(
                "G3", f"{batch}, against np.take on one contiguous memmap", ratio(times, "contiguous", "take"), 0.8
            )
            per_record = statistics.median(times["take"]) / size.batch * 1e6
            bench.judge("G3", f"{batch}, time per record", per_record, 8, "us", most=True)
        else:
            goal, fail = ("G1", 0.9) if label == "16.8 MB" else ("G2", None)
            bench.judge(goal, f"{batch}, warm, against the memmap loop", ratio(times, "loop", "take"), 0.95, fail=fail)
        bench.judge("G4", f"{batch}, against zarr-python on the same files", ratio(times, "zarr", "take"), over_zarr)
        views = statistics.median(times["view"]) / size.batch * 1e6
        bench.judge("G5", f"view of a {label} record, in place", views, 3, "us", most=True)
        bench.judge("G9", f"{batch}, checksum compared on every read", ratio(times, "loop", "always"), 0.5)
        if label == "16.8 MB":
            times |= bench.interleaved({"epochs": reads.ten_epochs_fresh, "epochs raw": reads.ten_epochs_raw})
            bench.judge(
                "G5", f"{batch}, view and touch against copy and touch", ratio(times, "copy+touch", "view+touch"), 2.3
            )
            bench.judge(
                "G9", f"{batch}, ten epochs, checksums compared once", ratio(times, "epochs raw", "epochs"), 0.9
            )
    for size, _, _ in sizes.values():
        shutil.rmtree(size.root)
        size.raw.unlink()


class Sequences:
    """Long sequences of 4 KB rows in a store and in one raw file; every eighth row of the first part is wanted."""

    def __init__(self, bench: Bench) -> None:
        self.rng, self.root, self.raw = bench.rng, bench.folder / "ragged.store", bench.folder / "ragged.raw"
        few = bench.quick
        self.lengths = bench.rng.integers(300, 2000 if few else 9000, 8 if few else 32).tolist()
        self.starts = np.cumsum([0, *self.lengths]).tolist()
        self.keys = [Key("video", f"{i:03}") for i in range(len(self.lengths))]
        self.out = np.ones((9000, 2048), np.float16)
        block = heavy_tailed(bench.rng, 9000, 2048)
        with StoreWriter(self.root, RECIPE) as writer, open(self.raw, "wb") as file:
            writer.declare("video", [ArraySpec("steps", "fp16", (None, 2048), "steps")])
            for i, rows in enumerate(self.lengths):
                values = np.roll(block, i, axis=0)[:rows]
                writer.add(Record(self.keys[i], {"steps": values}))
                file.write(values)
        self.parts = in_order(self.root)
        self.zarrs: list[Any] = [zarr.open(path, mode="r")["steps"] for path in self.parts]
        self.edges = np.cumsum([0, *(array.shape[0] for array in self.zarrs)])

    def open_raw(self) -> Any:
        return np.memmap(self.raw, np.float16, "r", shape=(self.starts[-1], 2048))

    def read_all(self, mapped: Any, reader: StoreReader) -> None:
        for key, start, rows in zip(self.keys, self.starts, self.lengths, strict=False):
            self.out[:rows] = mapped[start : start + rows]
            reader.window(key, "steps", out=self.out)

    def windows(self) -> list[tuple[int, int]]:
        return [(i, int(rows * self.rng.uniform(0.2, 0.5))) for i, rows in enumerate(self.lengths)]

    def from_raw(self, mapped: Any) -> float:
        chosen = self.windows()
        start = time.perf_counter()
        for i, stop in chosen:
            rows = mapped[self.starts[i] : self.starts[i] + stop : 8]
            self.out[: len(rows)] = rows
        return time.perf_counter() - start

    def from_store(self, reader: StoreReader, *, prefetch: bool = False) -> float:
        numbers = reader.locate(self.keys)
        chosen = self.windows()
        start = time.perf_counter()
        if prefetch:
            for i, stop in chosen:
                reader.prefetch(numbers[i : i + 1], "steps", 0, stop, 8)
        for i, stop in chosen:
            reader.window(int(numbers[i]), "steps", 0, stop, 8, out=self.out)
        return time.perf_counter() - start

    def from_zarr(self) -> float:
        chosen = self.windows()
        start = time.perf_counter()
        for i, stop in chosen:
            part = int(np.searchsorted(self.edges, self.starts[i], "right")) - 1
            first = self.starts[i] - int(self.edges[part])
            rows = self.zarrs[part][first : first + stop : 8]
            self.out[: len(rows)] = rows
        return time.perf_counter() - start

    def evict(self) -> None:
        forget([self.raw, *(path for part in self.parts for path in part.glob("steps/c.*"))])

    def cold_raw(self) -> float:
        self.evict()
        return self.from_raw(self.open_raw())

    def cold_store(self) -> float:
        self.evict()
        with open_store(self.root, verify="never") as fresh:
            fresh.prefetch(self.keys[:1], "steps", 0, 1)
            return self.from_store(fresh, prefetch=True)


def measure_strided(bench: Bench) -> None:
    """G8."""
    found = Sequences(bench)
    what = f"every 8th row of the first 20-50 % of {len(found.lengths)} sequences of 4 KB rows"
    mapped, reader = found.open_raw(), open_store(found.root)
    found.read_all(mapped, reader)
    warm: dict[str, Callable[[], float]] = {
        "raw": partial(found.from_raw, mapped),
        "store": partial(found.from_store, reader),
        "zarr": found.from_zarr,
    }
    times = bench.interleaved(warm, tries=5)
    bench.judge("G8", f"{what}, warm, against memmap", ratio(times, "raw", "store"), 0.8)
    bench.judge("G8", f"{what}, warm, against zarr-python on the same files", ratio(times, "zarr", "store"), 8)
    # Pages that anything has mapped cannot be dropped.
    warm.clear()
    reader.close()
    del mapped
    times = bench.interleaved({"raw": found.cold_raw, "store": found.cold_store})
    bench.judge("G8", f"{what}, cold, prefetched by row, against cold memmap", ratio(times, "raw", "store"), 2.5)
    shutil.rmtree(found.root)
    found.raw.unlink()


def write_raw(folder: Path, name: str, values: Sequence[Array], parts: int) -> float:
    start = time.perf_counter()
    for part in range(parts):
        fd = os.open(folder / f"{name}{part}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for array in values:
            data = memoryview(array.reshape(-1).view(np.uint8))
            while data:
                data = data[os.write(fd, data) :]
        os.fsync(fd)
        os.close(fd)
    seconds = time.perf_counter() - start
    for part in range(parts):
        (folder / f"{name}{part}").unlink()
    return seconds


def write_store(folder: Path, worker: str, values: Sequence[Array], parts: int) -> float:
    writer = StoreWriter(folder / "written.store", RECIPE, worker=worker, part_bytes=1 << 40, part_seconds=1e9)
    writer.declare("video", [ArraySpec("x", "fp16", values[0].shape)])
    stamp = time.time_ns()
    records = [
        [Record(Key("video", f"{worker} {stamp} {part} {i}"), {"x": array}) for i, array in enumerate(values)]
        for part in range(parts)
    ]
    start = time.perf_counter()
    for group in records:
        for record in group:
            writer.add(record)
        writer.commit()
    return time.perf_counter() - start


def write_worker(pipe: Connection, folder: Path, worker: str, values: Sequence[Array]) -> None:
    while (order := pipe.recv()) is not None:
        pipe.send({"raw": write_raw, "store": write_store}[order](folder, worker, values, 1))


def measure_writes(bench: Bench) -> None:
    """G10."""
    for label, shape, count in (("16.8 MB", (8, 256, 4096), 8), ("1 MB", (256, 2048), 128), ("25 KB", (8, 1536), 4096)):
        rows, width = int(np.prod(shape[:-1])), shape[-1]
        values = [heavy_tailed(bench.rng, rows, width).reshape(shape) for _ in range(min(count, 128))]
        values = [values[i % len(values)] for i in range(count)]
        parts = 1 if bench.quick else 2

        def store(values: list[Array] = values, parts: int = parts) -> float:
            seconds = write_store(bench.folder, "w", values, parts)
            shutil.rmtree(bench.folder / "written.store")
            return seconds

        times = bench.interleaved(
            {"raw": partial(write_raw, bench.folder, "r", values, parts), "store": store}, tries=2
        )
        mega = sum(array.nbytes for array in values) / 1e6
        bench.judge(
            "G10",
            f"write {label} records in parts of {mega:.0f} MB: check, crc32c, sync, commit",
            ratio(times, "raw", "store"),
            0.7,
        )
        if label == "16.8 MB":
            two_workers(bench, values)


def measure_commit_thread(bench: Bench) -> None:
    """G10 for a run of many parts, as an extraction writes them: records arrive without a pause."""
    values = [heavy_tailed(bench.rng, 2048, 4096) for _ in range(8)]
    count = 16 if bench.quick else 64  # of 16.8 MB; a part of 134 MB is full after 8

    def store(*, commit_thread: bool) -> float:
        root = bench.folder / "written.store"
        start = time.perf_counter()
        with StoreWriter(root, RECIPE, part_bytes=8 * values[0].nbytes, commit_thread=commit_thread) as writer:
            writer.declare("video", [ArraySpec("x", "fp16", values[0].shape)])
            for i in range(count):
                writer.add(Record(Key("video", f"{i}"), {"x": values[i % 8]}))
        seconds = time.perf_counter() - start
        shutil.rmtree(root)
        return seconds

    times = bench.interleaved(
        {
            "raw": partial(write_raw, bench.folder, "r", values, count // 8),
            "store": partial(store, commit_thread=False),
            "thread": partial(store, commit_thread=True),
        }
    )
    mega = count * values[0].nbytes / 1e6
    what = f"write {mega:.0f} MB in parts of 134 MB"
    for name, label, least, rate_wanted in (
        ("store", "committed between records", 0, 0),
        ("thread", "committed by a thread", 0.7, 674),  # 20 clips a second, two layers of a 7B model
    ):
        rate = statistics.median(mega / seconds for seconds in times[name])
        bench.judge("G10", f"{what}, {label}, against raw files of that size", ratio(times, "raw", name), least)
        bench.judge("G10", f"{what}, {label}: rate", rate, rate_wanted, "MB/s", fail=0)
    bench.judge("G10", f"{what}, by a thread against between records", ratio(times, "store", "thread"), 1, fail=0.8)


def two_workers(bench: Bench, values: list[Array]) -> None:
    context, workers = multiprocessing.get_context("fork"), []
    for name in ("a", "b"):
        here, there = context.Pipe()
        process = context.Process(target=write_worker, args=(there, bench.folder, name, values))
        process.start()
        there.close()
        workers.append((here, process))

    def both(order: str) -> float:
        start = time.perf_counter()
        for pipe, _ in workers:
            pipe.send(order)
        for pipe, _ in workers:
            pipe.recv()
        seconds = time.perf_counter() - start
        shutil.rmtree(bench.folder / "written.store", ignore_errors=True)
        return seconds

    times = bench.interleaved({"raw": partial(both, "raw"), "store": partial(both, "store")}, tries=2)
    bench.judge("G10", "the same, two writers at once, against two raw writers", ratio(times, "raw", "store"), 0.6)
    for pipe, process in workers:
        pipe.send(None)
        process.join()


OPENED = """
import json, sys, time
from pathlib import Path
import numpy as np
from vfc.cache_schema import Key, open_store
def memory(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
start = time.perf_counter()
reader = open_store(Path(sys.argv[1]))
opened = time.perf_counter() - start
after, count = memory("VmRSS"), len(reader)
chosen = np.random.default_rng(0).integers(0, count, 64).tolist()
keys = [Key("video", f"class {i % 400:03}/clip {i:07}.mp4") for i in chosen]
start = time.perf_counter(); rows = reader.locate(keys); found = time.perf_counter() - start
out = np.empty((64, 32), np.float16)
start = time.perf_counter(); reader.take(rows, "x", out); taken = time.perf_counter() - start
peak = memory("VmHWM")
print(json.dumps({"open": opened, "rss": after, "peak": peak, "count": count, "locate": found, "take": taken}))
"""


def in_fresh_process(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def make_many(bench: Bench, count: int) -> Path:
    root = bench.folder / f"many{count}.store"
    values = heavy_tailed(bench.rng, 64, 32)
    start = time.perf_counter()
    with StoreWriter(root, RECIPE, part_bytes=4096 * 64, part_seconds=1e9) as writer:
        writer.declare("video", [ArraySpec("x", "fp16", (32,))])
        for i in range(count):
            name = f"class {i % 400:03}/clip {i:07}.mp4"
            writer.add(Record(Key("video", name), {"x": values[i % 64]}, {"fps": 25.0, "frames": i % 300}))
    print(f"     {count} small records written in {time.perf_counter() - start:.1f} s", flush=True)
    return root


def measure_opening(bench: Bench) -> None:
    """G12 and the million."""
    rounds = 3 if bench.quick else 9
    for count, seconds, memory in ((100_000, 0.2, 300.0), (20_000 if bench.quick else 1_000_000, 1.0, 300.0)):
        root = make_many(bench, count)
        goal = "G12" if count == 100_000 else "1M"
        runs = [in_fresh_process(OPENED, str(root)) for _ in range(rounds)]
        assert runs[0]["count"] == count
        label = f"store of {count:,} records in {-(-count // 4096)} parts"
        bench.judge(goal, f"{label}: open", statistics.median(r["open"] for r in runs), seconds, "s", most=True)
        bench.judge(goal, f"{label}: resident memory once open", max(r["rss"] for r in runs), memory, "MB", most=True)
        notes = {
            "first locate of 64 keys": (statistics.median(r["locate"] for r in runs) * 1e3, "ms"),
            "first batch of 64, every part mapped": (statistics.median(r["take"] for r in runs) * 1e3, "ms"),
        }
        rebuilt = []
        for _ in range(3):
            (root / "catalog.bin").unlink()
            rebuilt.append(in_fresh_process(OPENED, str(root)))
        notes["open without a catalog, which is rebuilt"] = (statistics.median(r["open"] for r in rebuilt), "s")
        notes["peak memory of that"] = (max(r["peak"] for r in rebuilt), "MB")
        for what, (value, unit) in notes.items():
            bench.rows.append(Row(goal, f"{label}: {what}", f"{value:.3g} {unit}", "", "reported"))
            print(f"{goal:4} {label}: {what}: {value:.3g} {unit}", flush=True)
        shutil.rmtree(root)


SHARED = """
import sys
from pathlib import Path
from vfc.cache_schema import open_store
reader = open_store(Path(sys.argv[1]), verify="never")
total = sum(int(reader.view(row, "x").reshape(-1)[::1024].view("u2").max()) for row in range(len(reader)))
print("ready", flush=True)
sys.stdin.readline()
"""


def proportional(pid: int) -> float:
    """MB of memory that a process is charged for when shared pages are divided among those that map them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def measure_files_and_sharing(bench: Bench) -> None:
    size = make_size(bench, "shared", (8, 256, 4096), 16 if bench.quick else 48, 10, 128 << 20)
    parts = [path for path in (size.root / "parts").iterdir() if path.is_dir()]
    most = max(sum(path.is_file() for path in part.rglob("*")) for part in parts)
    bench.judge("G12", "files of a part with one stored array (2 per array and 3 more)", most, 5, "files", most=True)
    charged = []
    for readers in (1, 3):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", SHARED, str(size.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(readers)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        charged.append(sum(proportional(process.pid) for process in running))
        for process in running:
            process.communicate(b"\n")
    mega = size.raw.stat().st_size / 1e6
    bench.judge("G12", f"memory of 3 readers of {mega:.0f} MB against one", charged[1] / charged[0], 1.1, most=True)
    shutil.rmtree(size.root)
    size.raw.unlink()


def machine() -> str:
    """What the figures were measured on, without naming it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GB of memory, {sys.platform}, Python {sys.version.split()[0]}, "
        f"numpy {np.__version__}, zarr {zarr.__version__}"
    )


MEASUREMENTS = (
    measure_reads,
    measure_strided,
    measure_writes,
    measure_commit_thread,
    measure_files_and_sharing,
    measure_opening,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds on little data: does it run, roughly how fast")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--only", choices=[part.__name__ for part in MEASUREMENTS], help="make one of the measurements")
    parser.add_argument("--table", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vfc-store-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options.quick, 3 if options.quick else 11)
        for part in MEASUREMENTS:
            if options.only in (None, part.__name__):
                part(bench)
    bench.rows.sort(key=lambda row: (row.goal == "1M", int(row.goal[1:]) if row.goal[1:].isdigit() else 99))
    lines = ["| goal | what | figure | wanted | verdict |", "|---|---|---|---|---|"]
    lines += [f"| {r.goal} | {r.what} | {r.figure} | {r.wanted} | {r.verdict} |" for r in bench.rows]
    table = "\n".join(lines)
    print(f"\n{table}\n\n{machine()}")
    if options.table:
        options.table.write_text(table + "\n", "utf-8")
    sys.exit(any(row.verdict == "FAILS" for row in bench.rows))


if __name__ == "__main__":
    main()
