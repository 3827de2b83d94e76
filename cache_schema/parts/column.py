"""A column: one stored array of one kind over all parts, read by record number.

Checksums are compared once per record and process (`once`), on each read (`always`) or not at all (`never`; `vfc
store verify` reads everything then). A record read for the first time is also asked for ahead of the copy: the pages
of a whole batch then come from the disk together, where a plain mapping would fetch them one fault at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.dtypes import Array, StoredArray
from vfc.cache_schema.values.errors import BadInput, Damaged

from .part import Part
from .shard_mmap import map_rows
from .zarr_format import checksum, copy_checked

Verify: TypeAlias = Literal["once", "always", "never"]

# Longer records are copied in order for long enough that the system reads ahead by itself.
_LONG = 4 << 20


class Column:
    """One stored array of all parts of a kind.

    Args:
        array: What it is.
        parts: All parts of the store in order of number; None for those of other kinds, tombstones and lost ones.
        first: int64 `[parts + 1]`: number of the first record of every part.
        verify: When checksums are compared.

    Raises:
        Damaged: A chunk file, its index or the table of its part is not what was committed.
    """

    def __init__(
        self, array: StoredArray, parts: Sequence[Part | None], first: npt.NDArray[np.int64], verify: Verify
    ) -> None:
        self.array = array
        self._parts, self._first, self._starts = parts, first, first.tolist()
        self._verify = verify
        present = [part for part in parts if part is not None]
        self._rows = map_rows([part.shard_file(array) for part in present], array)
        bases = iter(self._rows.base)
        # Slot of a fixed record = its number + the shift of its part.
        self._bases = [0 if part is None else next(bases) for part in parts]
        self._shift = np.array(self._bases, np.int64) - first[:-1]
        # Records read and compared before.
        self._seen = np.zeros(int(first[-1]), bool)

    def _span(self, record: int) -> tuple[int, int, int]:
        """Part and slots of a record."""
        part = bisect_right(self._starts, record) - 1
        owner, base, row = self._parts[part], self._bases[part], record - self._starts[part]
        if owner is None:
            raise self._foreign(record)
        if not self.array.ragged:
            return part, base + row, base + row + 1
        offsets = owner.offsets(self.array.name)
        return part, base + int(offsets[row]), base + int(offsets[row + 1])

    def _foreign(self, record: int) -> BadInput:
        return BadInput(
            f"Record number {record} has no array {self.array.name!r}.",
            "Read records of one kind at a time, by numbers that this reader gave since its last refresh.",
        )

    def length(self, record: int) -> int:
        """Rows of a ragged record."""
        _, start, stop = self._span(record)
        return stop - start

    def view(self, record: int) -> Array:
        """Stored values of one record, read-only, in place. Raises Damaged: Its bytes are not what was committed."""
        part, start, stop = self._span(record)
        values = self._rows.span(start, stop) if self.array.ragged else self._rows.row(start)
        if not self._seen[record]:
            if self._verify == "never":
                return values
            if values.nbytes <= _LONG:
                self._rows.advise(start, stop)
            self._compare(part, record, checksum(values))
        elif self._verify == "always":
            self._compare(part, record, checksum(values))
        return values

    def window(self, record: int, start: int, stop: int | None, step: int) -> Array:
        """Rows `start:stop:step` of a ragged record, read-only, in place.

        Raises:
            BadInput: The window leaves the record.
            Damaged: The record's bytes are not what was committed.
        """
        values = self.view(record)
        stop = len(values) if stop is None else stop
        if not 0 <= start <= stop <= len(values) or step < 1:
            raise BadInput(
                f"Rows {start}:{stop}:{step} were asked of a record that has {len(values)}.",
                "Keep 0 <= start <= stop <= the record's length, and a step of 1 or more.",
            )
        return values[start:stop:step]

    def take(self, records: npt.NDArray[np.int64], out: Array) -> None:
        """Copy fixed records into `out` `[n, *shape]`.

        Raises:
            BadInput: `out` has another shape or dtype, the array is ragged, or a number is of another kind.
            Damaged: The bytes of a record are not what was committed.
        """
        shape = (len(records), *self.array.row_shape)
        if self.array.ragged or out.shape != shape or out.dtype != self.array.dtype or not out.flags.c_contiguous:
            raise BadInput(
                f"A batch of {self.array.name!r} needs a C-contiguous {self.array.dtype} buffer of shape {list(shape)}"
                f"{' and equal lengths' if self.array.ragged else ''}; got {out.dtype} {list(out.shape)}.",
                "Read ragged arrays with window() or view()."
                if self.array.ragged
                else "Allocate it once and reuse it.",
            )
        if not len(records):
            return
        if records.min() < 0 or records.max() >= len(self._seen):
            raise self._foreign(int(records.max() if records.min() >= 0 else records.min()))
        parts = np.searchsorted(self._first, records, "right") - 1
        for part in set(parts.tolist()):
            if self._parts[part] is None:
                raise self._foreign(int(records[parts == part][0]))
        slots = records + self._shift[parts]
        if self._verify == "never" or (self._verify == "once" and self._seen[records].all()):
            self._rows.gather(slots, out)
        else:
            self._take_checked(records, parts, slots, out)

    def _take_checked(
        self, records: npt.NDArray[np.int64], parts: Array, slots: npt.NDArray[np.int64], out: Array
    ) -> None:
        if self.array.row_bytes <= _LONG:
            for slot in slots[~self._seen[records]].tolist():
                self._rows.advise(slot, slot + 1)
        for i, (record, part, slot) in enumerate(zip(records.tolist(), parts.tolist(), slots.tolist(), strict=True)):
            source = self._rows.row(slot)
            if self._verify == "once" and self._seen[record]:
                out[i] = source
            else:
                self._compare(part, record, copy_checked(source, out[i, ...]))

    def _compare(self, part: int, record: int, crc: int) -> None:
        owner, row = self._parts[part], record - self._starts[part]
        assert owner is not None
        if crc != int(owner.crcs(self.array.name)[row]):
            key = owner.key(row)
            raise Damaged(
                f"The bytes of {self.array.name!r} of {key.kind} {key.name!r} (part {owner.name}) have changed.",
                "Run `vfc store verify`, then `vfc store repair`, then the extraction again.",
            )
        self._seen[record] = True

    def advise(self, record: int, start: int = 0, stop: int | None = None, step: int = 1) -> None:
        """Ask the system to read a record, or some rows of a ragged one, ahead of time."""
        _, first, last = self._span(record)
        if not self.array.ragged:
            self._rows.advise(first, last)
            return
        self._rows.advise(first + start, last if stop is None else min(last, first + stop), step)
