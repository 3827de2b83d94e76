"""The clips of a split as heads get them: which records some tasks need, and where these are served from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.protocol import Episode
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.heads.data.features import Features, Resident, Served
from vfc.heads.data.prefetch import Source
from vfc.heads.data.text_features import Texts, Wording

from .episodes import Tasks


@dataclass(frozen=True)
class Plan:
    """What some episodes need: `tasks` over M entries, and for each role the rows of its source.

    An entry is a clip, or a clip under one prompt. `of [M]` is then the place of each entry's clip among the visual
    rows; None: entries and visual rows are the same.
    """

    tasks: Tasks
    rows: Mapping[str, Tensor]
    of: Tensor | None = None


class Clips:
    """The clips called `names`, of one view or (`view` None) of all their views.

    Under known prompts the text of a clip depends on its episode; `episodes` are then all that will be asked for.

    Raises:
        MissingRecord: a clip without a record.
        BadInput: a clip without text, by name; values that are no numbers.
    """

    def __init__(
        self,
        reader: StoreReader,
        names: Sequence[str],
        array: ArraySpec,
        wording: Wording | None = None,
        *,
        device: torch.device,
        view: int | None = 0,
        pool_tokens: bool = True,
        resident: Resident = "auto",
        episodes: Sequence[Episode] = (),
    ) -> None:
        self._at = {name: i for i, name in enumerate(names)}
        self._keys = clip_keys(reader, names, view)
        places = torch.tensor([self._at[key.name] for key in self._keys], dtype=torch.int64)
        self._views = torch.bincount(places, minlength=len(names))
        self._first = self._views.cumsum(0) - self._views
        self._wording = wording
        self.visual = Features(reader, self._keys, array, device=device, pool_tokens=pool_tokens, resident=resident)
        self.sources: dict[str, Source] = {"visual": Served(self.visual)}
        self.texts: Texts | None = None
        if wording is not None:
            keys = text_keys(wording, self._keys, episodes)
            self._text_at = {(key.name, key.view, key.prompt): i for i, key in enumerate(keys)}
            self.texts = Texts(reader, keys, wording.spec, device=device, resident=resident)
            self.sources["text"] = self.texts

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def known(self) -> bool:
        """Whether the text of a clip depends on its episode."""
        return self._wording is not None and self._wording.known

    @property
    def placement(self) -> str:
        """Where the values rest, in words."""
        return ", ".join(f"{role} {source.placement}" for role, source in self.sources.items())

    def plan(self, episodes: Sequence[Episode], generator: np.random.Generator | None = None) -> Plan:
        """The distinct records that episodes need; `generator` draws a view of every clip."""
        tasks = Tasks.of(episodes, self._at)
        wanted = torch.cat([tasks.support.flatten(), tasks.query.flatten()])
        clips, entry = wanted.unique(return_inverse=True)
        rows = self._first[clips]
        if generator is not None:
            rows = rows + torch.from_numpy(generator.integers(self._views[clips].numpy()))
        of: Tensor | None = None
        needed = {"visual": rows}
        if self.texts is not None and not self.known:
            needed["text"] = rows
        elif self.texts is not None:
            texts = self._texts_of(episodes, rows[entry])
            distinct, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
            of = entry[torch.from_numpy(first)]
            entry, needed["text"] = torch.from_numpy(inverse), torch.from_numpy(distinct)
        split = tasks.support.numel()
        placed = replace(
            tasks, support=entry[:split].view(tasks.support.shape), query=entry[split:].view(tasks.query.shape)
        )
        return Plan(placed, needed, of)

    def _texts_of(self, episodes: Sequence[Episode], rows: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The text of every place of the episodes, supports of all first; `rows` are the clips drawn for the places."""
        assert self._wording is not None
        both = [_prompts(self._wording, episode) for episode in episodes]
        shots = sum(len(names) for names in episodes[0].support)
        pairs = [pair for told in both for pair in told[:shots]] + [pair for told in both for pair in told[shots:]]
        views = [self._keys[row].view for row in rows.tolist()]
        found = [self._text_at[name, view, prompt] for (name, prompt), view in zip(pairs, views, strict=True)]
        return np.array(found, dtype=np.int64)


def in_chunks(
    clips: Clips, plan: Plan, encode: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> Callable[[Tensor, Tensor], tuple[Mapping[str, Tensor], Tensor, Tensor]]:
    """A function of (support, query) of some tasks of `plan`: what `encode` makes of their entries, and their places.

    For entries whose text is too much to hold for all tasks at once. `encode` gets `entry`, their places in the plan.
    """

    def of(support: Tensor, query: Tensor) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        entries, place = torch.cat([support.flatten(), query.flatten()]).unique(return_inverse=True)
        found = {"entry": entries}
        if clips.texts is not None:
            told = clips.texts.gather(plan.rows["text"][entries])
            found |= {"text": told[""], "text.valid": told[".valid"]}
        return encode(found), place[: support.numel()].view(support.shape), place[support.numel() :].view(query.shape)

    return of


def _prompts(wording: Wording, episode: Episode) -> list[tuple[str, str]]:
    """(name, prompt) of every place of an episode: supports class by class, then queries."""
    told = [
        (name, wording.of_support(label))
        for label, names in zip(episode.classes, episode.support, strict=True)
        for name in names
    ]
    asked = wording.of_query(episode.classes)
    return told + [(name, asked) for names in episode.query for name in names]


def clip_keys(reader: StoreReader, names: Sequence[str], view: int | None) -> list[Key]:
    """The records of clips, in order of the names: of one view, or (None) of all that each has."""
    if view is not None:
        return [Key("video", name, view) for name in names]
    views: dict[str, list[Key]] = {name: [] for name in names}
    for key in reader.keys("video"):
        if key.name in views:
            views[key.name].append(key)
    return [key for name in names for key in views[name]]


def text_keys(wording: Wording, clips: Sequence[Key], episodes: Sequence[Episode]) -> list[Key]:
    """The text records of clips, each once: under the one prompt, or as the clips' places in `episodes` say."""
    if not wording.known:
        return [Key("prompted", key.name, key.view, wording.prompt) for key in clips]
    views: dict[str, list[int]] = {}
    for key in clips:
        views.setdefault(key.name, []).append(key.view)
    pairs = dict.fromkeys(pair for episode in episodes for pair in _prompts(wording, episode))
    return [Key("prompted", name, view, prompt) for name, prompt in pairs for view in views[name]]
