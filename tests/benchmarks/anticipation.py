"""FUTR and ActionLLM on real label sequences with drawn features, beside the trivial predictors.

    python tests/benchmarks/anticipation.py LABELS --llm STORIES260K --out runs [--only 50salads-sigma2] [--part 0/2]
        [--table tests/benchmarks/anticipation.md]

LABELS holds `50salads/` and `breakfast/` (label files, mapping, splits), STORIES260K is a small real LLaMA. The labels
are real; the features are x_i = mean[label_i] + sigma * noise with one drawn mean per class (each coordinate of
variance 1), new noise in every row, nothing of a video's own and no look-ahead. ActionLLM's past classes are those of
`frame-classifier` on the same features, trained per split. All settings come from the .json beside this script, fixed
before any test video was scored. What is done is not done again; several processes may share the work. The table is
written from whatever is done, and says how much that is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from suites.sequence_store import write_real

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.heads.lookup import find
from vfc.heads.results.tables import Table, read_rows
from vfc.heads.tasks import anticipation, frame_labels
from vfc.heads.tasks.anticipation.moc import Tally
from vfc.heads.tasks.anticipation.segments import Ids
from vfc.heads.tasks.anticipation.splits import over_splits
from vfc.heads.training.fit import train

CONFIG: Final = Path(__file__).with_suffix(".json")
HEADS: Final = {
    "futr": "futr",
    "actionllm": "actionllm",
    "actionllm-text": "actionllm, class names alone",
    "actionllm-first": "actionllm, always the first row of a stride",
}
"""Rows of the tables; what comes after a hyphen are other settings of the same method."""
DRAWS: Final = 2000

Counts: TypeAlias = "tuple[Any, Any]"


@dataclass(frozen=True)
class Unit:
    """One training: a head (or the frame classifier) on one split, at one sigma, with one seed."""

    data: str
    sigma: float
    split: int
    head: str
    seed: int

    @property
    def group(self) -> str:
        """What is tabulated together."""
        return f"{self.data}-sigma{self.sigma:g}"

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.group}/{self.head}-split{self.split}-seed{self.seed}"


def units(settings: Mapping[str, Any]) -> Iterator[Unit]:
    """All trainings, the ones that matter most first."""
    for data, sigma, seeds in (
        ("50salads", settings["sigma"], settings["seeds"]),
        *[("50salads", sigma, settings["seeds"][:1]) for sigma in settings["sweep"]],
        ("breakfast", settings["sigma"], settings["seeds"]),
    ):
        yield from (Unit(data, sigma, split, "frame-classifier", 0) for split in settings[data]["splits"])
        # The sweep is of the two methods alone.
        main = sigma == settings["sigma"]
        for seed in seeds:
            for head in (head for head in HEADS if head in settings[data] and (main or "-" not in head)):
                yield from (Unit(data, sigma, split, head, seed) for split in settings[data]["splits"])


def run(unit: Unit, settings: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Do one training, unless it is done."""
    own = settings[unit.data]
    cache = args.out / "stores" / unit.group
    if not (cache / "annotations").exists():
        made = {"width": settings["width"], "sigma": unit.sigma, "seed": settings["feature_seed"]}
        write_real(cache, args.labels / unit.data, stride=settings["stored_stride"], **made)
    name = unit.head.partition("-")[0] if unit.head in HEADS else unit.head
    method, folder = find(name), args.out / unit.name
    shared = {"seed": unit.seed, "device": "cpu", "out": folder, "validate_every": 100_000}
    if unit.head == "frame-classifier":
        task: Any = frame_labels.Config(cache=cache, fold=unit.split)
        head: Any = method.Config()
        training = replace(frame_labels.TRAIN, **settings["classifier"], **shared)
    else:
        # A row of other settings says only what is other.
        its = {part: {**values, **own[unit.head].get(part, {})} for part, values in own[name].items()}
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in its["task"].items()}
        task = anticipation.Config(cache=cache, fold=unit.split, **given)
        reads = {"preset": unit.data} if name == "futr" else {"llm": str(args.llm)}
        head = method.Config(queries=own["queries"], **reads, **its["head"])
        training = replace(method.TRAIN, **its["train"], **shared)  # type: ignore[attr-defined]
    started = time.process_time()
    done = (folder / "results.jsonl").exists()
    row = train(name, task, head, training, Silent()).row
    if not done:
        figure = row["mean_moc"] if "mean_moc" in row else row["accuracy"]
        print(f"{unit.name}: {100 * figure:.2f} %, {time.process_time() - started:.0f} s of CPU", flush=True)


def tables(settings: Mapping[str, Any], out: Path) -> list[Table]:
    """What is done so far, group by group: of every head the seeds that all splits have."""
    everything = list(units(settings))
    shown: list[Table] = []
    for group in dict.fromkeys(unit.group for unit in everything):
        wanted = [unit for unit in everything if unit.group == group]
        found = {unit: read_rows(out / unit.name / "results.jsonl") for unit in wanted}
        rows = {unit: {**row[0], "head": HEADS.get(unit.head, "")} for unit, row in found.items() if row}
        told = [row["accuracy"] for unit, row in rows.items() if unit.head == "frame-classifier"]
        lacking = {(unit.head, unit.seed) for unit in wanted if unit not in rows}
        kept = {unit: row for unit, row in rows.items() if (unit.head, unit.seed) not in lacking and "moc" in row}
        if not kept:
            continue
        right = f"frame classifier right on {100 * sum(told) / len(told):.1f} % of test frames"
        for table in (*over_splits(list(kept.values())), over_videos(list(kept), out)):
            shown.append(replace(table, title=f"{group}, {right}. {table.title}"))
    return shown


def over_videos(kept: Sequence[Unit], out: Path) -> Table:
    """Each head less the trivial predictors: MoC over videos drawn anew within every split, seeds averaged."""
    splits: dict[str, dict[int, dict[str, list[Counts]]]] = {}
    for unit in kept:
        reader = open_store(out / "stores" / unit.group)
        classes = len(reader.axes("labels")["classes"]["names"])  # type: ignore[index, call-overload]
        row, *_ = read_rows(out / unit.name / "results.jsonl")
        found: dict[str, dict[float, Ids]] = {}
        for item in read_rows(out / unit.name / "predictions.jsonl"):
            name, _, ratio = item["item"].rpartition(" after ")
            found.setdefault(name, {})[float(ratio)] = np.repeat(item["actions"], item["frames"])
        truths = {name: np.array(reader.view(Key("video", name), "labels")) for name in sorted(found)}
        counts = _counts(row, classes, [(ids, found[name].__getitem__) for name, ids in truths.items()])
        splits.setdefault(unit.head, {}).setdefault(unit.split, {}).setdefault("head", []).append(counts)
        same = [(ids, _repeated(ids)) for ids in truths.values()]
        splits[unit.head][unit.split]["last"] = [_counts(row, classes, same)]
    rows = []
    for head, parts in splits.items():
        draw, apart = np.random.default_rng(0), np.zeros(DRAWS + 1)
        for kinds in parts.values():
            videos = len(kinds["last"][0][0])
            # The first draw is every video once: the figure itself.
            weights = np.vstack([np.ones(videos), draw.multinomial(videos, np.full(videos, 1 / videos), DRAWS)])
            for sign, name in ((1, "head"), (-1, "last")):
                apart += sign * np.mean([_moc(weights, *each) for each in kinds[name]], axis=0) / len(parts)
        low, high = np.quantile(100 * apart[1:], (0.025, 0.975))
        rows.append((f"{HEADS[head]} - repeat last label", f"{100 * apart[0]:+.2f} [{low:+.2f}, {high:+.2f}]"))
    return Table("The same, 95 % bootstrap over the test videos within every split", ("", "points"), tuple(rows))


def _repeated(ids: Ids) -> Callable[[float], Ids]:
    return lambda ratio: np.full(int(0.5 * len(ids)), ids[int(ratio * len(ids)) - 1])


def _counts(row: Mapping[str, Any], classes: int, videos: Sequence[tuple[Ids, Callable[[float], Ids]]]) -> Counts:
    """Frames right and in all, `[V, A * P, K]`, of every video by itself."""
    tallies = []
    for ids, predicted in videos:
        tally = Tally(classes, row["observe"], row["predict"])
        for place, ratio in enumerate(row["observe"]):
            tally.add(place, ids, predicted(ratio))
        tallies.append(tally)
    shape = (len(videos), -1, classes)
    return np.array([t.right for t in tallies]).reshape(shape), np.array([t.frames for t in tallies]).reshape(shape)


def _moc(weights: Any, right: Any, frames: Any) -> Any:
    """Mean over the columns, one figure per row of `weights [R, V]`."""
    right, frames = (np.einsum("rv,vck->rck", weights, counts) for counts in (right, frames))
    there = frames > 0
    return (np.divide(right, frames, out=np.zeros(frames.shape), where=there).sum(-1) / there.sum(-1)).mean(-1)


def markdown(table: Table) -> str:
    """A table below its title."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return f"### {table.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="this process's share of the work, as 0/2")
    parser.add_argument("--only", default="", help="units whose name contains this")
    parser.add_argument("--table", type=Path, help="write the tables below the mark in this file, and train nothing")
    args = parser.parse_args(arguments)
    settings = json.loads(CONFIG.read_text())
    if args.table:
        head = args.table.read_text().partition("<!-- written")[0]
        body = "\n".join(map(markdown, tables(settings, args.out)))
        text = f"{head}<!-- written by anticipation.py from here on -->\n\n{body}"
        replace_file(args.table, text.encode())
        return
    torch.set_num_threads(1)
    share, of = map(int, args.part.split("/"))
    for i, unit in enumerate(unit for unit in units(settings) if args.only in unit.name):
        # Labels are needed by all that follow: every process makes them, or finds them made.
        if unit.head == "frame-classifier" or i % of == share:
            run(unit, settings, args)


if __name__ == "__main__":
    main()
