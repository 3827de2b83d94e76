"""Heads that learn from episodes: their batches, and how they are scored over a list of tasks."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.progress import Progress
from vfc.heads.contract.head import Head
from vfc.heads.data.prefetch import stream

from .dataset import EpisodeDataset, EpisodeIndex, in_chunks
from .episodes import Score, Tasks, score, tasks_at_once

_ENCODE_AT_ONCE: Final = 64
_ENCODE_BYTES: Final = 256 << 20

Classify = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes over a set of clips: `videos` role -> `[M, ...]`; `support [B, W, K]`, `query [B, Q]` positions in M.

    `target [B, Q]` is the position of each query's class among the W. `peers [B, Q, S]` are, for each query, the
    queries that a transductive head may look at together with it, itself among them; None: all of the episode.
    """

    videos: Mapping[str, Tensor]
    support: Tensor
    query: Tensor
    target: Tensor
    peers: Tensor | None = None


class EpisodicHead(Head):
    """A few-shot method: `encode` gets single clips, `match` whole episodes."""

    @abstractmethod
    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is computed per clip: role -> `[M, ...]` to any names -> `[M, ...]`."""

    def alone(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The part of `encode` that no text changes; `encode` takes its result in place of the stored features."""
        return dict(videos)

    @abstractmethod
    def match(self, batch: EpisodeBatch) -> Tensor:
        """Logits `[B, Q, W]` of a batch whose `videos` are encoded."""

    def scores(self, batch: EpisodeBatch) -> Tensor:
        """Logits `[B, Q, W]` of a batch of stored features."""
        return self.match(replace(batch, videos=self.encode(batch.videos)))

    def loss(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy over the classes of each episode."""
        return {
            "cross-entropy": functional.cross_entropy(self.scores(batch).flatten(0, 1).float(), batch.target.flatten())
        }


def batch_of(
    tasks: Tasks, videos: Mapping[str, Tensor], device: torch.device, peers: Tensor | None = None
) -> EpisodeBatch:
    """Tasks over `videos` as a batch on the device."""
    support, query = on_device(tasks.support, device), on_device(tasks.query, device)
    target = on_device(tasks.target.expand(len(tasks), -1), device)
    return EpisodeBatch(videos, support, query, target, None if peers is None else on_device(peers, device))


def draw_peers(tasks: Tasks, per_class: int, generator: np.random.Generator) -> Tensor | None:
    """For each query, `per_class` queries of every class, itself among them, at random: `[E, Q, W * per_class]`.

    None where a task has no more than that.
    """
    way = tasks.support.shape[1]
    queries = tasks.query.shape[1] // way
    if queries <= per_class:
        return None
    draws = generator.random((len(tasks), way * queries, way, queries))
    own = np.arange(way * queries)
    draws[:, own, own // queries, own % queries] = -1
    chosen = np.sort(draws.argsort(axis=-1)[..., :per_class], axis=-1) + queries * np.arange(way)[:, None]
    return torch.from_numpy(chosen.reshape(len(tasks), way * queries, way * per_class))


def score_heads(
    heads: Sequence[EpisodicHead],
    clips: EpisodeDataset,
    index: EpisodeIndex,
    device: torch.device,
    progress: Progress,
    *,
    rank: int = 0,
) -> list[Score]:
    """Heads on frozen tasks; a clip is read once for all and encoded once by each, as far as no text of a task differs.

    `rank`: see `score`.
    """
    with torch.no_grad():
        by_chunk = (_by_chunk(head, clips, index, device) for head in heads)
        ready = by_chunk if clips.known else _at_once(heads, clips, index, device)
        return [
            score(index.tasks, classify, tasks_at_once(index.tasks, numbers), progress, rank=rank)
            for classify, numbers in ready
        ]


def _at_once(
    heads: Sequence[EpisodicHead], clips: EpisodeDataset, index: EpisodeIndex, device: torch.device
) -> Iterator[tuple[Classify, int]]:
    """All clips through all heads, then the matching of one head after the other."""

    def encode(videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        each = enumerate(head.encode(videos) for head in heads)
        return {f"{number}/{name}": values for number, encoded in each for name, values in encoded.items()}

    encoded = encode_all(encode, clips, index.rows)
    for number, head in enumerate(heads):
        own = f"{number}/"
        videos = {name.removeprefix(own): encoded.pop(name) for name in [*encoded] if name.startswith(own)}

        def classify(support: Tensor, query: Tensor, head: Any = head, videos: Any = videos) -> Tensor:
            matched: Tensor = head.match(batch_of(replace(index.tasks, support=support, query=query), videos, device))
            return matched

        yield classify, sum(values[0].numel() for values in videos.values())


def _by_chunk(
    head: EpisodicHead, clips: EpisodeDataset, index: EpisodeIndex, device: torch.device
) -> tuple[Classify, int]:
    """What no text changes is encoded once, the rest some tasks at a time."""
    assert index.clip_of is not None
    assert clips.texts is not None
    alone, clip_of = encode_all(head.alone, clips, {"visual": index.rows["visual"]}), index.clip_of

    def encode(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return head.encode({**texts, **alone, "visual.of": on_device(clip_of[texts["entry"]], device)})

    chunk = in_chunks(clips, index, encode)

    def classify(support: Tensor, query: Tensor) -> Tensor:
        videos, support, query = chunk(support, query)
        return head.match(batch_of(replace(index.tasks, support=support, query=query), videos, device))

    return classify, clips.texts.numbers


def encode_all(
    encode: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    clips: EpisodeDataset,
    rows: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Every entry at `rows` through `encode`, some at a time."""
    at_once = max(1, min(_ENCODE_AT_ONCE, _ENCODE_BYTES // (4 * clips.visual.numbers)))
    parts = torch.arange(len(rows["visual"])).split(at_once)
    requests = ((None, {role: index[part] for role, index in rows.items()}) for part in parts)
    sources = {role: clips.sources[role] for role in rows}
    with contextlib.closing(stream(sources, requests)) as batches:
        encoded = [{name: values.clone() for name, values in encode(videos).items()} for _, videos in batches]
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
