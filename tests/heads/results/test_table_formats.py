"""Tables in the formats of other programs, read back."""

from __future__ import annotations

import csv
import io

from vfc.heads.results.table_formats import formatted
from vfc.heads.results.tables import Table

TABLES = [Table("50 % & more", ("", "a_b", "x|y"), (('head, "one"', "56.12 ± 0.43 %", "<1>"), ("two", "", "3")))]


def test_csv_is_read_back() -> None:
    title, *rows = formatted(TABLES, "csv").splitlines()
    assert title == "# 50 % & more"
    assert [tuple(row) for row in csv.reader(io.StringIO("\n".join(rows)))] == [TABLES[0].columns, *TABLES[0].rows]


def test_latex_is_escaped_and_has_a_cell_per_column() -> None:
    text = formatted(TABLES, "latex")
    assert r"\caption{50 \% \& more}" in text
    assert r" & a\_b & x|y \\" in text
    assert r"56.12 $\pm$ 0.43 \% & \textless{}1\textgreater{} \\" in text
    assert text.count(r" \\") == 3
    assert r"\begin{tabular}{lll}" in text


def test_markdown_and_html() -> None:
    lines = formatted(TABLES, "markdown").splitlines()
    assert lines[0] == "**50 % & more**"
    assert lines[2:4] == [r"|  | a_b | x\|y |", "| --- | --- | --- |"]
    assert "<td>&lt;1&gt;</td>" in formatted(TABLES, "html")
