"""The forward pass of a language model over videos and their prompts; its states divided into streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.devices import on_device
from vfc.extract.models.layers import NORM
from vfc.extract.models.taps import Tap, block_tap, captured

from .options import MASKED
from .prompt_batching import Suffix, SuffixBatch, suffix_batches
from .rows import Split, picked, scattered
from .shared_prefix import SuffixRows, suffixes_along


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one video, or of a video and a prompt: ids `[P]`, positions `[planes, P]`, streams.

    `following`: the position of the next token.
    """

    ids: Tensor
    positions: Tensor
    following: int
    split: Split

    def followed_by(self, ids: Tensor) -> TokenRow:
        """The same with the ids of a prompt after it, as one row."""
        positions = self.following + torch.arange(len(ids)).expand(len(self.positions), -1)
        text = ((len(self.ids), len(self.ids) + len(ids)),) if len(ids) else ()
        return TokenRow(
            torch.cat([self.ids, ids]),
            torch.cat([self.positions, positions], dim=1),
            self.following + len(ids),
            Split(self.split.visual, (*self.split.text, *text)),
        )


@dataclass(frozen=True)
class VisionOutput:
    """The output of the vision tower for a batch: tokens `[N, D]` of each video.

    `deeper`: features of all videos that the language model adds after its first blocks.
    """

    tokens: Sequence[Tensor]
    deeper: Sequence[Tensor] = ()


@dataclass(frozen=True)
class TextRows:
    """The rows that are not visual: states `[L, D]` by layer, ids `[L]`, places in the whole row `[L]`."""

    states: Mapping[str, Tensor]
    ids: Tensor
    places: Tensor


@dataclass(frozen=True)
class Streams:
    """The states of one video: visual `[N, D]` by layer, and the text rows under each prompt."""

    visual: Mapping[str, Tensor]
    texts: Sequence[TextRows]


@dataclass(frozen=True)
class Runner:
    """How a language model is run.

    `model`: blocks (`layers`), `norm`, `rotary_emb`. `embed`: ids to embeddings. `keep`: copies states of a layer.
    `layers`: taps, from the lowest up. `planes`: numbers in a position.
    """

    model: Any
    embed: Callable[[Tensor], Tensor]
    keep: Callable[[str, Tensor], Tensor]
    layers: Sequence[str]
    prompt_batching: str
    attention: str | None
    planes: int
    device: str

    def __call__(
        self, videos: Sequence[TokenRow], vision: VisionOutput, prompts: Sequence[Sequence[Tensor]]
    ) -> list[Streams]:
        """The streams of each video of a batch; `prompts[i]` holds the ids `[n]` of each prompt of video i."""
        if self.prompt_batching == "single":
            return [
                self._single(video, VisionOutput(vision.tokens[i : i + 1], vision.deeper), prompts[i])
                for i, video in enumerate(videos)
            ]
        return self._with_shared_prefix(videos, vision, prompts)

    def _single(self, video: TokenRow, vision: VisionOutput, prompts: Sequence[Tensor]) -> Streams:
        rows = [video.followed_by(ids) for ids in prompts] or [video]
        visual: dict[str, Tensor] = {}
        texts = []
        for row in rows:
            states = {layer: batch[0] for layer, batch in self._forward([row], vision, []).items()}
            visual = visual or {layer: picked(values, row.split.visual) for layer, values in states.items()}
            texts.append(_text_rows(row, states))
        return Streams(visual, texts if prompts else [])

    def _with_shared_prefix(
        self, videos: Sequence[TokenRow], vision: VisionOutput, prompts: Sequence[Sequence[Tensor]]
    ) -> list[Streams]:
        suffixes = [
            Suffix(i, place, ids, video.following, len(video.ids))
            for i, video in enumerate(videos)
            for place, ids in enumerate(prompts[i])
        ]
        batches = suffix_batches(self.prompt_batching, suffixes, masked=self.attention in MASKED)
        batch_rows = [self._suffix_rows(batch) for batch in batches]
        prefix = self._forward(videos, vision, batch_rows)
        after = {
            (span.video, span.place): {
                layer: rows.states[layer][span.row, span.start : span.stop] for layer in self.layers
            }
            for rows, batch in zip(batch_rows, batches, strict=True)
            for span in batch.spans
        }
        streams = []
        for i, video in enumerate(videos):
            states = {layer: prefix[layer][i] for layer in self.layers}
            visual = {layer: picked(values, video.split.visual) for layer, values in states.items()}
            text = _text_rows(video, states)
            texts = [_joined(text, video, ids, after[i, place]) for place, ids in enumerate(prompts[i])]
            streams.append(Streams(visual, texts))
        return streams

    def _suffix_rows(self, batch: SuffixBatch) -> SuffixRows:
        hidden = self.embed(on_device(batch.ids, self.device))
        positions = on_device(batch.positions, self.device)
        mask = None if batch.mask is None else on_device(batch.mask, self.device)
        if mask is not None and self.attention == "eager":
            lowest = torch.finfo(hidden.dtype).min
            mask = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill_(~mask, lowest)
        rope = self.model.rotary_emb(hidden, positions if self.planes == 1 else positions.expand(self.planes, -1, -1))
        return SuffixRows(hidden, rope, mask, batch.rows, batch.columns)

    def _forward(
        self, rows: Sequence[TokenRow], vision: VisionOutput, suffixes: Sequence[SuffixRows]
    ) -> dict[str, Tensor]:
        """One forward pass of the library's model; states `[B, P, D]` by layer, as `keep` returns them."""
        ids, positions = self._padded(rows)
        hidden = self.embed(on_device(ids, self.device))
        for r, row in enumerate(rows):
            scattered(hidden[r], row.split.visual, vision.tokens[r])
        positions = on_device(positions, self.device)
        taps = {layer: Tap("norm") if layer == NORM else block_tap("layers", layer) for layer in self.layers}
        with (
            deeper_added(self.model, [row.split.visual for row in rows], vision.deeper),
            suffixes_along(self.model, suffixes, self.layers, self.keep) as cache,
            captured(self.model, taps, self.keep, stop=True) as states,
        ):
            # Padding is on the right, where no token of a video attends to it: no mask, so the fastest kernels.
            self.model(
                inputs_embeds=hidden,
                position_ids=positions[0] if self.planes == 1 else positions,
                past_key_values=cache,
                use_cache=True,
            )
        return states

    def _padded(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """Ids `[B, P]` and positions `[planes, B, P]`, padded on the right."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        positions = torch.zeros(self.planes, len(rows), longest, dtype=torch.int64)
        for r, row in enumerate(rows):
            ids[r, : len(row.ids)] = row.ids
            positions[:, r, : len(row.ids)] = row.positions
        return ids, positions


@contextmanager
def deeper_added(
    model: nn.Module, runs: Sequence[Sequence[tuple[int, int]]], deeper: Sequence[Tensor]
) -> Iterator[None]:
    """Add `deeper[i]` `[N, D]` to the visual tokens between block i + 1 and what follows it, within one forward pass.

    The library does so through a mask, whose places the host must wait for; `runs` are known here. `runs[r]`: the
    visual tokens of row r; those of all rows are end to end in `deeper[i]`.
    """
    following = [*cast("nn.ModuleList", model.layers), cast("nn.Module", model.norm)][1:]

    def adding(features: Tensor) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            first = 0
            for row, row_runs in zip(hidden, runs, strict=True):
                for start, stop in row_runs:
                    row[start:stop] += features[first : first + stop - start].to(hidden.dtype)
                    first += stop - start

        return hook

    # Where the model is cut above the highest tap, the blocks that the last features belong to may be gone.
    pairs = zip(following, deeper, strict=False)
    handles = [module.register_forward_pre_hook(adding(features), with_kwargs=True) for module, features in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _text_rows(row: TokenRow, states: Mapping[str, Tensor]) -> TextRows:
    runs = row.split.text
    places = picked(torch.arange(len(row.ids)), runs)
    return TextRows({layer: picked(values, runs) for layer, values in states.items()}, picked(row.ids, runs), places)


def _joined(text: TextRows, video: TokenRow, ids: Tensor, after: Mapping[str, Tensor]) -> TextRows:
    """The text rows of a video and those of a prompt after it."""
    states = {layer: torch.cat([rows, after[layer]]) for layer, rows in text.states.items()}
    places = len(video.ids) + torch.arange(len(ids))
    return TextRows(states, torch.cat([text.ids, ids]), torch.cat([text.places, places]))
