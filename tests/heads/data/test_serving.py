"""What a record becomes before a head sees it, against loops over the reader's own values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from vfc.cache_schema import StoreWriter
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Dtype, Key, Record
from vfc.heads.data.features import Features
from vfc.heads.data.serving import ClipRule, Serving, ServingSettings, in_steps, servable, serve

CPU = torch.device("cpu")
GRIDS = [(2, 2, 3), (2, 4, 4), (3, 1, 2), (1, 5, 5), (2, 2, 3)]
LENGTHS = [3, 17, 8, 1, 40]
WIDTH = 6
PLACES: Sequence[Literal["ram", "device", "off"]] = ("ram", "device", "off")


def write(
    root: Path, dtype: Dtype, shapes: Sequence[tuple[int, ...]], layout: str, grids: Sequence[tuple[int, int, int]] = ()
) -> StoreReader:
    """A store with one array `layer5.visual`, one record per shape; `visual.grid` beside it where grids are given."""
    generator = np.random.default_rng(0)
    ragged = len({shape[0] for shape in shapes}) > 1 or bool(grids)
    spec = ArraySpec("layer5.visual", dtype, (None if ragged else shapes[0][0], *shapes[0][1:]), layout)
    specs = [spec, *([ArraySpec("visual.grid", "int64", (3,))] if grids else [])]
    with StoreWriter(root, Recipe({})) as writer:
        writer.declare("video", specs)
        for index, shape in enumerate(shapes):
            values = generator.normal(size=shape).astype(np.float32)
            if dtype == "bf16":
                values = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
            arrays = {"layer5.visual": values}
            if grids:
                arrays["visual.grid"] = np.array(grids[index], np.int64)
            writer.add(Record(Key("video", f"{index}.mp4"), arrays))
    return open_store(root)


def grid_store(root: Path, dtype: Dtype = "fp16", grids: Sequence[tuple[int, int, int]] = GRIDS) -> StoreReader:
    return write(root, dtype, [(t * h * w, WIDTH) for t, h, w in grids], "ragged grid", grids)


def stored(reader: StoreReader, index: int) -> Tensor:
    return torch.from_numpy(reader.read(Key("video", f"{index}.mp4"), "layer5.visual"))


def features(
    reader: StoreReader,
    settings: ServingSettings | None = None,
    *,
    tokens: bool = False,
    masks: bool = False,
    resident: Literal["ram", "device", "off"] = "ram",
) -> Features:
    spec = reader.spec("video", "layer5.visual")
    serving = serve(reader, spec, settings or ServingSettings(), tokens=tokens, masks=masks)
    return Features(reader, reader.keys("video"), serving, device=CPU, resident=resident)


def test_segments_by_hand() -> None:
    rows = torch.arange(10.0)[:, None]
    # Segments of 10 rows in 4: rows 0-1, 2-4, 5-6, 7-9.
    assert in_steps(rows, 4, "segment-mean").flatten().tolist() == [0.5, 3.0, 5.5, 8.0]
    # floor of 1.25, 3.75, 6.25, 8.75
    assert in_steps(rows, 4, "segment-centre").flatten().tolist() == [1.0, 3.0, 6.0, 8.0]
    few = torch.tensor([[5.0], [7.0], [9.0]])
    assert in_steps(few, 8, "segment-mean").flatten().tolist() == [5, 5, 5, 7, 7, 7, 9, 9]
    assert in_steps(few, 8, "segment-centre").flatten().tolist() == [5, 5, 5, 7, 7, 9, 9, 9]
    for rule in ("segment-mean", "segment-centre"):
        assert torch.equal(in_steps(rows, 10, rule), rows)


@pytest.mark.parametrize("resident", PLACES)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_grid_as_tokens_has_its_steps_its_places_and_a_mask(
    tmp_path: Path, dtype: Dtype, resident: Literal["ram", "device", "off"]
) -> None:
    with grid_store(tmp_path / "s", dtype) as reader:
        served = features(reader, tokens=True, masks=True, resident=resident)
        index = torch.tensor([2, 0, 1, 2])
        values, valid = served.gather(index)
        assert valid is not None
        assert values.shape == (4, 3, 16, WIDTH)  # the most steps of all records, the most places of the batch
        for row, record in enumerate(index.tolist()):
            t, h, w = GRIDS[record]
            expected = torch.zeros(3, 16, WIDTH)
            expected[:t, : h * w] = stored(reader, record).reshape(t, h * w, WIDTH)
            assert torch.equal(values[row], expected)
            assert valid[row].nonzero().tolist() == [[i, j] for i in range(t) for j in range(h * w)]
        assert served.token_counts(index).tolist() == [6, 12, 32, 6]


@pytest.mark.parametrize("resident", PLACES)
def test_frames_of_a_grid_are_the_means_of_its_steps(tmp_path: Path, resident: Literal["ram", "device", "off"]) -> None:
    same = [(2, 2, 3), (2, 4, 4), (2, 1, 2)]
    with grid_store(tmp_path / "same", "bf16", same) as reader:
        values, valid = features(reader, resident=resident).gather(torch.tensor([1, 2]))
        assert valid is None
        for row, record in enumerate((1, 2)):
            expected = stored(reader, record).view(2, -1, WIDTH).mean(dim=1)
            torch.testing.assert_close(values[row], expected, rtol=1e-6, atol=1e-6)
    with grid_store(tmp_path / "s") as reader:  # 1, 2 and 3 steps: made 4 by --clip-steps
        values, valid = features(reader, ServingSettings(clip_steps=4), resident=resident).gather(torch.arange(5))
        assert (values.shape, valid) == ((5, 4, WIDTH), None)
        frames = stored(reader, 2).view(3, 2, WIDTH).mean(dim=1)
        torch.testing.assert_close(values[2], frames[[0, 0, 1, 2]], rtol=1e-6, atol=1e-6)
        values, valid = features(reader, masks=True, resident=resident).gather(torch.arange(5))
        assert valid is not None
        assert (values.shape, valid.sum(dim=1).tolist()) == ((5, 3, WIDTH), [2, 2, 3, 1, 2])
        torch.testing.assert_close(values[2], frames, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("resident", PLACES)
@pytest.mark.parametrize("crops", [(), (3,)])
@pytest.mark.parametrize("rule", ["segment-mean", "segment-centre"])
def test_long_records_become_clip_steps(
    tmp_path: Path, crops: tuple[int, ...], rule: ClipRule, resident: Literal["ram", "device", "off"]
) -> None:
    shapes = [(length, *crops, WIDTH) for length in LENGTHS]
    with write(tmp_path / "s", "fp16", shapes, "steps") as reader:
        values, valid = features(reader, ServingSettings(clip_steps=5, clip_rule=rule), resident=resident).gather(
            torch.arange(5)
        )
        assert (values.shape, valid) == ((5, 5, WIDTH), None)
        for record, length in enumerate(LENGTHS):
            rows = stored(reader, record)
            rows = rows.mean(dim=1) if crops else rows
            for step in range(5):
                first, last = step * length // 5, max(step * length // 5 + 1, (step + 1) * length // 5)
                centre = int((step + 0.5) * length / 5)
                expected = rows[centre] if rule == "segment-centre" else rows[first:last].mean(dim=0)
                torch.testing.assert_close(values[record, step], expected, rtol=1e-5, atol=1e-6)


def test_all_steps_are_for_heads_with_a_mask(tmp_path: Path) -> None:
    every = ServingSettings(clip_rule="all")
    with write(tmp_path / "s", "fp32", [(length, WIDTH) for length in LENGTHS], "steps") as reader:
        with pytest.raises(
            BadInput, match=r"^--clip-rule all: records of layer5\.visual differ in length.*\nUse --clip"
        ):
            features(reader, every)
        values, valid = features(reader, every, masks=True).gather(torch.tensor([1, 3]))
        assert valid is not None
        assert (values.shape, valid.sum(dim=1).tolist()) == ((2, 40, WIDTH), [17, 1])
        assert torch.equal(values[0, :17], stored(reader, 1))
        assert not values[0, 17:].any()


def test_no_steps_are_refused(tmp_path: Path) -> None:
    with (
        write(tmp_path / "s", "fp32", [(length, WIDTH) for length in LENGTHS], "steps") as reader,
        pytest.raises(BadInput, match=r"^--clip-steps 0 is not allowed\.\nGive 1 or more\.$"),
    ):
        features(reader, ServingSettings(clip_steps=0))


@pytest.mark.parametrize("resident", PLACES)
def test_all_steps_of_tokens_have_a_mask_per_token(tmp_path: Path, resident: Literal["ram", "device", "off"]) -> None:
    every = ServingSettings(clip_rule="all")
    with write(tmp_path / "s", "fp32", [(length, 3, WIDTH) for length in LENGTHS], "steps") as reader:
        served = features(reader, every, tokens=True, masks=True, resident=resident)
        values, valid = served.gather(torch.tensor([1, 3]))
        assert valid is not None
        assert (values.shape, valid.shape) == ((2, 40, 3, WIDTH), (2, 40, 3))
        assert valid.sum(dim=1).tolist() == [[17] * 3, [1] * 3]
        assert torch.equal(values[0, :17], stored(reader, 1))


def test_int8_steps_are_decoded_before_they_are_averaged(tmp_path: Path) -> None:
    with write(tmp_path / "s", "int8", [(length + 32, WIDTH) for length in LENGTHS], "steps") as reader:
        values = features(reader).gather(torch.tensor([4])).values[0]
        torch.testing.assert_close(values, in_steps(stored(reader, 4), 8, "segment-mean"), rtol=1e-6, atol=1e-6)


def test_patch_major_rows_are_steps_of_tokens(tmp_path: Path) -> None:
    steps, patches = 3, 4
    with write(
        tmp_path / "s", "fp32", [(1 + steps * patches, WIDTH)] * 2, "cls first, patch-major, grid 2x2"
    ) as reader:
        rows = stored(reader, 1)
        by_step = torch.stack([torch.stack([rows[1 + n * steps + t] for n in range(patches)]) for t in range(steps)])
        one = torch.tensor([1])
        assert torch.equal(features(reader, tokens=True).gather(one).values[0], by_step)
        torch.testing.assert_close(features(reader).gather(one).values[0], by_step.mean(dim=1))
        cls = features(reader, ServingSettings(frame_tokens="cls")).gather(one).values[0]
        assert torch.equal(cls, rows[:1])
        everything = features(reader, ServingSettings(frame_tokens="all")).gather(one).values[0]
        torch.testing.assert_close(everything, torch.cat([by_step, rows[:1].expand(3, 1, -1)], dim=1).mean(dim=1))


def test_which_tokens_are_averaged_is_one_rule(tmp_path: Path) -> None:
    layout = "frame-major, cls and 4 more first in frame, grid 2x3"
    with write(tmp_path / "s", "fp32", [(2, 11, WIDTH)] * 2, layout) as reader:
        rows, one = stored(reader, 0), torch.tensor([0])
        expected = {"auto": rows[:, 5:].mean(dim=1), "patch": rows[:, 5:].mean(dim=1), "cls": rows[:, 0]}
        for choice, frames in {**expected, "all": rows.mean(dim=1)}.items():
            served = features(reader, ServingSettings(frame_tokens=choice))
            torch.testing.assert_close(served.gather(one).values[0], frames)
        assert torch.equal(features(reader, tokens=True).gather(one).values[0], rows)
        assert features(reader).token_counts(one).tolist() == [12]


@pytest.mark.parametrize("tokens", [False, True])
def test_class_tokens_that_are_not_there_are_refused(tmp_path: Path, *, tokens: bool) -> None:
    with (
        write(tmp_path / "none", "fp32", [(2, 6, WIDTH)] * 2, "frame-major, grid 2x3") as reader,
        pytest.raises(BadInput, match=r"^--frame-tokens cls: layer5\.visual has no class token.*\nUse --frame-tokens"),
    ):
        features(reader, ServingSettings(frame_tokens="cls"), tokens=tokens)


def test_a_language_model_averages_all_tokens(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", Recipe({"question": "USER: {prompt}"})) as writer:
        writer.declare(
            "video", [ArraySpec("layer5.visual", "fp16", (2, 5, WIDTH), "frame-major, cls first in frame, grid 2x2")]
        )
    with open_store(tmp_path / "s") as reader:
        assert serve(reader, reader.spec("video", "layer5.visual")).in_words == "mean of all tokens"


@pytest.mark.parametrize(
    ("shape", "layout", "can"),
    [
        ((WIDTH,), "", True),
        ((4, WIDTH), "frame-major", True),
        ((None, WIDTH), "tokens", False),
        ((None, WIDTH), "steps", True),
        ((13, WIDTH), "cls first, patch-major, grid 2x2", True),
        ((13, WIDTH), "cls first, patch-major", False),
        ((14, WIDTH), "cls first, patch-major, frames 3", False),
    ],
)
def test_an_array_without_time_steps_is_not_served(shape: tuple[int | None, ...], layout: str, can: bool) -> None:
    assert servable(ArraySpec("layer5.visual", "fp16", shape, layout)) is can


def test_a_grid_without_its_sizes_is_refused_by_name(tmp_path: Path) -> None:
    with (
        write(tmp_path / "s", "fp16", [(6, WIDTH), (8, WIDTH)], "ragged grid") as reader,
        pytest.raises(UnknownName, match=r"layer5\.visual is a ragged grid, but its store has no visual\.grid"),
    ):
        features(reader)


def test_what_is_served_is_named(tmp_path: Path) -> None:
    with grid_store(tmp_path / "s") as reader:
        spec = reader.spec("video", "layer5.visual")
        assert serve(reader, spec).in_words == "mean of patch tokens, 8 steps by segment-mean"
        assert serve(reader, spec, tokens=True, masks=True).in_words == "as stored"
        assert serve(reader, spec, tokens=True, masks=True).served.shape == (None, None, WIDTH)
        assert Serving(spec, as_stored=True).served.shape == (None, WIDTH)
