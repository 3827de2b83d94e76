"""A file written once: any order of writes and rollbacks against a byte string in memory; claims on folders."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.cache_schema import BadInput, Refused
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.disk import Claim, NewFile, clear_stale, make_folder, rename

UNIT = 2 << 20
SIZES = st.one_of(st.integers(0, 100), st.integers(0, 3 * UNIT), st.sampled_from([UNIT - 1, UNIT, UNIT + 1, 2 * UNIT]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SIZES, st.one_of(st.none(), st.floats(0, 1))), max_size=8))
def test_writes_and_rollbacks_give_the_bytes_that_were_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    path = tmp_path_factory.mktemp("f") / "x"
    file, kept = NewFile(path), b""
    for number, (size, back) in enumerate(steps):
        data = np.resize(np.arange(number, number + 251, dtype=np.uint8), size)
        file.write(data if number % 2 else data.tobytes())
        kept += data.tobytes()
        if back is not None:
            kept = kept[: int(back * len(kept))]
            file.rollback(len(kept))
        assert file.position == len(kept)
    file.finish()
    file.finish()
    assert path.read_bytes() == kept


def test_bytes_reach_the_system_in_units_of_two_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = os.write

    def noted(fd: int, data: Any) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(disk.os, "write", noted)
    file = NewFile(tmp_path / "x")
    for size in (100, UNIT - 50, 5 * UNIT, 7):
        file.write(np.zeros(size, np.uint8))
    assert sizes == [UNIT, UNIT, 4 * UNIT]
    file.finish()
    assert sizes[3:] == [57]


def test_a_write_that_fails_midway_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.write, [True]

    def half(fd: int, data: Any) -> int:
        if not full[0]:
            return write(fd, data)
        if len(data) < 1000:
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data[: len(data) // 2])

    monkeypatch.setattr(disk.os, "write", half)
    data = np.random.default_rng(0).integers(0, 255, UNIT + 5000, dtype=np.uint8)
    file = NewFile(tmp_path / "x")
    file.write(data[:300])
    with pytest.raises(Refused):
        file.write(data[300:])
    file.rollback(300)
    full[0] = False
    file.write(data[300:])
    file.finish()
    assert (tmp_path / "x").read_bytes() == data.tobytes()


def test_a_claim_is_seen_by_others_until_it_is_released(tmp_path: Path) -> None:
    claim = Claim(tmp_path, "w")
    assert claim.path.name.startswith(f"w+{disk.host()}+{os.getpid()}+")
    assert clear_stale(tmp_path) == 0
    claim.release()
    claim.release()
    assert clear_stale(tmp_path, "v") == 0
    assert clear_stale(tmp_path, "w") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_cleared_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = disk._lock, []

    def cleared_first(path: Path) -> int | None:
        calls.append(path)
        if len(calls) == 1:
            path.rmdir()
            return None
        return lock(path)

    monkeypatch.setattr(disk, "_lock", cleared_first)
    claim = Claim(tmp_path, "w")
    assert claim.path.is_dir()
    assert claim.path == calls[1]
    claim.release()


def test_where_folders_cannot_be_locked_nothing_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "fcntl", None)
    claim = Claim(tmp_path, "w")
    claim.release()
    assert clear_stale(tmp_path) == 0
    assert claim.path.is_dir()


def test_a_folder_that_something_else_stands_in_the_way_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/a/b", "link", "link/a"):
        with pytest.raises(BadInput, match=r"The folder .* cannot be made: a file, or a link .*\nGive another path"):
            make_folder(tmp_path / name)


def test_folders_and_names(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "x").write_text("x")
    rename(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c" / "b" / "x").read_text() == "x"
    disk.remove(tmp_path / "c")
    disk.remove(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_what_a_failing_disk_did_not_cut_off_does_not_stay_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, cut, failing = os.write, os.ftruncate, [True]

    def half(fd: int, data: Any) -> int:
        if failing[0] and len(data) < 1000:
            raise OSError(errno.EIO, "broken")
        return write(fd, data[: len(data) // 2] if failing[0] else data)

    def not_now(fd: int, length: int) -> None:
        if failing[0]:
            raise OSError(errno.EIO, "broken")
        cut(fd, length)

    monkeypatch.setattr(disk.os, "write", half)
    monkeypatch.setattr(disk.os, "ftruncate", not_now)
    for kept in (300, 0):  # what follows is shorter than what is to be cut off
        failing[0] = True
        file = NewFile(tmp_path / f"{kept}")
        file.write(np.full(kept, 1, np.uint8))
        with pytest.raises(OSError, match="broken"):
            file.write(np.full(UNIT + 5000, 2, np.uint8))
        file.rollback(kept)
        failing[0] = False
        file.write(np.full(100, 3, np.uint8))
        file.finish()
        assert (tmp_path / f"{kept}").read_bytes() == b"\1" * kept + b"\3" * 100


def test_a_claim_that_a_clean_up_holds_already_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir, held = os.mkdir, list[int]()

    def met_by_a_clean_up(path: Path) -> None:
        mkdir(path)
        if not held:
            held.append(disk._lock(Path(path)) or -1)

    monkeypatch.setattr(disk.os, "mkdir", met_by_a_clean_up)
    claim = Claim(tmp_path, "w")
    os.close(held[0])  # the clean-up removes what it held, and that alone
    assert clear_stale(tmp_path, "w") == 1
    assert [path.name for path in tmp_path.iterdir()] == [claim.path.name]
    claim.release()
