"""Names of new clips by a few labelled ones, from a trained few-shot head."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput
from vfc.heads.data.dataset import in_view
from vfc.heads.data.serving import ServingSettings
from vfc.heads.data.store_view import StoreView, Wants
from vfc.heads.data.text_stream import TextStream
from vfc.heads.lookup import find
from vfc.heads.tasks.fewshot.dataset import EpisodeDataset
from vfc.heads.tasks.fewshot.episodic_head import EpisodeBatch, EpisodicHead, encode_all

from .result import Prediction
from .run import Run, restored


def predict(
    run: Run,
    support: Path,
    query: Path,
    labels: Annotations,
    queries: Annotations,
    device: str | None = None,
) -> Prediction:
    """Score clips of the store `query` by labelled clips of the store `support`; both may hold others besides.

    Args:
        run: The trained head.
        support: Store of the labelled clips.
        query: Store of the clips to classify.
        labels: Names and labels of the clips to score by.
        queries: Names of the clips to classify.
        device: Where the head runs; None: a GPU if there is one.

    Raises:
        RecipeMismatch: features were not made as those the head was trained on.
        BadInput: fewer than two classes, or classes with different numbers of clips.
    """
    place = chosen_device(device)
    with open_store(support) as support_reader, open_store(query) as query_reader, torch.no_grad():
        readers = (support_reader, query_reader)
        for reader in readers:
            run.require_recipe(reader)
        labelled = _labelled(labels)
        names = [[name for group in labelled.values() for name in group], [row.name for row in queries.rows]]
        stores = [_store_view(run, reader) for reader in readers]
        head, parts = _head(run, stores[0]).to(place), []
        for store, listed in zip(stores, names, strict=True):
            clips = EpisodeDataset(store, listed, in_view(0), device=place, resident="off")
            parts.append(encode_all(head.encode, clips, {role: torch.arange(len(listed)) for role in clips.sources}))
        count = len(names[0])
        positions = torch.arange(count, count + len(names[1]))[None]
        supports = torch.arange(count).view(1, len(labelled), -1)
        tasks = (tensor.to(place) for tensor in (supports, positions, torch.zeros_like(positions)))
        logits = head.match(EpisodeBatch(_joined(parts), *tasks))[0]
    shares = tuple(tuple(row) for row in logits.softmax(dim=-1).tolist())
    return Prediction(tuple(labelled), tuple(names[1]), shares, head.notes, run.result)


def _labelled(labels: Annotations) -> dict[str, list[str]]:
    """Class -> its clips, classes in order of their names."""
    labelled = labels.by_label()
    shots = {label: len(names) for label, names in sorted(labelled.items())}
    if len(shots) < 2 or len(set(shots.values())) > 1:
        raise BadInput(
            f"The labelled clips are {', '.join(f'{n} of {label!r}' for label, n in shots.items()) or 'none'}.",
            "Give two classes or more, one folder each, with the same number of clips.",
        )
    return {label: labelled[label] for label in shots}


def _store_view(run: Run, reader: StoreReader) -> StoreView:
    """The arrays that the head was trained on, in another store of the recipe."""
    text = TextStream(reader.spec("prompted", run.data["text"]), run.prompt, {}) if run.prompt else None
    arrays = {"visual": reader.spec("video", run.data["array"])}
    head, task = find(run.head).Head, run.settings["task"]
    settings = restored(ServingSettings, task)
    return StoreView(reader, Annotations(()), arrays, text, {}, Wants(tokens=head.tokens, masks=head.masks), settings)


def _head(run: Run, store: StoreView) -> EpisodicHead:
    head = find(run.head).Head(run.head_settings, store.specs)
    assert isinstance(head, EpisodicHead)
    run.load(head)
    return head


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Two sets of encoded clips as one; shorter ones are filled up with zeros, which their masks leave out."""
    joined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        longest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
        joined[name] = torch.cat([_filled(value, longest) for value in values])
    return joined


def _filled(values: Tensor, sizes: list[int]) -> Tensor:
    """`[M, ...]` with every further axis filled up to `sizes`."""
    missing = [size - own for size, own in zip(sizes, values.shape[1:], strict=True)]
    return functional.pad(values, [n for more in reversed(missing) for n in (0, more)])
