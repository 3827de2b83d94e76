"""Times of the steps that heads get, against loops over the stored values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vfc.cache_schema import StoreWriter
from vfc.cache_schema.annotations import Annotation, Annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.heads.data.serving import ServingSettings
from vfc.heads.data.store_view import DividedRows, StoreView, Wants, resolve

GRIDS = [(2, 1, 3), (4, 2, 2), (1, 1, 1)]
LENGTHS = [3, 10, 5]


def store(root: Path, *, grids: bool) -> Path:
    """Three records of different length with times of irregular distance beside them."""
    generator = np.random.default_rng(0)
    array = ArraySpec("layer2.visual", "fp32", (None, 4), "ragged grid" if grids else "steps")
    side = "visual.seconds" if grids else "seconds"
    specs = [array, ArraySpec(side, "float64", (None,)), *([ArraySpec("visual.grid", "int64", (3,))] if grids else [])]
    with StoreWriter(root, Recipe({})) as writer:
        writer.declare("video", specs)
        for index in range(3):
            steps = GRIDS[index][0] if grids else LENGTHS[index]
            rows = int(np.prod(GRIDS[index])) if grids else steps
            arrays = {
                "layer2.visual": generator.normal(size=(rows, 4)).astype(np.float32),
                side: np.cumsum(generator.random(steps)),
            }
            if grids:
                arrays["visual.grid"] = np.array(GRIDS[index], np.int64)
            writer.add(Record(Key("video", f"{index}.mp4"), arrays))
    return root


def view(root: Path, settings: ServingSettings | None = None, *, masks: bool = False) -> StoreView:
    rows = DividedRows(Annotations(tuple(Annotation(f"{i}.mp4", "a") for i in range(3))), "")
    wants = Wants(tokens=masks, masks=masks)
    return resolve(open_store(root), wants, lambda: rows, settings=settings or ServingSettings())


KEYS = [Key("video", f"{i}.mp4") for i in (2, 0, 1)]


def test_times_of_grids_are_padded_and_masked_as_the_grids_are(tmp_path: Path) -> None:
    served = view(store(tmp_path / "s", grids=True), masks=True)
    seconds, valid = served.side("seconds", KEYS)
    assert (seconds.dtype, seconds.shape) == (torch.float64, (3, 4))
    assert valid is not None
    assert valid.sum(dim=1).tolist() == [1, 2, 4]
    for row, key in enumerate(KEYS):
        stored = served.reader.read(key, "visual.seconds").tolist()
        assert seconds[row].tolist() == [*stored, *[0.0] * (4 - len(stored))]
    sizes, none = served.side("grid", KEYS)
    assert (sizes.tolist(), none) == ([[1, 1, 1], [2, 1, 3], [4, 2, 2]], None)


def test_times_of_long_records_are_those_of_their_segments(tmp_path: Path) -> None:
    root = store(tmp_path / "s", grids=False)
    for rule in ("segment-mean", "segment-centre"):
        served = view(root, ServingSettings(clip_steps=4, clip_rule=rule))  # type: ignore[arg-type]
        seconds, valid = served.side("seconds", KEYS)
        assert (seconds.shape, valid) == ((3, 4), None)
        for row, key in enumerate(KEYS):
            stored = served.reader.read(key, "seconds")
            length = len(stored)
            for step in range(4):
                first, last = step * length // 4, max(step * length // 4 + 1, (step + 1) * length // 4)
                centre = int((step + 0.5) * length / 4)
                expected = stored[centre] if rule == "segment-centre" else stored[first:last].mean()
                assert seconds[row, step].item() == pytest.approx(expected, abs=1e-12)


def test_an_array_without_times_names_what_there_is(tmp_path: Path) -> None:
    served = view(store(tmp_path / "s", grids=False), ServingSettings(clip_steps=4))
    with pytest.raises(UnknownName, match=r"layer2\.visual of .* has no side array 'grid'\.\nThe store holds: layer2"):
        served.side("grid", KEYS)
