"""Tables as CSV, LaTeX, Markdown or HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from .page import table_html
from .tables import Table

Format = Literal["csv", "latex", "markdown", "html"]

_LATEX: Final = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def formatted(tables: Sequence[Table], form: Format) -> str:
    """Tables one after the other, each with its title, in one of `FORMATS`."""
    return "\n".join(FORMATS[form](table) for table in tables)


def as_csv(table: Table) -> str:
    """A comment line with the title, the columns, the rows."""
    out = io.StringIO()
    out.write(f"# {table.title}\n")
    csv.writer(out, lineterminator="\n").writerows([table.columns, *table.rows])
    return out.getvalue()


def as_latex(table: Table) -> str:
    """A `table` with `booktabs` rules; special characters are escaped."""
    lines = [_latex_row(row) for row in (table.columns, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_markdown(table: Table) -> str:
    """A heading line in bold, and a table of pipes."""
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (table.columns, *table.rows)]
    return "\n".join([f"**{table.title}**", "", rows[0], "|" + " --- |" * len(table.columns), *rows[1:], ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


FORMATS: Final[Mapping[Format, Callable[[Table], str]]] = {
    "csv": as_csv,
    "latex": as_latex,
    "markdown": as_markdown,
    "html": lambda table: table_html(table) + "\n",
}
