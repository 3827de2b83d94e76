"""The committed table of what a batch or a step costs: how often the host waits, launches, bytes that are not pinned.

`counts.json` is written anew by `VFC_WRITE_COUNTS=1 python -m pytest tests/emulated`; look at its difference before it
is committed. Launches are those of torch and transformers as `constraints.txt` pins them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .timeline import Counts

PATH: Final = Path(__file__).with_name("counts.json")
Row = dict[str, int]


def row_of(counts: Counts, times: int = 1) -> Row:
    """What one of `times` equal things cost, rounded up."""
    totals = {"waits": counts.syncs, "launches": counts.launches, "pageable_bytes": counts.pageable_bytes}
    return {name: -(-sum(counter.values()) // times) for name, counter in totals.items()}


def largest(rows: Iterable[Row]) -> Row:
    """The largest numbers of several batches or steps."""
    each = list(rows)
    return {name: max(row[name] for row in each) for name in each[0]}


def check(name: str, row: Row, details: str = "") -> None:
    """Compare a row with the table; a number may only fall, and the table falls with it."""
    table: dict[str, Row] = json.loads(PATH.read_text()) if PATH.exists() else {}
    if os.environ.get("VFC_WRITE_COUNTS"):
        table[name] = row
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
        PATH.write_text(f"{{\n{lines}\n}}\n")
        return
    assert name in table, f"{PATH.name} has no row {name!r}. Add it: {json.dumps(row)}"
    risen = {key: (table[name][key], value) for key, value in row.items() if value > table[name][key]}
    assert not risen, f"{name} rose (table, now): {risen}. {details}"
    fallen = {key: (table[name][key], value) for key, value in row.items() if value < table[name][key]}
    assert not fallen, f"{name} fell (table, now): {fallen}. Well done: write {json.dumps(row)} into {PATH.name}."
