"""Pictures of results by matplotlib, as SVG for pages and as files for papers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file

from .tables import Confusion

_POINTS: Final = 1000
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Colours that colour-blind people can tell apart (Okabe and Ito, 2008)."""
MARKERS: Final = "osD^vPX*"
_WIDE: Final = 6.9
"""Inches: the width of two columns of a paper."""


@contextlib.contextmanager
def _library_style() -> Iterator[None]:
    """Matplotlib's own defaults for one picture, whatever a user's matplotlibrc says; `$` in a name is no mathematics.

    With a fixed salt, the same run gives the same page.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "vfc", "svg.fonttype": "none", "text.parse_math": False})
        yield


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # no date: the same run gives the same page
    return out.getvalue()[out.getvalue().index("<svg") :]


@_library_style()
def curve_picture(curve: Sequence[Mapping[str, Any]]) -> str:
    """Loss and validation over the updates of a run, as SVG."""
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


@_library_style()
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


@_library_style()
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


@_library_style()
def confusion_picture(confusion: Confusion) -> str:
    """A confusion matrix in percent of each true class, as SVG."""
    return _svg(confusion_figure(confusion))


@_library_style()
def confusion_figure(confusion: Confusion) -> Any:
    """A confusion matrix in percent of each true class."""
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
    return figure


@_library_style()
def svg_of(figure: Any) -> str:
    """A figure as SVG."""
    return _svg(figure)


@_library_style()
def save_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (300 dots per inch) and NAME.svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(drawn, format="png", dpi=300, metadata={"Software": None})
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path, content in zip(paths, (drawn.getvalue(), _svg(figure).encode()), strict=True):
        replace_file(path, content)
    return paths


@_library_style()
def curves_figure(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Any | None:
    """Learning curves of several groups: name -> curves of its runs; loss above, validation below. None without any."""
    drawn = {name: [curve for curve in curves if curve] for name, curves in runs.items()}
    validated = any("validation" in row for curves in drawn.values() for curve in curves for row in curve)
    if not any(drawn.values()):
        return None
    figure, _ = _figure(_WIDE, 5.2 if validated else 2.8)
    figure.clear()
    axes = figure.subplots(1 + validated, 1, sharex=True, squeeze=False)[:, 0]
    for number, (name, curves) in enumerate(drawn.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1}
        for i, curve in enumerate(curves):
            plotted = curve[:: max(1, len(curve) // _POINTS)]
            label = name if i == 0 else None
            axes[0].plot([row["step"] for row in plotted], [row["loss"] for row in plotted], label=label, **style)
            chosen = [row for row in curve if row.get("validation") is not None]
            if validated and chosen:
                marker = MARKERS[number % len(MARKERS)]
                shares = [100 * row["validation"] for row in chosen]
                axes[1].plot([row["step"] for row in chosen], shares, marker=marker, markersize=3, **style)
    axes[0].set_ylabel("loss")
    axes[-1].set_xlabel("update")
    if validated:
        axes[1].set_ylabel("validation, %")
    figure.legend(loc="outside lower center", ncols=1, fontsize=7)
    return figure


@_library_style()
def scores_figure(rows: Sequence[tuple[str, float, float | None, bool]]) -> Any:
    """Scores as points with their deviation: (name, share, half width or None, whether it was trained), from above."""
    figure, axes = _figure(_WIDE, 0.28 * len(rows) + 1)
    for y, (_, share, half, trained) in enumerate(rows):
        style: dict[str, Any] = {
            "marker": "o" if trained else "D",
            "markersize": 5,
            "color": COLOURS[0 if trained else 1],
        }
        fill = style["color"] if trained else "white"
        axes.errorbar(100 * share, y, xerr=None if half is None else 100 * half, capsize=2, mfc=fill, **style)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("test, % (filled: trained, mean and deviation over seeds; hollow: untrained)")
    axes.grid(axis="x", linewidth=0.3)
    return figure


@_library_style()
def knob_figure(name: str, points: Sequence[tuple[Any, float | None, float | None]]) -> Any:
    """Scores over the values of one setting: (value, validation or None, test or None) of each group."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, *_ in points)
    values = sorted({value for value, *_ in points}) if numeric else list(dict.fromkeys(str(v) for v, *_ in points))
    place = {value: i for i, value in enumerate(values)}
    figure, axes = _figure(3.4, 2.6)
    at = [place[value if numeric else str(value)] for value, *_ in points]
    for label, column, marker, colour in (("validation", 1, "s", COLOURS[0]), ("test", 2, "o", COLOURS[1])):
        scores = [(x, share) for x, share in zip(at, (p[column] for p in points), strict=True) if share is not None]
        if scores:
            shares = [100 * share for _, share in scores]
            axes.plot([x for x, _ in scores], shares, marker, color=colour, label=label, markersize=4, alpha=0.8)
    axes.set_xticks(range(len(values)), [str(value) for value in values], fontsize=7)
    axes.set_xlabel(name)
    axes.set_ylabel("%")
    axes.legend(fontsize=7)
    return figure
