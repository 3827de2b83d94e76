"""What could not be extracted, and why: `failures/<worker>.jsonl` in the store, only ever appended to.

"Failed" means listed here and not committed, with the file unchanged since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vfc.cache_schema.parts.atomic_files import writing
from vfc.cache_schema.values.record import Key


@dataclass(frozen=True)
class Failed:
    """One record that could not be made: its key, the reason, and the file as it was then.

    `size` in bytes and `mtime_ns` in nanoseconds are those of the source file; both -1 where there is no file.
    `prompt` is the template's id where the prompt itself could not be filled.
    """

    kind: str
    name: str
    reason: str
    size: int = -1
    mtime_ns: int = -1
    view: int = 0
    prompt: str = ""

    @classmethod
    def of(cls, key: Key, reason: str, source: Path | None) -> Failed:
        """The failure to make the record of that key from a file as it is now."""
        return cls(key.kind, key.name, reason, *stamp(source), key.view, key.prompt)

    @property
    def key(self) -> Key:
        """Of the record."""
        return Key(self.kind, self.name, self.view, self.prompt)


def stamp(path: Path | None) -> tuple[int, int]:
    """Size and modification time (nanoseconds) of a file; (-1, -1) where there is none."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if status else (-1, -1)


@dataclass(frozen=True)
class KnownFailures:
    """All that the workers of a store have listed."""

    listed: Mapping[tuple[str, str], tuple[Failed, ...]]

    def of(self, key: Key, path: Path | None) -> Failed | None:
        """The failure listed for a record whose file is still as it was then, or None."""
        now = stamp(path)
        listed = self.listed.get((key.kind, key.name), ())
        return next(
            (failed for failed in reversed(listed) if failed.key == key and (failed.size, failed.mtime_ns) == now), None
        )


def read_failures(store: Path) -> KnownFailures:
    """The failures that a store lists; lines that a kill cut short are ignored."""
    listed: dict[tuple[str, str], tuple[Failed, ...]] = {}
    for path in sorted((store / "failures").glob("*.jsonl")):
        for line in path.read_text("utf-8", errors="replace").split("\n"):
            try:
                failed = Failed(**json.loads(line))
                failed.key  # noqa: B018
            except (ValueError, TypeError):
                continue
            listed[failed.kind, failed.name] = (*listed.get((failed.kind, failed.name), ()), failed)
    return KnownFailures(listed)


class FailureList:
    """The list of one worker, appended to line by line."""

    def __init__(self, store: Path, worker: str) -> None:
        self.path = store / "failures" / f"{worker}.jsonl"
        self._file: int | None = None

    def append(self, failed: Failed) -> None:
        """Add one line, in a single write, so that two processes of one name never mix theirs.

        Raises:
            Refused: no space left.
            ReadOnlyTarget: the place does not take writes.
        """
        line = json.dumps(asdict(failed)).encode() + b"\n"
        with writing(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                # A killed process may have left half a line; the reader ignores an empty one.
                line = b"\n" + line if os.fstat(self._file).st_size else line
            while line:
                line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """Sync the lines to disk and close the file."""
        descriptor, self._file = self._file, None
        if descriptor is not None:
            try:
                with writing(self.path):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
