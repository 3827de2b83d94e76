"""FSAR-LLaVA's head on real clips: UT-Interaction set 1, every way of splitting its six classes into three and three.

    vfc extract --model image --checkpoint MOBILENET --layer 26 --keep visual \
        --videos UT_INTERACTION --exclude background --out ut
    python tests/benchmarks/fsar_ut.py ut --out runs [--part 0/2] [--table tests/benchmarks/fsar_ut.md]

About 25 s per training on one core, 240 trainings; what is done is not done again, and several processes may share the
work (--part). All settings come from the configuration file beside this script, which was committed before any of these
test tasks was scored. The table is written from whatever is done, and says how much that is.

Per split: the head is trained on 3-way tasks of three classes, and tested at the last step on 1,000 frozen 3-way tasks
of the other three, one query per class; seeds are averaged first. Baselines see the same tasks and are less the mean of
the train clips. Intervals over the 20 splits treat these as independent, which they are not (they share clips); the
jackknife leaves out one class at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.protocol import EpisodeList, EpisodeSpec
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.arrays import choose_array
from vfc.heads.data.dataset import in_view
from vfc.heads.data.store_view import StoreView
from vfc.heads.methods import fsar
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.fewshot.dataset import EpisodeDataset
from vfc.heads.tasks.fewshot.episodes import score, tasks_at_once
from vfc.heads.tasks.fewshot.raw_tokens import RawSettings, RawTokens, corrected_mpmm, mean_frames
from vfc.heads.training.fit import train

CONFIG: Final = Path(__file__).with_suffix(".json")
BASELINES: Final = {
    "mean-cosine": "mean-cosine, mean, centred",
    "Bi-MHM": "bi-mhm, centred",
    "OTAM": "otam, centred",
    "MPMM": "mpmm, centred",
}
HEADS: Final = {"inductive": "head, inductive (CTPCM off)", "transductive": "head, transductive"}
CONTROL: Final = "MPMM + CTPCM on raw features"


@dataclass(frozen=True)
class Unit:
    """One training (`mode` inductive, transductive) or, for `mode` control, one measurement without training."""

    split: int
    shot: int
    mode: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / f"split{self.split:02}-{self.shot}shot-{self.mode}-seed{self.seed}"


def splits(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """The classes trained on, of every split, in a fixed order."""
    return list(itertools.combinations(sorted(labels), len(labels) // 2))


def units(config: dict[str, Any], chosen: Sequence[int]) -> Iterator[Unit]:
    # The headline first, so that a table of what is done so far says the most.
    for shot in config["shots"]:
        for split in chosen:
            yield Unit(split, shot, "control", 0)
    for mode in config["modes"]:
        for seed, shot, split in itertools.product(config["seeds"], config["shots"], chosen):
            yield Unit(split, shot, mode, seed)


def annotate(store: Path) -> list[tuple[str, ...]]:
    """Write one set of annotations per split into the store; the classes trained on."""
    rows = load(store, "default")
    made = splits(sorted({row.label for row in rows.rows if row.label}))
    for i, learned in enumerate(made):
        divided = tuple(replace(row, split="train" if row.label in learned else "test") for row in rows.rows)
        write_annotations(store, f"split{i:02}", Annotations(divided))
    return made


def task_of(store: Path, unit: Unit, config: dict[str, Any]) -> fewshot.Config:
    return fewshot.Config(store, annotations=f"split{unit.split:02}", way=3, shot=unit.shot, **config["task"])


def run(store: Path, unit: Unit, config: dict[str, Any], out: Path) -> None:
    folder = unit.folder(out)
    if unit.mode == "control":
        if not (folder / "control.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "control.json", json.dumps(control(store, unit, config)).encode())
        return
    head = fsar.Config(**{**config["head"], "mode": unit.mode})
    settings = TrainConfig(**config["train"], select="last", seed=unit.seed, out=folder, device="cpu")
    train("fsar", task_of(store, unit, config), head, settings, Silent())


def control(store: Path, unit: Unit, config: dict[str, Any]) -> dict[str, float]:
    """CTPCM without a head: raw features less the mean of the train clips, prototypes drawn to the task's queries."""
    task = task_of(store, unit, config)
    with open_store(store) as reader:
        rows = load(store, task.annotations)
        arrays = {"visual": choose_array(reader, tokens=True)}
        view = StoreView(reader, rows, arrays)
        clips = {
            split: EpisodeDataset(view, view.names(split), in_view(0), device=torch.device("cpu"))
            for split in ("train", "test")
        }
        spec = EpisodeSpec("test", task.way, task.shot, task.queries, task.episode_seed)
        index = clips["test"].index(EpisodeList.draw(rows, spec, task.tasks).episodes)
        raw = RawTokens(clips["test"], index, mean_frames(clips["train"]))
        classify = corrected_mpmm(raw, RawSettings(), alpha=config["head"].get("alpha") or 0.9)
        found = score(index.tasks, classify, tasks_at_once(index.tasks, raw.numbers_per_entry), Silent())
    return {"accuracy": found.accuracy, "interval": found.interval}


Figures = dict[tuple[str, int], dict[int, float]]


def collect(out: Path, config: dict[str, Any], count: int) -> tuple[Figures, int]:
    """(method, shot) -> split -> accuracy, seeds averaged; a head counts where all its seeds are done."""
    found: Figures = {}
    done = 0
    for shot, split in itertools.product(config["shots"], range(count)):
        given = Unit(split, shot, "control", 0).folder(out) / "control.json"
        if given.exists():
            found.setdefault((CONTROL, shot), {})[split] = json.loads(given.read_text())["accuracy"]
        for mode in config["modes"]:
            rows = []
            for seed in config["seeds"]:
                path = Unit(split, shot, mode, seed).folder(out) / "results.jsonl"
                if path.exists() and path.read_text().endswith("\n"):
                    rows.append(json.loads(path.read_text().splitlines()[0]))
            done += len(rows)
            if len(rows) == len(config["seeds"]):
                found.setdefault((HEADS[mode], shot), {})[split] = statistics.mean(row["accuracy"] for row in rows)
            if rows:
                others = {row["name"]: row["accuracy"] for row in rows[0]["baselines"]}
                for name, full in BASELINES.items():
                    found.setdefault((name, shot), {})[split] = others[full]
    return found, done


def jackknife(differences: dict[int, float], made: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Lowest and highest mean difference without one class among the tested ones, and the jackknife's half width."""
    left = []
    for label in sorted({label for learned in made for label in learned}):
        kept = [value for split, value in differences.items() if label in made[split]]
        if kept:
            left.append(statistics.mean(kept))
    centre = statistics.mean(left)
    spread = (len(left) - 1) / len(left) * sum((value - centre) ** 2 for value in left)
    return min(left), max(left), float(1.96 * spread**0.5)


def difference_row(here: dict[int, float], there: dict[int, float], made: Sequence[Sequence[str]]) -> str:
    apart = {split: here[split] - there[split] for split in here.keys() & there.keys()}
    values = [apart[split] for split in sorted(apart)]
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    low, high, spread = jackknife(apart, made)
    wins = sum(value > 0 for value in values)
    return (
        f"{100 * statistics.mean(values):+.2f} ± {100 * half:.2f} | {wins}/{len(values)} | "
        f"{100 * low:+.2f} .. {100 * high:+.2f} | ± {100 * spread:.2f}"
    )


def table(out: Path, config: dict[str, Any], made: Sequence[Sequence[str]]) -> str:
    found, done = collect(out, config, len(made))
    wanted = len(config["shots"]) * len(made) * len(config["modes"]) * len(config["seeds"])
    order = [HEADS[mode] for mode in config["modes"]] + [CONTROL, *BASELINES]
    lines = [f"{done} of {wanted} trainings are done.", ""]
    lines += [
        "| 3-way accuracy, mean over splits (lowest .. highest), % |" + "".join(f" {k}-shot |" for k in config["shots"])
    ]
    lines += ["|---|" + "---|" * len(config["shots"])]
    for name in order:
        cells = []
        for shot in config["shots"]:
            values = [100 * value for value in found.get((name, shot), {}).values()]
            told = f"{statistics.mean(values):.2f} ({min(values):.1f} .. {max(values):.1f})" if values else "-"
            cells.append(told if len(values) in (0, len(made)) else f"{told}, {len(values)} splits")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    pairs = [(HEADS["inductive"], name) for name in BASELINES]
    if "transductive" in config["modes"]:
        pairs += [(HEADS["transductive"], name) for name in (HEADS["inductive"], CONTROL, *BASELINES)]
    pairs.append((CONTROL, "MPMM"))
    for shot in config["shots"]:
        lines += ["", f"**{shot}-shot, paired differences per split, points**", ""]
        lines += [
            "| | mean ± 1.96 se over splits (dependent) | wins | without one tested class | jackknife over classes |"
        ]
        lines += ["|---|---|---|---|---|"]
        for here, there in pairs:
            if (here, shot) in found and (there, shot) in found:
                row = difference_row(found[here, shot], found[there, shot], made)
                lines.append(f"| {here} - {there} | {row} |")
    lines += ["", f"**Per split, {HEADS['inductive']} (seeds averaged) beside its best baseline, %**", ""]
    lines += ["| trained on |" + "".join(f" {k}-shot head | {k}-shot best baseline |" for k in config["shots"])]
    lines += ["|---|" + "---|---|" * len(config["shots"])]
    for split, learned in enumerate(made):
        cells = []
        for shot in config["shots"]:
            own = found.get((HEADS["inductive"], shot), {}).get(split)
            others = {name: found.get((name, shot), {}).get(split) for name in BASELINES}
            best = max((value, name) for name, value in others.items() if value) if any(others.values()) else None
            cells.append(f"{100 * own:.2f}" if own else "-")
            cells.append(f"{100 * best[0]:.2f} ({best[1]})" if best else "-")
        lines.append(f"| {', '.join(learned)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("fsar-ut"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", nargs="*", default=[], help="part.name=json, to tune on other clips")
    parser.add_argument("--splits", help="only these, by number: 0,7,12")
    parser.add_argument("--part", default="0/1", help="this process's share: 0/2 and 1/2")
    parser.add_argument("--table", type=Path, help="write the table here; without it, print it")
    parser.add_argument("--no-run", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = json.loads(given.config.read_text())
    for text in given.set:
        name, value = text.split("=", 1)
        part, _, key = name.partition(".")
        if key:
            config[part][key] = json.loads(value)
        else:
            config[part] = json.loads(value)
    made = annotate(given.store)
    chosen = [int(i) for i in given.splits.split(",")] if given.splits else range(len(made))
    share, of = (int(x) for x in given.part.split("/"))
    if not given.no_run:
        for i, unit in enumerate(units(config, list(chosen))):
            if i % of == share:
                run(given.store, unit, config, given.out)
                print(unit, flush=True)
    text = table(given.out, config, made)
    if given.table:
        # What stands above the mark is written by hand and kept.
        mark = "<!-- written by fsar_ut.py from here on -->\n"
        head = given.table.read_text().split(mark)[0] if given.table.exists() else ""
        replace_file(given.table, (head + mark + text).encode())
    else:
        print(text)


if __name__ == "__main__":
    main()
