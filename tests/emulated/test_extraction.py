"""Every family extracts on an emulated GPU: the store of a CPU, no wait in a forward, nothing from pageable memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from suites.emulated_gpu import DEVICE, Counts, counted, table
from suites.family_stores import FAMILIES, SHAPES, extract_family
from suites.toy import write_clip

from vfc.cache_schema.upkeep.comparing import compare
from vfc.cache_schema.values.progress import Silent
from vfc.extract import backbone
from vfc.extract.pipeline import chunked, device_copy, forward, run


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of three sizes: batches of two, of which the model has seen none, one and both before."""
    folder = tmp_path_factory.mktemp("videos")
    for clip in range(6):
        frames, size = SHAPES[clip % len(SHAPES)]
        write_clip(folder / f"class{clip % 2}" / f"{clip}.mp4", clip, frames=frames, size=size)
    return folder


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[table.Row]:
    """What every batch asks of the device, from its tensors on the host to copies under way back to it.

    A video that comes in chunks counts as many batches as the model gives parts.
    """
    each, parts = list[table.Row](), list[Any]()

    def counting(*args: Any) -> Any:
        parts.clear()
        with counted(wait=False) as counts:
            records = forward.forward(*args)
        each.append(table.row_of(counts, len(parts) or 1))
        return records

    def next_part(part: Any) -> Any:
        parts.append(part)
        return device_copy.begin_copy(part)

    monkeypatch.setattr(run, "forward", counting)
    monkeypatch.setattr(chunked, "begin_copy", next_part)
    return each


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == set(backbone.family_names()), "suites/family_stores.py has no tiny checkpoint of a family"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_store_of_the_device_is_that_of_the_cpu(
    family: str, videos: Path, tmp_path: Path, counts: Counts, batches: list[table.Row]
) -> None:
    on_cpu = extract_family(family, videos, tmp_path, out=tmp_path / "cpu", batch=2, mode="fast")
    batches.clear()
    on_device = extract_family(family, videos, tmp_path, out=tmp_path / "gpu", batch=2, mode="fast", device=DEVICE)
    difference = compare(on_cpu, on_device, Silent())
    assert difference.same_recipe
    assert (difference.only_here, difference.only_there, difference.metadata_differs) == ((), (), 0)
    # Padded and batched attention rounds otherwise: poison or a mixed-up row would differ by as much as the values.
    assert difference.arrays
    assert max(array.rel_l2 for array in difference.arrays) < 1e-3
    handed_over = {place: times for place, times in counts.syncs.items() if "extract/pipeline/run.py" in place}
    assert sum(handed_over.values()) <= len(batches), "more than one wait per batch where records are handed over"
    table.check(f"extract {family}, per batch", table.largest(batches))
