"""How fast the FSAR-LLaVA head trains: the batched program against re-encoding per pair, and against one by one.

    python tests/benchmarks/fsar.py [--size tiny ut true] [--rounds 3] [--folder DIR] [--table FILE]

Seconds per training task (forward, backward, update) of
  batched   `--batch` tasks as one tensor program, each distinct video of the step encoded once (what `vfc` does);
  pairs     the naive way: a task's support and query are encoded anew for every (class, query) pair (goal: >= 5 x);
  one by one   a loop that encodes each video of a task once, alone, and matches class by class.
Figures are medians over interleaved rounds, so that a busy machine slows all three alike. Then a short training from a
store on disk (`--resident off` and `auto`): the share of time that it waited for data. Where a GPU is there, also
milliseconds per 5-way 1-shot task at the paper's size, in bf16: with 1 and 5 queries per class, values on the device
and streamed from disk (the paper: 180 ms on an H20; goal: <= 18).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from suites.page_cache import forget
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import fsar
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.fewshot import EpisodeBatch
from vfc.heads.training.fit import train


@dataclass(frozen=True)
class Size:
    """What a record is, how wide the head, how large a task; `pool` videos to draw from."""

    shape: tuple[int, int, int]
    text: int
    head: fsar.Config
    way: int
    queries: int
    batch: int
    pool: int
    steps: int


SIZES: Final = {
    "tiny": Size((8, 9, 64), 12, fsar.Config(dim=32, down_hidden=64, ffn_dim=64), 5, 5, 4, 60, 20),
    "ut": Size((8, 49, 1024), 0, fsar.Config(dim=64, down_hidden=256, ffn_dim=256, mode="inductive"), 3, 5, 16, 30, 4),
    "true": Size((8, 257, 4096), 60, fsar.Config(), 5, 1, 1, 10, 2),
}


def specs(size: Size) -> dict[str, ArraySpec]:
    found = {"visual": ArraySpec("layer31.visual", "bf16", size.shape)}
    return {**found, "text": ArraySpec("layer31.text", "bf16", (None, size.shape[-1]))} if size.text else found


class Step:
    """One update by any of the three ways, on `batch` tasks over a pool of videos."""

    def __init__(self, size: Size, device: torch.device, *, autocast: bool = False, queries: int | None = None) -> None:
        self.size, self.device, self.autocast = size, device, autocast
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.head = fsar.Head(size.head, specs(size)).to(device)
        self.optimizer = torch.optim.Adam(self.head.parameters(), lr=1e-4)
        self.videos = {"visual": torch.randn(size.pool, *size.shape, generator=generator).to(device)}
        if size.text:
            self.videos["text"] = torch.randn(size.pool, size.text, size.shape[-1], generator=generator).to(device)
        asked = size.way * (size.queries if queries is None else queries)
        drawn = [torch.randperm(size.pool, generator=generator)[: size.way + asked] for _ in range(size.batch)]
        places = torch.stack(drawn).to(device)
        target = torch.arange(size.way).repeat_interleave(asked // size.way).expand(size.batch, -1).to(device)
        self.batch = EpisodeBatch({}, places[:, : size.way, None], places[:, size.way :], target)

    def update(self, loss: Callable[[EpisodeBatch], Tensor]) -> None:
        self.head.train()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            value = loss(self.batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()

    def batched(self, batch: EpisodeBatch) -> Tensor:
        wanted = torch.cat([batch.support.flatten(), batch.query.flatten()])
        rows, place = wanted.unique(return_inverse=True)
        split = batch.support.numel()
        videos = {role: values[rows] for role, values in self.videos.items()}
        support, query = place[:split].view_as(batch.support), place[split:].view_as(batch.query)
        return self.head.loss(EpisodeBatch(videos, support, query, batch.target))["cross-entropy"]

    def one_by_one(self, batch: EpisodeBatch) -> Tensor:
        """Videos are encoded one after the other; tasks, classes and queries are matched in loops."""
        losses = []
        for support, query, target in zip(batch.support, batch.query, batch.target, strict=True):
            rows = torch.cat([support.flatten(), query])
            made = [self.head.encode({role: v[row][None] for role, v in self.videos.items()}) for row in rows]
            losses.append(
                self._by_pairs(lambda c, q, made=made: self._joined([made[c], *made[self.size.way :]]), query, target)
            )
        return torch.stack(losses).mean()

    def pairs(self, batch: EpisodeBatch) -> Tensor:
        """Support and query go through the head anew for every (class, query) pair."""
        losses = []
        for support, query, target in zip(batch.support, batch.query, batch.target, strict=True):

            def encode(c: int, q: int, support: Tensor = support, query: Tensor = query) -> dict[str, Tensor]:
                rows = torch.cat([support[c], query[q : q + 1]])
                return self.head.encode({role: values[rows] for role, values in self.videos.items()})

            losses.append(self._by_pairs(encode, query, target, alone=True))
        return torch.stack(losses).mean()

    def _by_pairs(
        self, encode: Callable[..., dict[str, Tensor]], query: Tensor, target: Tensor, *, alone: bool = False
    ) -> Tensor:
        rows = []
        for q in range(len(query)):
            row = []
            for c in range(self.size.way):
                videos = encode(c, q)
                count = len(videos["visual"])
                # Alone, a pair knows its own query only; the correction by all queries is left to the other ways.
                asked = torch.arange(1, count, device=self.device)[None]
                batch = EpisodeBatch(
                    videos, torch.zeros(1, 1, 1, dtype=torch.int64, device=self.device), asked, torch.zeros_like(asked)
                )
                row.append(self.head.match(batch)[0, 0 if alone else q, 0])
            rows.append(torch.stack(row))
        return functional.cross_entropy(torch.stack(rows), target)

    @staticmethod
    def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def seconds(step: Step, way: str, repeats: int = 1) -> float:
    """Per task."""
    if step.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        step.update(getattr(step, way))
    if step.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats / step.size.batch


def compare(name: str, rounds: int) -> list[str]:
    size = SIZES[name]
    step = Step(size, torch.device("cpu"))
    step.update(step.batched)
    found: dict[str, list[float]] = {"batched": [], "one_by_one": [], "pairs": []}
    for _ in range(rounds):
        for way in found:
            found[way].append(seconds(step, way))
    middle = {way: statistics.median(values) for way, values in found.items()}
    apart = [
        statistics.median(b / a for a, b in zip(found["batched"], found[way], strict=True))
        for way in ("pairs", "one_by_one")
    ]
    shape = "x".join(map(str, size.shape))
    task = f"{size.way}-way 1-shot, {size.queries} queries per class, {size.batch} per step"
    return [
        f"| {name} ({shape}, text {size.text}; {task}) | {middle['batched']:.4g} | {middle['pairs']:.4g} | "
        f"{middle['one_by_one']:.4g} | {apart[0]:.1f} x | {apart[1]:.1f} x |"
    ]


def made_store(root: Path, size: Size) -> Path:
    """A bf16 store as large as the memory the benchmark may use: enough videos for train, val and test classes."""
    generator = np.random.default_rng(0)
    per_class = max(size.queries + 1, size.pool // size.way)
    rows = [
        Annotation(f"{split}{c}/{i}.mp4", f"{split}{c}", split)
        for split in ("train", "test")
        for c in range(size.way)
        for i in range(per_class if split == "train" else 2)
    ]
    found = specs(size)
    with StoreWriter(root, Recipe({"benchmark": "fsar"})) as writer:
        writer.declare("video", [found["visual"]])
        if size.text:
            writer.declare("prompted", [found["text"]])
        for row in rows:
            # Random bits of a narrow range of exponents: bf16 values around one, made fast.
            bits = generator.integers(0x3F00, 0x4000, size.shape, dtype=np.uint16)
            writer.add(Record(Key("video", row.name), {found["visual"].name: bits}))
            if size.text:
                text = generator.integers(0x3F00, 0x4000, (size.text, size.shape[-1]), dtype=np.uint16)
                writer.add(Record(Key("prompted", row.name, 0, "unknown"), {found["text"].name: text}))
    write_annotations(root, "default", Annotations(tuple(rows)))
    return root


def waiting(name: str, folder: Path, device: str) -> list[str]:
    size = SIZES[name]
    store = made_store(folder / f"store-{name}", size)
    lines = []
    for resident in ("off", "auto"):
        forget(store.rglob("*"))
        task = fewshot.Config(
            store,
            way=size.way,
            train_queries=size.queries,
            tasks=2,
            resident=resident,  # type: ignore[arg-type]
        )
        config = TrainConfig(
            steps=size.steps, batch=size.batch, lr=1e-4, optimizer="adam", select="last", validate_every=size.steps,
            device="cpu" if device == "cpu" else "auto", out=folder / f"run-{name}-{resident}",
        )  # fmt: skip
        spent: Any = train("fsar", task, size.head, config, Silent()).row["circumstances"]
        per_task = spent["seconds"] / size.steps / size.batch
        lines.append(f"| {name} | {resident} | {per_task:.4g} | {100 * spent['waiting_share']:.1f} % |")
    return lines


def on_gpu() -> list[str]:
    lines = []
    for queries in (1, 5):
        size = Size((8, 257, 4096), 60, fsar.Config(), 5, queries, 4, 60, 20)
        step = Step(size, torch.device("cuda"), autocast=True)
        for _ in range(3):
            step.update(step.batched)
        lines.append(
            f"| 5-way 1-shot, {queries} queries per class, on the device | {1000 * seconds(step, 'batched', 10):.2f} |"
        )
        del step
        torch.cuda.empty_cache()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--folder", type=Path, help="where stores are written; default: a temporary folder")
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, device {device}",
        "",
    ]
    lines += [
        "| size | batched, s per task | pairs | one by one | pairs / batched | one by one / batched |",
        "|---|---|---|---|---|---|",
    ]
    for name in given.size:
        lines += compare(name, given.rounds)
        print(lines[-1], flush=True)
    lines += ["", "| training from a store | --resident | s per task | waited for data |", "|---|---|---|---|"]
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name in given.size:
            lines += waiting(name, Path(folder), device)
            print("\n".join(lines[-2:]), flush=True)
    if device == "cuda":
        lines += ["", f"| {torch.cuda.get_device_name()}, bf16 | ms per task |", "|---|---|", *on_gpu()]
    text = "\n".join(lines) + "\n"
    if given.table:
        replace_file(given.table, text.encode())
    print(text)


if __name__ == "__main__":
    main()
