"""The clips of a split as heads get them: which records some episodes need, and the features that serve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.protocol import Episode
from vfc.cache_schema.values.record import Key
from vfc.heads.data.dataset import InUse, VideoDataset
from vfc.heads.data.features import Features
from vfc.heads.data.placement import Resident
from vfc.heads.data.prefetch import by_role
from vfc.heads.data.serving import Serving
from vfc.heads.data.store_view import StoreView
from vfc.heads.data.text_stream import TextStream, require_texts

from .episodes import Tasks


@dataclass(frozen=True)
class EpisodeIndex:
    """The records that some episodes need: `tasks` over M entries, and for each role the rows of its source.

    An entry is a clip, or a clip under one prompt. `clip_of [M]` is then the place of each entry's clip among the
    visual rows; None: entries and visual rows are the same.
    """

    tasks: Tasks
    rows: Mapping[str, Tensor]
    clip_of: Tensor | None = None

    @property
    def clip_tasks(self) -> Tasks:
        """The tasks over clips instead of entries."""
        if self.clip_of is None:
            return self.tasks
        return replace(self.tasks, support=self.clip_of[self.tasks.support], query=self.clip_of[self.tasks.query])


class EpisodeDataset(VideoDataset):
    """The clips called `names` in the views that are `in_use`, in the arrays and the text stream of `store`.

    Under known prompts the text of a clip depends on its episode; `episodes` are then all that will be asked for.

    Raises:
        MissingRecord: a clip without a record.
        BadInput: a clip without text, by name; values that are no numbers.
    """

    def __init__(
        self,
        store: StoreView,
        names: Sequence[str],
        in_use: InUse,
        *,
        device: torch.device,
        resident: Resident = "auto",
        episodes: Sequence[Episode] = (),
    ) -> None:
        super().__init__(store.reader, names, in_use)
        self._place = {name: i for i, name in enumerate(names)}
        self._stream, self.texts = store.text, None
        self.visual = Features(store.reader, self.keys, store.serving["visual"], device=device, resident=resident)
        self.sources["visual"] = self.visual
        if store.text is not None:
            keys = text_keys(store.text, self.keys, episodes)
            require_texts(store.reader, keys)
            self._text_row = {(key.name, key.view, key.prompt): i for i, key in enumerate(keys)}
            self.texts = self.sources["text"] = Features(
                store.reader, keys, Serving(store.text.spec, as_stored=True), device=device, resident=resident
            )

    @property
    def known(self) -> bool:
        """Whether the text of a clip depends on its episode."""
        return self._stream is not None and self._stream.known

    def index(self, episodes: Sequence[Episode], generator: np.random.Generator | None = None) -> EpisodeIndex:
        """The distinct records that episodes need; `generator` draws a view of every clip."""
        tasks = Tasks.of(episodes, self._place)
        clips, entry = torch.cat([tasks.support.flatten(), tasks.query.flatten()]).unique(return_inverse=True)
        drawn = 0 if generator is None else generator.integers(self.views[clips.numpy()])
        visual = torch.from_numpy(self.first[clips.numpy()] + drawn)
        rows, clip_of = {"visual": visual}, None
        if self.texts is not None and not self.known:
            rows["text"] = visual
        elif self.texts is not None:
            texts = self._text_rows(episodes, visual[entry])
            distinct, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
            clip_of = entry[torch.from_numpy(first)]
            entry, rows["text"] = torch.from_numpy(inverse), torch.from_numpy(distinct)
        support, query = entry.split([tasks.support.numel(), tasks.query.numel()])
        placed = replace(tasks, support=support.view(tasks.support.shape), query=query.view(tasks.query.shape))
        return EpisodeIndex(placed, rows, clip_of)

    def _text_rows(self, episodes: Sequence[Episode], rows: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The text of every place of the episodes, supports of all first; `rows` are the clips drawn for the places."""
        assert self._stream is not None
        shots = sum(len(names) for names in episodes[0].support)
        per_episode = [_prompts(self._stream, episode) for episode in episodes]
        pairs = [pair for places in per_episode for pair in places[:shots]]
        pairs += [pair for places in per_episode for pair in places[shots:]]
        views = [self.keys[row].view for row in rows.tolist()]
        texts = [self._text_row[name, view, prompt] for (name, prompt), view in zip(pairs, views, strict=True)]
        return np.array(texts, dtype=np.int64)


def in_chunks(
    clips: EpisodeDataset, index: EpisodeIndex, encode: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> Callable[[Tensor, Tensor], tuple[Mapping[str, Tensor], Tensor, Tensor]]:
    """A function of (support, query) of some tasks of `index`: their entries through `encode`, and their places there.

    For entries whose text is too much to hold for all tasks at once. `encode` gets `entry`, their places in `index`.
    """

    def of(support: Tensor, query: Tensor) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        entries, place = torch.cat([support.flatten(), query.flatten()]).unique(return_inverse=True)
        videos = {"entry": entries}
        if clips.texts is not None:
            videos |= by_role({"text": clips.texts.gather(index.rows["text"][entries])})
        return encode(videos), place[: support.numel()].view(support.shape), place[support.numel() :].view(query.shape)

    return of


def _prompts(stream: TextStream, episode: Episode) -> list[tuple[str, str]]:
    """(name, prompt) of every place of an episode: supports class by class, then queries."""
    supports = [
        (name, stream.of_support(label))
        for label, names in zip(episode.classes, episode.support, strict=True)
        for name in names
    ]
    prompt = stream.of_query(episode.classes)
    return supports + [(name, prompt) for names in episode.query for name in names]


def text_keys(stream: TextStream, clips: Sequence[Key], episodes: Sequence[Episode]) -> list[Key]:
    """The text records of clips, each once: under the one prompt, or as the clips' places in `episodes` say."""
    if not stream.known:
        return [Key("prompted", key.name, key.view, stream.prompt) for key in clips]
    views: dict[str, list[int]] = {}
    for key in clips:
        views.setdefault(key.name, []).append(key.view)
    pairs = dict.fromkeys(pair for episode in episodes for pair in _prompts(stream, episode))
    return [Key("prompted", name, view, prompt) for name, prompt in pairs for view in views[name]]
