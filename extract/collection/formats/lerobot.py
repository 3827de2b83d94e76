"""LeRobot data sets: `meta/info.json` says where the videos of the episodes are, `meta/episodes.jsonl` their tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.document import Document, NoVideoList
from vfc.extract.collection.listing import Listing, Row

from .format import Format, known_split


def _read(document: Document) -> Listing | None:
    info = document.json
    if not isinstance(info, dict) or not {"codebase_version", "video_path"} <= info.keys():
        return None
    if not str(info["codebase_version"]).startswith("v2"):
        raise NoVideoList(
            f"{document.path} is of LeRobot {info['codebase_version']}, which keeps many episodes in one video.",
            "Export it as version 2.1, or list the parts of the videos in a CSV with start_seconds and end_seconds.",
        )
    return Listing(document.path, FORMAT.name, tuple(_rows(document, info)), folder=document.path.absolute().parents[1])


def _rows(document: Document, info: Mapping[str, Any]) -> Iterator[Row]:
    """One row for every episode and camera."""
    features = info.get("features", {})
    cameras = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    file = document.path.with_name("episodes.jsonl")
    try:
        episodes = [json.loads(line) for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error}.", "It lies beside meta/info.json.") from None
    for episode in episodes:
        index, tasks = int(episode["episode_index"]), episode.get("tasks", [])
        for camera in cameras:
            path = info["video_path"].format(
                episode_chunk=index // int(info.get("chunks_size", 1000)), episode_index=index, video_key=camera
            )
            label = tasks[0] if len(tasks) == 1 else ""
            yield Row(path, label, _split(info, index), f"{file}, episode {index}", "nowhere")


def _split(info: Mapping[str, Any], index: int) -> str:
    for word, span in info.get("splits", {}).items():
        first, _, stop = str(span).partition(":")
        if first.isdigit() and stop.isdigit() and int(first) <= index < int(stop):
            return known_split(word)
    return ""


FORMAT = Format("LeRobot 2.1", "`meta/info.json` with `codebase_version` and `video_path`", "meta/info.json", _read)
