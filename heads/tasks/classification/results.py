"""The result of a classifier's test: shares, confusion, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations.groups import group_of
from vfc.cache_schema.values.record import Json
from vfc.heads.results.tables import Confusion, Table, percent, share_within
from vfc.heads.runs.intervals import over_units, wilson
from vfc.heads.tasks.fewshot.episodes import half_width

from .lists import Listed

Numbers = npt.NDArray[np.float64]

_LIKELIEST: Final = 5
"""Classes per video whose probabilities are written to predictions.jsonl."""


@dataclass(frozen=True)
class Scored:
    """Scores `[N, C]` of the videos of a list, and the head's further figures of each: name -> `[N]`."""

    listed: Listed
    scores: Numbers
    usage: Mapping[str, Numbers]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The right class of each."""
        return np.array(self.listed.labels, dtype=np.int64)

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """How many classes score higher than the right one; of equals, those before it in the list of classes."""
        own = self.scores[np.arange(len(self.scores)), self.labels][:, None]
        before = np.arange(self.scores.shape[1]) < self.labels[:, None]
        return np.asarray(((self.scores > own) | ((self.scores == own) & before)).sum(axis=1), dtype=np.int64)

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        """The class that scores highest; of equals the first."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)

    def shares(self) -> dict[str, Json]:
        """Top-1 with the half width of its 95 % interval, and top-5.

        The interval is over videos, and over files where several videos are segments of one (Student's t). Of a share
        near 0 or 1 (fewer than 10 videos right, or wrong) `within` is Wilson's interval.
        """
        right = (self.ranks == 0).astype(np.float64)
        files = self._files()
        counts = np.bincount(files).astype(np.float64)
        sums = np.bincount(files, right).astype(np.float64)
        alone = len(counts) == len(right)
        near = min(right.sum(), (1 - right).sum()) < 10
        return {
            "top1": float(right.mean()),
            "interval": half_width(right) if alone or len(counts) < 2 else over_units(sums, counts)[1],
            **({} if alone else {"interval_over": "files"}),
            **({"within": [*wilson(float(right.mean()), len(counts))]} if near else {}),
            "top5": float((self.ranks < 5).mean()),
            "classes": len(self.listed.names),
            "videos": len(right),
        }

    def _files(self) -> npt.NDArray[np.int64]:
        """For each video the number of its group: of its file, where segments of one file are tested."""
        group = {row.name: group_of(row.name, row.group) for row in self.listed.rows}
        number = {name: i for i, name in enumerate(dict.fromkeys(group.values()))}
        return np.array([number[group[row.name]] for row in self.listed.rows], dtype=np.int64)

    def confusion(self) -> npt.NDArray[np.int64]:
        """How often a class (row) was taken for another (column)."""
        counts = np.zeros((len(self.listed.names),) * 2, dtype=np.int64)
        np.add.at(counts, (self.labels, self.guesses), 1)
        return counts

    def per_class(self) -> dict[str, Json]:
        """Class -> share of its videos that were right; None where none was tested."""
        counts = self.confusion()
        hits, total = counts.diagonal(), counts.sum(axis=1)
        return {name: (float(hits[i] / total[i]) if total[i] else None) for i, name in enumerate(self.listed.names)}

    def mean_usage(self) -> dict[str, Json]:
        """The head's further figures, averaged over the videos of each class, over right and wrong ones, over all."""
        right = self.ranks == 0
        parts = {name: self.labels == i for i, name in enumerate(self.listed.names)}
        parts |= {"(right)": right, "(wrong)": ~right, "(all)": np.ones_like(right)}
        return {
            part: {name: float(values[chosen].mean()) for name, values in self.usage.items()}
            for part, chosen in parts.items()
            if chosen.any()
        }

    def items(self, group: str, *, probabilities: bool = False) -> list[Json]:
        """One row per video, for comparisons item by item; `scores`: its likeliest classes with their probabilities.

        `probabilities`: whether the scores are such already, and not logits.
        """
        names = self.listed.names
        shares = self.scores if probabilities else _softmax(self.scores)
        likeliest = np.argsort(-self.scores, axis=1, kind="stable")[:, :_LIKELIEST]
        return [
            {
                "item": row.name,
                "group": group,
                "label": row.label,
                "predicted": names[int(places[0])],
                "correct": float(rank == 0),
                "scores": {names[int(place)]: round(float(own[place]), 4) for place in places},
            }
            for row, places, own, rank in zip(self.listed.rows, likeliest, shares, self.ranks, strict=True)
        ]


def result_of(groups: Mapping[str, Scored]) -> dict[str, Json]:
    """The measured part of a result row: of the only group, or of base and novel with their harmonic mean."""
    if "novel" not in groups:
        (scored,) = groups.values()
        measured = {**scored.shares(), "per_class": scored.per_class(), "confusion": scored.confusion().tolist()}
        return {**measured, **({"usage": scored.mean_usage()} if scored.usage else {})}
    base, novel = (cast("float", groups[name].shares()["top1"]) for name in ("base", "novel"))
    return {
        "top1": harmonic_mean(base, novel),
        "harmonic_mean": harmonic_mean(base, novel),
        **{name: scored.shares() for name, scored in groups.items()},
        "per_class": {name: share for scored in groups.values() for name, share in scored.per_class().items()},
        "confusion": groups["base"].confusion().tolist(),
        **({"usage": groups["base"].mean_usage()} if groups["base"].usage else {}),
    }


def _softmax(logits: Numbers) -> Numbers:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def harmonic_mean(base: float, novel: float) -> float:
    """2BN / (B + N); 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The shares, the head's further figures, and one row per class."""
    head = str(result.get("head", "head"))
    shots = f"{result['shots']} shots per class" if result["shots"] else "all shots"
    title = (
        f"{shots}: {result['train_videos']} training videos (views per video: {result['train_views']:g}), "
        f"{result['test_videos']} test videos"
    )
    if result.get("shuffle_frames"):
        title += ", frames shuffled"
    if "harmonic_mean" in result:
        rows = [(f"{head}, {name}", *_cells(result[name])) for name in ("base", "novel")]
        rows.append((f"{head}, harmonic mean", percent(result["harmonic_mean"]), "", ""))
    else:
        rows = [(head, *_cells(result))]
    drawn = [Table(title, ("", "top-1", "top-5", "classes"), tuple(rows))]
    if "usage" in result:
        names = tuple(result["usage"]["(all)"])
        drawn.append(
            Table(
                "What the head used, on average",
                ("videos", *names),
                tuple((part, *(f"{means[name]:.3f}" for name in names)) for part, means in result["usage"].items()),
            )
        )
    shares = tuple((name, "not tested" if x is None else percent(x)) for name, x in result["per_class"].items())
    return [*drawn, Table("Per class", ("class", "top-1"), shares)]


def over_runs(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Base, novel and harmonic mean of several runs: their mean, and the deviation over seeds."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        if "harmonic_mean" in result:
            runs.setdefault(str(result["head"]), []).append(result)
    rows = []
    for head, of_head in runs.items():
        parts = [[run["base"]["top1"] for run in of_head], [run["novel"]["top1"] for run in of_head]]
        parts.append([run["harmonic_mean"] for run in of_head])
        cells = [percent(float(np.mean(p)), float(np.std(p, ddof=1)) if len(p) > 1 else None) for p in parts]
        rows.append((head, *cells, str(len(of_head))))
    return [Table("Base to novel", ("", "base", "novel", "harmonic mean", "runs"), tuple(rows))] if rows else []


def _cells(shares: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        share_within(shares["top1"], shares["interval"], shares.get("within")),
        percent(shares["top5"]),
        str(shares["classes"]),
    )


def confusion(result: Mapping[str, Any]) -> Confusion:
    """The confusion matrix; of base-to-novel that of the base classes."""
    counts = tuple(tuple(row) for row in result["confusion"])
    return Confusion(tuple(result["per_class"])[: len(counts)], counts)
