"""The page "Your data set": one line for every format and preset, as the code describes them."""

from __future__ import annotations

import re

from docs.pages import ROOT
from vfc.extract.collection.formats import formats
from vfc.extract.collection.presets import PRESETS

PAGE = (ROOT / "docs/guides/your-data-set.md").read_text("utf-8")


def test_every_format_has_its_line() -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.M)}
    for each in formats():
        line, sign = rows[each.name]
        assert sign == each.sign
        assert line.startswith("`vfc videos ")
        assert each.example in line or each.example == "meta/info.json"


def test_every_preset_has_its_line() -> None:
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| `([^`]+)`[^|]* \| ([^|]+?) \| ([^|]+?) \| `([^`]+)` \|$", PAGE, re.M)
    }
    assert rows == {each.name: (each.task, each.title, each.line()) for each in PRESETS}
    assert all(f"`{each.alias}`" in PAGE for each in PRESETS if each.alias)
