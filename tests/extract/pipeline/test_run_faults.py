"""Kills, crowds, full and read-only disks: nothing committed is lost, nothing doubled, nothing half.

The kill test does 4 kills; `VFC_KILLS=30 pytest tests/extract/pipeline/test_run_faults.py -k kill` does 30.
"""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites import toy
from suites.language import video_llava_checkpoint

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import ReadOnlyTarget, Refused, VfcError
from vfc.cache_schema.values.record import Key
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Decoders
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.run import Summary, extract

COUNT = 16
KILLS = int(os.environ.get("VFC_KILLS", "4"))
Arrays = dict[Key, bytes]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_clips(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Arrays]:
    """The digest and the bytes of every record of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "store"
    with toy.toy_family():
        summary = extract(ExtractConfig(videos=clips, out=out, model="toy", threads=1, decode_workers=1))
    assert summary.done == COUNT
    return summary.digest, readable(out)


def readable(store: Path) -> Arrays:
    """Every record of a store, read with its checksums verified."""
    if not (store / "zarr.json").exists():
        return {}
    with open_store(store, verify="always") as reader:
        keys = reader.keys()
        return {
            key: b"".join(np.array(reader.view(key, spec.name)).tobytes() for spec in reader.kinds[key.kind])
            for key in keys
        }


class Started:
    """A running `vfc extract` with the toy: a process of its own, and the files that hold what it prints."""

    def __init__(self, process: Any, folder: Path) -> None:
        self.process, self.out, self.err = process, folder / "out", folder / "err"

    def wait_for(self, word: str, times: int = 1) -> bool:
        """Wait until that many of its lines start with `word`; False where it ended before."""
        while True:
            ended = not self.process.is_alive()
            if sum(line.startswith(word) for line in self._lines(self.out)) >= times:
                return True
            if ended:
                return False
            time.sleep(0.002)

    def send(self, signum: int) -> None:
        os.kill(self.process.pid, signum)

    def finish(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, summary, stderr."""
        self.process.join(120)
        lines = self._lines(self.out)
        summary = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        code, err = self.process.exitcode, "\n".join(self._lines(self.err))
        self.process.close()
        return code, summary, err

    @staticmethod
    def _lines(path: Path) -> list[str]:
        return path.read_text("utf-8").splitlines() if path.exists() else []


Start = Callable[..., Started]


@pytest.fixture(scope="module")
def server() -> BaseContext:
    """Forks processes that have torch imported: a fresh one takes seconds for that alone."""
    context = multiprocessing.get_context("forkserver")
    models = [f"transformers.models.{name}.modeling_{name}" for name in ("video_llava", "llama", "clip")]
    context.set_forkserver_preload(["suites.toy", "pytest", "vfc.extract.backbones.video_llava", *models])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


@pytest.fixture
def start(server: BaseContext, clips: Path, tmp_path: Path) -> Start:
    """Starts runs in processes of their own."""
    count = itertools.count()

    def begin(out: Path, slow: float = 0.0, **settings: Any) -> Started:
        given = {"videos": str(clips), "out": str(out), "model": "toy", "threads": 1, "decode_workers": 1, **settings}
        folder = tmp_path / f"printed{next(count)}"
        folder.mkdir()
        process = server.Process(target=toy.forked, args=(json.dumps(given), slow, folder / "out", folder / "err"))
        process.start()
        return Started(process, folder)

    return begin


# Kills


def test_kill_at_random_moments_and_resume_gives_the_same_store(
    start: Start, whole: tuple[str, Arrays], tmp_path: Path
) -> None:
    digest, records = whole
    draw = random.Random(20)
    out = tmp_path / "store"
    killed, seen = 0, 0
    while killed < KILLS:
        process = start(out, slow=0.02, part_seconds=0.05)
        word, times = draw.choice([("begin extract", 1), ("advance", 1), ("advance", 3), ("advance", 6)])
        if not process.wait_for(word, times):
            # Everything was done before the kills were used up: begin anew.
            code, _, err = process.finish()
            assert code == 0, err
            assert open_store(out).digest == digest
            shutil.rmtree(out)
            seen = 0
            continue
        time.sleep(draw.uniform(0, 0.06))
        process.send(signal.SIGKILL)
        process.finish()
        killed += 1
        now = readable(out)
        assert all(now[key] == records[key] for key in now), "a record that can be read is not the one that was made"
        assert len(now) >= seen, "a committed record is gone"
        seen = len(now)
    code, summary, err = start(out).finish()
    assert code == 0, err
    assert summary["digest"] == digest
    assert summary["done"] + summary["skipped"] == COUNT
    assert readable(out) == records
    assert not list((out / "tmp").iterdir()), "what the killed left behind is still there"


def test_kills_between_the_records_of_one_video_and_resume(start: Start, tmp_path: Path) -> None:
    settings = {
        "model": "video-llava",
        "checkpoint": str(video_llava_checkpoint(tmp_path / "tiny")),
        "layer": ["2", "3"],
        "prompt": ["unknown", "unknown-temporal", "known-support"],
        "num_frames": 4,
    }
    code, summary, err = start(tmp_path / "whole", **settings).finish()
    assert (code, summary["done"]) == (0, 4 * COUNT), err
    records, out, draw, held = readable(tmp_path / "whole"), tmp_path / "store", random.Random(3), 0
    for times in (2, 6):
        process = start(out, **settings, part_seconds=1e-9, worker=f"w{times}")
        if process.wait_for("advance", times):
            time.sleep(draw.uniform(0, 0.02))
            process.send(signal.SIGKILL)
        process.finish()
        now = readable(out)
        assert all(now[key] == records[key] for key in now)
        assert len(now) >= held
        held = len(now)
    assert held, "it was killed before anything was committed"
    code, summary, err = start(out, **settings).finish()
    assert (code, summary["done"] + summary["skipped"]) == (0, 4 * COUNT), err
    assert readable(out) == records


# Crowds


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_at_once_lose_and_double_nothing(
    start: Start, whole: tuple[str, Arrays], tmp_path: Path, world: int
) -> None:
    out = tmp_path / "store"
    ranks = [start(out, rank=rank, world_size=world, part_seconds=0.05) for rank in range(world)]
    ended = [process.finish() for process in ranks]
    assert [code for code, _, _ in ended] == [0] * world, [err for _, _, err in ended]
    assert sum(summary["done"] for _, summary, _ in ended) == COUNT
    with open_store(out) as reader:
        assert (len(reader), reader.digest) == (COUNT, whole[0])
    assert len((out / "annotations" / "default.jsonl").read_text().splitlines()) == COUNT


def test_two_processes_of_one_rank_lose_and_double_nothing(
    start: Start, whole: tuple[str, Arrays], tmp_path: Path
) -> None:
    out = tmp_path / "store"
    twins = [start(out, slow=0.01, part_seconds=0.05) for _ in range(2)]
    ended = [process.finish() for process in twins]
    assert [code for code, _, _ in ended] == [0, 0], [err for _, _, err in ended]
    with open_store(out) as reader:
        assert (len(reader), reader.digest) == (COUNT, whole[0])


# Signals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_after_a_clean_commit(
    start: Start, whole: tuple[str, Arrays], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "store"
    process = start(out, slow=0.1)
    assert process.wait_for("advance", 2)
    began = time.monotonic()
    process.send(signum)
    ended, summary, err = process.finish()
    assert ended == code, err
    assert "Traceback" not in err
    assert time.monotonic() - began < 20
    assert 2 <= summary["done"] < COUNT
    assert summary["done"] + summary["left"] == COUNT
    assert len(readable(out)) == summary["done"]
    assert start(out).finish()[1]["digest"] == whole[0]


# Disks


class Disk:
    """Makes the n-th call that changes the disk below a folder fail, and all after it, as a full disk does."""

    CALLS = ("write", "fsync", "mkdir", "rename", "replace", "link", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, fail_from: int) -> None:
        self.code, self.fail_from, self.calls = code, fail_from, 0
        self.broken = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not (args[1] & os.O_CREAT):
                return real(*args, **kwargs)
            self.calls += 1
            if self.calls >= self.fail_from:
                self.broken = True
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


def test_a_full_disk_at_any_write_is_two_lines_and_loses_nothing(
    clips: Path, whole: tuple[str, Arrays], tmp_path: Path
) -> None:
    injected(clips, whole, tmp_path, errno.ENOSPC, Refused, 6, step=5)


def test_a_disk_that_becomes_read_only_is_two_lines_and_loses_nothing(
    clips: Path, whole: tuple[str, Arrays], tmp_path: Path
) -> None:
    injected(clips, whole, tmp_path, errno.EROFS, ReadOnlyTarget, 2, step=11)


def injected(
    clips: Path, whole: tuple[str, Arrays], tmp_path: Path, code: int, kind: type[VfcError], exit_code: int, step: int
) -> None:
    """Break the disk at its first call, then at the one `step` later ..., each time resume on a sound disk."""
    few = tmp_path / "few"
    names = sorted(key.name for key in whole[1])[:2]
    for name in names:
        (few / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / name, few / name)
    (few / "zzz").mkdir()
    (few / "zzz" / "bad.mp4").write_bytes(b"no video")
    fail_from, broken = 1, True
    while broken:
        out = tmp_path / f"n{fail_from}" / "store"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))
            with toy.toy_family():
                config = ExtractConfig(videos=few, out=out, model="toy", threads=1, part_seconds=1e-9)
                disk = Disk(patch, code, fail_from)
                error = outcome(config)
        broken = disk.broken
        if isinstance(error, Summary):
            # Only the catalog, a cache that is rebuilt at any time, may go unwritten without a word.
            assert error.exit_code == 3
        else:
            assert isinstance(error, kind), f"call {fail_from}: {error!r}"
            assert error.exit_code == exit_code
            assert len(str(error).split("\n")) == 2
        now = readable(out)
        assert all(now[key] == whole[1][key] for key in now)
        with toy.toy_family(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))
            again = extract(ExtractConfig(videos=few, out=out, model="toy", threads=1))
        assert again.done + again.skipped == 2
        assert {name for name, _ in (*again.failed, *again.failed_before)} == {"zzz/bad.mp4"}
        assert readable(out) == {key: value for key, value in whole[1].items() if key.name in names}
        shutil.rmtree(out.parent)
        fail_from += step
    assert fail_from > 50, f"only {fail_from} calls were met: the injection misses the writes"


def outcome(config: ExtractConfig) -> Summary | VfcError:
    try:
        return extract(config)
    except VfcError as error:
        return error


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Sequence[str]], Path]]:
    """A tmpfs with given options, where this user may mount one."""
    folders: list[Path] = []

    def mount(options: Sequence[str]) -> Path:
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_that_fills_up(
    start: Start, whole: tuple[str, Arrays], tmp_path: Path, mounted: Callable[[Sequence[str]], Path]
) -> None:
    out = mounted(["size=200k"]) / "store"
    code, _, err = start(out, part_seconds=1e-9).finish()
    assert code == 6, err
    assert "No space left on the device while writing" in err
    assert len(err.strip().splitlines()) == 2
    now = readable(out)
    assert 0 < len(now) < COUNT
    assert all(now[key] == whole[1][key] for key in now)
    roomy = Path(shutil.copytree(out, tmp_path / "roomy"))
    code, summary, err = start(roomy).finish()
    assert (code, summary["digest"]) == (0, whole[0]), err


def test_a_disk_mounted_read_only(
    start: Start, whole: tuple[str, Arrays], mounted: Callable[[Sequence[str]], Path]
) -> None:
    folder = mounted(["size=10m"])
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    code, _, err = start(folder / "store").finish()
    assert code == 2
    assert "Read-only file system" in err
    assert len(err.strip().splitlines()) == 2
