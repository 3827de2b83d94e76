"""`vfc demo`: from rendered clips to a trained head, without network, data or GPU."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from vfc.cache_schema.values.errors import BadInput, Damaged, combined
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting

from .command import Command, Outcome, human_bytes, table

_NEXT = "vfc extract --model image --checkpoint google/vit-base-patch16-224 --videos YOUR_FOLDER --out ./store"


@dataclass(frozen=True)
class DemoConfig:
    """Folder and size of the demo."""

    out: Path = setting(Path("vfc-demo"), "Folder of clips, model, store and run")
    clips_per_class: int = setting(12, "Clips rendered per class")
    steps: int = setting(100, "Training updates of the head")
    tasks: int = setting(2000, "Few-shot tasks in the test")
    seed: int = setting(0, "Seed of the clips, the model and the head")

    def __post_init__(self) -> None:
        least = {"clips_per_class": 1, "steps": 0, "tasks": 1, "seed": 0}
        errors = [
            BadInput(f"{flag} is {getattr(self, name)}.", f"{flag} takes {lowest} or more.")
            for name, lowest in least.items()
            if getattr(self, name) < lowest and (flag := f"--{name.replace('_', '-')}")
        ]
        if errors:
            raise combined(errors)


def run(config: DemoConfig, progress: Progress) -> Outcome:
    """Render, extract, verify, train, compare; each step continues from the files of an earlier demo.

    Raises:
        Damaged: the store does not hold what was committed.
        RecipeMismatch: the folder holds a demo with other settings.
    """
    # A head this small gains nothing from threads, and loses much where other work keeps the cores busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from vfc.cache_schema.upkeep import verify
    from vfc.extract.config import ExtractConfig
    from vfc.extract.pipeline.run import extract
    from vfc.extract.synthetic import render_collection
    from vfc.extract.synthetic.tiny_vit import write_tiny_vit
    from vfc.heads.contract.train_config import TrainConfig
    from vfc.heads.methods import prototype
    from vfc.heads.tasks import fewshot
    from vfc.heads.training.fit import train

    began = time.perf_counter()
    videos, store, runs = config.out / "videos", config.out / "store", config.out / "prototype"
    clips = render_collection(videos, clips_per_class=config.clips_per_class, seed=config.seed, progress=progress)
    model = write_tiny_vit(config.out / "model", config.seed)
    summary = extract(ExtractConfig(videos=clips, model="image", checkpoint=str(model), out=store), progress)
    check = verify(store, progress)
    if not check.ok:
        raise Damaged(f"The demo's store {store} is damaged.", f"See what is wrong: vfc store verify {store}")
    result = train(
        "prototype",
        fewshot.Config(cache=store, tasks=config.tasks),
        prototype.Config(),
        TrainConfig(steps=config.steps, validate_every=max(1, config.steps // 5), seed=config.seed, out=runs),
        progress,
    )
    row: dict[str, Any] = result.row
    seconds = time.perf_counter() - began
    free = max(row["baselines"], key=lambda baseline: baseline["accuracy"])
    document = {
        "folder": str(config.out),
        "clips": check.records,
        "failed": len(summary.failed) + len(summary.failed_before),
        "store_bytes": check.bytes,
        "store_digest": summary.digest,
        "chance": 1 / row["way"],
        "training_free": free,
        "trained": {name: row[name] for name in ("accuracy", "interval", "tasks", "list_digest")},
        "seconds": round(seconds, 1),
    }
    return Outcome(document, _report(config, document, row))


def _report(config: DemoConfig, document: dict[str, Any], row: dict[str, Any]) -> str:
    from vfc.extract.synthetic import TABLE

    def share(value: float, half: float | None = None) -> str:
        return f"{100 * value:.1f} %" if half is None else f"{100 * value:.1f} ± {100 * half:.1f} %"

    free, trained = document["training_free"], document["trained"]
    lead, of_tasks = f"{100 * free['difference']:+.1f}", f"{100 * free['difference_interval']:.1f}"
    over_classes = free.get("difference_interval_over_classes")
    gain = f"{lead} ± {of_tasks if over_classes is None else f'{100 * over_classes:.1f}'} points"
    comparison = table(
        (f"{row['way']}-way {row['shot']}-shot, classes never trained on", "accuracy", "trained - this, paired"),
        (
            ("chance", share(document["chance"]), f"{100 * (trained['accuracy'] - document['chance']):+.1f} points"),
            (
                f"training-free, the best of {len(row['baselines'])} ({free['name']})",
                share(free["accuracy"], free["interval"]),
                gain,
            ),
            ("trained (prototype, one linear layer)", share(trained["accuracy"], trained["interval"]), ""),
        ),
    )
    out = config.out
    clips, model, store = (shlex.quote(str(out / part)) for part in (f"videos/{TABLE}", "model", "store"))
    return "\n".join(
        [
            f"{document['clips']} clips became a verified store of {human_bytes(document['store_bytes'])}.",
            "",
            comparison,
            f"{trained['tasks']} frozen tasks (list {trained['list_digest'][:12]}). 95 % intervals: of accuracies over",
            f"tasks of these clips, of the lead over the test classes (over tasks of these clips: ± {of_tasks}).",
            "",
            f"Clips, model, store and report.html are in {out}/. The same by hand:",
            f"  vfc extract --model image --checkpoint {model} --videos {clips} --out {store}",
            f"  vfc store inspect {store}",
            f"  vfc eval --cache {store} --representation difference --centre all",
            f"  vfc train-head prototype --cache {store}",
            "",
            f"Took {document['seconds']} s. Next, with videos of your own (one subfolder per class):",
            f"  {_NEXT}",
        ]
    )


def demo() -> TyperCommand:
    """`vfc demo`."""
    return Command(
        "demo",
        "Render clips, extract features, train a head and test it: one minute, no downloads.",
        DemoConfig,
        run,
        "vfc demo",
        "A second run continues from the files of the first.",
    ).build()
