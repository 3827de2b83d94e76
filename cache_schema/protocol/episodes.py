"""Episodes and frozen lists of them.

Episode `i` is a function of the annotations' digest, the `EpisodeSpec` and `i` alone: it does not depend on how many
are drawn, by whom or in which order. Only the stream of uniform doubles of numpy's default generator is used, so
nothing rests on how a numpy version shuffles.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfc.cache_schema.annotations import Annotations, source
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput, Damaged, MissingPath
from vfc.cache_schema.values.recipe import canonical

EPISODES_FORMAT: Final = "vfc episodes 1"
_DRAWS: Final = 1000
_HEADER: Final = {"format", "annotations", "spec", "count", "sha256"}
_SPEC: Final = {"split", "way", "shot", "queries", "seed"}


@dataclass(frozen=True)
class EpisodeSpec:
    """Which episodes: `way` classes of a split, `shot` support and `queries` query videos per class.

    `split` may be `all`. `queries` counts per class, not per episode.
    """

    split: str
    way: int = 5
    shot: int = 1
    queries: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.way < 2 or min(self.shot, self.queries) < 1 or self.seed < 0:
            raise BadInput(
                f"Way {self.way}, shot {self.shot}, queries {self.queries} and seed {self.seed} make no episode.",
                "Way starts at 2 (a single class is always right), shot and queries per class at 1, the seed at 0.",
            )


@dataclass(frozen=True)
class Episode:
    """One few-shot task: `classes` `[W]`, `support` names `[W][K]`, `query` names `[W][Q per class]`.

    A class is known within the episode by its position.
    """

    classes: tuple[str, ...]
    support: tuple[tuple[str, ...], ...]
    query: tuple[tuple[str, ...], ...]


# label -> the files of the class, and per file the names (the file itself, or its segments)
_Pool = tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]


@lru_cache(maxsize=16)
def _pool(annotations: Annotations, spec: EpisodeSpec) -> _Pool:
    """The classes of the split with their files, sorted; refused where an episode could not be filled."""
    pool = []
    for label, names in annotations.of_split(spec.split).by_label().items():
        files: dict[str, list[str]] = {}
        for name in names:
            files.setdefault(source(name), []).append(name)
        pool.append((label, tuple((file, tuple(segments)) for file, segments in sorted(files.items()))))
    if len(pool) < spec.way:
        raise BadInput(
            f"Split {spec.split!r} has {len(pool)} classes; --way {spec.way} was asked.",
            f"The largest possible way is {len(pool)}.",
        )
    small_label, small = min(pool, key=lambda item: len(item[1]))
    if len(small) < spec.shot + spec.queries:
        raise BadInput(
            f"Class {small_label!r} of split {spec.split!r} has {len(small)} videos; "
            f"{spec.shot} shot + {spec.queries} queries per class need {spec.shot + spec.queries}.",
            f"The largest possible shot + queries is {len(small)}; lower --shot or --queries, or leave the class out.",
        )
    return tuple(pool)


def draw_episode(annotations: Annotations, spec: EpisodeSpec, i: int) -> Episode:
    """Episode `i`: classes, then per class its videos, without replacement, uniformly.

    Of a file with several segments one segment is taken, and no file is in an episode twice.

    Raises:
        BadInput: too few classes (with the largest way) or too few videos in a class (with the largest shot+queries).
        UnknownName: no such split.
    """
    pool = _pool(annotations, spec)
    identity = f"{annotations.digest}\n{spec.split}\n{spec.way}\n{spec.shot}\n{spec.queries}\n{spec.seed}\n{i}"
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(identity.encode()).digest(), "big"))
    for _ in range(_DRAWS):
        picked = [pool[c] for c in itertools.islice(_shuffled(generator, len(pool)), spec.way)]
        drawn = _draw_videos(generator, picked, spec.shot + spec.queries)
        if drawn:
            return Episode(
                tuple(label for label, _ in picked),
                tuple(names[: spec.shot] for names in drawn),
                tuple(names[spec.shot :] for names in drawn),
            )
    raise BadInput(
        f"No episode of way {spec.way} with {spec.shot} + {spec.queries} videos per class was found in {_DRAWS} draws: "
        f"the classes of split {spec.split!r} share their files, and no file may stand twice in an episode.",
        "Lower --way, --shot or --queries.",
    )


def _draw_videos(generator: np.random.Generator, picked: list[Any], count: int) -> list[tuple[str, ...]]:
    """`count` names for every class, all of different files; nothing where a class ran out of unused files."""
    used: set[str] = set()
    drawn = []
    for _, files in picked:
        names: list[str] = []
        for f in _shuffled(generator, len(files)):
            file, segments = files[f]
            if file in used:
                continue
            used.add(file)
            names.append(segments[int(generator.random() * len(segments))] if len(segments) > 1 else segments[0])
            if len(names) == count:
                break
        if len(names) < count:
            return []
        drawn.append(tuple(names))
    return drawn


def _shuffled(generator: np.random.Generator, total: int) -> Iterator[int]:
    """0 .. total-1 in random order, drawn only as far as it is read."""
    moved: dict[int, int] = {}
    for start in range(total):
        chosen = start + int(generator.random() * (total - start))
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.get(start, start)


@dataclass(frozen=True)
class EpisodeList:
    """Episodes 0 .. n-1 of one spec, frozen: every metric that reads the list is measured on the same tasks."""

    annotations_digest: str
    spec: EpisodeSpec
    episodes: tuple[Episode, ...]

    @classmethod
    def draw(cls, annotations: Annotations, spec: EpisodeSpec, count: int) -> EpisodeList:
        """The first `count` episodes. Raises BadInput, UnknownName: see `draw_episode`."""
        return cls(annotations.digest, spec, tuple(draw_episode(annotations, spec, i) for i in range(count)))

    @cached_property
    def _body(self) -> bytes:
        return b"".join(canonical(vars(episode)) + b"\n" for episode in self.episodes)

    @cached_property
    def _header(self) -> bytes:
        return canonical(
            {
                "format": EPISODES_FORMAT,
                "annotations": self.annotations_digest,
                "spec": asdict(self.spec),
                "count": len(self.episodes),
                "sha256": hashlib.sha256(self._body).hexdigest(),
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the header line, which holds the hash of the rest, in hex: names the list in every result."""
        return hashlib.sha256(self._header).hexdigest()

    def write(self, path: Path) -> None:
        """Write JSON lines: a header with the hash of the rest, then one episode per line; replaces in one step.

        Raises:
            Refused, ReadOnlyTarget: see `atomic_files.writing`.
        """
        replace_file(path, self._header + b"\n" + self._body)

    @classmethod
    def read(cls, path: Path, annotations: Annotations | None = None) -> EpisodeList:
        """Read and check a list; with `annotations`, refuse one that was drawn from others.

        Raises:
            MissingPath: no such file.
            BadInput: not an episode list, or one for other annotations (with the difference).
            Damaged: the episodes are not those that were written.
        """
        if not path.is_file():
            raise MissingPath(f"There is no episode list {path}.", "Write one with: vfc episodes --out FILE.")
        first, _, body = path.read_bytes().partition(b"\n")
        header = _header_fields(first, path)
        if hashlib.sha256(body).hexdigest() != header["sha256"]:
            raise Damaged(
                f"The episodes in {path} are not those that were written: their hash is not the one in the header.",
                "Write the list again with vfc episodes; the same annotations, spec and seed give the same episodes.",
            )
        rows = (json.loads(line) for line in body.splitlines())
        episodes = tuple(
            Episode(tuple(r["classes"]), tuple(map(tuple, r["support"])), tuple(map(tuple, r["query"]))) for r in rows
        )
        episode_list = cls(header["annotations"], EpisodeSpec(**header["spec"]), episodes)
        if episode_list._header != first:
            raise Damaged(
                f"The header of {path} does not describe the episodes below it.",
                "Write the list again with vfc episodes.",
            )
        if annotations is not None and annotations.digest != episode_list.annotations_digest:
            raise BadInput(
                f"{path} was drawn from other annotations ({episode_list.annotations_digest[:12]}, these are "
                f"{annotations.digest[:12]}): {_difference(episode_list, annotations)}.",
                "Give the annotations it was drawn from (--annotations), or write a new list with vfc episodes.",
            )
        return episode_list


def _header_fields(line: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(line)
        readable = header["format"] == EPISODES_FORMAT and header.keys() == _HEADER and header["spec"].keys() == _SPEC
    except (ValueError, LookupError, TypeError, AttributeError):
        readable = False
    if not readable:
        raise BadInput(
            f"{path} is no episode list that this version reads.",
            f"Its first line must be a JSON object with format {EPISODES_FORMAT!r}; write one with vfc episodes.",
        )
    return dict(header)


def _difference(episode_list: EpisodeList, annotations: Annotations) -> str:
    """What sets the videos of a list apart from the rows of some annotations, in one clause."""
    label_of = {row.name: row.label for row in annotations.rows}
    listed: dict[str, str] = {}
    for episode in episode_list.episodes:
        for label, support, query in zip(episode.classes, episode.support, episode.query, strict=True):
            listed.update(dict.fromkeys(support + query, label))
    absent = sorted(name for name in listed if name not in label_of)
    moved = sorted(name for name in listed if name in label_of and label_of[name] != listed[name])
    clauses = []
    if absent:
        clauses.append(f"{len(absent)} of its {len(listed)} videos are not in these, first {absent[0]!r}")
    if moved:
        name = moved[0]
        clauses.append(
            f"{len(moved)} carry another label, first {name!r}: {listed[name]!r} there, {label_of[name]!r} here"
        )
    return (
        "; ".join(clauses) or f"its {len(listed)} videos and their labels are here too, so other rows or splits differ"
    )
