"""VidPrism beside its controls on one store: rendered motion, and UT-Interaction set 1 by sequence.

    python tests/benchmarks/vidprism_controls.py motion DIR --checkpoint MOBILENET [--table FILE]
    python tests/benchmarks/vidprism_controls.py ut DIR --checkpoint MOBILENET --videos UT_INTERACTION [--table FILE]

Makes in DIR what is not there yet: clips, store, runs; what is done is not done again, so it may be stopped. Both
stores hold one pooled vector of a frozen ImageNet network per frame, 8 frames, projected at random onto 128 channels
(a projection that has seen no clip), so that one core trains hundreds of heads.

`motion`: the demo's six test classes (three pairs that are each other played backwards), 60 clips each; the first 24 of
each class train, the last 36 are the test; 3 seeds. `ut`: ten folds, each tests the six clips of one sequence, and K
clips per class of the other sequences train, K = 2, 4, 8.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import materialize
from vfc.cache_schema.values.progress import Silent
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract
from vfc.extract.synthetic import SPLIT_OF, render_collection
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import linear_probe, mean_pool, vidprism
from vfc.heads.runs.intervals import mean_interval
from vfc.heads.runs.paired_statistics import Difference, Group, Run, difference
from vfc.heads.tasks import classification
from vfc.heads.training.fit import train

CLASSES: Final = tuple(sorted(label for label, split in SPLIT_OF.items() if split == "test"))
CLIPS, TRAINED = 60, 24
SHOTS: Final = (2, 4, 8)
SEEDS: Final = (0, 1, 2)
MARK: Final = "<!-- written by vidprism_controls.py from here on -->\n"

_SMALL: Final = TrainConfig(steps=100, batch=32, lr=1e-2, weight_decay=1e-2, select="last", device="cpu")
_LARGE: Final = TrainConfig(steps=60, batch=32, lr=1e-3, weight_decay=0.1, warmup=10, select="last", device="cpu")


@dataclass(frozen=True)
class Method:
    """A row of the table: a method, its settings, how it is trained, whether it sees the frames in order."""

    name: str
    head: Any
    train: TrainConfig
    shuffled: bool = False


_MIXED: Final = vidprism.Config(preset="mixed")
_CHOSEN: Final = replace(_MIXED, merge_norm="rest")

METHODS: Final[Mapping[str, Method]] = {
    "linear probe on the mean": Method("linear-probe", linear_probe.Config(), _SMALL),
    "MLP on the mean": Method("mean-pool", mean_pool.Config(), replace(_SMALL, lr=3e-3)),
    "VidPrism, one expert (rate 2)": Method("vidprism", replace(_CHOSEN, rates=(2,)), _LARGE),
    "VidPrism, --merge-norm kept, frames shuffled": Method("vidprism", _MIXED, _LARGE, shuffled=True),
    "VidPrism, --merge-norm kept": Method("vidprism", _MIXED, _LARGE),
    "VidPrism, preset paper": Method("vidprism", vidprism.Config(), _LARGE),
    "VidPrism, preset paper, --merge-norm rest": Method("vidprism", vidprism.Config(merge_norm="rest"), _LARGE),
    "VidPrism, frames shuffled": Method("vidprism", _CHOSEN, _LARGE, shuffled=True),
    "VidPrism": Method("vidprism", _CHOSEN, _LARGE),
}
"""How they were chosen is told in vidprism_controls.md; without a preset named, `--preset mixed`."""


@dataclass(frozen=True)
class Unit:
    """One training; `shots` 0 and no fold for the rendered clips."""

    method: str
    seed: int
    shots: int = 0
    fold: str = ""

    def folder(self, root: Path) -> Path:
        name = "".join(letter if letter.isalnum() else "-" for letter in self.method)
        return root / "runs" / f"{name}-k{self.shots}-f{self.fold or 0}-s{self.seed}"

    def run(self, root: Path) -> None:
        method = METHODS[self.method]
        task = classification.Config(
            cache=root / "store" / "derived" / "r128", annotations="controls", shots=self.shots, fold=self.fold,
            shuffle_frames=method.shuffled, val_fraction=0.0,
        )  # fmt: skip
        batch = min(method.train.batch, 6 * self.shots) if self.shots else method.train.batch
        steps = 100 if not self.shots else method.train.steps
        how = replace(
            method.train, steps=steps, batch=batch, seed=self.seed, validate_every=steps, out=self.folder(root)
        )
        train(method.name, task, method.head, how, Silent())


def prepared(root: Path, videos: Path, checkpoint: str, rows: Sequence[Annotation] | None) -> None:
    """The store, its projection and its annotations; `rows` None: folds by sequence, from the names."""
    store = root / "store"
    keep = ExtractConfig(
        videos=videos, model="image", checkpoint=checkpoint, keep=("frames",), exclude=("background",) * (rows is None),
        out=store,
    )  # fmt: skip
    extract(keep, Silent())
    materialize(store, Reduction(project="random:128"), Silent(), name="r128")
    if rows is None:
        rows = [
            Annotation(row.name, row.label, fold=row.name.split("/")[-1].split("_")[1])
            for row in load(store, "default").rows
        ]
    write_annotations(store, "controls", Annotations(tuple(rows)))


def motion_rows() -> list[Annotation]:
    return [
        Annotation(f"{label}/{i:03d}.mp4", label, "train" if i < TRAINED else "test")
        for label in CLASSES
        for i in range(CLIPS)
    ]


def units(kind: str, root: Path) -> Iterator[Unit]:
    if kind == "motion":
        yield from (Unit(method, seed) for seed in SEEDS for method in METHODS)
        return
    folds = sorted({row.fold for row in load(root / "store", "controls").rows}, key=int)
    yield from (
        Unit(method, seed, shots, fold)
        for seed in SEEDS
        for shots in SHOTS
        for fold in folds
        for method in METHODS
        if "--merge-norm kept" not in method
    )


def group(root: Path, done: Sequence[Unit], method: str, shots: int) -> Group:
    return Group(tuple(Run.read(u.folder(root)) for u in done if u.method == method and u.shots == shots))


def shown(found: Difference) -> str:
    seeds = ", ".join(f"{100 * value:+.1f}" for value in found.per_seed)
    verdict = "beyond the interval" if found.beyond else "not beyond the interval"
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} .. {100 * found.high:+.1f}) | {seeds} | {verdict}"


def accuracy(found: Group) -> str:
    """Mean; over folds the half width of Student's interval, over seeds the lowest and the highest."""
    folds, seeds = found.per_list(), found.per_seed()
    told = f"{100 * seeds.mean():.1f}"
    if len(folds) > 2:
        half = mean_interval(folds)
        return f"{told} ± {100 * half:.1f}"
    return f"{told} ({', '.join(f'{100 * value:.1f}' for value in seeds)})"


def usage_lines(root: Path, done: Sequence[Unit]) -> list[str]:
    """How much each expert counts, by class and by right and wrong, mean over the seeds."""
    from vfc.heads.results.tables import read_rows

    rows = [read_rows(u.folder(root) / "results.jsonl")[0]["usage"] for u in done if u.method == "VidPrism"]
    names = list(next(iter(rows[0].values())))
    lines = ["", f"Share of each expert | {' | '.join(names)}", "|".join(["---"] * (len(names) + 1))]
    for part in rows[0]:
        cells = [np.mean([row[part][name] for row in rows if part in row]) for name in names]
        lines.append(f"{part} | " + " | ".join(f"{cell:.3f}" for cell in cells))
    return [lines[0], *(f"| {line} |" for line in lines[1:])]


def pairs(methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is compared: VidPrism with all others, and the preset as it is with the probe and with its own control."""
    yield from (("VidPrism", other) for other in methods if other != "VidPrism")
    kept = "VidPrism, --merge-norm kept"
    if kept in methods:
        yield from ((kept, other) for other in ("linear probe on the mean", f"{kept}, frames shuffled"))


def table(kind: str, root: Path) -> str:
    """Of each K the seeds that are done in whole."""
    every = list(units(kind, root))
    finished = {unit for unit in every if (unit.folder(root) / "results.jsonl").exists()}
    shots = sorted({unit.shots for unit in every})
    whole = {k: [s for s in SEEDS if all(u in finished for u in every if (u.shots, u.seed) == (k, s))] for k in shots}
    done = [unit for unit in every if unit.seed in whole[unit.shots]]
    heads = [f"K = {k} ({len(whole[k])} seeds)" if k else "top-1, % (per seed)" for k in shots]
    lines = [f"{len(finished)} of {len(every)} trainings are done.", ""]
    lines += [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    methods = [method for method in METHODS if any(unit.method == method for unit in every)]
    for method in methods:
        cells = [accuracy(group(root, done, method, k)) if whole[k] else "-" for k in shots]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    for k in (k for k in shots if whole[k]):
        lines += ["", f"| paired per test clip{f', K = {k}' if k else ''}, points | mean (95 %) | per seed | |"]
        lines.append("|---|---|---|---|")
        for here, there in pairs(methods):
            apart = difference(group(root, done, here, k), group(root, done, there, k))
            lines.append(f"| {here} - {there} | {shown(apart)} |")
    return "\n".join(lines + (usage_lines(root, done) if kind == "motion" else [])) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("motion", "ut"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many; 0: only the table")
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    root: Path = given.folder
    if given.kind == "motion":
        clips = render_collection(root / "clips", classes=CLASSES, clips_per_class=CLIPS)
        prepared(root, clips, given.checkpoint, motion_rows())
    else:
        prepared(root, given.videos, given.checkpoint, None)
    for unit in units(given.kind, root):
        if unit.seed in SEEDS[: given.seeds] and not (unit.folder(root) / "results.jsonl").exists():
            unit.run(root)
            print(unit, flush=True)
    text = table(given.kind, root)
    print(text)
    if given.table:
        head, _, found = (given.table.read_text() if given.table.exists() else "").partition(MARK)
        parts = dict(part.split("\n", 1) for part in found.split("## ") if part.strip())
        parts[given.kind] = "\n" + text
        replace_file(given.table, (head + MARK + "".join(f"## {k}\n{v}" for k, v in sorted(parts.items()))).encode())


if __name__ == "__main__":
    main()
