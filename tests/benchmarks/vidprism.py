"""How fast the VidPrism head trains: the batched program against a clip at a time, and against the released loops.

    python tests/benchmarks/vidprism.py [--size small base long] [--rounds 3] [--threads 1] [--table FILE]

Training examples per second (forward, backward, update of the weights) of
  batched     the whole batch as one tensor program (what `vfc` does);
  clip by clip   a loop over the clips, and in each over the windows of RgSTA; the losses that look at the whole batch
              are computed once all clips are through (goal: batched >= 10 x as fast at batch 32);
  windows     as the released code does: batched but for RgSTA, which goes through windows and clips in loops.
Figures are medians over interleaved rounds, in seconds of the processor (one thread by default), so that other work on
the machine counts little. The time without the update of the weights, which all three share, is compared too. Then a
short training from a store on disk (`--resident off` and `auto`): the share of time that it waited for data.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from vfc.heads.methods import vidprism
from vfc.heads.methods.vidprism import Seen
from vfc.heads.methods.vidprism.aggregation import RgSTA
from vfc.heads.methods.vidprism.losses import balance, diversity
from vfc.heads.tasks import classification
from vfc.heads.tasks.classification import ClipBatch
from vfc.heads.training.fit import train
from vfc.heads.training.schedule import optimizer


@dataclass(frozen=True)
class Size:
    """Frames and width of a clip, classes, clips per update, updates from a store."""

    frames: int
    width: int
    classes: int
    batch: int = 32
    steps: int = 6


SIZES: Final = {"small": Size(8, 128, 26, steps=40), "base": Size(8, 512, 400), "long": Size(32, 512, 400)}
MARK: Final = "<!-- written by vidprism.py from here on -->\n"
WAYS: Final = ("batched", "clip by clip", "windows")


class Loops(torch.nn.Module):
    """RgSTA as the released code has it: windows in a loop, and in each window the clips in a loop."""

    def __init__(self, inner: RgSTA, rate: int) -> None:
        super().__init__()
        self.inner, self.rate = inner, rate

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        tokens, losses = [], []
        for start in range(0, frames.shape[1], self.rate):
            window = frames[:, start : start + self.rate]
            projected = self.inner.metric(window)
            unit = functional.normalize(projected, dim=-1)
            likeness = (unit @ unit.transpose(1, 2)).masked_fill(torch.eye(window.shape[1], dtype=torch.bool), 0)
            learned = self.inner.score(projected).squeeze(-1)
            goal = (window.norm(dim=-1) + likeness.mean(dim=1)).detach()
            asked, given = (goal / 0.2).softmax(dim=-1), (learned / 0.2).softmax(dim=-1)
            losses.append((asked * (asked.clamp_min(1e-9).log() - given.clamp_min(1e-9).log())).sum(dim=-1).mean())
            mixed = 0.7 * learned + 0.3 * window.norm(dim=-1)
            weights = (likeness / 0.1).softmax(dim=-1)
            merged = []
            for b in range(len(window)):
                kept = mixed[b].topk(1).indices
                rest = torch.ones(window.shape[1], dtype=torch.bool).scatter_(0, kept, False).nonzero().squeeze(-1)
                share = weights[b][rest][:, kept]
                share = share / (share.sum(dim=1, keepdim=True) + 1e-6)
                merged.append(window[b, kept] + 0.5 * share.T @ window[b, rest])
            tokens.append(torch.stack(merged))
        return torch.cat(tokens, dim=1), torch.stack(losses).mean()


class Step:
    """One update by any of the three ways."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        specs = {
            "visual": ArraySpec("frames", "fp32", (size.frames, size.width)),
            "classes": ArraySpec("classes", "int64", (size.classes,)),
        }
        self.head = vidprism.Head(vidprism.Config(), specs)
        self.optimizer = optimizer(list(self.head.parameters()), vidprism.TRAIN)
        self.vectorised = self.head.streams
        self.loops = torch.nn.ModuleList(
            Loops(stream, rate) for stream, rate in zip(self.vectorised, self.head.rates, strict=True)
        )
        clips = torch.randn(size.batch, 1, size.width) + 0.5 * torch.randn(size.batch, size.frames, size.width)
        labels = torch.randint(size.classes, (size.batch,))
        self.batch = ClipBatch({"visual": clips}, labels, tuple(map(str, range(size.classes))), {})

    def loss(self, way: str) -> Tensor:
        if way == "clip by clip":
            return self._one_by_one()
        self.head.streams = self.vectorised if way == "batched" else self.loops
        terms = torch.stack(list(self.head.loss(self.batch).values()))
        self.head.streams = self.vectorised
        return terms.sum()

    def _one_by_one(self) -> Tensor:
        head, config = self.head, self.head.config
        head.streams = self.loops
        seen: list[Seen] = []
        losses = []
        for clip, label in zip(self.batch.clips["visual"], self.batch.labels, strict=True):
            seen.append(head(clip[None]))
            losses.append(functional.cross_entropy(head.classifier(seen[-1].fused), label[None]))
            ranked = seen[-1].ranked
            assert ranked is not None
            losses[-1] = losses[-1] + config.rank_weight * ranked
        experts, shares = torch.cat([one.experts for one in seen]), torch.cat([one.shares for one in seen])
        head.streams = self.vectorised
        whole = config.div_weight * diversity(experts) + config.gate_weight * balance(shares)
        return torch.stack(losses).mean() + whole

    def seconds(self, way: str) -> tuple[float, float]:
        """Of a whole update, and of it without the step of the optimizer."""
        started = time.process_time()
        self.optimizer.zero_grad()
        self.loss(way).backward()
        learned = time.process_time() - started
        self.optimizer.step()
        return time.process_time() - started, learned


def compare(name: str, rounds: int) -> str:
    size = SIZES[name]
    step = Step(size)
    step.head.train()
    losses = [float(step.loss(way).detach()) for way in WAYS]
    assert max(losses) - min(losses) < 1e-3 * abs(losses[0]), losses
    step.seconds("batched")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(step.seconds(way))
    whole, learned = ({way: statistics.median(t[i] for t in times) for way, times in found.items()} for i in (0, 1))
    numbers = sum(p.numel() for p in step.head.parameters())
    cells = [f"{size.batch / whole[way]:.1f}" for way in WAYS]
    cells += [f"{whole[way] / whole['batched']:.1f} x" for way in WAYS[1:]]
    cells += [f"{learned[way] / learned['batched']:.1f} x" for way in WAYS[1:]]
    told = f"{name}: {size.frames} x {size.width}, {size.classes} classes, batch {size.batch}, {numbers:,} weights"
    return f"| {told} | " + " | ".join(cells) + " |"


def made_store(root: Path, size: Size) -> Path:
    """A store of fp16 frames: four updates' worth of clips for training, a few for the test."""
    generator = np.random.default_rng(0)
    labels = [f"class{c:03}" for c in range(size.classes)]
    per_class = -(-4 * size.batch // size.classes)
    rows = [
        Annotation(f"{label}/{split}{i}.mp4", label, split)
        for label in labels
        for split, clips in (("train", per_class), ("test", 1))
        for i in range(clips)
    ]
    with StoreWriter(root, Recipe({"benchmark": "vidprism"})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp16", (size.frames, size.width))])
        for row in rows:
            values = generator.normal(size=(size.frames, size.width)).astype(np.float32)
            writer.add(Record(Key("video", row.name), {"frames": values}))
    write_annotations(root, "default", Annotations(tuple(rows)))
    return root


def waiting(name: str, folder: Path) -> list[str]:
    size = SIZES[name]
    store = made_store(folder / f"store-{name}", size)
    lines = []
    for resident in ("off", "auto"):
        forget(store.rglob("*"))
        task = classification.Config(cache=store, resident=resident)  # type: ignore[arg-type]
        config = replace(
            vidprism.TRAIN, epochs=0, warmup_epochs=0, least_steps=0, steps=size.steps, batch=size.batch,
            validate_every=size.steps, device="cpu", out=folder / f"run-{name}-{resident}",
        )  # fmt: skip
        spent: Mapping[str, Any] = train("vidprism", task, vidprism.Config(), config, Silent()).row["circumstances"]  # type: ignore[assignment]
        rate = size.steps * size.batch / spent["seconds"]
        lines.append(f"| {name} | {resident} | {rate:.1f} | {100 * spent['waiting_share']:.2f} % |")
    return lines


def processor() -> str:
    found = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{found[0] if found else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where stores are written; default: a temporary folder")
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = os.getloadavg()[0]
    lines = [
        f"{processor()}, torch {torch.__version__}, {given.threads} thread(s), load {load:.1f}, fp32", "",
        "| size | batched, examples/s | clip by clip | windows | batched / clip by clip | batched / windows "
        "| the same without the optimizer's step: clip by clip | windows |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for name in given.size:
        lines.append(compare(name, given.rounds))
        print(lines[-1], flush=True)
    more = ["", "| training from a store | --resident | examples/s | waited for data |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name in given.size:
            more += waiting(name, Path(folder))
    print("\n".join(more))
    if given.table:
        # What stands above the mark is written by hand and kept.
        head, _, _ = (given.table.read_text() if given.table.exists() else "").partition(MARK)
        replace_file(given.table, (head + MARK + "\n".join(lines + more) + "\n").encode())


if __name__ == "__main__":
    main()
