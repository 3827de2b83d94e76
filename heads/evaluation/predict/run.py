"""A finished training as `vfc predict` needs it, and what of its store is still needed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch
from vfc.cache_schema.values.recipe import Recipe
from vfc.heads.contract.head import Head
from vfc.heads.data.text_stream import KNOWN
from vfc.heads.data.views import test_views
from vfc.heads.lookup import find
from vfc.heads.results.tables import read_rows
from vfc.heads.runs.run_folder import load_weights
from vfc.heads.tasks.classification.contract import ClassifierHead


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, the head's name and settings, the recipe of its features, what it read.

    `data`: arrays, prompt and digests, as config.json has them. `result`: the row of results.jsonl.
    """

    folder: Path
    head: str
    settings: Mapping[str, Any]
    recipe: Recipe
    data: Mapping[str, Any]
    result: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            MissingPath: it holds no run, or one that is not finished.
        """
        for name in ("config.json", "head.safetensors", "results.jsonl"):
            if not (folder / name).exists():
                raise MissingPath(
                    f"The folder {folder} has no {name}, so it is no finished training.",
                    "Give the folder that `vfc train-head` named; run its line again if it was interrupted.",
                )
        run = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rows = read_rows(folder / "results.jsonl")
        return cls(folder, run["head"], run["config"], Recipe(run["recipe"]), run["data"], rows[0] if rows else {})

    @property
    def few_shot(self) -> bool:
        """Whether the head names clips by labelled ones; else by the classes of its training."""
        return find(self.head).TASK == "fewshot"

    @property
    def of_sequences(self) -> bool:
        """Whether the head predicts segments of long videos: anticipation and frame labels."""
        return find(self.head).TASK in ("anticipation", "frame-labels")

    @property
    def prompt(self) -> str:
        """The prompt whose text the head reads; empty without text."""
        return str(self.data.get("prompt", ""))

    @property
    def head_settings(self) -> Any:
        """The settings of the head."""
        return restored(find(self.head).Config, self.settings["head"])

    def training_store(self, moved_to: Path | None, *, own_prompts: Collection[str], extract: bool) -> Path | None:
        """The store of the training; None where it is gone and not needed.

        Args:
            moved_to: Where it is now; None: at the path of the training.
            own_prompts: Ids of the prompts whose texts are known without the store.
            extract: Features of new videos are extracted, with its projection, prompts and views.

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
                self.require_recipe(reader)
            return path
        needs = [*self._of_classes(), *(self._of_extraction(own_prompts) if extract else ())]
        if moved_to is None and not needs:
            return None
        raise MissingPath(
            f"The head was trained on the store {path}, which is not there"
            + (f"; new features need its {' and '.join(needs)}." if needs else "."),
            "Give its place now: --cache STORE.",
        )

    def require_recipe(self, reader: StoreReader) -> None:
        """Check that a store was made as the one of the training.

        Raises:
            RecipeMismatch: it was not, with the difference.
        """
        changed = self.recipe.difference(reader.recipe)
        if changed:
            listed = "; ".join(f"{name}: {json.dumps(a)} in training, {json.dumps(b)} here" for name, a, b in changed)
            raise RecipeMismatch(
                f"The features in {reader.root} were not made as those that the head was trained on: {listed}.",
                "Extract with the model, the checkpoint and the library versions of the training store.",
            )

    def load(self, head: Head) -> None:
        """Give a head the weights of the training, and set it to evaluation."""
        load_weights(head, self.folder / "head.safetensors")
        head.eval()

    def _of_extraction(self, own_prompts: Collection[str]) -> list[str]:
        """What of the training store new features need."""
        content: Any = self.recipe.fields
        needs = list[str]()
        while "parent" in content:  # every derivation may have projected
            needs = needs or (["projection"] if "project" in content["parameters"] else [])
            content = content["parent"]["recipe"]
        if str(content.get("shrink", {}).get("project", "")).startswith("pca"):
            needs = ["projection"]
        if self.prompt and self.prompt not in own_prompts:
            needs.append("prompt text")
        if str(self.settings["task"].get("test_views", "0")) != "0":
            needs.append("views")
        return needs

    def _of_classes(self) -> list[str]:
        """What of the training store a classifier needs for its classes."""
        head = find(self.head).Head
        reads_texts = issubclass(head, ClassifierHead) and head.wants(self.head_settings).classes
        return ["class texts"] if reads_texts else []


def tested_views(run: Run, reader: StoreReader) -> list[int]:
    """The views of a store that the run averaged in its test; none for other heads, which read the clean view."""
    if run.few_shot or run.of_sequences:
        return []
    in_use = test_views(reader, run.settings["task"]["test_views"])
    return sorted({key.view for key in reader.keys("video") if in_use(key.view)})


def restored(config: type[Any], values: Mapping[str, Any]) -> Any:
    """A settings dataclass from its JSON: lists are tuples and strings are paths again."""
    kinds = get_type_hints(config)
    names = {setting.name for setting in dataclasses.fields(config)}
    return config(**{name: _value(kinds[name], value) for name, value in values.items() if name in names})


def _value(kind: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_value(kind, item) for item in value)
    return Path(value) if isinstance(value, str) and Path in (kind, *get_args(kind)) else value
