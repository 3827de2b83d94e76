"""Small files that several processes may write: whole or not at all, never half, and errors a user can act on.

A file appears under its name by one rename or one link of a finished, synced temporary file in the same folder, so a
reader at any moment, and a machine that lost power, sees the old content or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from vfc.cache_schema.values.errors import ReadOnlyTarget, Refused

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only target, met while writing at `path`, into two lines.

    Raises:
        Refused: no space or no quota left.
        ReadOnlyTarget: the place does not take writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(
                f"No space left on the device while writing {path}.",
                "What was committed before is kept: free some space, then run the same command again.",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyTarget(
                f"Cannot write {path}: {os.strerror(error.errno)}.",
                "Give an --out on a writable disk, or change the rights of that folder.",
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` last through a power cut, where the system can sync a folder.

    Raises:
        Refused: no space left.
        ReadOnlyTarget: the place does not take writes.
    """
    if os.name == "nt":
        return
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, replacing what was there, in one step.

    Raises:
        Refused: no space left; the old content is kept.
        ReadOnlyTarget: the place does not take writes.
    """
    with writing(path), _finished(path, data) as temporary:
        os.replace(temporary, path)
        sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> bool:
    """Make `path` hold `data` unless it exists; whether this call made it. The loser rereads and compares.

    Raises:
        Refused: no space left.
        ReadOnlyTarget: the place does not take writes.
    """
    with writing(path), _finished(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: the check and the rename are two steps, the content is still whole.
            if path.exists():
                return False
            os.replace(temporary, path)
        sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _finished(path: Path, data: bytes) -> Iterator[Path]:
    """A synced temporary file beside `path` that holds `data`; removed afterwards in any case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
