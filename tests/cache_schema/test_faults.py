"""A full disk, a read-only disk, kill -9, at each call that writes: nothing committed is lost, nothing torn is read."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.store import RECIPE, VIDEO, as_stored, made, record

from vfc.cache_schema import (
    ArraySpec,
    Damaged,
    Key,
    MissingPath,
    NotAStore,
    ReadOnlyTarget,
    Record,
    Refused,
    StoreWriter,
    VfcError,
    open_store,
)
from vfc.cache_schema.parts import atomic_files, disk
from vfc.cache_schema.parts.part import check
from vfc.cache_schema.parts.zarr_format import group_json
from vfc.cache_schema.root import bind_axis, bind_kind, create_root
from vfc.cache_schema.upkeep import Verification, verify
from vfc.cache_schema.values.progress import Silent

OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "link", "replace")


class Disk:
    """Stands in for `os` in the two modules that write, and fails a chosen call of a chosen operation.

    fsync is counted, not done: what it promises cannot be tested without cutting the power.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.operation, self.at, self.lasting = "", -1, False
        self.fail: Callable[[], None] = lambda: None

    def _passes(self, operation: str) -> None:
        at = self.calls[operation]
        self.calls[operation] += 1
        if operation == self.operation and (at == self.at or (self.lasting and at > self.at)):
            self.fail()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def call(*args: Any, **options: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                self._passes(name)
            return None if name == "fsync" else real(*args, **options)

        return call

    def open_file(self, path: Path, mode: str) -> Any:
        """Stands in for `open` where a small file is published."""
        self._passes("open")
        file = open(path, mode)  # noqa: SIM115
        write = file.write

        class File:
            def __enter__(self) -> File:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                disk_now._passes("write")
                write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        disk_now = self
        return File()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    for module in (disk, atomic_files):
        monkeypatch.setattr(module, "os", found)
    monkeypatch.setattr(atomic_files, "open", found.open_file, raising=False)
    return found


def work(root: Path, done: list[int] | None = None, *, in_thread: bool = False) -> None:
    """Everything a writer does, from an empty folder or from wherever an earlier call stopped.

    `done` collects the numbers of records whose commit was acknowledged; `in_thread`: every record is a part of its
    own, which a thread commits while the next ones are added.
    """
    done = [] if done is None else done
    with StoreWriter(root, RECIPE, part_bytes=1 if in_thread else 128 << 20, commit_thread=in_thread) as writer:
        writer.declare("video", VIDEO)
        writer.bind("prompt", "what", "What?")
        for group in ((0, 1), (2, 3, 4)):
            for i in group:
                if record(i).key not in writer:
                    writer.add(record(i))
            writer.commit()
            done.extend(group)
        if record(4).key in writer:
            writer.delete([record(4).key])
            done.remove(4)


def require_sound(root: Path, at_least: list[int]) -> None:
    """What can be read is whole, right and holds what was acknowledged."""
    reader = open_store(root)
    keys = reader.keys()
    assert {record(i).key for i in at_least if i != 4} <= set(keys)
    for key in keys:
        i = int(key.name[-7:-4])
        for spec in VIDEO:
            np.testing.assert_array_equal(reader.read(key, spec.name), as_stored(made(i)[spec.name], spec))
    assert all(check(path) == [] for path in (root / "parts").iterdir() if path.is_dir())


def require_two_lines(error: VfcError, code: int, pattern: str) -> None:
    lines = str(error).splitlines()
    assert (len(lines), error.exit_code) == (2, code)
    assert re.search(pattern, lines[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("undisturbed") / "s"
    work(root)
    return open_store(root).digest


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("number", "lasting", "error", "code", "message"),
    [
        (errno.ENOSPC, False, Refused, 6, "No space left on the device while writing"),
        (errno.EDQUOT, True, Refused, 6, "No space left on the device while writing"),
        (errno.EROFS, True, ReadOnlyTarget, 2, "Cannot write"),
        (errno.EACCES, False, ReadOnlyTarget, 2, "Cannot write"),
    ],
)
def test_a_disk_that_fails_at_any_call_loses_nothing_committed(
    tmp_path: Path,
    faults: Disk,
    undisturbed: str,
    operation: str,
    number: int,
    lasting: bool,
    error: type[VfcError],
    code: int,
    message: str,
) -> None:
    work(tmp_path / "count")
    count = faults.calls[operation]
    assert count > 0
    unnoticed = 0

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    # All sites of a rare operation, and a spread of the others that differs between the cases.
    step = 1 if count < 12 else 5 if number in (errno.ENOSPC, errno.EROFS) else 17
    for at in range(number % step, count, step):
        root, done = tmp_path / str(at), list[int]()
        faults.calls.clear()
        faults.operation, faults.at, faults.lasting, faults.fail = operation, at, lasting, fail
        try:
            work(root, done)
            unnoticed += 1
        except error as caught:
            require_two_lines(caught, code, f"{message}.*{root}")
        faults.operation = ""
        left = [path.name for path in (root / "tmp").iterdir()] if (root / "tmp").is_dir() else []
        assert left == []
        if (root / "zarr.json").exists():
            require_sound(root, done)
        work(root)
        reader = open_store(root)
        assert reader.digest == undisturbed
        assert list((root / "tmp").iterdir()) == []
    # Only the catalog, which is a cache, may fail without a word.
    assert unnoticed <= 6
    assert unnoticed < count or operation == "replace"


@pytest.mark.parametrize("operation", ["mkdir", "open", "write", "fsync", "rename"])
def test_a_disk_that_fails_under_the_commit_thread_loses_nothing_committed(
    tmp_path: Path, faults: Disk, undisturbed: str, operation: str
) -> None:
    work(tmp_path / "count", in_thread=True)
    count = faults.calls[operation]

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refused = 0
    for at in range(1, count, max(1, count // 4)):
        root, done = tmp_path / str(at), list[int]()
        faults.calls.clear()
        faults.operation, faults.at, faults.fail = operation, at, fail
        try:
            work(root, done, in_thread=True)
        except Refused as error:
            require_two_lines(error, 6, f"No space left on the device while writing.*{root}")
            refused += 1
        faults.operation = ""
        assert not (root / "tmp").is_dir() or list((root / "tmp").iterdir()) == []
        if (root / "zarr.json").exists():
            require_sound(root, done)
        work(root, in_thread=True)
        assert open_store(root).digest == undisturbed
    assert refused >= 3 or operation == "rename"


def test_a_record_is_whole_or_absent_where_the_disk_fills_within_it(tmp_path: Path, faults: Disk) -> None:
    root = tmp_path / "s"
    specs = [ArraySpec("a", "fp32", (800_000,)), ArraySpec("b", "fp32", (800_000,)), ArraySpec("c", "fp32", (10,))]
    values = {name: np.full(size, 3, np.float32) for name, size in (("a", 800_000), ("b", 800_000), ("c", 10))}

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", specs)
        writer.add(Record(Key("video", "first"), values))
        faults.operation, faults.fail, faults.at = "write", fail, faults.calls["write"] + 2
        with pytest.raises(Refused):
            writer.add(Record(Key("video", "second"), values))
        assert Key("video", "second") not in writer
        writer.add(Record(Key("video", "third"), values))
    reader = open_store(root)
    assert [key.name for key in reader.keys()] == ["first", "third"]  # noqa: SIM118
    for name in "abc":
        np.testing.assert_array_equal(reader.read(Key("video", "third"), name), values[name])


def test_after_a_full_disk_what_still_fits_is_committed(tmp_path: Path, faults: Disk) -> None:
    root = tmp_path / "s"

    def fail() -> None:
        faults.operation = ""  # the record that did not fit is dropped, and its room suffices
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Refused, match=r"No space left"), StoreWriter(root, RECIPE) as writer:  # noqa: PT012
        writer.declare("video", VIDEO)
        writer.add(record(0))
        faults.operation, faults.fail, faults.at = "write", fail, faults.calls["write"]
        writer.commit()
    assert len(open_store(root)) == 0
    assert list((root / "tmp").iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + "/cache_schema")
import test_faults as tests
from pathlib import Path
from vfc.cache_schema.parts import atomic_files, disk
found = tests.Disk()
disk.os = atomic_files.os = found
atomic_files.open = found.open_file
found.operation, found.at, found.fail = sys.argv[3], int(sys.argv[4]), lambda: os.kill(os.getpid(), signal.SIGKILL)
tests.work(Path(sys.argv[2]), in_thread=sys.argv[5] == "in a thread")
"""


@pytest.mark.parametrize("commits", ["between records", "in a thread"])
def test_killed_at_random_calls_and_resumed_it_is_as_if_nothing_had_happened(
    tmp_path: Path, undisturbed: str, commits: str
) -> None:
    root = tmp_path / "s"
    chance = random.Random(7)
    kills = 0
    for operation, most in (("fsync", 40), ("write", 24), ("rename", 1), ("mkdir", 20), ("open", 30), ("fsync", 12)):
        at = chance.randrange(most)
        tests = str(Path(__file__).resolve().parents[1])
        code = [sys.executable, "-W", "ignore", "-c", KILLED, tests, str(root), operation, str(at), commits]
        kills += subprocess.run(code, check=False, timeout=60).returncode == -signal.SIGKILL
        if (root / "zarr.json").exists():
            require_sound(root, [])
    assert kills >= 4
    work(root)
    assert open_store(root).digest == undisturbed
    assert list((root / "tmp").iterdir()) == []


def test_a_store_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    StoreWriter(root, RECIPE).close()
    (root / "zarr.json").write_bytes(group_json({"vfc": {"format": 2, "anything": "else"}}))
    for use in (lambda: open_store(root), lambda: StoreWriter(root, RECIPE)):
        with pytest.raises(NotAStore, match=r"has format 2; this version of vfc reads format 1.\nUpgrade vfc"):
            use()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"There is no store at .*absent.\nMake one with `vfc extract --out`"):
        open_store(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "zarr.json").write_bytes(group_json({"other": 1}))
    for name in ("photos", "file", "zarr"):
        with pytest.raises(NotAStore, match=rf"{name} is not a feature store: .*\nGive the folder that"):
            open_store(tmp_path / name)
    with pytest.raises(NotAStore, match=r"photos is not empty and is no store \(it holds a.jpg .*\nGive a new folder"):
        StoreWriter(tmp_path / "photos", RECIPE)
    with pytest.raises(NotAStore, match=r"file is a file, not a store"):
        StoreWriter(tmp_path / "file", RECIPE)
    with pytest.raises(NotAStore, match=r"zarr is not a feature store"):
        StoreWriter(tmp_path / "zarr", RECIPE)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"x"


def test_a_store_that_lost_its_root_file_is_not_given_another_recipe(tmp_path: Path) -> None:
    root = tmp_path / "s"
    work(root)
    (root / "zarr.json").unlink()
    (root / "catalog.bin").unlink()
    with pytest.raises(NotAStore, match=r"holds parts/w0-"):
        StoreWriter(root, RECIPE)
    with pytest.raises(NotAStore, match=r"is not a feature store"):
        open_store(root)


def test_an_empty_folder_and_one_being_made_become_stores(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "annotations").mkdir()
    StoreWriter(tmp_path, RECIPE).close()
    assert len(open_store(tmp_path)) == 0


@pytest.mark.parametrize("name", ["kinds/video.json", "axes/prompt-what.json", "zarr.json"])
def test_damaged_shared_files_are_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "s"
    work(root)
    path = root / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b"invented", b"inwented") if name == "zarr.json" else data[:-3])
    with pytest.raises(VfcError, match=r"not (what|the one that) was written.\nRestore this one file"):
        open_store(root).axes("prompt")


def test_a_kind_that_is_no_longer_declared_is_named(tmp_path: Path) -> None:
    root = tmp_path / "s"
    work(root)
    (root / "kinds" / "video.json").unlink()
    with pytest.raises(Damaged, match=r"records of kind 'video', but kinds/video.json is missing.\nRestore this one"):
        open_store(root)


def test_a_read_only_store_is_read_but_not_written(tmp_path: Path, faults: Disk) -> None:
    root = tmp_path / "s"
    work(root)
    (root / "catalog.bin").unlink()

    def fail() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for operation in ("open", "mkdir"):
        faults.operation, faults.at, faults.lasting, faults.fail = operation, 0, True, fail
        require_sound(root, [0, 1, 2, 3])
    with pytest.raises(ReadOnlyTarget, match=r"Read-only file system"):
        StoreWriter(root, RECIPE)


def test_a_small_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "vfc", str(mount)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (needs rights)")
    try:
        acknowledged: list[int] = []
        with pytest.raises(Refused, match=r"No space left on the device"), StoreWriter(mount / "s", RECIPE) as writer:  # noqa: PT012
            writer.declare("video", VIDEO)
            for i in range(1000):
                writer.add(record(i))
                if i % 10 == 9:
                    writer.commit()
                    acknowledged.extend(range(i - 9, i + 1))
        assert len(acknowledged) > 20
        require_sound(mount / "s", acknowledged)
        assert list((mount / "s" / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("name", ["kinds/video.json", "axes/prompt-what.json", "zarr.json"])
def test_a_flip_in_a_shared_file_is_an_error_of_two_lines_or_none(tmp_path: Path, name: str) -> None:
    root = tmp_path / "s"
    work(root)
    path = root / name
    data = path.read_bytes()

    def errors(*uses: Callable[[], object]) -> list[VfcError]:
        found = []
        for use in uses:
            try:
                use()
            except VfcError as error:
                found.append(error)
        return found

    noticed = 0
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 7)]) + data[at + 1 :])
        found: list[Verification] = []
        read = errors(lambda: found.append(verify(root, Silent())), lambda: open_store(root).axes("prompt"))  # noqa: B023
        bound = errors(
            lambda: create_root(root, RECIPE),
            lambda: bind_kind(root, "video", VIDEO),
            lambda: bind_axis(root, "prompt", "what", "What?"),
        )
        assert all(len(str(error).splitlines()) == 2 for error in read + bound)
        assert not (read and found and found[0].ok)
        noticed += bool(bound)
    assert noticed > len(range(0, len(data), 3)) * 0.8
