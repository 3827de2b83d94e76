"""FSAR-LLaVA's head on the demo's clips and the tokens of a tiny Video-LLaVA: does training beat Dec-Avg?

    python tests/benchmarks/fsar_demo.py [--folder DIR] [--table FILE]

Everything is made on the spot: 26 classes of motion, 60 clips each, and a Video-LLaVA of real architecture with random
weights. Random, with three properties of trained ones, without which no head found more than chance in its tokens:
patch filters see edges and no flat colour, visual rows enter the language model with numbers of about 1, and a block's
attention adds as much as it finds. The head is trained on the 14 train classes, chosen by the 6 val classes, and tested
on the 6 test classes, which are pairs of motions played forwards and backwards.

One set of settings, chosen by validation alone (`--no-test`), three seeds, test tasks scored once. `beyond` is the rule
of the house: paired task by task, seeds averaged first, 95 % bootstrap interval above 0, the same sign in every seed.
About 10 minutes of one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from suites.language import video_llava_checkpoint

from vfc.cache_schema.values.progress import Silent
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract
from vfc.extract.synthetic import render_collection
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.methods import fsar
from vfc.heads.runs.intervals import bootstrap
from vfc.heads.runs.run_folder import read_items
from vfc.heads.tasks import fewshot
from vfc.heads.training.fit import train

CLIPS: Final = 60
SEEDS: Final = (0, 1, 2)
LAYER: Final = "2"
VISION: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
TEXT: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
MIXED: Final = 0.7
"""What a block's attention adds, as a share of what enters it."""
TASK: Final = fewshot.Config(layer=LAYER, way=5, shot=5, train_queries=3, tasks=2000, val_tasks=200)
HEAD: Final = fsar.Config(dim=64, down_hidden=128, ffn_dim=128, dropout=0.0, ffn_dropout=0.0, mode="inductive")
TRAIN: Final = TrainConfig(steps=200, batch=8, lr=2e-3, validate_every=20, device="cpu")


def weights(model: Any, seed: int) -> Any:
    """Random values with the properties named above."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "patch_embedding" in name:
                values[:] = torch.randn(len(values), 1, *values.shape[2:], generator=generator)
                values -= values.mean(dim=(-1, -2), keepdim=True)
                values /= values.flatten(1).norm(dim=1)[:, None, None, None] / 3**0.5
            elif "position_embedding" in name:
                values.normal_(0, 0.3, generator=generator)
            elif "vision_tower" in name and values.ndim == 2 and ("mlp" in name or "self_attn" in name):
                values.normal_(0, values.shape[1] ** -0.5, generator=generator)
            elif "multi_modal_projector" in name and values.ndim == 2:
                torch.nn.init.orthogonal_(values, gain=1.5, generator=generator)
            elif "embed_tokens" in name:
                values.normal_(0, 1, generator=generator)
            elif "language_model" in name and "self_attn" in name and values.ndim == 2:
                share = MIXED if "v_proj" in name or "o_proj" in name else 1.0
                values.normal_(0, share * values.shape[1] ** -0.5, generator=generator)
    return model.eval()


def made(folder: Path) -> Path:
    """The store; what is there is not made again."""
    videos, checkpoint, store = folder / "videos", folder / "video-llava", folder / "store"
    table = render_collection(videos, clips_per_class=CLIPS)
    if not checkpoint.exists():
        torch.manual_seed(0)
        video_llava_checkpoint(checkpoint, vision=VISION, draw=weights, **TEXT)
    asked = ExtractConfig(
        videos=table, model="video-llava", checkpoint=str(checkpoint), layer=(LAYER,), prompt=("unknown",)
    )
    extract(replace(asked, out=store), Silent())
    return store


def run(
    description: str | None,
    store: Callable[[Path], Path],
    task: fewshot.Config,
    more: Callable[[list[dict[str, Any]]], str] = lambda rows: "",
) -> None:
    """The command line: train on the store that `store` makes in a folder, and write the table with `more` below it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where everything is kept; run again, it goes on")
    parser.add_argument("--table", type=Path, default=None, help="write the table here; without it, print it")
    parser.add_argument("--no-test", action="store_true", help="look at validation alone, to choose settings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder or Path(tempfile.mkdtemp())
    task = replace(task, cache=store(folder), tasks=10 if options.no_test else task.tasks)
    rows, items = [], []
    for seed in SEEDS[: 1 if options.no_test else None]:
        out = folder / f"{'tried' if options.no_test else 'run'}-{seed}"
        result = train("fsar", task, HEAD, replace(TRAIN, seed=seed, out=out), Silent())
        rows.append(result.row)
        items.append(read_items(out))
        print(f"seed {seed}: validation {result.row['validation']:.4f} at update {result.row['chosen_update']}")
    if options.no_test:
        return
    text = table(task, rows, items) + more(rows)
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    else:
        print(text)


def table(task: fewshot.Config, rows: list[dict[str, Any]], items: list[dict[str, float]]) -> str:
    """Markdown: the head beside the training-free metrics of the paper, on the same tasks."""
    ours = np.array([[run[item] for item in sorted(items[0])] for run in items])
    order = np.argsort([int(item) for item in sorted(items[0])])
    ours = ours[:, order]
    lines = [
        f"{task.way}-way {task.shot}-shot, {ours.shape[1]} frozen tasks (list {rows[0]['list_digest'][:12]}), classes "
        "never trained on; chance 20 %.",
        "",
        "| | accuracy, % | head - this, points (95 % bootstrap over tasks) | seed by seed | beyond |",
        "|---|---|---|---|---|",
        f"| trained head, mean of {len(rows)} seeds | {100 * ours.mean():.2f} ± "
        f"{100 * statistics.stdev(ours.mean(axis=1)):.2f} over seeds | | | |",
    ]
    for metric in ("avg", "dec-avg", "mpmm"):
        asked = EvalConfig(
            cache=task.cache,
            layer=task.layer,
            metric=metric,
            way=task.way,
            shot=task.shot,
            tasks=task.tasks,
            seed=task.episode_seed,
        )
        found = evaluate(asked, Silent())
        assert found.provenance["list_digest"] == rows[0]["list_digest"]
        apart = ours - np.asarray(found.score.per_task)
        low, high = bootstrap(apart.mean(axis=0))
        each = apart.mean(axis=1)
        lines.append(
            f"| {metric}, raw tokens of both streams | {100 * found.score.accuracy:.2f} | {100 * apart.mean():+.2f} "
            f"({100 * low:+.2f} to {100 * high:+.2f}) | {', '.join(f'{100 * value:+.2f}' for value in each)} "
            f"| {'yes' if low > 0 and (each > 0).all() else 'no'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(__doc__, made, TASK)
