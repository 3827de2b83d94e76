"""MSTA on the demo's motion clips with a tiny ViCLIP, beside what is frozen, probed, or adapted in another way.

    python tests/benchmarks/msta_demo.py --out FOLDER [--seeds 0,1,2] [--clips-seed 0] [--only PARTS,OF,NAMES]
        [--table FILE.md]

The 6 classes of the demo's test split, which are pairs of motions played forwards and backwards: 60 clips each to train
on, 40 to test. There is no trained ViCLIP to be had here, so one is drawn at random: 2 blocks of width 64 on 8 frames
of 64 x 64 pixels, with properties of trained ones without which nothing can be learnt from its tokens (`weights`). Its
frozen rows are therefore near chance, and the question is what adapters find in its blocks. Everything goes through
`vfc`: extraction with taps and tail, `train-head` for each row, the same test clips, differences paired clip by clip.
Settings were chosen on clips of another seed. What is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from vfc.cache_schema.values.progress import Silent
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract
from vfc.extract.synthetic import SPLIT_OF, render_collection
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import linear_probe, msta, text_zero_shot
from vfc.heads.runs.paired_statistics import beyond
from vfc.heads.tasks import classification
from vfc.heads.training.fit import train

TEMPLATE: Final = "{label}"
ASKED: Final = tuple(sorted(label for label, split in SPLIT_OF.items() if split == "test"))
TRAINED, TESTED = 60, 40
FIRST: Final = 1
SIZES: Final = {
    "layers": 2,
    "width": 64,
    "text_width": 32,
    "heads": 4,
    "image": 64,
    "patch": 16,
    "embedding": 32,
}
TEMPERATURE: Final = 0.1
PLACES: Final = 0.3
STEADY: Final = replace(msta.TRAIN, epochs=36, lr=3e-3, warmup_epochs=3, clip=1.0, validate_every=120, device="cpu")
ADAPTED: Final = msta.Config(from_block=FIRST, dim=64, strength=0.5, adapter_dropout=0.0)


@dataclass(frozen=True)
class Row:
    """A line of the table: a head with its settings on some array."""

    name: str
    method: str
    head: Any
    train: TrainConfig = STEADY
    array: str = ""


PROBE: Final = TrainConfig(epochs=200, batch=32, lr=1e-2, select="last", validate_every=600, device="cpu")
ROWS: Final = (
    Row("frozen, zero-shot", "text-zero-shot", text_zero_shot.Config(), array="embedding"),
    Row("linear probe of the embedding", "linear-probe", linear_probe.Config(), PROBE, "embedding"),
    Row(f"linear probe of layer {FIRST - 1}", "linear-probe", linear_probe.Config(), PROBE, f"layer{FIRST - 1}.visual"),
    Row("text adapters alone", "msta", replace(ADAPTED, towers="text")),
    Row("video adapters alone", "msta", replace(ADAPTED, towers="video")),
    Row("LoRA", "msta", replace(ADAPTED, adapter="lora")),
    Row("AdaptFormer", "msta", replace(ADAPTED, adapter="adaptformer")),
    Row("MSTA", "msta", ADAPTED),
)


def model(folder: Path) -> Path:
    """The checkpoint: a tiny ViCLIP of random weights."""
    made = folder / "model"
    if not made.exists():
        drawn = write_tiny_viclip(folder / f".model-{os.getpid()}", **SIZES)  # type: ignore[arg-type]
        save_file(weights(load_file(drawn / "model.safetensors")), drawn / "model.safetensors", {"format": "pt"})
        drawn.rename(made)
    return made


def weights(given: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values as those of `given`, with some properties of trained ones.

    Patch filters are smooth, see no flat colour and are the same for all colours; places and words are told apart;
    norms are plain, biases 0; the temperature suits cosines that are not near 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, old: torch.Tensor) -> torch.Tensor:
        if name == "temp":
            return torch.tensor(TEMPERATURE)
        if "ln_" in name:
            return torch.ones_like(old) if name.endswith("weight") else torch.zeros_like(old)
        if name.endswith("bias"):
            return torch.zeros_like(old)
        if "conv1" in name:
            coarse = torch.randn(len(old), 1, 4, 4, generator=generator)
            smooth = functional.interpolate(coarse, old.shape[-1], mode="bilinear").unsqueeze(2)
            smooth = smooth - smooth.mean(dim=(-1, -2), keepdim=True)
            length = torch.linalg.vector_norm(smooth, dim=(1, 2, 3, 4), keepdim=True)
            filters: torch.Tensor = (smooth / length).expand(old.shape).contiguous()
            return filters
        if not ("embedding" in name or "in_proj_weight" in name):
            return old
        size = PLACES if "positional" in name else 1.0 if "embedding" in name else float(old.shape[1]) ** -0.5
        return size * torch.randn(old.shape, generator=generator)

    return {name: drawn(name, old) for name, old in given.items()}


def store(folder: Path, checkpoint: Path, seed: int) -> Path:
    """The clips of the classes, extracted with both taps, class texts and the tail."""
    clips = folder / f"clips-{seed}"
    render_collection(clips, classes=ASKED, clips_per_class=TRAINED + TESTED, seed=seed)
    with (clips / "listed.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for name in ASKED:
            for index in range(TRAINED + TESTED):
                table.writerow((f"{name}/{index:03d}.mp4", name, "train" if index < TRAINED else "test"))
    out = folder / f"store-{checkpoint.name}-{seed}"
    config = ExtractConfig(
        videos=clips / "listed.csv",
        model="viclip",
        checkpoint=str(checkpoint),
        layer=(str(FIRST - 1), str(FIRST)),
        text_layer=(str(FIRST - 1),),
        texts="classes",
        template=(TEMPLATE,),
        tail=FIRST,
        decode_workers=1,
        out=out,
    )
    extract(config, Silent())
    return out


def trained(folder: Path, cache: Path, row: Row, seed: int) -> Path:
    """One run of a row; its folder."""
    out = folder / f"runs-{cache.name}" / f"{ROWS.index(row)}-{seed}"
    task = classification.Config(cache=cache, array=row.array)
    result = train(row.method, task, row.head, replace(row.train, seed=seed, out=out), Silent())
    told = result.row
    print(f"{row.name}, seed {seed}: {100 * told['top1']:.1f} %, {told['circumstances']['seconds']:.0f} s", flush=True)
    return out


def main() -> None:
    """Make, train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--clips-seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    cache = store(asked.out, model(asked.out), asked.clips_seed)
    print(f"made in {time.perf_counter() - began:.0f} s", flush=True)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    rows = [row for row in ROWS if any(part in row.name for part in asked.only.split(","))]
    runs = {row.name: [trained(asked.out, cache, row, seed) for seed in seeds] for row in rows}
    lines = [
        "| row | trained parameters | top-1, mean of seeds | MSTA better by, 95 % interval | in every seed |",
        "| --- | ---: | ---: | ---: | :---: |",
    ]
    for name, folders in runs.items():
        told = [json.loads((folder / "results.jsonl").read_text().splitlines()[0]) for folder in folders]
        cells = [name, f"{told[0]['parameters']:,}", f"{100 * np.mean([t['top1'] for t in told]):.1f} %", "", ""]
        if "MSTA" in runs and name != "MSTA":
            apart = beyond(runs["MSTA"], folders)
            cells[3] = f"{100 * apart.mean:+.1f} [{100 * apart.low:+.1f}, {100 * apart.high:+.1f}]"
            cells[4] = "yes" if apart.beyond else "no"
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if asked.table:
        asked.table.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
