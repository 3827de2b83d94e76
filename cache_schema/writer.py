"""StoreWriter: check, stream, commit. Any number of writers may work on one store at once.

Nothing counts before its part is renamed into `parts/`. A writer that dies loses at most the part it had open; the
next writer of the same name removes what it left. No file is shared between writers.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from . import catalog
from .parts import disk
from .parts.commits import Commit, Commits
from .parts.part_writer import PartWriter
from .root import bind_axis, bind_kind, create_root, read_kinds
from .values.dtypes import Array, StoredArray, encode, stored_arrays
from .values.errors import BadInput, MissingRecord, RecordRejected, VfcError, unknown_name
from .values.recipe import Recipe, canonical
from .values.record import ArraySpec, Json, Key, Record


class StoreWriter:
    """Adds records to a store, which is made where there is none.

    Used as a context manager it commits at the end, and after an exception too: whole records already added are kept.

    Args:
        root: Folder of the store.
        recipe: How its numbers are made; must be that of the store.
        worker: Name of this writer among those at work, letters, digits, dots, dashes.
        part_bytes: Commit when an open part has this many bytes,
        part_seconds: or is this old.
        circumstances: Device, host, driver ...: kept with every part, never compared.
        commit_thread: Commit parts that are full or old in a thread, in order, while the next records are added; see
            `Commits`. `commit`, `delete` and `close` return once all parts are committed.

    Raises:
        NotAStore: The folder holds something else, or a store of a newer format.
        RecipeMismatch: It is a store of another recipe.
        BadInput: A name that no worker can have, or circumstances that are no JSON.
        Refused: The disk is full.
        ReadOnlyTarget: It takes no writes.
    """

    committed: int
    """Records that this writer has committed."""
    bytes_written: int
    """Bytes of their arrays."""

    def __init__(
        self,
        root: Path,
        recipe: Recipe,
        *,
        worker: str = "w0",
        part_bytes: int = 128 << 20,
        part_seconds: float = 60.0,
        circumstances: Mapping[str, Json] | None = None,
        commit_thread: bool = False,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", worker):
            raise BadInput(f"A worker cannot be called {worker!r}.", "Use letters, digits, dots and dashes.")
        self.root, self.recipe, self.worker = Path(root), recipe, worker
        self._part_bytes, self._part_seconds = part_bytes, part_seconds
        self._circumstances = dict(circumstances or {})
        try:
            canonical(self._circumstances)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"The circumstances are no JSON: {error}.", "Use finite numbers, strings, lists, dicts."
            ) from error
        self.committed = self.bytes_written = 0
        create_root(self.root, recipe)
        disk.make_folder(self.root / "tmp")
        disk.clear_stale(self.root / "tmp", worker)
        # A target that takes no writes is found now, not after a model was loaded.
        probe = disk.Claim(self.root / "tmp", worker)
        disk.remove(probe.path)
        probe.release()
        self._specs: dict[str, tuple[ArraySpec, ...]] = {}
        self._stored: dict[str, tuple[StoredArray, ...]] = {}
        for kind, specs in read_kinds(self.root).items():
            self._specs[kind], self._stored[kind] = specs, stored_arrays(specs)
        self._open: dict[str, PartWriter] = {}
        self._commits = Commits(in_thread=commit_thread)
        self._added: set[bytes] = set()
        self._deleted: set[bytes] = set()
        self._latest = 0
        self._closed = False
        self.refresh()

    def declare(self, kind: str, specs: Sequence[ArraySpec]) -> None:
        """Say what arrays the records of a kind have; the same for the life of the store.

        Raises:
            AxisMismatch: The kind has other arrays in this store.
        """
        self._specs[kind] = bind_kind(self.root, kind, specs)
        self._stored[kind] = stored_arrays(self._specs[kind])

    def bind(self, axis: str, id: str, content: Json) -> None:  # noqa: A002
        """Say what an id of an axis (a prompt, a view, a text) means; the same for the life of the store.

        Raises:
            AxisMismatch: The id means something else in this store.
        """
        bind_axis(self.root, axis, id, content)

    def __contains__(self, key: Key) -> bool:
        """Whether the key is committed, by anyone as of the last refresh, or was added here."""
        return self._holds(key.hash128())

    def _holds(self, name: bytes) -> bool:
        return name in self._added or (name not in self._deleted and self._catalog.find(name) >= 0)

    def add(self, record: Record) -> None:
        """Check, encode and append one record; commits by itself when the part is full or old.

        Raises:
            RecordRejected: It cannot be stored; no byte of it was.
            Refused: The disk is full. Records added before stay, and are committed if there is room for that; where
                it was their commit that failed, they are lost and no longer in this writer.
            ReadOnlyTarget: It takes no writes.
            UnknownName: Its kind was not declared.
        """
        names = self._unheld(record.key)
        self._append(record.key.kind, names, self._encoded(record), self._metadata(record))

    def add_stored(self, key: Key, arrays: Mapping[str, Array], metadata: Mapping[str, Json]) -> None:
        """Append one record whose values are stored ones already, by stored name (`<array>.scale` beside int8).

        Raises:
            RecordRejected: Other arrays, dtypes or shapes than its kind has on disk; no byte of it was stored.
            Refused: The disk is full; see `add`.
            ReadOnlyTarget: It takes no writes.
            UnknownName: Its kind was not declared.
        """
        names = self._unheld(key)
        declared = {array.name: array for array in self._stored[key.kind]}
        for name in sorted(declared.keys() | arrays.keys()):
            array, values = declared.get(name), arrays.get(name)
            if array is None or values is None or not array.fits(values):
                came = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
                raise RecordRejected(
                    f"Stored array {name!r} of record {key.name!r} comes as {came}; "
                    f"its kind has {'no such array' if array is None else f'{array.dtype} {list(array.shape)}'}.",
                    "Bring the stored values of every array, as `StoreReader.view` gives them.",
                )
        stored = {name: np.asarray(values, order="C") for name, values in arrays.items()}
        self._append(key.kind, names, stored, self._metadata(Record(key, {}, metadata)))

    def _unheld(self, key: Key) -> tuple[bytes, bytes]:
        """A key of a declared kind that the store does not hold, encoded and hashed."""
        self._require_open()
        if key.kind not in self._specs:
            raise unknown_name("declared kind", key.kind, self._specs)
        encoded = key.encode()
        name = hashlib.sha256(encoded).digest()[:16]
        if self._holds(name):
            raise RecordRejected(
                f"The store already holds {key.kind} {key.name!r} (view {key.view}, prompt {key.prompt!r}).",
                "What is committed never changes: skip keys that are in the writer, or delete them first.",
            )
        return encoded, name

    def _append(self, kind: str, names: tuple[bytes, bytes], arrays: Mapping[str, Array], metadata: bytes) -> None:
        self._count(self._commits.ended())
        part = self._open.get(kind)
        if part is None:
            part = PartWriter(self.root, self.worker, kind, self._stored[kind], self._circumstances)
            self._open[kind] = part
        part.append(*names, arrays, metadata)
        self._added.add(names[1])
        if part.bytes >= self._part_bytes or time.monotonic() - part.since >= self._part_seconds:
            self._begin_commit(kind)

    def _encoded(self, record: Record) -> dict[str, Array]:
        specs = self._specs[record.key.kind]
        names = {spec.name for spec in specs}
        if record.arrays.keys() != names:
            raise RecordRejected(
                f"Record {record.key.name!r} brings the arrays {sorted(record.arrays)}; its kind has {sorted(names)}.",
                "Bring every declared array and no other.",
            )
        arrays: dict[str, Array] = {}
        for spec in specs:
            arrays[spec.name], scale = encode(record.arrays[spec.name], spec)
            if scale is not None:
                arrays[f"{spec.name}.scale"] = scale
        return arrays

    def _metadata(self, record: Record) -> bytes:
        try:
            return canonical(dict(record.metadata)) if record.metadata else b"{}"
        except (TypeError, ValueError) as error:
            raise RecordRejected(
                f"The metadata of {record.key.name!r} is no JSON: {error}.",
                "Use finite numbers, strings, lists, dicts.",
            ) from error

    def commit(self) -> None:
        """Make every record added so far durable and visible.

        Raises:
            Refused: The disk is full; the records of the open part are lost, those committed before stay.
            ReadOnlyTarget: It takes no writes.
        """
        errors = []
        for kind in list(self._open):
            try:
                self._begin_commit(kind)
            except (VfcError, OSError) as error:
                errors.append(error)
        while self._commits:
            try:
                self._count([self._commits.wait()])
            except (VfcError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _begin_commit(self, kind: str) -> None:
        part = self._open.pop(kind)
        if not len(part):
            part.abandon()
            return
        self._count(self._commits.begin(part, self._stamp()))

    def _count(self, commits: Iterable[Commit]) -> None:
        """Take notice of commits that have ended; raises the error of the first that failed, after all were counted."""
        errors = []
        for part, error in commits:
            if error is None:
                self.committed += len(part)
                self.bytes_written += part.bytes
            else:
                self._added.difference_update(part.hashes)
                errors.append(error)
        if errors:
            raise errors[0]

    def _stamp(self) -> int:
        """A time later than that of every part known here, whatever the clocks of other machines say."""
        self._latest = max(time.time_ns(), self._latest + 1)
        return self._latest

    def delete(self, keys: Iterable[Key]) -> None:
        """Hide committed records; `compact` drops their bytes. They may be added anew afterwards.

        Raises:
            MissingRecord: A key that the store does not hold.
        """
        self._require_open()
        by_kind: dict[str, list[Key]] = {}
        for key in keys:
            if key not in self:
                raise MissingRecord(
                    f"The store holds no {key.kind} {key.name!r} to delete.", "See `vfc store inspect`."
                )
            by_kind.setdefault(key.kind, []).append(key)
        self.commit()
        for kind, group in by_kind.items():
            part = PartWriter(self.root, self.worker, kind, (), self._circumstances)
            for key in dict.fromkeys(group):
                part.add(key, {}, b"{}")
            hashes = part.hashes
            part.commit(self._stamp())
            self._added.difference_update(hashes)
            self._deleted.update(hashes)

    def refresh(self) -> None:
        """Take notice of what other writers have committed and deleted meanwhile."""
        self._catalog = catalog.current(self.root)
        self._latest = max(self._latest, self._catalog.latest)
        self._deleted.clear()
        self._added = {name for part in (*self._open.values(), *self._commits.parts) for name in part.hashes}

    def close(self) -> None:
        """Commit, and leave the catalog up to date for the next opener; twice is once.

        Raises:
            Refused: The disk is full; the records of the open part are lost, those committed before stay.
            ReadOnlyTarget: It takes no writes.
        """
        if not self._closed:
            self._closed = True
            try:
                self.commit()
            finally:
                self._commits.close()
                # A part of another writer may be damaged: that is for `verify` to say, not for this writer.
                with contextlib.suppress(VfcError):
                    self.refresh()

    def _require_open(self) -> None:
        if self._closed:
            raise BadInput(f"The writer of {self.root} is closed.", "Make a new StoreWriter.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The first error is the one to report; what could be saved is saved.
        with contextlib.suppress(VfcError, OSError):
            self.close()
