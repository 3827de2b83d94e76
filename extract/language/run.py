"""The forward of a language model over videos and their prompts, under a plan; states divided into their streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfc.extract.models.taps import Tap, caught

from .plans import Seats, Suffix, seated
from .rows import Split, picked, scattered
from .shared_prefix import Rider, riding

MASKED = ("sdpa", "eager")
"""Attention that takes a mask of any shape."""


@dataclass(frozen=True)
class Video:
    """The tokens of one video: ids `[P]`, positions `[planes, P]`, the position that follows, and the streams."""

    ids: Tensor
    positions: Tensor
    following: int
    split: Split

    def asked(self, ids: Tensor) -> Video:
        """The same with a prompt behind it, as one row."""
        more = self.following + torch.arange(len(ids)).expand(len(self.positions), -1)
        text = ((len(self.ids), len(self.ids) + len(ids)),) if len(ids) else ()
        split = Split(self.split.visual, (*self.split.text, *text))
        positions = torch.cat([self.positions, more], dim=1)
        return Video(torch.cat([self.ids, ids]), positions, self.following + len(ids), split)


@dataclass(frozen=True)
class Seen:
    """What the vision tower made of a batch: tokens `[N, D]` of each video; `deeper`: of all, for the first blocks."""

    tokens: Sequence[Tensor]
    deeper: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Text:
    """The rows that are not visual: states `[L, D]` by layer, ids `[L]`, places in the whole row `[L]`."""

    states: Mapping[str, Tensor]
    ids: Tensor
    places: Tensor


@dataclass(frozen=True)
class Streams:
    """What one video gave: visual states `[N, D]` by layer, and the text rows under each prompt."""

    visual: Mapping[str, Tensor]
    texts: Sequence[Text]


@dataclass(frozen=True)
class Runner:
    """How a language model is run.

    `model`: blocks (`layers`), `norm`, `rotary_emb`. `embed`: ids to embeddings. `keep`: a copy of states as they
    leave. `layers`: taps, from the lowest up. `planes`: numbers in a position.
    """

    model: Any
    embed: Callable[[Tensor], Tensor]
    keep: Callable[[str, Tensor], Tensor]
    layers: Sequence[str]
    plan: str
    attention: str | None
    planes: int
    device: str

    def __call__(self, videos: Sequence[Video], seen: Seen, prompts: Sequence[Sequence[Tensor]]) -> list[Streams]:
        """The streams of each video of a batch; `prompts[i]` holds the ids `[n]` of what video i is asked."""
        if self.plan == "single":
            return [
                self._one_by_one(video, Seen(seen.tokens[i : i + 1], seen.deeper), prompts[i])
                for i, video in enumerate(videos)
            ]
        return self._behind_prefix(videos, seen, prompts)

    def _one_by_one(self, video: Video, seen: Seen, prompts: Sequence[Tensor]) -> Streams:
        rows = [video.asked(ids) for ids in prompts] or [video]
        visual: dict[str, Tensor] = {}
        texts = []
        for row in rows:
            states = {layer: whole[0] for layer, whole in self._forward([row], seen, []).items()}
            visual = visual or {layer: picked(whole, row.split.visual) for layer, whole in states.items()}
            texts.append(_text(row, states))
        return Streams(visual, texts if prompts else [])

    def _behind_prefix(self, videos: Sequence[Video], seen: Seen, prompts: Sequence[Sequence[Tensor]]) -> list[Streams]:
        suffixes = [
            Suffix(i, place, ids, video.following, len(video.ids))
            for i, video in enumerate(videos)
            for place, ids in enumerate(prompts[i])
        ]
        seats = seated(self.plan, suffixes, masked=self.attention in MASKED)
        riders = [self._rider(one) for one in seats]
        states = self._forward(videos, seen, riders)
        behind = {
            (piece.video, piece.place): {
                layer: rider.found[layer][piece.row, piece.start : piece.stop] for layer in self.layers
            }
            for rider, taken in zip(riders, seats, strict=True)
            for piece in taken.pieces
        }
        streams = []
        for i, video in enumerate(videos):
            mine = {layer: states[layer][i] for layer in self.layers}
            visual = {layer: picked(whole, video.split.visual) for layer, whole in mine.items()}
            front = _text(video, mine)
            texts = [_joined(front, video, ids, behind[i, place]) for place, ids in enumerate(prompts[i])]
            streams.append(Streams(visual, texts))
        return streams

    def _rider(self, seats: Seats) -> Rider:
        hidden = self.embed(seats.ids.to(self.device, non_blocking=True))
        positions = seats.positions.to(self.device, non_blocking=True)
        mask = None if seats.mask is None else seats.mask.to(self.device, non_blocking=True)
        if mask is not None and self.attention == "eager":
            lowest = torch.finfo(hidden.dtype).min
            mask = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill_(~mask, lowest)
        rope = self.model.rotary_emb(hidden, positions if self.planes == 1 else positions.expand(self.planes, -1, -1))
        return Rider(hidden, rope, mask, seats.rows, seats.columns)

    def _forward(self, rows: Sequence[Video], seen: Seen, riders: Sequence[Rider]) -> dict[str, Tensor]:
        """One forward of the library's model; states `[B, P, D]` by layer, as `keep` gives them."""
        most = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), most, dtype=torch.int64)
        positions = torch.zeros(self.planes, len(rows), most, dtype=torch.int64)
        visible = torch.zeros(len(rows), most, dtype=torch.bool)
        for r, row in enumerate(rows):
            ids[r, : len(row.ids)] = row.ids
            positions[:, r, : len(row.ids)] = row.positions
            for start, stop in row.split.visual:
                visible[r, start:stop] = True
        hidden = self.embed(ids.to(self.device, non_blocking=True))
        for r, row in enumerate(rows):
            scattered(hidden[r], row.split.visual, seen.tokens[r])
        positions = positions.to(self.device, non_blocking=True)
        more: dict[str, Any] = {}
        if seen.deeper:
            marks = visible.to(self.device, non_blocking=True)
            more = {"visual_pos_masks": marks, "deepstack_visual_embeds": list(seen.deeper)}
        taps = {layer: _tap(layer) for layer in self.layers}
        with (
            riding(self.model, riders, self.layers, self.keep) as cache,
            caught(self.model, taps, self.keep, stop=True) as found,
        ):
            # Padding lies on the right, where no token that counts can see it: without a mask, on the fastest kernels.
            self.model(
                inputs_embeds=hidden,
                position_ids=positions[0] if self.planes == 1 else positions,
                past_key_values=cache,
                use_cache=True,
                **more,
            )
        return found


def _text(row: Video, states: Mapping[str, Tensor]) -> Text:
    runs = row.split.text
    places = picked(torch.arange(len(row.ids)), runs)
    return Text({layer: picked(whole, runs) for layer, whole in states.items()}, picked(row.ids, runs), places)


def _joined(front: Text, video: Video, ids: Tensor, behind: Mapping[str, Tensor]) -> Text:
    states = {layer: torch.cat([rows, behind[layer]]) for layer, rows in front.states.items()}
    places = len(video.ids) + torch.arange(len(ids))
    return Text(states, torch.cat([front.ids, ids]), torch.cat([front.places, places]))


def _tap(layer: str) -> Tap:
    if layer == "0":
        return Tap("layers.0", "input")
    return Tap("norm") if layer == "norm" else Tap(f"layers.{int(layer) - 1}")
