import errno
import os
import threading
from pathlib import Path

import pytest

from vfc.cache_schema.parts import atomic_files
from vfc.cache_schema.values.errors import ReadOnlyTarget, Refused


def test_replaced_whole_and_created_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    assert atomic_files.create_file(path, b"first")
    assert not atomic_files.create_file(path, b"second")
    assert path.read_bytes() == b"first"
    atomic_files.replace_file(path, b"third")
    assert path.read_bytes() == b"third"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_of_many_creators_one_wins_and_all_read_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    made: list[bytes] = []

    def create(content: bytes) -> None:
        if atomic_files.create_file(path, content * 5000):
            made.append(content * 5000)
        assert len(path.read_bytes()) == 5000

    threads = [threading.Thread(target=create, args=(bytes([i]),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [path.read_bytes()]


@pytest.mark.parametrize("call", ["write", "fsync", "link", "replace", "open"])
@pytest.mark.parametrize(
    ("number", "error", "told"),
    [
        (errno.ENOSPC, Refused, "No space left on the device while writing .*file"),
        (errno.EDQUOT, Refused, "No space left"),
        (errno.EROFS, ReadOnlyTarget, "Cannot write .*file: Read-only file system"),
        (errno.EACCES, ReadOnlyTarget, "Permission denied"),
        (errno.EIO, OSError, None),
    ],
)
def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Exception], told: str | None
) -> None:
    path = tmp_path / "file"
    atomic_files.replace_file(path, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    class Full:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        write = fail

    if call == "write":
        monkeypatch.setattr(atomic_files, "open", Full, raising=False)
    elif call == "open":
        monkeypatch.setattr(atomic_files, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(error, match=told):
        atomic_files.create_file(tmp_path / "new file", b"new") if call == "link" else atomic_files.replace_file(
            path, b"new"
        )
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_without_hard_links_the_content_is_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert atomic_files.create_file(tmp_path / "x", b"one")
    assert not atomic_files.create_file(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1
