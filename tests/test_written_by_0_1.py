"""Stores and a run folder that version 0.1 wrote are read as they were: keys, values, digests, a trained head."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from vfc.cache_schema import Recipe, open_store
from vfc.cache_schema.annotations import load
from vfc.cache_schema.upkeep import inspect, verify
from vfc.cache_schema.values.progress import Silent
from vfc.heads.evaluation.predict import Run
from vfc.heads.lookup import configs, find, task_of
from vfc.heads.results.tables import read_rows
from vfc.heads.runs.run_folder import load_weights, read_items
from vfc.heads.training.fit import train

WRITTEN: Final = Path(__file__).parent / "data" / "written_by_0_1"
STORES: Final = {
    "image_store": ("a88c2a57ecaef9baaa14302c0024599416671cf6ee04ddcb98b593838fe5dfbf", {"video": 156}),
    "video_llava_store": (
        "278eb259dfe11fc98b5912e2b8c9564e2021f9ff72b4463a7c137257b255183d",
        {"video": 8, "prompted": 8},
    ),
}


def copied(name: str, tmp_path: Path) -> Path:
    """A copy, since opening a store may write its catalog."""
    return Path(shutil.copytree(WRITTEN / name, tmp_path / name))


@pytest.mark.parametrize("name", STORES)
def test_a_store_has_its_records_and_its_digest(tmp_path: Path, name: str) -> None:
    root = copied(name, tmp_path)
    digest, records = STORES[name]
    assert verify(root, Silent()).ok
    (root / "catalog.bin").unlink()
    with open_store(root, verify="always") as reader:
        keys = reader.keys()
        assert reader.digest == digest
        assert dict(Counter(key.kind for key in keys)) == records
        for key in keys:
            for spec in reader.kinds[key.kind]:
                values = reader.read(key, spec.name)
                assert values.ndim == len(spec.shape)
                assert np.isfinite(values).all()
        recipe = json.loads((WRITTEN / name / "zarr.json").read_text("utf-8"))["attributes"]["vfc"]
        assert reader.recipe.digest == Recipe(reader.recipe.fields).digest == recipe["recipe_digest"]
    assert inspect(root, Silent()).digest == digest
    assert {row.name for row in load(root).rows} == {key.name for key in keys}


def settings(folder: Path, store: Path) -> dict[str, Any]:
    """The settings of a run as its config.json holds them, for a store and a run folder that lie elsewhere now."""
    kept = json.loads((folder / "config.json").read_text("utf-8"))
    parts = {}
    for part, default in configs(kept["head"]).items():
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["config"][part].items()}
        parts[part] = replace(default, **values)
    parts["task"] = replace(parts["task"], cache=store)
    parts["train"] = replace(parts["train"], out=folder, device="cpu")
    return parts


def test_a_finished_run_is_recognised_and_not_trained_again(tmp_path: Path) -> None:
    folder, store = copied("image_run", tmp_path), copied("image_store", tmp_path)
    weights = (folder / "head.safetensors").read_bytes()
    parts = settings(folder, store)
    result = train("prototype", parts["task"], parts["head"], parts["train"], Silent())
    assert result.folder == folder
    assert result.row == read_rows(folder / "results.jsonl")[0]
    assert (folder / "head.safetensors").read_bytes() == weights


def test_a_trained_head_is_as_right_as_it_was(tmp_path: Path) -> None:
    folder, store = copied("image_run", tmp_path), copied("image_store", tmp_path)
    run, parts = Run.read(folder), settings(folder, store)
    assert run.recipe.digest == open_store(store).recipe.digest
    method = find(run.head)
    prepared = task_of(method).prepare(
        parts["task"], parts["train"], method.Head, parts["head"], torch.device("cpu"), Silent()
    )
    head = method.Head(parts["head"], prepared.specs)
    load_weights(head, folder / "head.safetensors")
    with torch.no_grad():
        row: dict[str, Any] = dict(prepared.test(head.eval(), Silent()))
    stored = read_rows(folder / "results.jsonl")[0]
    assert row["accuracy"] == pytest.approx(stored["accuracy"]) == pytest.approx(0.378)
    assert (row["tasks"], row["confusion"]) == (stored["tasks"], stored["confusion"]) == (200, stored["confusion"])
    assert [each["name"] for each in row["baselines"]] == [each["name"] for each in stored["baselines"]]
    shares = [each["accuracy"] for each in row["baselines"]]
    assert shares == pytest.approx([each["accuracy"] for each in stored["baselines"]])
    assert {each["item"]: each["correct"] for each in row["items"]} == pytest.approx(read_items(folder))
