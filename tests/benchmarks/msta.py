"""A training step of MSTA from cached taps at k = 8 against the same step online, ViCLIP-B/16 in its true size.

    python tests/benchmarks/msta.py --out FOLDER [--batch 1] [--steps 3] [--classes 8] [--threads 1] [--table FILE.md]

Weights and clips are random: what a step costs does not depend on them. One video of 8 frames is 1569 tokens. Online is
the frozen blocks 1 to 7 of both towers without gradients, then the very head that the cached step runs; both compute
the last block for the class token alone. Rounds of the three kinds take turns in one process. A cached step reads its
videos from the store's files (resident off, pages warm); CPU seconds are told beside the clock, which other work on the
machine slows.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.reduction.frozen_blocks import publish_tail
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.extract.backbones.viclip.architecture import PUBLISHED
from vfc.extract.backbones.viclip.network import ViCLIP
from vfc.extract.backbones.viclip.tiny import random_weights
from vfc.heads.methods import msta
from vfc.heads.methods.msta.cost import Sizes
from vfc.heads.tasks import classification
from vfc.heads.training.schedule import optimizer

FIRST, FRAMES = 8, 8
TOKENS = 1 + 14 * 14 * FRAMES
LAYOUT = "cls first, patch-major, grid 14x14, frames 8"


def network() -> ViCLIP:
    """ViCLIP-B/16 with random weights, frozen."""
    made = ViCLIP(PUBLISHED["b"])
    made.load_state_dict(random_weights(PUBLISHED["b"]), assign=True)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def states(stack: Any, x: Tensor, upto: int, causal: bool = False) -> Tensor:
    """What the block `upto` of a tower hands on."""
    for block in stack.resblocks[:upto]:
        x = block(x, causal=causal)
    return x


@torch.no_grad()
def below(made: ViCLIP, clips: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of block 8 of both towers, from pixels and ids."""
    text = made.text_encoder
    words = text.token_embedding(ids) + text.positional_embedding
    video = states(made.vision_encoder.transformer, made.vision_encoder.tokens(clips), FIRST - 1)
    return video, states(text.transformer, words, FIRST - 1, causal=True)


def write_store(root: Path, made: ViCLIP, clips: Tensor, ids: Tensor) -> None:
    """Taps 7 and 8 of the clips and tap 7 of the texts in fp16, and the tail."""
    video = [ArraySpec(f"layer{layer}.visual", "fp16", (TOKENS, 768), LAYOUT) for layer in (FIRST - 1, FIRST)]
    told = ArraySpec(f"layer{FIRST - 1}.text", "fp16", (None, 512))
    with StoreWriter(root, Recipe({"model": "viclip-b16, random"})) as writer:
        writer.declare("video", video)
        writer.declare("text", [told])
        for i, clip in enumerate(clips):
            x, words = below(made, clip[None], ids)
            y = made.vision_encoder.transformer.resblocks[FIRST - 1](x)
            arrays = {spec.name: tap[0].numpy() for spec, tap in zip(video, (x, y), strict=True)}
            for number in range(i, len(ids) + 1, len(clips)):  # a video of every class, though few are different
                writer.add(Record(Key("video", f"v{number}"), arrays, {}))
        for i, row in enumerate(words):
            about = {"label": f"c{i}", "template": "t"}
            writer.add(Record(Key("text", f"c{i}"), {told.name: row[: int(ids[i].argmax()) + 1].numpy()}, about))
    last = len(ids)
    rows = [Annotation(f"v{i}", f"c{i % last}", "test" if i == last else "train") for i in range(last + 1)]
    write_annotations(root, "default", Annotations(tuple(rows)))
    kept = {
        name: tensor
        for name, tensor in made.state_dict().items()
        if name == "temp"
        or name.endswith((".proj", "text_projection"))
        or any(part in name for part in ("ln_post", "ln_final"))
        or ("resblocks" in name and int(name.split("resblocks.")[1].split(".")[0]) >= FIRST - 1)
    }
    sizes = {"vision.heads": "12", "text.heads": "8", "grid": "14x14", "frames": "8"}
    publish_tail(root, FIRST, lambda metadata: save(kept, dict(metadata)), sizes)


def timed(step: Callable[[], Tensor]) -> tuple[float, float, float]:
    """Clock and CPU seconds of one step, and its loss."""
    clock, processor = time.perf_counter(), time.process_time()
    loss = float(step().detach())
    return time.perf_counter() - clock, time.process_time() - processor, loss


def head_of(root: Path, tail: Path, output: bool, batch: int) -> tuple[msta.Head, torch.optim.Optimizer, Any]:
    """The head, its optimizer, and its batches."""
    config = msta.Config(tail=tail)
    steady = msta.TRAIN.__class__(epochs=1, batch=batch, decay_all=True, betas=(0.9, 0.98), select="last")
    task = classification.prepare(
        classification.Config(cache=root, resident="off"), steady, msta.Head, config, torch.device("cpu"), Silent()
    )
    specs = dict(task.specs)
    if not output:
        specs.pop("frozen")
        task._arrays.clips.pop("frozen")  # type: ignore[attr-defined]
    torch.manual_seed(0)
    head = msta.Head(config, specs).train()
    return head, optimizer([p for p in head.parameters() if p.requires_grad], steady), task.batches(0)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    made = network()
    clips = torch.randn(max(2, asked.batch), FRAMES, 3, 224, 224)
    ids = torch.zeros(asked.classes, 32, dtype=torch.int64)
    ids[:, :9], ids[:, 9] = torch.randint(1, 49000, (asked.classes, 9)), 49407
    root = asked.out / "store"
    if not (root / "tail").exists():
        write_store(root, made, clips, ids)
    tail = root / "tail" / f"blocks-{FIRST}.safetensors"
    kinds: dict[str, Callable[[], Tensor]] = {}
    for name, output in (("online", False), ("cached, layer 7", False), ("cached, layers 7 and 8", True)):
        kinds[name] = stepper(made if name == "online" else None, head_of(root, tail, output, asked.batch), clips, ids)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for round_ in range(1 + asked.steps):
        for name, step in kinds.items():
            told = timed(step)
            print(f"{round_} {name}: {told[0]:.1f} s, {told[1]:.1f} s CPU, loss {told[2]:.4f}", flush=True)
            if round_:
                found[name].append(told)
    lines = table(found, asked)
    print("\n".join(lines))
    if asked.table:
        asked.table.write_text("\n".join(lines) + "\n", "utf-8")


def stepper(
    made: ViCLIP | None, parts: tuple[msta.Head, torch.optim.Optimizer, Any], clips: Tensor, ids: Tensor
) -> Callable[[], Tensor]:
    """One update from the cache, or (with the network) from pixels and ids."""
    head, updates, batches = parts

    def step() -> Tensor:
        batch = next(batches)
        if made is not None:
            video, words = below(made, clips[: len(batch.labels)], ids)
            batch.clips["visual"], batch.classes["tokens"] = video, words[:, : batch.classes["tokens"].shape[1]]
        loss = torch.stack(list(head.loss(batch).values())).sum()
        updates.zero_grad()
        loss.backward()
        updates.step()
        return loss

    return step


def table(found: dict[str, list[tuple[float, float, float]]], asked: argparse.Namespace) -> list[str]:
    """As Markdown."""
    sizes, tap = Sizes(TOKENS, 768, 12, 3072), TOKENS * 768 * 2
    cached = {"online": None, "cached, layer 7": False, "cached, layers 7 and 8": True}
    pixels = asked.batch * FRAMES * 224 * 224 * 3
    base = statistics.median(cpu for _, cpu, _ in found["online"])
    lines = [
        f"Batch {asked.batch}, {asked.classes} classes, {asked.threads} thread, medians of {asked.steps} steps; "
        f"{_cpu()}, torch {torch.__version__}.",
        "",
        "| step | clock s | CPU s | saved of CPU time | arithmetic says | bytes of videos read per step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, told in found.items():
        clock, cpu = (statistics.median(values) for values in list(zip(*told, strict=True))[:2])
        output = cached[name]
        if output is None:
            lines.append(f"| {name} | {clock:.1f} | {cpu:.1f} | | | {pixels:,} as pixels |")
            continue
        bytes_ = asked.batch * tap * (1 + output)
        share = sizes.saved(FIRST, output=output)
        lines.append(f"| {name} | {clock:.1f} | {cpu:.1f} | {1 - cpu / base:.1%} | {share:.1%} | {bytes_:,} |")
    return lines


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
