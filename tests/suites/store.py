"""StoreSuite: what every pair of a store-like writer and reader must do. The oracle is a dict of arrays in memory.

A test class inherits it and, where the pair is not the one of `vfc.cache_schema`, overrides `writer` and `reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfc.cache_schema import (
    ArraySpec,
    AxisMismatch,
    BadInput,
    Key,
    MissingRecord,
    Recipe,
    RecipeMismatch,
    Record,
    RecordRejected,
    StoreReader,
    StoreWriter,
    UnknownName,
    open_store,
)

RECIPE = Recipe({"backbone": "invented", "taps": {"layer": 3}, "frames": 8})

VIDEO = (
    ArraySpec("layer3.visual", "fp16", (2, 5, 12), "frame-major"),
    ArraySpec("layer3.text", "bf16", (None, 12)),
    ArraySpec("text.ids", "int64", (None,)),
    ArraySpec("wide", "int8", (4, 16, 6)),
    ArraySpec("long", "int8", (None, 6), "steps"),
    ArraySpec("single", "fp32", ()),
    ArraySpec("seconds", "float64", (2,)),
)
TEXT = (ArraySpec("embedding", "fp32", (7,)),)


def made(i: int, specs: Sequence[ArraySpec] = VIDEO, rows: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Values for record `i`, a pure function of it; ragged arrays get `rows` rows, or some number of them."""
    rng = np.random.default_rng([41, i])
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for spec in specs:
        length = rows if rows is not None else 32 + i % 5 if spec.dtype == "int8" else i % 4
        shape = tuple(length if size is None else size for size in spec.shape)
        if spec.dtype in ("fp32", "fp16", "bf16", "int8"):
            arrays[spec.name] = np.asarray(rng.normal(size=shape), np.float32)
        elif spec.dtype == "float64":
            arrays[spec.name] = rng.normal(size=shape)
        else:
            arrays[spec.name] = np.asarray(rng.integers(0, 200, shape), spec.dtype)
    return arrays


def record(i: int, **changes: Any) -> Record:
    """Record number `i` of kind video."""
    return Record(Key("video", f"class {i % 3}/clip{i:03}.mp4"), made(i) | changes, {"fps": 25.0, "number": i})


def as_stored(values: np.ndarray[Any, Any], spec: ArraySpec) -> np.ndarray[Any, Any]:
    """What decoding must give back, worked out slowly, one value at a time where that matters."""
    if spec.dtype == "fp16":
        return values.astype(np.float16).astype(np.float32)
    if spec.dtype == "bf16":
        flat = []
        for value in values.astype(np.float32).reshape(-1):
            bits = int(np.float32(value).view(np.uint32))
            below, rest = bits >> 16, bits & 0xFFFF
            flat.append((below + (rest > 0x8000 or (rest == 0x8000 and below & 1))) << 16)
        return np.array(flat, np.uint32).view(np.float32).reshape(values.shape)
    if spec.dtype == "int8":
        result = np.zeros(values.shape, np.float32)
        for channel in range(values.shape[-1]):
            column = values[..., channel]
            scale = np.float32(np.abs(column).max() / np.float32(127))
            result[..., channel] = np.round(column / scale) * scale
        return result
    return values


class StoreSuite:
    """Inherit, and every test below runs against `writer` and `reader`."""

    def writer(self, root: Path, **options: Any) -> StoreWriter:
        writer = StoreWriter(root, options.pop("recipe", RECIPE), **options)
        writer.declare("video", VIDEO)
        writer.declare("text", TEXT)
        return writer

    def reader(self, root: Path, **options: Any) -> StoreReader:
        return open_store(root, **options)

    def filled(self, root: Path, numbers: Sequence[int], **options: Any) -> StoreReader:
        with self.writer(root, **options) as writer:
            for i in numbers:
                writer.add(record(i))
        return self.reader(root)

    @pytest.mark.parametrize("part_bytes", [1, 20_000, 1 << 30])
    def test_gives_back_what_was_added(self, tmp_path: Path, part_bytes: int) -> None:
        reader = self.filled(tmp_path / "s", range(9), part_bytes=part_bytes)
        assert len(reader) == 9
        for i in range(9):
            key = record(i).key
            assert reader.metadata(key) == {"fps": 25.0, "number": i}
            for spec in VIDEO:
                got, wanted = reader.read(key, spec.name), as_stored(made(i)[spec.name], spec)
                assert got.shape == wanted.shape
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(got, wanted, strict=True)

    def test_keys_are_sorted_and_filtered(self, tmp_path: Path) -> None:
        with self.writer(tmp_path / "s") as writer:
            for i in (5, 1, 4):
                writer.add(record(i))
            for text in ("run", "jump"):
                writer.add(Record(Key("text", text, prompt="a-photo"), made(0, TEXT)))
        reader = self.reader(tmp_path / "s")
        videos = [record(i).key for i in (1, 4, 5)]
        texts = [Key("text", "jump", prompt="a-photo"), Key("text", "run", prompt="a-photo")]
        assert reader.keys() == texts + videos
        assert reader.keys("video") == videos
        assert reader.keys("prompted") == []
        assert reader.keys("video", lambda key, metadata: metadata["number"] == 4) == [record(4).key]
        assert reader.keys(where=lambda key, metadata: key.name < "k") == [texts[0], *videos]

    def test_membership(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        with self.writer(root) as writer:
            assert record(1).key not in writer
            writer.add(record(1))
            assert record(1).key in writer
        reader = self.reader(root)
        assert record(1).key in reader
        for other in (Key("video", "class 1/clip001.mp4", view=1), Key("text", "class 1/clip001.mp4")):
            assert other not in reader
        with self.writer(root) as again:
            assert record(1).key in again

    def test_take_is_one_batch_by_key_or_number(self, tmp_path: Path) -> None:
        reader = self.filled(tmp_path / "s", range(12), part_bytes=6_000)
        order = [7, 0, 11, 7, 3]
        keys = [record(i).key for i in order]
        wanted = np.stack([made(i)["layer3.visual"].astype(np.float16) for i in order])
        out = np.empty_like(wanted)
        for records in (keys, reader.locate(keys), tuple(keys)):
            out[:] = 0
            reader.take(records, "layer3.visual", out)
            np.testing.assert_array_equal(out, wanted)
        numbers = np.empty(5, np.float32)
        reader.take(keys, "single", numbers)
        np.testing.assert_array_equal(numbers, [made(i)["single"] for i in order])
        scales = np.empty((5, 6), np.float32)
        reader.take(keys, "wide.scale", scales)
        np.testing.assert_array_equal(scales, [reader.scale(key, "wide") for key in keys])
        reader.take([], "layer3.visual", np.empty((0, 2, 5, 12), np.float16))

    def test_take_wants_a_fitting_buffer(self, tmp_path: Path) -> None:
        reader = self.filled(tmp_path / "s", range(3))
        keys = [record(i).key for i in range(3)]
        good = np.empty((3, 2, 5, 12), np.float16)
        for bad in (good[:2], good.astype(np.float32), good.transpose(0, 1, 3, 2), np.empty((3, 2, 12, 5), np.float16)):
            with pytest.raises(BadInput, match=r"'layer3.visual' needs a C-contiguous float16 buffer of shape \[3, 2"):
                reader.take(keys, "layer3.visual", bad)
        with pytest.raises(BadInput, match=r"equal lengths.*\n.*window"):
            reader.take(keys, "layer3.text", np.empty((3, 4, 12), np.uint16))

    def test_windows_of_ragged_arrays(self, tmp_path: Path) -> None:
        specs = (ArraySpec("steps", "fp32", (None, 3)),)
        lengths = [0, 1, 17, 40, 0, 5]
        root = tmp_path / "s"
        with StoreWriter(root, RECIPE, part_bytes=400) as writer:
            writer.declare("video", specs)
            for i, rows in enumerate(lengths):
                writer.add(Record(Key("video", f"v{i}"), made(i, specs, rows)))
        reader = self.reader(root)
        buffer = np.full((40, 3), 7, np.float32)
        for i, rows in enumerate(lengths):
            key, values = Key("video", f"v{i}"), made(i, specs, rows)["steps"]
            assert reader.length(key, "steps") == rows
            for start, stop, step in {(0, rows, 1), (rows // 3, rows, 2), (0, rows // 2, 7), (rows, rows, 1)}:
                wanted = values[start:stop:step]
                np.testing.assert_array_equal(reader.window(key, "steps", start, stop, step), wanted)
                filled = reader.window(key, "steps", start, stop, step, out=buffer)
                assert np.shares_memory(filled, buffer) or not filled.size
                np.testing.assert_array_equal(filled, wanted)
            np.testing.assert_array_equal(reader.window(key, "steps"), values)
            for start, stop, step in ((-1, rows, 1), (0, rows + 1, 1), (1, 0, 1), (0, rows, 0)):
                with pytest.raises(BadInput, match=f"of a record that has {rows}"):
                    reader.window(key, "steps", start, stop, step)
        with pytest.raises(BadInput, match=r"does not fit"):
            reader.window(Key("video", "v3"), "steps", out=buffer[:5])

    def test_views_are_in_place_and_read_only(self, tmp_path: Path) -> None:
        reader = self.filled(tmp_path / "s", range(4))
        view = reader.view(record(2).key, "layer3.visual")
        np.testing.assert_array_equal(view, made(2)["layer3.visual"].astype(np.float16))
        with pytest.raises(ValueError, match=r"read-only"):
            view[0] = 0
        with pytest.raises(ValueError, match=r"WRITEABLE"):
            view.flags.writeable = True
        reader.close()
        np.testing.assert_array_equal(view, made(2)["layer3.visual"].astype(np.float16))

    def test_prefetch_changes_nothing(self, tmp_path: Path) -> None:
        reader = self.filled(tmp_path / "s", range(4))
        keys = reader.keys()
        reader.prefetch(keys, "layer3.visual")
        reader.prefetch(reader.locate(keys), "long", 3, 20, 4)
        np.testing.assert_array_equal(reader.read(record(3).key, "single"), made(3)["single"])

    def test_join_pairs_by_name_and_view(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        with self.writer(root) as writer:
            writer.declare("prompted", TEXT)
            for i in range(2):
                writer.add(record(i))
            prompted = [
                Key("prompted", record(1).key.name, 0, "what"),
                Key("prompted", record(1).key.name, 0, "who"),
                Key("prompted", record(0).key.name, 1, "who"),
            ]
            for key in reversed(prompted):
                writer.add(Record(key, made(0, TEXT)))
        assert self.reader(root).join("video", "prompted") == [(record(1).key, key) for key in prompted[:2]]

    def test_the_digest_is_of_the_records_alone(self, tmp_path: Path) -> None:
        whole = self.filled(tmp_path / "a", range(10)).digest
        assert self.filled(tmp_path / "b", range(10), part_bytes=1, worker="other").digest == whole
        shuffled = [3, 9, 0, 1, 8, 2, 7, 4, 6, 5]
        self.filled(tmp_path / "c", shuffled[:4])
        assert self.filled(tmp_path / "c", shuffled[4:], worker="w1").digest == whole
        assert self.filled(tmp_path / "d", range(9)).digest != whole
        assert self.filled(tmp_path / "e", range(10), recipe=Recipe({"other": 1})).digest != whole
        with self.writer(tmp_path / "f") as writer:
            for i in range(10):
                writer.add(record(i, single=np.array(0.5, np.float32)) if i == 6 else record(i))
        assert self.reader(tmp_path / "f").digest != whole

    def test_a_rejected_record_leaves_no_trace(self, tmp_path: Path) -> None:
        whole = self.filled(tmp_path / "a", range(3)).digest
        visual = made(1)["layer3.visual"].copy()
        visual[1, 4, 11] = np.nan
        bad = [
            record(3, **{"layer3.visual": visual}),
            record(3, single=np.zeros(2, np.float32)),
            Record(record(3).key, {k: v for k, v in made(3).items() if k != "single"}),
            Record(record(3).key, made(3) | {"extra": np.zeros(1)}),
            Record(record(3).key, made(3), {"when": float("nan")}),
            record(0),
        ]
        with self.writer(tmp_path / "b") as writer:
            for i in range(3):
                writer.add(record(i))
                for rejected in bad[: 5 + (i > 0)]:
                    with pytest.raises(RecordRejected):
                        writer.add(rejected)
        reader = self.reader(tmp_path / "b")
        assert reader.digest == whole
        assert record(3).key not in reader

    def test_deleted_records_are_hidden_until_added_anew(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        before = self.filled(root, range(4))
        with self.writer(root) as writer:
            writer.delete([record(1).key, record(2).key])
            assert record(1).key not in writer
            with pytest.raises(MissingRecord, match=r"no video .* to delete"):
                writer.delete([record(1).key])
        reader = self.reader(root)
        assert reader.keys() == [record(i).key for i in (0, 3)]
        assert record(1).key in before
        with self.writer(root) as writer:
            writer.add(record(1, single=np.array(9, np.float32)))
        before.refresh()
        for found in (self.reader(root), before):
            assert [key.name[-7:] for key in StoreReader.keys(found)] == ["000.mp4", "003.mp4", "001.mp4"]
            assert found.read(record(1).key, "single") == 9
        with self.writer(root) as writer:
            writer.add(record(5))
            writer.delete([record(5).key])
        assert record(5).key not in self.reader(root)

    def test_refresh_adds_and_keeps_numbers(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        reader = self.filled(root, range(4))
        rows = reader.locate([record(i).key for i in range(4)])
        kept = reader.view(record(0).key, "layer3.visual")
        self.filled(root, range(4, 9), worker="a")
        assert record(4).key not in reader
        reader.refresh()
        assert len(reader) == 9
        np.testing.assert_array_equal(reader.locate([record(i).key for i in range(4)]), rows)
        for i in range(9):
            np.testing.assert_array_equal(reader.read(record(i).key, "single"), made(i)["single"])
        np.testing.assert_array_equal(kept, made(0)["layer3.visual"].astype(np.float16))

    def test_another_recipe_is_refused_by_name(self, tmp_path: Path) -> None:
        self.filled(tmp_path / "s", range(1))
        other = Recipe({"backbone": "invented", "taps": {"layer": 4}, "frames": 8})
        with pytest.raises(RecipeMismatch, match=r"taps.layer: 3 there, 4 asked\.\nAnother recipe is another store"):
            self.writer(tmp_path / "s", recipe=other)

    def test_kinds_and_axes_keep_their_meaning(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        self.filled(root, range(1))
        with self.writer(root) as writer:
            writer.bind("prompt", "what-happens", "What happens in the video?")
            writer.bind("prompt", "what-happens", "What happens in the video?")
            with pytest.raises(AxisMismatch, match=r"prompt 'what-happens' of .* means \"What happens in the video"):
                writer.bind("prompt", "what-happens", "What?")
            with pytest.raises(AxisMismatch, match=r"embedding fp32 \[7\]; asked: embedding fp16 \[7\]"):
                writer.declare("text", [ArraySpec("embedding", "fp16", (7,))])
        reader = self.reader(root)
        assert reader.axes("prompt") == {"what-happens": "What happens in the video?"}
        assert reader.axes("view") == {}
        assert reader.kinds["text"] == TEXT
        assert reader.spec("video", "wide") == VIDEO[3]

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        reader = self.filled(tmp_path / "s", range(2))
        with pytest.raises(MissingRecord, match=r"has no video 'class 2/clip002.mp4' .* lacks 1 more of the 4 asked"):
            reader.locate([record(i).key for i in range(4)])
        with pytest.raises(MissingRecord, match=r"has no video 'class 2/clip002.mp4'"):
            reader.view(record(2).key, "single")
        with pytest.raises(UnknownName, match=r"no array of kind 'video' 'sinlge'. Did you mean 'single'"):
            reader.view(record(1).key, "sinlge")
        with pytest.raises(UnknownName, match=r"no array of kind 'video' 'layer3.visul'. Did you mean 'layer3.visual'"):
            reader.spec("video", "layer3.visul")
        with pytest.raises(UnknownName, match=r"no kind in this store 'prompted'"):
            reader.spec("prompted", "x")
        with self.writer(tmp_path / "s") as writer, pytest.raises(UnknownName, match=r"no declared kind 'prompted'"):
            writer.add(Record(Key("prompted", "x"), {}))

    def test_an_interrupted_writer_keeps_whole_records(self, tmp_path: Path) -> None:
        root = tmp_path / "s"
        with pytest.raises(KeyboardInterrupt), self.writer(root) as writer:  # noqa: PT012
            writer.add(record(0))
            writer.add(record(1))
            raise KeyboardInterrupt
        assert self.reader(root).keys() == [record(0).key, record(1).key]
