"""`vfc predict`: from clips to their likeliest class, by a trained head and a few labelled clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest

from .command import Command, Outcome
from .heads import tables_text

if TYPE_CHECKING:
    from vfc.extract.config import ExtractConfig


@dataclass(frozen=True)
class PredictConfig:
    """Which head, which labelled clips, which clips are asked for."""

    head: Path = field(metadata={"help": "Run folder of a trained few-shot head", "panel": "Input", "metavar": "RUN"})
    support: Path = field(metadata={"help": "Folder with one folder of labelled clips per class", "panel": "Input"})
    query: tuple[Path, ...] = field(metadata={"help": "The clips to name", "panel": "Input", "metavar": "CLIP,..."})
    checkpoint: str | None = field(
        default=None,
        metadata={"help": "Where the model's weights are now, if not at the recipe's id", "panel": "Model"},
    )
    out: Path = field(default=Path("predict"), metadata={"help": "Folder for the features", "panel": "Output"})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda ...", "panel": "Performance"})


def run(config: PredictConfig, progress: Progress) -> Outcome:
    """Extract both sides as the head's recipe says, compare recipes, score.

    Raises:
        MissingPath: no such run, folder or clip.
        BadInput: a clip that could not be read; a head whose text depends on a list of tasks.
        RecipeMismatch: the features came out made in another way, with the difference.
    """
    from vfc.extract.pipeline.run import extract
    from vfc.heads.evaluation.predict import Run, predict

    found = Run.read(config.head)
    for path in (config.support, *config.query):
        if not path.exists():
            raise MissingPath(f"There is no {path}.", "Give a folder for --support and video files for --query.")
    stores = {}
    for name, videos in (("support", config.support), ("query", _list(config))):
        # Other clips are another store, so that what an earlier call left cannot be taken for what is asked now.
        asked = [str(path.resolve()) for path in (config.query if name == "query" else (videos,))]
        out = stores[name] = config.out / f"{name}-{digest([*asked])[:12]}"
        progress.say(f"Features of the {name} clips: {out}")
        made = extract(_extraction(found, config, videos, out), progress)
        failed = {**dict.fromkeys(made.failed), **dict.fromkeys(made.failed_before)}
        if failed:
            raise BadInput(
                f"{len(failed)} of the {name} clips could not be read: {', '.join(map(str, failed))}.",
                f"The reasons are listed under {out / 'failures'}.",
            )
    result = predict(found, stores["support"], stores["query"])
    for note in result.notes:
        progress.say(note)
    return Outcome(result.to_json(), tables_text(result.tables()))


def _list(config: PredictConfig) -> Path:
    """The query clips as a table, so that they may lie anywhere."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label"))
    rows.writerows((path.resolve(), "") for path in config.query)
    config.out.mkdir(parents=True, exist_ok=True)
    replace_file(config.out / "query.csv", text.getvalue().encode())
    return config.out / "query.csv"


def _extraction(run: Any, config: PredictConfig, videos: Path, out: Path) -> ExtractConfig:
    """The settings that make features as the recipe of a run says."""
    from vfc.extract.config import ExtractConfig

    if run.prompt == "known":
        raise BadInput(
            f"The head in {run.folder} reads text under known prompts, which depend on a list of tasks.",
            "Train one on a plain prompt: vfc train-head fsar --prompt unknown.",
        )
    recipe: Mapping[str, Any] = run.recipe.fields
    known = recipe["checkpoint"]
    checkpoint = known["id"] + (f"@{known['revision']}" if known.get("revision") else "")
    taps, frames, numerics = recipe["taps"], recipe["frames"], recipe["numerics"]
    if isinstance(taps, list):  # a language model's: layers of both streams, of which any may be kept
        layers, kept = tuple(taps), ("visual", "text") if run.prompt else ("visual",)
    else:
        layers, kept = tuple(taps.get("visual") or ()), tuple(stream for stream, tap in taps.items() if tap)
    given: dict[str, Any] = {
        "videos": videos,
        "root": None if videos == config.support else Path(videos.resolve().anchor),
        "model": recipe["backbone"],
        "checkpoint": config.checkpoint or checkpoint,
        "layer": layers,
        "keep": kept,
        "plan": recipe.get("plan"),
        "frames": frames["rule"],
        "stream": frames.get("stream"),
        "dtype": recipe["storage"],
        "compute_dtype": recipe["compute"]["dtype"],
        "attention": recipe["compute"].get("attention"),
        "mode": numerics["mode"],
        "threads": numerics.get("threads"),
        "out": out,
        "device": config.device,
    }
    if frames.get("count"):
        given["num_frames"] = frames["count"]
    if run.prompt:
        given["prompt"] = (run.prompt,)
    return ExtractConfig(**given)


def predict() -> TyperCommand:
    """`vfc predict`."""
    return Command(
        "predict",
        "Name clips by a trained head and a few labelled clips.",
        PredictConfig,
        run,
        "vfc predict --head runs/fsar-1234 --support ./examples --query clip.mp4",
    ).build()
