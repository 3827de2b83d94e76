"""The catalog: the part and row of every key of a store, as sorted numbers.

It is a cache. `catalog.bin` holds, for the parts that it names, the hash and the bytes of every key, and which record
counts where several hold one key; it is mapped, so that a store of a million records opens without an object per
record. Parts that it does not name are read from `parts/` and merged in; a catalog that is damaged is rebuilt. Since it
keeps the keys themselves, the records of a part whose own table is damaged can still be named.

Which record of a key counts: parts are ordered by (committed_ns, name). Of the parts after the last tombstone that
names the key, the first that holds it counts. A writer stamps its parts later than every part it has seen, whatever
the clocks say, so a tombstone hides what its author could see, and a record added afterwards is visible again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .parts.atomic_files import replace_file
from .parts.part import Part, PartInfo, file_checksum
from .parts.shard_mmap import map_file
from .parts.zarr_format import checksum, pack, unpack
from .values.errors import Damaged, MissingPath, VfcError

Rows: TypeAlias = npt.NDArray[np.int64]

FILE: Final = "catalog.bin"


@dataclass(frozen=True)
class Catalog:
    """A snapshot of which records a store holds.

    Records are numbered through all parts in the order of `parts`; tombstones count their keys as records that are
    never found. Parts in `gone` are no longer on disk and keep their numbers.
    """

    parts: tuple[PartInfo, ...]
    hashes: npt.NDArray[np.uint8]
    """uint8 `[n, 16]`, in order of number."""
    keys: npt.NDArray[np.uint8]
    key_offsets: Rows
    """int64 `[n + 1]` into `keys`."""
    sorted_hashes: npt.NDArray[np.uint64]
    """uint64 `[live]`: the first half of the hash of every record that counts, ascending."""
    sorted_rows: Rows
    """int64 `[live]`: their numbers."""
    gone: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.sorted_rows)

    @cached_property
    def first(self) -> Rows:
        """int64 `[parts + 1]`: the number of the first record of every part."""
        return np.cumsum([0, *(part.records for part in self.parts)], dtype=np.int64)

    @property
    def latest(self) -> int:
        """The last committed_ns of all parts; 0 without parts."""
        return max((part.committed_ns for part in self.parts), default=0)

    def locate(self, hashes: Sequence[bytes]) -> Rows:
        """Numbers of the records with these 16-byte hashes, -1 for those that are not there."""
        names = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16)
        halves = _first_halves(names)
        if not len(self):
            return np.full(len(names), -1, np.int64)
        at = np.searchsorted(self.sorted_hashes, halves)
        rows = self.sorted_rows[np.minimum(at, len(self) - 1)].astype(np.int64)
        for i in np.flatnonzero((self.hashes[rows] != names).any(axis=1)).tolist():
            rows[i] = self._search(int(at[i]), halves[i], names[i])
        return rows

    def find(self, name: bytes) -> int:
        """The number of the record with this 16-byte hash, -1 where it is not there."""
        if not len(self):
            return -1
        half = np.uint64(int.from_bytes(name[:8], "big"))
        at = int(np.searchsorted(self.sorted_hashes, half))
        if at == len(self) or self.sorted_hashes[at] != half:
            return -1
        return self._search(at, half, np.frombuffer(name, np.uint8))

    def _search(self, at: int, half: np.uint64, name: npt.NDArray[np.uint8]) -> int:
        """Go through the records that share half a hash."""
        while at < len(self) and self.sorted_hashes[at] == half:
            row = int(self.sorted_rows[at])
            if (self.hashes[row] == name).all():
                return row
            at += 1
        return -1

    def key_bytes(self, rows: Iterable[int]) -> list[bytes]:
        """The encoded keys of records."""
        offsets, keys = self.key_offsets, self.keys
        return [keys[offsets[row] : offsets[row + 1]].tobytes() for row in rows]

    def keys_of(self, part: str) -> list[bytes] | None:
        """All encoded keys of a part, in order of row; None where the catalog does not know the part."""
        for i, info in enumerate(self.parts):
            if info.name == part:
                return self.key_bytes(range(int(self.first[i]), int(self.first[i + 1])))
        return None

    def live(self) -> Rows:
        """Numbers of the records that count, ascending."""
        return np.sort(self.sorted_rows)

    def live_among(self, names: Set[str]) -> Rows:
        """Numbers of the records that would count if these were all parts."""
        return _winners(self.parts, self.hashes, frozenset(part.name for part in self.parts) - names)[1]

    def to_bytes(self) -> bytes:
        """The content of the file, its crc32c at the end."""
        parts = json.dumps([astuple(part) for part in self.parts]).encode()
        table = pack(
            {
                "parts": np.frombuffer(parts, np.uint8),
                "hashes": self.hashes,
                "keys": self.keys,
                "key_offsets": self.key_offsets,
                "sorted_hashes": self.sorted_hashes,
                "sorted_rows": self.sorted_rows,
            }
        )
        return table + checksum(table).to_bytes(4, "little")


def load(root: Path) -> Catalog | None:
    """The catalog file of a store as it is, or None where there is none that can be trusted."""
    path = root / FILE
    try:
        # The checksum is computed through a small buffer: through the mapping, every page would stay in memory.
        if file_checksum(path) != _CRC_OF_CHECKED:
            return None
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            table = unpack(map_file(file.fileno(), size)[: size - 4])
        parts = tuple(PartInfo(*fields) for fields in json.loads(table.pop("parts").tobytes()))
        return Catalog(parts, **cast("dict[str, Any]", table))
    except (OSError, ValueError, LookupError, TypeError, VfcError):
        return None


# The crc32c of any bytes followed by their own crc32c is the same number.
_CRC_OF_CHECKED: Final = 0x48674BC7


def current(root: Path, snapshot: Catalog | None = None) -> Catalog:
    """The catalog of what is committed now.

    Args:
        root: Folder of the store.
        snapshot: One whose numbering must be kept: its parts keep their numbers, also those that are no longer on disk.

    Raises:
        Damaged: A part that no catalog names, and whose own table is damaged; or no parts at all.
    """
    try:
        names = {entry.name for entry in (root / "parts").iterdir() if entry.is_dir()}
    except FileNotFoundError as error:
        raise Damaged(f"{root / 'parts'} is missing.", "Restore that folder, which holds all records.") from error
    saved = load(root) if snapshot is None else snapshot
    if saved is not None and names == {part.name for part in saved.parts} - saved.gone:
        return saved
    try:
        merged = _merge(root, saved, names, keep=snapshot is not None)
    except MissingPath:  # a part was compacted away between the listing and the reading
        return current(root, snapshot)
    save(root, merged)
    return merged


def save(root: Path, catalog: Catalog) -> None:
    """Leave the catalog for the next opener; where it cannot be written it is made again then."""
    if not catalog.gone:
        try:
            replace_file(root / FILE, catalog.to_bytes())
        except (OSError, VfcError):
            return


def _merge(root: Path, saved: Catalog | None, names: set[str], *, keep: bool) -> Catalog:
    """Join `saved` with the parts that it does not name; drop parts that are not on disk, or keep their numbers."""
    pieces: list[tuple[PartInfo, npt.NDArray[np.uint8], npt.NDArray[np.uint8], Rows]] = []
    for i, info in enumerate(saved.parts if saved else ()):
        if saved is not None and (keep or info.name in names):
            start, stop = saved.first[i : i + 2].tolist()
            offsets = saved.key_offsets[start : stop + 1]
            keys = saved.keys[offsets[0] : offsets[-1]]
            pieces.append((info, saved.hashes[start:stop], keys, np.diff(offsets)))
    fresh = [Part(root / "parts" / name) for name in names - {info.name for info, *_ in pieces}]
    for part in sorted(fresh, key=lambda part: part.info.order):
        table = part.table
        pieces.append((part.info, table["hashes"], table["keys"], np.diff(table["keys.offsets"])))
    parts = tuple(info for info, *_ in pieces)
    gone = frozenset(part.name for part in parts) - names
    hashes = np.concatenate([np.empty((0, 16), np.uint8), *(piece[1] for piece in pieces)])
    key_bytes = np.concatenate([np.empty(0, np.uint8), *(piece[2] for piece in pieces)])
    key_offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(piece[3] for piece in pieces)]), dtype=np.int64)
    return Catalog(parts, hashes, key_bytes, key_offsets, *_winners(parts, hashes, gone), gone)


def _first_halves(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(hashes[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def _winners(
    parts: Sequence[PartInfo], hashes: npt.NDArray[np.uint8], gone: frozenset[str]
) -> tuple[npt.NDArray[np.uint64], Rows]:
    """Of every key the record that counts: sorted half-hashes and row numbers."""
    counts = [part.records for part in parts]
    ranks = np.empty(len(parts), np.int64)
    ranks[sorted(range(len(parts)), key=lambda i: parts[i].order)] = np.arange(len(parts))
    here = np.repeat(np.array([part.name not in gone for part in parts], bool), counts)
    high = _first_halves(hashes)
    low = np.ascontiguousarray(hashes[:, 8:]).view(">u8").reshape(-1).astype(np.uint64)
    order = np.lexsort((np.repeat(ranks, counts), low, high))
    order = order[here[order]]
    if not order.size:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    high, low = high[order], low[order]
    starts = np.flatnonzero(np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])]))
    place = np.arange(order.size)
    buried = np.repeat(np.array([part.tombstone for part in parts], bool), counts)[order]
    last = np.maximum.reduceat(np.where(buried, place, -1), starts)
    after = np.repeat(last, np.diff([*starts, order.size]))
    winner = np.minimum.reduceat(np.where(place > after, place, order.size), starts)
    winner = winner[winner < order.size]
    return high[winner], order[winner].astype(np.int64)
