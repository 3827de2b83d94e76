"""Output of results: text tables, rows of results.jsonl, and self-contained HTML pages."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file, writing
from vfc.cache_schema.values.record import Json

_POINTS: Final = 1000


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


def write_html(
    path: Path,
    title: str,
    tables: Sequence[Table],
    curve: Sequence[Mapping[str, Any]],
    confusion: Confusion | None,
    more: Sequence[str] = (),
) -> None:
    """A self-contained page: tables, the curve of loss and validation, the confusion matrix, more pictures.

    `curve` has rows with `step` and `loss`, and `validation` in some.
    """
    pictures = [_curve_picture(curve)] if curve else []
    if confusion is not None:
        pictures.append(_confusion_picture(confusion))
    pictures += more
    write_page(path, title, tables, pictures)


def write_page(path: Path, title: str, tables: Sequence[Table], pictures: Sequence[str]) -> None:
    """A page of tables and pictures (SVG)."""
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *map(_table_html, tables), *pictures])
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:600;padding:.3rem 0}"
        "td,th{border-bottom:1px solid #ccc;padding:.25rem .8rem;text-align:left}"
        "td+td{font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}"
    )
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body>\n{body}\n</body></html>\n"
    )
    replace_file(path, page.encode())


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption>\n<tr>{head}</tr>\n{rows}\n</table>"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    import matplotlib

    out = io.StringIO()
    # With a fixed salt and no date, the same run gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "vfc", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _curve_picture(curve: Sequence[Mapping[str, Any]]) -> str:
    figure, axes = _figure(7, 3)
    plotted = curve[:: max(1, len(curve) // _POINTS)]
    axes.plot([row["step"] for row in plotted], [row["loss"] for row in plotted], color="tab:blue", linewidth=1)
    axes.set_xlabel("update")
    axes.set_ylabel("loss", color="tab:blue")
    chosen = [row for row in curve if row.get("validation") is not None]
    if chosen:
        right = axes.twinx()
        right.plot([r["step"] for r in chosen], [100 * r["validation"] for r in chosen], "o-", color="tab:orange")
        right.set_ylabel("validation, %", color="tab:orange")
    return _svg(figure)


def layers_picture(curves: Mapping[str, Sequence[tuple[str, float, float]]]) -> str:
    """Accuracy over layers, one line per metric with its interval: name -> (layer, share, half width), as SVG."""
    figure, axes = _figure(8, 4)
    layers = list(dict.fromkeys(layer for curve in curves.values() for layer, _, _ in curve))
    place = {layer: i for i, layer in enumerate(layers)}
    for name, curve in curves.items():
        at, shares = [place[layer] for layer, _, _ in curve], [100 * share for _, share, _ in curve]
        (line,) = axes.plot(at, shares, "o-", markersize=3, label=name)
        halves = [100 * half for _, _, half in curve]
        low, high = (
            [s - h for s, h in zip(shares, halves, strict=True)],
            [s + h for s, h in zip(shares, halves, strict=True)],
        )
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2)
    axes.set_xticks(range(len(layers)), layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    return _svg(figure)


def segments_picture(
    title: str, rows: Sequence[tuple[str, tuple[Sequence[int], Sequence[int]], int]], names: Sequence[str]
) -> str:
    """Sequences of classes as coloured bars, as SVG: rows of (label, (class ids, lengths), where prediction starts)."""
    used = sorted({i for _, (ids, _), _ in rows for i in ids if i >= 0})
    figure, axes = _figure(9, 0.45 * len(rows) + 0.25 * (len(used) // 4 + 1) + 1)
    import matplotlib

    colours = matplotlib.colormaps["tab20"]
    shade = {name: colours(place % 20) for place, name in enumerate(used)}
    ends = [sum(lengths) for _, (_, lengths), _ in rows]
    for y, ((_, (ids, lengths), start), end) in enumerate(zip(rows, ends, strict=True)):
        reached = 0
        for i, length in zip(ids, lengths, strict=True):
            axes.barh(y, length, left=reached, height=0.8, color=shade.get(i, "w"), linewidth=0)
            reached += length
        axes.plot([start, start], [y - 0.45, y + 0.45], color="k", linewidth=1)
        axes.plot([end, end], [y - 0.45, y + 0.45], color="k", linewidth=0.5)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("frame; prediction starts at the line")
    axes.set_title(title)
    handles = [matplotlib.patches.Patch(color=shade[i], label=names[i]) for i in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return _svg(figure)


def _confusion_picture(confusion: Confusion) -> str:
    count = len(confusion.labels)
    # At full size, hundreds of classes would be gigabytes; so the names get smaller, and the SVG can be zoomed.
    side = min(max(3.5, 0.45 * count + 2), 16)
    figure, axes = _figure(side, side)
    shares = [[100 * n / max(1, sum(row)) for n in row] for row in confusion.counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    letters = min(10, 300 / count)
    axes.set_xticks(range(count), confusion.labels, rotation=90, fontsize=letters)
    axes.set_yticks(range(count), confusion.labels, fontsize=letters)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if count <= 25:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=8, color="w" if share > 50 else "k")
    return _svg(figure)
