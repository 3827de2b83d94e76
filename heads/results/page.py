"""Self-contained HTML pages of results: header, notices, tables, pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file

from .figures import confusion_picture, curve_picture
from .tables import Confusion, Table

_DIGESTS: Final = ("store_digest", "recipe_digest", "annotations_digest", "videos_digest", "list_digest")
_STYLE: Final = (
    ":root{color-scheme:light dark;--line:#8884;--note:#8a4b00;--soft:#8881}"
    "@media(prefers-color-scheme:dark){:root{--note:#ffb867}}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;overflow-wrap:anywhere}"
    "h1{font-size:1.4rem;line-height:1.25}.note{color:var(--note);font-weight:600}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;background:var(--soft);padding:.6rem .8rem;"
    "border-radius:.4rem}dt{font-weight:600}dd{margin:0;min-width:0}"
    ".wide{overflow-x:auto;max-width:100%}table{border-collapse:collapse;margin:1rem 0;overflow-wrap:normal}"
    "caption{text-align:left;font-weight:600;padding:.3rem 0}"
    "td,th{border-bottom:1px solid var(--line);padding:.25rem .8rem;text-align:left;vertical-align:top}"
    "td,th{min-width:4.5rem}"
    "td+td{font-variant-numeric:tabular-nums}"
    "svg{max-width:100%;height:auto;background:#fff;border-radius:.4rem;margin:.5rem 0}"
    "@media(max-width:40rem){body{margin:1rem auto}dl{grid-template-columns:1fr}dd{margin-bottom:.3rem}"
    "td,th{padding:.25rem .5rem}}"
)


def page_header(what: str, command: str, rows: Sequence[Mapping[str, Any]], *, store: str = "") -> dict[str, str]:
    """What a page shows, when and by which command it was made, and from which data: digests of result `rows`."""
    header = {
        "what": what,
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "store": store,
    }
    for name in _DIGESTS:
        values = dict.fromkeys(row[name][:12] for row in rows if isinstance(row.get(name), str))
        header[name.replace("_", " ")] = ", ".join(values)
    return {name: value for name, value in header.items() if value}


def write_html(
    path: Path,
    title: str,
    tables: Sequence[Table],
    curve: Sequence[Mapping[str, Any]],
    confusion: Confusion | None,
    more: Sequence[str] = (),
    header: Mapping[str, str] | None = None,
    notices: Sequence[str] = (),
) -> None:
    """The page of one run: tables, the curve of loss and validation, the confusion matrix, more pictures.

    `curve` has rows with `step` and `loss`, and `validation` in some.
    """
    pictures = [curve_picture(curve)] if curve else []
    if confusion is not None:
        pictures.append(confusion_picture(confusion))
    pictures += more
    write_page(path, title, tables, pictures, header, notices)


def write_page(
    path: Path,
    title: str,
    tables: Sequence[Table],
    pictures: Sequence[str],
    header: Mapping[str, str] | None = None,
    notices: Sequence[str] = (),
) -> None:
    """A page: notices first, the header (name -> value), tables and pictures (SVG)."""
    facts = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in (header or {}).items())
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="note">{html.escape(line)}</p>' for line in notices]
    parts += [f"<dl>{facts}</dl>"] if facts else []
    parts += [f'<div class="wide">{table_html(table)}</div>' for table in tables]
    body = "\n".join([*parts, *pictures])
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    replace_file(path, page.encode())


def table_html(table: Table) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption>\n<tr>{head}</tr>\n{rows}\n</table>"
