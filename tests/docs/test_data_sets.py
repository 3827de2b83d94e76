"""The page "Your data set": one line for every format, as the code describes it."""

from __future__ import annotations

import re

from docs.pages import ROOT
from vfc.extract.collection.formats import formats

PAGE = (ROOT / "docs/guides/your-data-set.md").read_text("utf-8")


def test_every_format_has_its_line() -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.M)}
    for each in formats():
        line, sign = rows[each.name]
        assert sign == each.sign
        assert line.startswith("`vfc videos ")
        assert each.example in line or each.example == "meta/info.json"
