"""A store in the form that toolkits of temporal action detection and anticipation read: a file per video, and a JSON.

`features/<id>.npy` is `[T, D]`, one row per step; `seconds/<id>.npy` is float64 `[T]`, where the store holds times.
`features.json` says what they are:

- `window`, `stride`, `offset`: step t is made of `window` frames from frame `offset + t * stride` on;
- `database`: by id, the `fps` of these frames, how many there are (`frames`), `steps` (T), `duration` in seconds,
  `label` and `subset` of the annotations, and the `file`.

These are the frames that the extraction took: under `--frames fps:8` they are 8 per second, whatever the video has. So
the middle of step t is at `(offset + t * stride + window / 2) / fps` seconds after the first frame, as ActionFormer and
OpenTAD compute it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from vfc.cache_schema.annotations import load
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, STEPS
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Json, Key

from .exports import identity, shapes
from .file_writers import NpyWriter, Row

FILE: Final = "features.json"
SECONDS: Final = "seconds"
_VIDEOS: Final = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def vectors(reader: StoreReader, arrays: Sequence[str]) -> dict[str, tuple[ArraySpec, ...]]:
    """The array of one vector per step, the chosen one or the only one, and the times beside it.

    Raises:
        BadInput: none of the chosen arrays, or several, have one vector per step.
    """
    specs = reader.kinds.get("video", ())
    usable = [spec for spec in specs if spec.dtype in FEATURE_DTYPES and len(spec.shape) == 2 and _in_time(spec)]
    chosen = [spec for spec in usable if not arrays or spec.name in arrays]
    others = set(arrays) - {spec.name for spec in chosen} - {SECONDS}
    if others or len(chosen) != 1:
        stored = shapes(spec for spec in specs if spec.dtype in FEATURE_DTYPES)
        remedy = f"Give --array with one of them: {', '.join(spec.name for spec in usable)}."
        if not usable:
            remedy = "Make one: vfc store materialize --pool mean, or vfc extract --window."
        raise BadInput(
            f"A detection export takes one array of one vector per step; asked: {', '.join(arrays) or 'the only one'}; "
            f"there: {stored}.",
            remedy,
        )
    return {"video": (chosen[0], *(spec for spec in specs if spec.name == SECONDS and spec.layout == STEPS))}


def _in_time(spec: ArraySpec) -> bool:
    return spec.layout == STEPS or spec.layout.startswith(FRAME_MAJOR)


class DetectionWriter(NpyWriter):
    """Files of one folder for features and one for times, under the names of videos without their suffix."""

    def folder(self, kind: str, array: str) -> str:
        """Where the files of an array are."""
        array, dot, scale = array.partition(".scale")
        return (SECONDS if array == SECONDS else "features") + dot + scale

    def path_name(self, key: Key) -> str:
        """The id of a video; empty where its name cannot be a path."""
        name = super().path_name(key)
        front, at, view = name.partition("@")
        suffix = PurePosixPath(front).suffix
        return front.removesuffix(suffix) + at + view if suffix.lower() in _VIDEOS else name


def describe_features(reader: StoreReader, out: Path, spec: ArraySpec, rows: Mapping[Key, Row]) -> None:
    """Write `features.json` for the files that `rows` list."""
    recipe = _extraction(reader.recipe.fields)
    window, stride, offset = _steps(recipe)
    labels = {row.name: row for row in load(reader.root, "default").rows} if _annotated(reader.root) else {}
    database: dict[str, Json] = {}
    for key, row in rows.items():
        file = row["files"][spec.name]
        steps = int(np.load(out / file, mmap_mode="r", allow_pickle=False).shape[0])
        annotation = labels.get(key.name)
        entry: dict[str, Json] = {"file": file, "name": key.name, "view": key.view, "steps": steps}
        entry |= _rate(recipe, row["metadata"], steps)
        if annotation is not None:
            entry |= {"label": annotation.label, "subset": annotation.split}
        database[file.removeprefix("features/").removesuffix(".npy")] = entry
    about: dict[str, Json] = {
        **identity(reader, "detection", {"video": (spec,)}),
        "store_digest": reader.digest,
        "model": recipe.get("backbone"),
        "array": spec.name,
        "dimensions": spec.shape[-1],
        "frames": recipe.get("frames", {}).get("rule"),
        "window": window,
        "stride": stride,
        "offset": offset,
        "database": database,
    }
    replace_file(out / FILE, json.dumps(about, indent=1, ensure_ascii=False).encode())


def _annotated(root: Path) -> bool:
    return "default" in annotation_files(root)


def _extraction(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe of the extraction or import that a store comes from."""
    while "parent" in fields:
        fields = fields["parent"]["recipe"]
    return fields


def _steps(recipe: Mapping[str, Any]) -> tuple[int, int, int]:
    """Window, stride and offset in frames; of models without windows a step is a frame, or a tubelet of frames."""
    windows = recipe.get("windows")
    if windows:
        before = 0 if windows["border"] == "drop" else windows["frames"] // 2
        return windows["frames"], windows["stride"], -before
    tubelet = int(recipe.get("clips", {}).get("tubelet", 1))
    return tubelet, tubelet, 0


def _rate(recipe: Mapping[str, Any], metadata: Mapping[str, Any], steps: int) -> dict[str, Json]:
    """`fps` and `frames` of the frames that the steps are made of, and the `duration`; None where nothing says it."""
    imported = recipe.get("imported", {}).get("fps")
    if imported:
        return {"fps": imported, "frames": steps, "duration": steps / imported}
    fps, total = metadata.get("fps"), metadata.get("total_frames")
    frames = metadata.get("frames") or len(metadata.get("indices", ())) or None
    if not (fps and total and frames):
        return {"fps": None, "frames": frames, "duration": None}
    rule, _, number = str(recipe["frames"]["rule"]).partition(":")
    rates = {"all": fps, "stride": fps / float(number or 1), "fps": float(number or 1)}
    return {"fps": rates.get(rule, frames * fps / total), "frames": frames, "duration": total / fps}
