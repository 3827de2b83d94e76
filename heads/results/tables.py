"""Output of results: text tables and rows of results.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfc.cache_schema.parts.atomic_files import writing
from vfc.cache_schema.values.record import Json


@dataclass(frozen=True)
class Table:
    """Plain text in rows and columns, for the command line and the HTML page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix: counts of true classes (rows) predicted as classes (columns)."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def percent(value: float, half_width: float | None = None) -> str:
    """A share and the half width of its interval as `56.12 ± 0.43 %`."""
    return f"{100 * value:.2f} %" if half_width is None else f"{100 * value:.2f} ± {100 * half_width:.2f} %"


def share_within(value: float, half_width: float, within: Sequence[float] | None) -> str:
    """`percent`, or `98.00 [93.00, 99.45] %` where an interval `within` is given (of a share near 0 or 1)."""
    if within is None:
        return percent(value, half_width)
    return f"{100 * value:.2f} [{100 * within[0]:.2f}, {100 * within[1]:.2f}] %"


def points(value: float, half_width: float | None) -> str:
    """A difference of two shares as `+3.20 ± 0.35`, in percentage points."""
    return f"{100 * value:+.2f}" + ("" if half_width is None else f" ± {100 * half_width:.2f}")


def append_rows(path: Path, rows: Iterable[Mapping[str, Json]]) -> None:
    """Add lines of JSON to a .jsonl file."""
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(lines_of(rows))


def lines_of(rows: Iterable[Mapping[str, Json]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none if it does not exist. An incomplete last line (a killed process) is ignored."""
    rows = []
    # Not splitlines: a label may contain other line separators (U+2028, U+0085).
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
