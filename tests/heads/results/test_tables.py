"""Rows, figures and the page of a run."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from vfc.heads.results.page import write_html
from vfc.heads.results.tables import Confusion, Table, append_rows, percent, points, read_rows

TABLES = [Table("Fish & <chips>", ("", "accuracy"), (("a<b", "50 %"), ("c", "20 %")))]


def test_figures_as_people_read_them() -> None:
    assert percent(0.56119, 0.00428) == "56.12 ± 0.43 %"
    assert percent(0.2) == "20.00 %"
    assert points(-0.0311, 0.004) == "-3.11 ± 0.40"
    assert points(0.5, 0) == "+50.00 ± 0.00"


def test_rows_come_back_and_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_rows(path, [{"step": 1, "loss": 0.5}, {"step": 2, "label": "é"}])
    append_rows(path, [{"step": 3}])
    assert read_rows(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "label": "é"}, {"step": 3}]
    path.write_bytes(path.read_bytes()[:-4])
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    # What python takes for the end of a line is no end of a row.
    path.unlink()
    append_rows(path, [{"label": "a\u2028b"}, {"label": "c\x85"}])
    assert read_rows(path) == [{"label": "a\u2028b"}, {"label": "c\x85"}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_rows(path, [{"loss": float("nan")}])


def test_the_page_holds_everything_and_is_the_same_twice(tmp_path: Path) -> None:
    curve = [{"step": i, "loss": 1 / i} for i in range(1, 3001)]
    curve[999]["validation"] = 0.4
    confusion = Confusion(("push", "pull & twist"), ((3, 1), (0, 4)))
    for name in ("a.html", "b.html"):
        write_html(tmp_path / name, "Run <1>", TABLES, curve, confusion)
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "<title>Run &lt;1&gt;</title>" in page
    assert "Fish &amp; &lt;chips&gt;" in page
    assert "a&lt;b" in page
    pictures = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, flags=re.S)]
    assert len(pictures) == 2
    words = [text for picture in pictures for text in picture.itertext()]
    for word in ("update", "validation, %", "pull & twist", "taken for", "75", "25", "100"):
        assert word in words, word
    assert len(page) < 300_000  # a long curve is thinned


def test_names_with_dollars_and_a_users_matplotlibrc_draw_the_same_page(tmp_path: Path) -> None:
    confusion = Confusion(("$5 to $10", r"a $\frac{"), ((3, 1), (0, 4)))
    write_html(tmp_path / "a.html", "Run", TABLES, [{"step": 1, "loss": 1.0}], confusion)
    assert "$5 to $10" in (tmp_path / "a.html").read_text()
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 10, "axes.facecolor": "red"}):
        write_html(tmp_path / "b.html", "Run", TABLES, [{"step": 1, "loss": 1.0}], confusion)
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_a_run_without_a_curve_or_confusion_has_a_page_too(tmp_path: Path) -> None:
    write_html(tmp_path / "r.html", "Run", TABLES, [], None)
    assert "<svg" not in (tmp_path / "r.html").read_text()
