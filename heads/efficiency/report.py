"""The result of `vfc bench efficiency`: tables, a JSON document, a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfc.cache_schema.values.record import Json
from vfc.heads.results.page import page_header, write_page
from vfc.heads.results.tables import Table

from .cost import HeadCost, PaperCost, Timing

_UNITS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Efficiency:
    """Heads as measured, rows of the papers, what was left out and why, and the machine."""

    rows: tuple[HeadCost, ...]
    papers: tuple[PaperCost, ...]
    left_out: tuple[tuple[str, str], ...]
    machine: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """Seconds, bytes, counts."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "papers": [row.to_json() for row in self.papers],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "machine": dict(self.machine),
        }

    def tables(self) -> list[Table]:
        """Parameters and operations, time and memory, the papers, what was left out."""
        tables = []
        if self.rows:
            tables += [self._sizes(), self._times()]
            reasons = tuple((name_of(row), row.no_online) for row in self.rows if row.no_online)
            tables += [Table("Without the model in the loop", ("", "reason"), reasons)] if reasons else []
        if self.papers:
            tables += [
                self._of_papers(),
                Table("What differs", ("", ""), tuple((p.row, p.differs) for p in self.papers)),
            ]
        if self.left_out:
            tables.append(Table("Left out", ("", "reason"), self.left_out))
        return tables

    def _sizes(self) -> Table:
        rows = tuple(
            (
                name_of(row),
                row.unit,
                f"{row.trained:,}",
                f"{row.parameters:,}",
                "" if row.model is None else amount(row.parameters + row.model.parameters),
                amount(row.flops),
                amount(row.flops_once) if row.flops_once else "",
                "" if row.model is None else amount(row.model.flops * row.clips),
                "" if row.model is None else amount(row.flops + row.model.flops * row.clips),
            )
            for row in self.rows
        )
        columns = ("", "unit", "trained", "head", "with the model", "FLOPs, head", "once per test", "model", "both")
        return Table("Parameters, and FLOPs of scoring one unit (2 per multiply-add)", columns, rows)

    def _times(self) -> Table:
        rows = tuple(
            (
                name_of(row),
                _ms(row.training),
                _ms(row.scoring),
                _ms(row.reading),
                _bytes(row.training_memory),
                _bytes(row.scoring_memory),
                _ms(row.online_training),
                _ms(row.online_scoring),
                _times(row.ratio_training),
                _times(row.ratio_scoring),
            )
            for row in self.rows
        )
        columns = (
            *("", "training", "scoring", "of it reading", "memory, training", "memory, scoring"),
            *("online, training", "online, scoring", "ratio, training", "ratio, scoring"),
        )
        batches = sorted({row.batch for row in self.rows})
        title = (
            f"Milliseconds per unit, median [quartiles], from the store, online (model in the loop) and their ratio; "
            f"{', '.join(map(str, batches))} per batch; {', '.join(f'{k} {v}' for k, v in self.machine.items())}"
        )
        return Table(title, columns, rows)

    def _of_papers(self) -> Table:
        rows = tuple(
            (
                paper.row,
                paper.unit,
                f"{paper.parameters:,}",
                _printed(paper.parameters_printed),
                amount(paper.flops),
                _printed(paper.flops_printed),
                amount(paper.flops_of_all),
                amount(paper.flops_once) if paper.flops_once else "",
                _printed(paper.model_flops),
                _printed(paper.model_flops_printed),
            )
            for paper in self.papers
        )
        columns = (
            *("", "unit of the head", "trained here", "paper", "head here, as the paper counts", "paper"),
            *("head, 2 per multiply-add", "once per test", "model per clip, as the paper counts", "paper"),
        )
        return Table("Beside the papers, at true size", columns, rows)

    def write_page(self, path: Path, command: str) -> None:
        """One self-contained HTML page."""
        what = f"{len(self.rows)} heads measured, {len(self.papers)} rows of papers"
        stores = ", ".join(dict.fromkeys(row.store for row in self.rows))
        write_page(path, "Efficiency of heads", self.tables(), [], page_header(what, command, [], store=stores))


def name_of(row: HeadCost) -> str:
    """The head and where its features or weights are from."""
    return f"{row.head} ({row.run or row.store})"


def amount(number: float) -> str:
    """30.7 G for 30_656_478_720: four figures at most."""
    for unit, letter in _UNITS:
        if number >= unit:
            return f"{number / unit:.4g} {letter}"
    return f"{number:.4g}"


def _printed(number: float | None) -> str:
    return "" if number is None else amount(number)


def _ms(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{1000 * timing.median:.3g} [{1000 * timing.low:.3g}, {1000 * timing.high:.3g}]"


def _bytes(number: int | None) -> str:
    return "" if number is None else f"{amount(number)}B"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g} x"
