"""Classifiers without a head on raw visual and textual tokens: Avg, Dec-Avg and MPMM of the FSAR-LLaVA paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.devices import double, on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import AT_LEAST_ONE, check_range
from vfc.heads.similarity import token_distances
from vfc.heads.similarity.exact_distances import distances
from vfc.heads.similarity.prototypes import correct_prototypes, prototype_distances, prototypes
from vfc.heads.similarity.token_distances import TokenDistances

from .dataset import EpisodeDataset, EpisodeIndex, in_chunks

STREAM_METRICS: Final = ("avg", "dec-avg", "mpmm")


@dataclass(frozen=True)
class RawSettings:
    """How raw tokens are compared."""

    distance: Literal["euclidean", "cosine"] | None = setting(
        None, "Between two vectors, for avg, dec-avg and mpmm; default: euclidean for mpmm, else cosine.", "Protocol"
    )
    u: int = setting(10, "mpmm: how many of the largest distances are averaged.", "Protocol")
    prompt: str = setting("", "Prompt of the text stream: an id, known, or none to leave text out.", "Input")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "u")


class RawTokens:
    """The clips of an index as raw tokens: per frame the mean over its tokens `[n, T, D]`, and the text as it is.

    `mean [T, D]` is subtracted from the frames, `text_mean [L, D]` from the text.
    """

    def __init__(
        self,
        clips: EpisodeDataset,
        index: EpisodeIndex,
        mean: Tensor | None = None,
        text_mean: Tensor | None = None,
    ) -> None:
        frames = clips.visual.gather(index.rows["visual"]).values
        self.frames = frames if mean is None else frames - mean.to(frames.device)
        self._token_counts = clips.visual.token_counts(index.rows["visual"]).to(frames.device)
        self._text_mean, self._index = text_mean, index
        self._chunk = in_chunks(clips, index, self._entries)
        self.numbers_per_entry = self.frames[0].numel() + (0 if clips.texts is None else clips.texts.numbers)

    def classifier(self, metric: str, settings: RawSettings) -> Callable[[Tensor, Tensor], Tensor]:
        """`(support [B, W, K], query [B, Q]) -> logits [B, Q, W]` over places of the plan."""
        distance = settings.distance or ("euclidean" if metric == "mpmm" else "cosine")

        def classify(support: Tensor, query: Tensor) -> Tensor:
            videos, support, query = self._chunk(support, query)
            if metric == "mpmm":
                return -token_distances.mpmm(_branches(videos, support, query, distance), settings.u)
            vectors = self._avg(videos) if metric == "avg" else _dec_avg(videos)
            return torch.stack([_nearness(v[query], v[support].mean(dim=2), distance) for v in vectors]).sum(dim=0)

        return classify

    def _entries(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        entries = stored["entry"] if self._index.clip_of is None else self._index.clip_of[stored["entry"]]
        entries = on_device(entries, self.frames.device)
        videos = {**stored, "visual": self.frames[entries], "visual.tokens": self._token_counts[entries]}
        if "text" in stored and self._text_mean is not None:
            valid = stored["text.valid"][..., None]
            videos["text"] = torch.where(valid, stored["text"] - self._text_mean.to(valid.device), 0)
        return videos

    def _avg(self, videos: Mapping[str, Tensor]) -> list[Tensor]:
        """One vector per video: the mean over all its tokens, whichever stream they are of."""
        frames, count = videos["visual"], videos["visual.tokens"][:, None]
        if "text" not in videos:
            return [frames.mean(dim=1)]
        text_count = videos["text.valid"].sum(dim=1)[:, None]
        return [(frames.mean(dim=1) * count + videos["text"].sum(dim=1)) / (count + text_count)]


def _dec_avg(videos: Mapping[str, Tensor]) -> list[Tensor]:
    """One vector per stream."""
    means = [videos["visual"].mean(dim=1)]
    if "text" in videos:
        means.append(videos["text"].sum(dim=1) / videos["text.valid"].sum(dim=1).clamp(min=1)[:, None])
    return means


def _nearness(query: Tensor, prototype: Tensor, distance: str) -> Tensor:
    """`[B, Q, D]` and `[B, W, D]` to `[B, Q, W]`: cosine, or minus the Euclidean distance."""
    if distance == "cosine":
        with torch.autocast(query.device.type, enabled=False):  # as `vfc eval` has it, whatever a head is trained in
            return functional.normalize(query, dim=-1) @ functional.normalize(prototype, dim=-1).mT
    return -distances(query, prototype)


def _branches(
    videos: Mapping[str, Tensor],
    support: Tensor,
    query: Tensor,
    distance: token_distances.Distance,
    *,
    transductive: tuple[float, float] | None = None,
) -> list[TokenDistances]:
    branches = []
    for role in ("visual", "text"):
        if role not in videos:
            continue
        tokens, valid = videos[role], videos.get(f"{role}.valid")
        queries, query_valid = tokens[query], None if valid is None else valid[query]
        prototype, prototype_valid = prototypes(tokens[support], None if valid is None else valid[support])
        if transductive is not None:
            alpha, tau = transductive
            peers_valid = None if query_valid is None else query_valid[:, None]
            prototype = correct_prototypes(prototype, queries[:, None], alpha, tau=tau, query_valid=peers_valid)[:, 0]
        branches.append(
            prototype_distances(queries, query_valid, prototype[:, None], prototype_valid, None, distance=distance)
        )
    return branches


def corrected_mpmm(
    raw: RawTokens, settings: RawSettings, *, alpha: float = 0.9, tau: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """MPMM on raw tokens with prototypes drawn towards all queries of the task: what CTPCM alone gives."""

    def classify(support: Tensor, query: Tensor) -> Tensor:
        videos, support, query = raw._chunk(support, query)
        branches = _branches(videos, support, query, settings.distance or "euclidean", transductive=(alpha, tau))
        return -token_distances.mpmm(branches, settings.u)

    return classify


def mean_frames(clips: EpisodeDataset, at_once: int = 64) -> Tensor:
    """The mean clip, frame by frame `[T, D]`."""
    total = torch.zeros((), dtype=torch.float64)
    for index in torch.arange(len(clips)).split(at_once):
        total = total + double(clips.visual.gather(index).values).sum(dim=0).cpu()
    return (total / len(clips)).float()


def mean_text(clips: EpisodeDataset, length: int, at_once: int = 64) -> Tensor | None:
    """The mean text, position by position, cut or filled with zeros to `[length, D]`; None without text.

    Raises:
        BadInput: under known prompts, where a clip has as many texts as there are episodes.
    """
    if clips.texts is None:
        return None
    if clips.known:
        raise BadInput(
            "Text under known prompts has no mean clip to subtract: it differs from episode to episode.",
            "Give --centre none, or --prompt with one prompt.",
        )
    total, count = torch.zeros((), dtype=torch.float64), torch.zeros(())
    for index in torch.arange(len(clips)).split(at_once):
        text, valid = clips.texts.gather(index)
        assert valid is not None
        total = total + double(text).sum(dim=0).cpu()
        count = count + valid.sum(dim=0).cpu()
    mean = (total / count.clamp(min=1)[:, None]).float()
    return functional.pad(mean, (0, 0, 0, max(0, length - len(mean))))[:length]
