"""Scores of the training-free baselines, kept in the user's cache: every run on one list of tasks has the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import ReadOnlyTarget, Refused
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json

from .episodes import Score


def kept_or_scored(
    identity: Mapping[str, Json],
    device: torch.device,
    labels: tuple[str, ...],
    tasks: int,
    score: Callable[[], dict[str, Score]],
    progress: Progress,
) -> dict[str, Score]:
    """The scores that an earlier run kept for this `identity`, else those of `score`, which are kept.

    The file is named by the digest of `identity`, of the library's own code, of torch and how it computes, so that
    nothing else is ever taken for it. A file that cannot be read is made anew; a cache that takes no writes is left.

    Args:
        identity: What the scores depend on: store, arrays, how they are served, list of tasks, training clips.
        device: Where they are scored.
        labels: The classes of the tasks.
        tasks: The number of tasks.
        score: Scores the baselines.
        progress: Told where the scores come from.
    """
    how: dict[str, Json] = {
        "code": _code_digest(),
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled(device.type),
    }
    path = cache_folder() / "baselines" / f"{digest({**identity, **how})[:32]}.npz"
    scores = _read(path, labels, tasks)
    if scores is not None:
        progress.say(f"The training-free baselines of this list were scored before: {path}.")
        progress.advance(tasks * len(scores))
        return scores
    scores = score()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _packed(scores))
    except (OSError, ReadOnlyTarget, Refused):
        progress.say(f"The scores of the training-free baselines could not be kept in {path.parent}.")
    return scores


def cache_folder() -> Path:
    """`$VFC_CACHE`, else `$XDG_CACHE_HOME/vfc`, else `~/.cache/vfc`: it can be removed at any time."""
    own = os.environ.get("VFC_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfc"


@cache
def _code_digest() -> str:
    """SHA-256 of all code of `heads`."""
    hasher = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[2].rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


def _packed(scores: Mapping[str, Score]) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    for number, of_one in enumerate(scores.values()):
        arrays |= {f"per_task.{number}": of_one.per_task, f"confusion.{number}": of_one.confusion}
    labels = next(iter(scores.values())).labels
    about = json.dumps({"names": [*scores], "labels": [*labels]}).encode()
    file = io.BytesIO()
    np.savez_compressed(file, about=np.frombuffer(about, np.uint8), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _read(path: Path, labels: tuple[str, ...], tasks: int) -> dict[str, Score] | None:
    """The scores in a file; None where there is none for these classes and as many tasks."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            each = [(file[f"per_task.{n}"], file[f"confusion.{n}"]) for n in range(len(about["names"]))]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    shapes = {(per_task.shape, confusion.shape) for per_task, confusion in each}
    if tuple(about["labels"]) != labels or shapes != {((tasks,), (len(labels), len(labels)))}:
        return None
    return {name: Score(labels, *arrays) for name, arrays in zip(about["names"], each, strict=True)}
