"""What a sweep saves: one process and one stream of batches against one command per trial; and what kills cost.

    python tests/benchmarks/sweep.py [--folder DIR] [--table FILE] [--kills 20]

Three parts, each with whole processes, one after the other, and its own check of the numbers:
1. 8 `prototype` trials on the store of `vfc demo`: `vfc sweep` against 8 times `vfc train-head`.
2. 16 `fsar` trials with `--resident off` on a made-up token store: bytes read by the sweep, by one trial; wall time
   against 16 commands; weights and results of every trial compared bit for bit.
3. A sweep that is killed with SIGKILL at random moments and started again each time, against one that is not.
The baselines are kept in a cache of the part's own, which is empty at the start of each side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PROTOTYPE = "--steps 200 --validate-every 50 --val-tasks 500 --tasks 2000 --device cpu --progress none"
FSAR = (
    "--way 3 --steps 8 --batch 1 --validate-every 4 --val-tasks 20 --tasks 50 --train-queries 1 --resident off "
    "--attention-heads 2 --device cpu --progress none"
)
KILLED = "--way 3 --steps 300 --batch 2 --validate-every 10 --val-tasks 20 --tasks 200 --device cpu --progress none"


def vfc(words: Sequence[object], cache: Path) -> tuple[float, dict[str, Any]]:
    """Seconds and the JSON document of a command in a process of its own."""
    line = [sys.executable, "-c", "from vfc.cli.app import main; main()", *map(str, words), "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        line, capture_output=True, text=True, env={**os.environ, "VFC_CACHE": str(cache)}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started, json.loads(done.stdout)


def same(one: Path, other: Path, *, tested: bool) -> bool:
    """Whether two run folders have the same weights, curve and (if tested) result but for circumstances."""
    import torch
    from safetensors.torch import load_file

    from vfc.heads.results.tables import read_rows

    weights = [load_file(folder / "head.safetensors") for folder in (one, other)]
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    equal &= read_rows(one / "curve.jsonl") == read_rows(other / "curve.jsonl")
    if tested:
        rows = [read_rows(folder / "results.jsonl")[0] for folder in (one, other)]
        equal &= rows[0] | {"circumstances": 0} == rows[1] | {"circumstances": 0}
    return equal


def compared(head: str, store: Path, fixed: str, grid: dict[str, tuple[str, ...]], folder: Path) -> dict[str, Any]:
    """A sweep in which all is tested, one in which the winner is, and a command per trial."""
    import itertools

    swept = [word for name, values in grid.items() for word in ("--grid", f"{name}={','.join(values)}")]
    line = [head, "--cache", store, *fixed.split()]
    winner, chosen = vfc(["sweep", *line, *swept, "--out", folder / "winner"], folder / "cache-winner")
    every, document = vfc(["sweep", *line, *swept, "--test", "all", "--out", folder / "all"], folder / "cache-all")
    alone, equal = 0.0, True
    for number, values in enumerate(itertools.product(*grid.values())):
        flags = [word for name, value in zip(grid, values, strict=True) for word in (f"--{name}", value)]
        out = folder / f"alone-{number}"
        seconds, _ = vfc(["train-head", *line, *flags, "--out", out], folder / f"cache-alone-{number}")
        alone += seconds
        equal &= same(folder / "all" / document["trials"][number]["folder"], out, tested=True)
    first = [word for name, values in grid.items() for word in ("--grid", f"{name}={values[0]}")]
    _, single = vfc(["sweep", *line, *first, "--out", folder / "one"], folder / "cache-one")
    return {
        "trials": len(document["trials"]),
        "bytes": chosen["bytes_read"],
        "bytes of one": single["bytes_read"],
        "winner / commands": winner / alone,
        "all / commands": every / alone,
        "equal": equal,
    }


def killed(store: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a sweep `kills` times at moments spread over its length, then let it end; against an uninterrupted one."""
    line = ["sweep", "prototype", "--cache", store, *KILLED.split(), "--grid", "lr=1e-2,1e-3,1e-4"]
    line += ["--grid", "width=8,16", "--seeds", "2", "--out"]
    whole, expected = vfc([*line, folder / "whole"], folder / "cache-whole")
    generator = random.Random(seed)
    command = [sys.executable, "-c", "from vfc.cli.app import main; main()", *map(str, [*line, folder / "cut"])]
    done = 0
    while done < kills:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "VFC_CACHE": str(folder / "cache-cut")},
        )
        try:
            process.wait(timeout=generator.uniform(0.3, 1.0) * whole * 0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            continue
        shutil.rmtree(folder / "cut")  # it ended before the kill: from the beginning
    _, resumed = vfc([*line, folder / "cut"], folder / "cache-cut")
    plain = [
        [{**trial, "seconds": 0} for trial in document["trials"]]
        + [{**row, "test": row["test"] and {**row["test"], "runs": 0}} for row in document["settings"]]
        for document in (expected, resumed)
    ]
    equal = plain[0] == plain[1]
    for trial in expected["trials"]:
        tested = trial["state"] == "tested"
        equal &= same(folder / "whole" / trial["folder"], folder / "cut" / trial["folder"], tested=tested)
    return {"kills": kills, "trials": len(expected["trials"]), "equal": equal}


def main() -> None:
    """Measure, print the table, write it to `--table`."""
    from suites.motion_store import make_store

    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    vfc(["demo", "--out", folder / "demo", "--steps", "1", "--tasks", "10", "--progress", "none"], folder / "cache")
    rates = ("3e-3", "1e-3", "3e-4", "1e-4")
    prototype = compared(
        "prototype", folder / "demo" / "store", PROTOTYPE, {"lr": rates, "width": ("32", "64")}, folder / "prototype"
    )
    tokens = make_store(folder / "tokens", noise=0.3, tokens=49)
    grid = {"lr": rates, "ffn-dim": ("32", "64"), "dim": ("16", "32")}
    fsar = compared("fsar", tokens, FSAR, grid, folder / "fsar")
    kills = killed(make_store(folder / "motion", noise=0.3), folder / "kills", asked.kills, asked.seed)
    lines = [
        "| sweep | trials | bytes: sweep / one trial | winner tested / commands | all tested / commands | equal |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {row['trials']} | {row['bytes']:,} / {row['bytes of one']:,} | {row['winner / commands']:.2f} "
            f"| {row['all / commands']:.2f} | {'yes' if row['equal'] else 'NO'} |"
            for name, row in (("prototype, demo store", prototype), ("fsar, --resident off", fsar))
        ),
        "",
        f"{kills['kills']} kills at random moments (seed {asked.seed}) of a sweep of {kills['trials']} trials: table, "
        f"weights, curves and results {'equal' if kills['equal'] else 'NOT equal'} to those without a kill.",
    ]
    text = "\n".join(lines)
    print(text)
    if asked.table:
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        asked.table.write_text(f"# Sweeps\n\nBy `tests/benchmarks/sweep.py`; {machine}.\n\n{text}\n")


if __name__ == "__main__":
    main()
