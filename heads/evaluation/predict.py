"""The part of `vfc predict` after extraction: a trained head scores new clips by a few labelled ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json
from vfc.heads.data.dataset import in_view
from vfc.heads.data.serving import ServingSettings
from vfc.heads.data.store_view import StoreView, Wants
from vfc.heads.data.text_stream import KNOWN, TextStream
from vfc.heads.lookup import find
from vfc.heads.results.facts import fact_rows, facts_table
from vfc.heads.results.tables import Table, percent, read_rows
from vfc.heads.runs.run_folder import load_weights
from vfc.heads.tasks.fewshot.dataset import EpisodeDataset
from vfc.heads.tasks.fewshot.episodic_head import EpisodeBatch, EpisodicHead, encode_all


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, the head's name and settings, the recipe of its features, and its streams."""

    folder: Path
    head: str
    settings: Mapping[str, Any]
    recipe: Recipe
    data: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            MissingPath: it holds no run, or one that is not finished.
            BadInput: a run of a head that does not take labelled examples.
        """
        for name in ("config.json", "head.safetensors", "results.jsonl"):
            if not (folder / name).exists():
                raise MissingPath(
                    f"The folder {folder} has no {name}, so it is no finished training.",
                    "Give the folder that `vfc train-head` named; run its line again if it was interrupted.",
                )
        run = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if find(run["head"]).TASK != "fewshot":
            raise BadInput(
                f"The head {run['head']!r} does not learn from labelled examples.",
                "Give the run of a few-shot head: fsar, trx, prototype.",
            )
        return cls(folder, run["head"], run["config"], Recipe(run["recipe"]), run["data"])

    @property
    def prompt(self) -> str:
        """The prompt whose text the head reads; empty without text."""
        return str(self.data.get("prompt", ""))

    def training_store(self, moved_to: Path | None, *, own_prompts: Collection[str]) -> Path | None:
        """The store of the training, of which new features need the projection and the text of the prompt.

        None where it is gone and not needed: without a pca, and without a prompt of the user's own words.

        Args:
            moved_to: Where it is now; None: at the path of the training.
            own_prompts: Ids of the prompts whose texts are known without the store.

        Raises:
            BadInput: text under known prompts, which depend on a list of tasks.
            MissingPath: it is gone and needed.
            RecipeMismatch: the store there has another recipe.
        """
        if self.prompt == KNOWN:
            raise BadInput(
                f"The head in {self.folder} reads text under known prompts, which depend on a list of tasks.",
                "Train one on a plain prompt: vfc train-head fsar --prompt unknown.",
            )
        path = moved_to or Path(self.settings["task"]["cache"])
        if path.exists():
            with open_store(path, verify="never") as reader:
                _require_recipe(self, reader)
            return path
        shrink: Any = self.recipe.fields.get("shrink", {})
        pca = str(shrink.get("project", "")).startswith("pca")
        if moved_to is not None or pca or (self.prompt and self.prompt not in own_prompts):
            raise MissingPath(
                f"The head was trained on the store {path}, which is not there; new features need its "
                f"{'projection' if pca else 'prompt text'}.",
                "Give its place now: --cache STORE.",
            )
        return None


@dataclass(frozen=True)
class Prediction:
    """Scores of every query: `shares [Q, W]` add up to 1 per query. `training`: the result row of the head."""

    classes: tuple[str, ...]
    queries: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...]
    training: Mapping[str, Any]

    def to_json(self) -> dict[str, Json]:
        """One row per query, its likeliest class first."""
        rows: list[Json] = [
            {"query": name, "class": ranked[0][0], "shares": dict(ranked)} for name, ranked in self._ranked()
        ]
        facts: dict[str, Json] = {**fact_rows(self.training)}
        return {"predictions": rows, "notes": [*self.notes], "training": facts}

    def tables(self) -> list[Table]:
        """One table per query, and the data that the head was trained on."""
        queries = [
            Table(name, ("class", "share"), tuple((label, percent(share)) for label, share in ranked))
            for name, ranked in self._ranked()
        ]
        return [*queries, *facts_table({"": self.training}, "Data of the training")]

    def _ranked(self) -> list[tuple[str, list[tuple[str, float]]]]:
        return [
            (name, sorted(zip(self.classes, shares, strict=True), key=lambda pair: -pair[1]))
            for name, shares in zip(self.queries, self.shares, strict=True)
        ]


def predict(run: Run, support: Path, query: Path, labels: Annotations, queries: Annotations) -> Prediction:
    """Score clips of the store `query` by labelled clips of the store `support`; both may hold others besides.

    Args:
        run: The trained head.
        support: Store of the labelled clips.
        query: Store of the clips to classify.
        labels: Names and labels of the clips to score by.
        queries: Names of the clips to classify.

    Raises:
        RecipeMismatch: features were not made as those the head was trained on.
        BadInput: fewer than two classes, or classes with different numbers of clips.
    """
    with open_store(support) as support_reader, open_store(query) as query_reader, torch.no_grad():
        readers = (support_reader, query_reader)
        for reader in readers:
            _require_recipe(run, reader)
        labelled = _labelled(labels)
        names = [[name for group in labelled.values() for name in group], [row.name for row in queries.rows]]
        stores = [_store_view(run, reader) for reader in readers]
        head, parts = _head(run, stores[0]), []
        for store, listed in zip(stores, names, strict=True):
            clips = EpisodeDataset(store, listed, in_view(0), device=torch.device("cpu"), resident="off")
            parts.append(encode_all(head.encode, clips, {role: torch.arange(len(listed)) for role in clips.sources}))
        count = len(names[0])
        positions = torch.arange(count, count + len(names[1]))[None]
        supports = torch.arange(count).view(1, len(labelled), -1)
        logits = head.match(EpisodeBatch(_joined(parts), supports, positions, torch.zeros_like(positions)))[0]
    shares = tuple(tuple(row) for row in logits.softmax(dim=-1).tolist())
    (training, *_) = read_rows(run.folder / "results.jsonl")
    return Prediction(tuple(labelled), tuple(names[1]), shares, head.notes, training)


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


def _require_recipe(run: Run, reader: StoreReader) -> None:
    changed = run.recipe.difference(reader.recipe)
    if changed:
        listed = "; ".join(f"{name}: {json.dumps(a)} in training, {json.dumps(b)} here" for name, a, b in changed)
        raise RecipeMismatch(
            f"The features in {reader.root} were not made as those that the head was trained on: {listed}.",
            "Extract with the model, the checkpoint and the library versions of the training store.",
        )


def _store_view(run: Run, reader: StoreReader) -> StoreView:
    """The arrays that the head was trained on, in another store of the recipe."""
    text = TextStream(reader.spec("prompted", run.data["text"]), run.prompt, {}) if run.prompt else None
    arrays = {"visual": reader.spec("video", run.data["array"])}
    head, task = find(run.head).Head, run.settings["task"]
    names = {field.name for field in dataclasses.fields(ServingSettings)}
    settings = ServingSettings(**{name: value for name, value in task.items() if name in names})
    return StoreView(reader, Annotations(()), arrays, text, {}, Wants(tokens=head.tokens, masks=head.masks), settings)


def _head(run: Run, store: StoreView) -> EpisodicHead:
    method = find(run.head)
    head = method.Head(_restored(method.Config, run.settings["head"]), store.specs)
    load_weights(head, run.folder / "head.safetensors")
    assert isinstance(head, EpisodicHead)
    return head.eval()


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Two sets of encoded clips as one; texts of different length are filled up."""
    joined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.startswith("text"):
            longest = max(value.shape[1] for value in values)
            values = [functional.pad(v, (0, 0) * (v.ndim - 2) + (0, longest - v.shape[1])) for v in values]
        joined[name] = torch.cat(values)
    return joined


def _restored(config: type[Any], values: Mapping[str, Any]) -> Any:
    """A settings dataclass from its JSON: lists are tuples again."""
    names = {setting.name for setting in dataclasses.fields(config)}
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})
