"""The facts of a result as text: data, views, templates and split behind its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .tables import Table

_DIGESTS: Final = ("store", "recipe", "annotations", "videos", "classes", "test_videos", "views", "templates")
_HEX: Final = 12


def centre_text(centre: str) -> str:
    """How a mean was subtracted, in words: that of all clips looks at the test clips too."""
    return "all (transductive: the mean of the test clips is subtracted)" if centre == "all" else centre


def fact_rows(result: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text of every fact that a row of results.jsonl holds (see `data.facts`); digests are shortened."""
    rows: dict[str, str] = {}
    if "views" in result:
        rows["views"] = "; ".join(f"{use} {_ranges(views)}" for use, views in result["views"].items())
    if result.get("templates"):
        rows["templates of class texts"] = ", ".join(result["templates"])
    for name, title in (("tokens", "tokens"), ("baseline_tokens", "tokens of the baselines")):
        if result.get(name):
            rows[title] = ", ".join(f"{role} {tokens}" for role, tokens in result[name].items())
    for name in ("centring", "split_rule"):
        if name in result:
            rows[name.replace("_", " ")] = str(result[name])
    if result.get("groups_kept") is not None:
        rows["groups kept together"] = str(result["groups_kept"])
    if result.get("clips_per_class"):
        rows["clips per class"] = _counts(result["clips_per_class"])
    if result.get("identical_in_train_and_test"):
        rows["identical files in train and test"] = str(len(result["identical_in_train_and_test"]))
    for name in _DIGESTS:
        value = result.get(f"{name}_digest")
        if isinstance(value, str):
            rows[f"{name.replace('_', ' ')} digest"] = value[:_HEX]
    return rows


def facts_table(results: Mapping[str, Mapping[str, Any]], title: str = "Data") -> list[Table]:
    """The facts of results by their names, a column each; no table where no result names any."""
    rows = {name: fact_rows(result) for name, result in results.items()}
    facts = list(dict.fromkeys(fact for of_result in rows.values() for fact in of_result))
    cells = tuple((fact, *(of_result.get(fact, "") for of_result in rows.values())) for fact in facts)
    return [Table(title, ("", *results), cells)] if cells else []


def _ranges(views: Sequence[int]) -> str:
    """`0, 401-404` for [0, 401, 402, 403, 404]."""
    runs: list[list[int]] = []
    for view in sorted(views):
        if runs and view == runs[-1][1] + 1:
            runs[-1][1] = view
        else:
            runs.append([view, view])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "none"


def _counts(clips: Mapping[str, int]) -> str:
    """`8 in each of 15 classes`, or `2 to 9 in 15 classes`."""
    least, most = min(clips.values()), max(clips.values())
    return f"{least} in each of {len(clips)} classes" if least == most else f"{least} to {most} in {len(clips)} classes"
