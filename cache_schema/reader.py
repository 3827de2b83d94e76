"""StoreReader: records of a store by key, by batch, by window, by what is known of them.

Reading goes through memory: every array is mapped when it is first read, and a record is a view of it or one copy
into the caller's buffer. A reader is a snapshot; `refresh` adds what was committed since.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from . import catalog
from .parts.column import Column, Verify
from .parts.part import Part
from .root import declared, read_axis, read_kinds, read_root
from .values.dtypes import Array, decode, stored_arrays
from .values.errors import BadInput, MissingRecord, unknown_name
from .values.record import ArraySpec, Json, Key

Records: TypeAlias = "Sequence[Key] | npt.NDArray[np.int64]"
"""Keys, or the numbers that `locate` gave for them: a hot loop locates once."""

Place: TypeAlias = "Key | int"
"""A key, or its number."""


def open_store(root: Path, *, verify: Verify = "once") -> StoreReader:
    """Open a store for reading.

    Args:
        root: Its folder.
        verify: Compare checksums `once` per record and process, `always`, or `never`.

    Raises:
        MissingPath: There is nothing at this path.
        NotAStore: It is something else, or a store of a newer format.
        Damaged: The table of a part is damaged and no catalog replaces it, or shared files are missing.
        UnknownName: There is no such way to verify.
    """
    return StoreReader(Path(root), verify=verify)


def _reopened(root: Path, verify: Verify, parts: tuple[str, ...]) -> StoreReader:
    """A reader that numbers records as one did that had these parts.

    Raises:
        BadInput: The store was compacted or repaired since, so that numbers would mean other records.
    """
    reader = StoreReader(root, verify=verify)
    if tuple(info.name for info in reader._catalog.parts[: len(parts)]) != parts:
        raise BadInput(
            f"The parts of {root} have been joined or dropped since this reader was opened.",
            "Open the store again before copying the reader or sending it to another process.",
        )
    return reader


class StoreReader:
    """The records of a store as of its opening; see `open_store`.

    Every record has a number, which `locate` gives, which holds for the life of the reader, and which all reading
    methods take in place of a key. A copy, or a reader sent to another process, opens the store again; numbers hold
    there too.
    """

    root: Path
    kinds: Mapping[str, tuple[ArraySpec, ...]]

    def __init__(self, root: Path, *, verify: Verify = "once") -> None:
        if verify not in get_args(Verify):
            raise unknown_name("way to verify", verify, get_args(Verify))
        self.root, self.verify = root, verify
        self.recipe = read_root(root)
        self._take_in(catalog.current(root))

    def _take_in(self, snapshot: catalog.Catalog) -> None:
        self.kinds = declared(self.root, {info.kind for info in snapshot.parts})
        self._stored = {kind: {a.name: a for a in stored_arrays(specs)} for kind, specs in self.kinds.items()}
        self._catalog = snapshot
        parts: list[Part] = getattr(self, "_parts", [])
        self._parts: list[Part] = [
            *parts,
            *(Part(self.root / "parts" / info.name) for info in snapshot.parts[len(parts) :]),
        ]
        self._part_kinds = [info.kind for info in snapshot.parts]
        self._first: list[int] = snapshot.first.tolist()
        self._columns: dict[tuple[str, str], Column] = {}
        self._digest = ""

    def refresh(self) -> None:
        """Add what was committed since; numbers already given stay valid."""
        snapshot = catalog.current(self.root, self._catalog)
        if snapshot is not self._catalog or read_kinds(self.root) != self.kinds:
            self._take_in(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.root, self.verify, tuple(info.name for info in self._catalog.parts))

    def close(self) -> None:
        """Release the mappings; memory is unmapped when its last view is released."""
        self._columns = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._catalog)

    def __contains__(self, key: Key) -> bool:
        return self._catalog.find(key.hash128()) >= 0

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's digest and of (key, stored array, crc32c) of every record, sorted by encoded key.

        It does not depend on parts, ranks or resumes, and survives compaction and merging.
        """
        if not self._digest:
            hasher = hashlib.sha256(self.recipe.digest.encode())
            rows = self._catalog.live()
            keys = self._catalog.key_bytes(rows.tolist())
            parts = (np.searchsorted(self._catalog.first, rows, "right") - 1).tolist()
            numbers = rows.tolist()
            columns: dict[int, list[tuple[bytes, Array]]] = {}
            for i in sorted(range(len(keys)), key=keys.__getitem__):
                part = parts[i]
                if part not in columns:
                    owner, names = self._parts[part], sorted(self._stored[self._part_kinds[part]])
                    columns[part] = [(name.encode() + b"\0", owner.crcs(name)) for name in names]
                hasher.update(len(keys[i]).to_bytes(4, "little") + keys[i])
                for name, crcs in columns[part]:
                    hasher.update(name + crcs[numbers[i] - self._first[part]].tobytes())
            self._digest = hasher.hexdigest()
        return self._digest

    def keys(
        self, kind: str | None = None, where: Callable[[Key, Mapping[str, Json]], bool] | None = None
    ) -> list[Key]:
        """The keys of all records, or of those of one kind, or of those that `where(key, metadata)` wants; sorted."""
        rows = self._catalog.live().tolist()
        keys = [Key.decode(data) for data in self._catalog.key_bytes(rows)]
        chosen = [
            key
            for key, row in zip(keys, rows, strict=True)
            if (kind is None or key.kind == kind) and (where is None or where(key, self.metadata(row)))
        ]
        return sorted(chosen, key=attrgetter("kind", "name", "view", "prompt"))

    def locate(self, keys: Sequence[Key]) -> npt.NDArray[np.int64]:
        """Numbers of records, int64 `[n]`.

        Raises:
            MissingRecord: A key that the store does not hold.
        """
        rows = self._catalog.locate([key.hash128() for key in keys])
        if len(rows) and rows.min() < 0:
            missing = np.flatnonzero(rows < 0)
            key = keys[int(missing[0])]
            raise MissingRecord(
                f"The store {self.root} has no {key.kind} {key.name!r} (view {key.view}, prompt {key.prompt!r})"
                + (f" and lacks {len(missing) - 1} more of the {len(keys)} asked." if len(missing) > 1 else "."),
                "See what it holds with `vfc store inspect`, or run the extraction again: it adds what is missing.",
            )
        return rows

    def metadata(self, place: Place) -> dict[str, Json]:
        """The metadata of a record."""
        record = self._number(place)
        part = self._part_of(record)
        return self._parts[part].metadata(record - self._first[part])

    def spec(self, kind: str, array: str) -> ArraySpec:
        """What an array of a kind is declared to be.

        Raises:
            UnknownName: No such kind, or no such array of it.
        """
        if kind not in self.kinds:
            raise unknown_name("kind in this store", kind, self.kinds)
        specs = {spec.name: spec for spec in self.kinds[kind]}
        if array not in specs:
            raise unknown_name(f"array of kind {kind!r}", array, specs)
        return specs[array]

    def axes(self, axis: str) -> dict[str, Json]:
        """What every id of an axis (`prompt`, `view`, `text`) means."""
        return read_axis(self.root, axis)

    def view(self, place: Place, array: str) -> Array:
        """Stored values of one record, read-only and in place: bf16 as uint16, int8 as codes.

        Raises:
            MissingRecord: The store does not hold the key.
            UnknownName: Its kind has no such array.
            Damaged: The bytes are not what was committed.
        """
        record = self._number(place)
        return self._column(record, array).view(record)

    def read(self, place: Place, array: str) -> Array:
        """A decoded copy: float32 for features, their own dtype for side arrays; raises as `view`."""
        record = self._number(place)
        column = self._column(record, array)
        scale = self._column(record, f"{array}.scale").view(record) if column.array.logical == "int8" else None
        return decode(column.view(record), column.array.logical, scale)

    def scale(self, place: Place, array: str) -> Array:
        """The scales of an int8 array of one record, float32 `[D]`; raises as `view`."""
        return self.view(place, f"{array}.scale")

    def length(self, place: Place, array: str) -> int:
        """Rows of a record's ragged array."""
        record = self._number(place)
        return self._column(record, array).length(record)

    def window(
        self, place: Place, array: str, start: int = 0, stop: int | None = None, step: int = 1, out: Array | None = None
    ) -> Array:
        """Rows `start:stop:step` of a ragged array, stored values `[rows, D]`: in place, or in the front of `out`.

        Raises:
            BadInput: The window leaves the record, or `out` does not fit.
            MissingRecord: The store does not hold the key.
            UnknownName: Its kind has no such array.
            Damaged: The bytes are not what was committed.
        """
        record = self._number(place)
        rows = self._column(record, array).window(record, start, stop, step)
        if out is None:
            return rows
        if len(out) < len(rows) or out.shape[1:] != rows.shape[1:] or out.dtype != rows.dtype:
            raise BadInput(
                f"A window of {rows.dtype} {list(rows.shape)} does not fit into a {out.dtype} {list(out.shape)}.",
                "Allocate the longest window once and reuse it.",
            )
        out = out[: len(rows)]
        out[...] = rows
        return out

    def take(self, records: Records, array: str, out: Array) -> None:
        """One batched copy of stored values of records of one kind into the caller's buffer.

        Args:
            records: Keys, or the numbers that `locate` gave for them.
            array: A fixed-shape array, or `<array>.scale` of an int8 one.
            out: `[n, *shape]`, C-contiguous, of the stored dtype; allocated once and reused.

        Raises:
            BadInput: `out` does not fit, the array is ragged, or the records are of several kinds.
            MissingRecord: The store does not hold a key.
            UnknownName: The kind has no such array.
            Damaged: The bytes of a record are not what was committed.
        """
        rows = self._numbers(records)
        if len(rows):
            self._column(int(rows[0]), array).take(rows, out)

    def prefetch(self, records: Records, array: str, start: int = 0, stop: int | None = None, step: int = 1) -> None:
        """Ask the system to read records, or windows of ragged ones, ahead of time; returns at once."""
        for record in self._numbers(records).tolist():
            self._column(record, array).advise(record, start, stop, step)

    def join(self, left: str, right: str) -> list[tuple[Key, Key]]:
        """Pairs of records of two kinds that share name and view, sorted: a video and each of its prompts."""
        partners: dict[tuple[str, int], list[Key]] = {}
        for key in self.keys(right):
            partners.setdefault((key.name, key.view), []).append(key)
        return [(key, other) for key in self.keys(left) for other in partners.get((key.name, key.view), ())]

    def _number(self, place: Place) -> int:
        if not isinstance(place, Key):
            return int(place)
        record = self._catalog.find(place.hash128())
        return record if record >= 0 else int(self.locate([place])[0])

    def _numbers(self, records: Records) -> npt.NDArray[np.int64]:
        return records if isinstance(records, np.ndarray) else self.locate(records)

    def _part_of(self, record: int) -> int:
        """Which part a record is in.

        Raises:
            BadInput: No record has this number.
        """
        if not 0 <= record < self._first[-1]:
            raise BadInput(
                f"There is no record number {record}: the parts of {self.root} hold {self._first[-1]}, from 0.",
                "Give a key, or a number that locate() of this reader gave.",
            )
        return bisect_right(self._first, record) - 1

    def _column(self, record: int, array: str) -> Column:
        """The array of the kind that a record is of, mapped when first asked for."""
        kind = self._part_kinds[self._part_of(record)]
        column = self._columns.get((kind, array))
        if column is None:
            if array not in self._stored[kind]:
                raise unknown_name(f"array of kind {kind!r}", array, self._stored[kind])
            lost = self._catalog.gone
            parts = [
                part if info.kind == kind and not info.tombstone and info.name not in lost else None
                for info, part in zip(self._catalog.parts, self._parts, strict=True)
            ]
            column = Column(self._stored[kind][array], parts, self._catalog.first, self.verify)
            self._columns[kind, array] = column
        return column
