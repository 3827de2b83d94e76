"""The folder of a run: its settings, the weights of its head, the result of each test item."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from torch import Tensor, nn

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import Damaged, MissingPath, RecipeMismatch
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.results.tables import lines_of, read_rows

_CIRCUMSTANCES: Final = {"task": ("cache", "labels", "resident"), "train": ("out", "device")}
"""Paths and devices; two runs that differ only in these are the same run."""


ITEMS: Final = "items"
"""Key of a task's result that is written to predictions.jsonl: rows with `item` (name) and `correct` (0 to 1)."""

_ITEM_FILE: Final = "predictions.jsonl"
_SETTINGS_FILE: Final = "config.json"


def settings_of(
    name: str, task: Any, head: Any, config: TrainConfig, identity: Mapping[str, Json], recipe: Mapping[str, Json]
) -> dict[str, Any]:
    """All settings and data of a run, as written to config.json (`config` can be passed back with --config)."""
    settings = {"task": task, "head": head, "train": config}
    parts = {part: plain(value) for part, value in settings.items()}
    for part, value in settings.items():
        for field in dataclasses.fields(value):
            if field.metadata.get("added") and getattr(value, field.name) == field.default:
                del parts[part][field.name]  # so that runs from before the setting existed are the same run
    return {"head": name, "config": parts, "data": dict(identity), "recipe": dict(recipe)}


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return values


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the settings that must be equal for two runs to be the same run."""
    config = {
        part: {name: value for name, value in values.items() if name not in _CIRCUMSTANCES.get(part, ())}
        for part, values in settings["config"].items()
    }
    return {**settings, "config": config}


def refuse_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check that a run folder, if it exists, belongs to this run.

    Raises:
        RecipeMismatch: it belongs to another run, with the difference.
    """
    path = folder / _SETTINGS_FILE
    if path.exists():
        stored = Recipe(identity_of(json.loads(path.read_text(encoding="utf-8"))))
        changed = stored.difference(Recipe(identity_of(settings)))
        if changed:
            listed = "; ".join(f"{name}: {json.dumps(a)} there, {json.dumps(b)} asked" for name, a, b in changed)
            raise RecipeMismatch(
                f"The folder {folder} holds a run with other settings: {listed}.",
                "Give another --out, or the settings of that run (--config) to go on with it.",
            )


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Create the run folder and write its config.json."""
    replace_file(folder / _SETTINGS_FILE, json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n")


def weights(head: nn.Module) -> dict[str, Tensor]:
    """A head's trained parameters and buffers, on the CPU, without frozen parameters."""
    frozen = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
    return {name: v.detach().cpu().contiguous() for name, v in head.state_dict().items() if name not in frozen}


def load_weights(head: nn.Module, path: Path) -> None:
    """Load the weights of `weights` from a safetensors file.

    Raises:
        Damaged: names or shapes do not match this head.
    """
    with safe_open(path, framework="pt") as file:
        set_weights(head, {name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118


def set_weights(head: nn.Module, stored: Mapping[str, Tensor], path: Path) -> None:
    """Load `stored` weights (read from `path`) into a head; raises like `load_weights`."""
    own = weights(head)
    wrong = [name for name in own.keys() | stored.keys() if name not in own or name not in stored]
    wrong += [name for name in own.keys() & stored.keys() if own[name].shape != stored[name].shape]
    if wrong:
        raise Damaged(
            f"{path} does not hold the weights of this head: {', '.join(sorted(wrong)[:5])} differ.",
            "Give the run folder of this head and these settings, or remove the folder and train again.",
        )
    head.load_state_dict(dict(stored), strict=False)


def write_items(folder: Path, items: Sequence[Any]) -> None:
    """Write the result of every test item: rows with `item`, `correct`, and more fields of the task."""
    if items:
        replace_file(folder / _ITEM_FILE, lines_of(items).encode())


def read_items(folder: Path) -> dict[str, float]:
    """Item -> `correct` of a finished run.

    Raises:
        MissingPath: the folder has no finished run with items.
    """
    path = folder / _ITEM_FILE
    if not path.exists() or not (folder / "results.jsonl").exists():
        raise MissingPath(
            f"The folder {folder} holds no finished run with {_ITEM_FILE}.",
            "Give folders that `vfc train-head` named; run the line again if it was interrupted.",
        )
    return {str(row["item"]): float(row["correct"]) for row in read_rows(path)}
