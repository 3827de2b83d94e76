"""MSTA on the demo's motion clips with a tiny ViCLIP, beside what is frozen, probed, or adapted in another way.

    python tests/benchmarks/msta_demo.py --out FOLDER [--updates 6000] [--seeds 0,1,2] [--clips-seed 0]
        [--table FILE.md]

The 12 classes of the demo's val and test splits, 16 clips each to train on and 25 to test. There is no trained ViCLIP
to be had here, so it is made: 4 blocks of width 48 on 8 frames of 24 x 24 pixels, trained contrastively by this
script on clips and names of the other 14 classes, their colours drawn anew each time (`--updates`; 0 leaves it
random). It has never read the 12 classes' names, and the zero-shot row says what that is worth. Everything else goes
through `vfc`: extraction with taps and tail, `train-head` for each row, the same 300 test clips, differences paired
clip by clip. What is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from vfc.cache_schema.progress import Silent
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.config import ExtractConfig
from vfc.extract.run import extract
from vfc.extract.sampling import frame_indices
from vfc.extract.synthetic import SPLIT_OF, render_clip, render_collection
from vfc.extract.texts import spoken
from vfc.extract.viclip.network import ViCLIP
from vfc.extract.viclip.tiny import write_tiny_viclip
from vfc.heads.fit import train
from vfc.heads.head import TrainConfig
from vfc.heads.methods import linear_probe, msta, text_zero_shot
from vfc.heads.paired import beyond
from vfc.heads.tasks import classification

TEMPLATE: Final = "a video of {label}"
TAUGHT: Final = tuple(sorted(label for label, split in SPLIT_OF.items() if split == "train"))
ASKED: Final = tuple(sorted(set(SPLIT_OF) - set(TAUGHT)))
TRAINED, TESTED, LESSONS = 16, 25, 100
FIRST: Final = 2
STEADY: Final = replace(msta.TRAIN, epochs=60, batch=16, lr=3e-3, validate_every=240, device="cpu")
ADAPTED: Final = msta.Config(from_block=FIRST, dim=16, strength=0.1)


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
    Row(f"linear probe of layer {FIRST}", "linear-probe", linear_probe.Config(), PROBE, f"layer{FIRST}.visual"),
    Row("text adapters alone", "msta", replace(ADAPTED, towers="text")),
    Row("video adapters alone", "msta", replace(ADAPTED, towers="video")),
    Row("LoRA", "msta", replace(ADAPTED, adapter="lora")),
    Row("AdaptFormer", "msta", replace(ADAPTED, adapter="adaptformer")),
    Row("MSTA", "msta", ADAPTED),
)


def model(folder: Path, updates: int) -> Path:
    """The checkpoint: a tiny ViCLIP that was taught the names of 14 motions, or was left as it was drawn."""
    sizes = {"layers": 4, "width": 48, "text_width": 24, "heads": 4, "image": 24, "patch": 12, "embedding": 32}
    made = write_tiny_viclip(folder / f"model-{updates}", **sizes)  # type: ignore[arg-type]
    if not updates or (made / "taught").exists():
        return made
    backbone: Any = open_backbone("viclip", BackboneOptions(checkpoint=str(made), texts=True, storage="fp32"))
    network = ViCLIP(backbone.architecture)
    network.load_state_dict(load_file(made / "model.safetensors"))
    videos, labels = lessons(backbone)
    ids = torch.stack([backbone.tokens(TEMPLATE.format(label=spoken(name))).tensors["ids"] for name in TAUGHT])
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    for update in range(updates):
        rate = 2e-3 * min(1.0, (update + 1) / 100) * 0.5 * (1 + np.cos(np.pi * update / updates))
        optimizer.param_groups[0]["lr"] = float(rate)
        chosen = torch.randint(len(videos), (32,))
        tint = (torch.rand(32, 1, 3, 1, 1) + 0.5) * (torch.randint(2, (32, 1, 1, 1, 1)) * 2 - 1)
        _, seen = network.vision_encoder(videos[chosen] * tint + 0.5 * torch.randn(32, 1, 3, 1, 1))
        _, told = network.text_encoder(ids)
        near = functional.normalize(seen, dim=-1) @ functional.normalize(told, dim=-1).T
        loss = functional.cross_entropy(near / 0.05, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if update % 100 == 0:
            print(f"taught {update}: loss {float(loss.detach()):.3f}", flush=True)
    save_file(network.state_dict(), made / "model.safetensors", {"format": "pt"})
    (made / "taught").touch()
    return made


def lessons(backbone: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of the taught classes as the network reads them, and their labels; none of them is asked about later."""

    class Shown:
        def __init__(self, frames: Any) -> None:
            self.frames = frames

    pixels, labels = [], []
    at = frame_indices("tsn-centre", 8, 20, 10.0)
    for label, name in enumerate(TAUGHT):
        for index in range(LESSONS):
            frames = render_clip(name, index, seed=77)
            pixels.append(backbone.pixels(Shown(np.ascontiguousarray(frames[at]))).tensors["pixels"])
            labels.append(label)
    return torch.stack(pixels), torch.tensor(labels)


def store(folder: Path, checkpoint: Path, seed: int) -> Path:
    """The clips of the 12 classes, extracted with both taps, class texts and the tail."""
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
    parser.add_argument("--updates", type=int, default=6000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--clips-seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    cache = store(asked.out, model(asked.out, asked.updates), asked.clips_seed)
    print(f"made in {time.perf_counter() - began:.0f} s", flush=True)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    rows = [row for row in ROWS if asked.only in row.name]
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
