"""What reaches the device equals what the store decodes, from wherever it rests."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Dtype, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.data.arrays import choose_array
from vfc.heads.data.features import Features
from vfc.heads.data.prefetch import stream
from vfc.heads.data.serving import Serving

CPU = torch.device("cpu")


def store(root: Path, dtype: Dtype, shape: tuple[int, ...], count: int = 9) -> tuple[Path, ArraySpec]:
    spec = ArraySpec("layer1.visual", dtype, shape)
    generator = np.random.default_rng(0)
    with StoreWriter(root, Recipe({})) as writer:
        writer.declare("video", [spec])
        for i in range(count):
            writer.add(Record(Key("video", f"{i}.mp4"), {spec.name: values(generator, dtype, shape)}))
    return root, spec


def values(generator: np.random.Generator, dtype: Dtype, shape: tuple[int, ...]) -> np.ndarray:
    made = torch.from_numpy(generator.normal(size=shape).astype(np.float32))
    return made.bfloat16().view(torch.int16).numpy().view(np.uint16) if dtype == "bf16" else made.numpy()


def streamed(
    features: Features, requests: Iterable[tuple[object, Tensor]]
) -> Generator[tuple[object, Tensor], None, None]:
    with closing(stream({"": features}, ((number, {"": index}) for number, index in requests))) as batches:
        for number, rows in batches:
            yield number, rows[""]


@pytest.mark.parametrize("resident", ["ram", "device", "off"])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("fp32", (3, 5)),
        ("fp16", (3, 5)),
        ("bf16", (3, 5)),
        ("int8", (40, 5)),
        ("int8", (4, 10, 5)),
        ("fp16", (7,)),
        ("bf16", (2, 6, 5)),
    ],
)
def test_equals_the_reader(
    tmp_path: Path, dtype: Dtype, shape: tuple[int, ...], resident: Literal["ram", "device", "off"]
) -> None:
    root, spec = store(tmp_path / "s", dtype, shape)
    with open_store(root) as reader:
        keys = reader.keys("video")[::-1]
        features = Features(reader, keys, Serving(spec), device=CPU, resident=resident)
        index = torch.tensor([4, 0, 4, 8])
        expected = np.stack([reader.read(keys[i], spec.name) for i in index.tolist()])
        expected = expected.mean(axis=2) if len(shape) == 3 else expected[:, None] if len(shape) == 1 else expected
        assert features.placement == resident
        for values in (features.gather(index).values, next(streamed(features, [(None, index)]))[1]):
            assert values.dtype == torch.float32
            assert values.shape[1:] == features.spec.shape
            torch.testing.assert_close(values.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_tokens_stay_where_they_are_wanted(tmp_path: Path) -> None:
    root, spec = store(tmp_path / "s", "fp16", (3, 4, 5))
    with open_store(root) as reader:
        keys = reader.keys("video")
        features = Features(reader, keys, Serving(spec, tokens=True), device=CPU)
        torch.testing.assert_close(
            features.gather(torch.tensor([1])).values[0].numpy(), reader.read(keys[1], spec.name)
        )
    assert Serving(spec, tokens=True).served.shape == (3, 4, 5)


def test_a_store_that_fits_is_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, spec = store(tmp_path / "s", "fp16", (3, 5), count=9)  # 9 * 15 * 2 = 270 bytes
    with open_store(root) as reader:
        keys = reader.keys("video")
        monkeypatch.setattr("vfc.heads.data.placement.available_memory", lambda: 540)
        assert Features(reader, keys, Serving(spec), device=CPU).placement == "ram"
        monkeypatch.setattr("vfc.heads.data.placement.available_memory", lambda: 538)
        assert Features(reader, keys, Serving(spec), device=CPU).placement == "off"


def test_the_stream_reads_ahead_in_order_and_reuses_its_buffers(tmp_path: Path) -> None:
    root, spec = store(tmp_path / "s", "fp32", (3, 5))
    generator = torch.Generator().manual_seed(0)
    requests = [(i, torch.randint(0, 9, (4 if i else 6,), generator=generator)) for i in range(30)]
    with open_store(root) as reader:
        disk = Features(reader, reader.keys("video"), Serving(spec), device=CPU, resident="off")
        ram = Features(reader, reader.keys("video"), Serving(spec), device=CPU, resident="ram")
        places = set()
        for (number, batch), (i, index) in zip(streamed(disk, requests), requests, strict=True):
            assert number == i
            torch.testing.assert_close(batch, ram.gather(index).values)
            places.add(batch.data_ptr())
        assert len(places) <= 3 + 2  # three slots, each allocated anew at most once to grow


def test_an_abandoned_endless_stream_leaves_no_thread(tmp_path: Path) -> None:
    root, spec = store(tmp_path / "s", "fp32", (3, 5))
    with open_store(root) as reader:
        features = Features(reader, reader.keys("video"), Serving(spec), device=CPU, resident="off")
        batches = streamed(features, ((i, torch.tensor([i % 9])) for i in itertools.count()))
        assert next(iter(batches))[0] == 0
        batches.close()
    assert not [t for t in threading.enumerate() if t.name == "vfc-read-ahead"]


def test_an_error_of_the_thread_is_raised_where_the_batch_is_asked_for(tmp_path: Path) -> None:
    root, spec = store(tmp_path / "s", "fp32", (3, 5))

    def requests() -> Iterator[tuple[object, Tensor]]:
        yield None, torch.tensor([0])
        raise RuntimeError("no more requests")

    with open_store(root) as reader:
        batches = streamed(
            Features(reader, reader.keys("video"), Serving(spec), device=CPU, resident="off"), requests()
        )
        next(batches)
        with pytest.raises(RuntimeError, match="no more requests"):
            next(batches)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    specs = [
        ArraySpec("frames", "fp16", (3, 5)),
        ArraySpec("layer3.visual", "fp16", (3, 2, 5)),
        ArraySpec("layer31.visual", "fp16", (3, 2, 5)),
        ArraySpec("norm.visual", "fp16", (3, 2, 5)),
        ArraySpec("ragged", "fp16", (None, 5), "tokens"),
        ArraySpec("seconds", "float64", (3,)),
    ]
    with StoreWriter(tmp_path / "several", Recipe({})) as writer:
        writer.declare("video", specs)
        writer.declare("text", [specs[4]])
    with StoreWriter(tmp_path / "tokens", Recipe({})) as writer:
        writer.declare("video", specs[1:3])
    return tmp_path


def test_arrays_by_name_by_layer_and_by_default(several: Path) -> None:
    with open_store(several / "several") as reader:
        assert choose_array(reader).name == "frames"
        assert choose_array(reader, array="layer31.visual").name == "layer31.visual"
        assert choose_array(reader, layer="3").name == "layer3.visual"
        assert choose_array(reader, layer="norm").name == "norm.visual"
        assert choose_array(reader, array="layer3.visual", layer="3").name == "layer3.visual"
        with pytest.raises(BadInput, match=r"^--array layer31\.visual is not of --layer 3\.\nGive one of the two\.$"):
            choose_array(reader, array="layer31.visual", layer="3")
        with pytest.raises(UnknownName, match=re.escape("video array 'layer13.visual'. Did you mean 'layer3")):
            choose_array(reader, array="layer13.visual")
        with pytest.raises(UnknownName, match="no video array 'ragged'"):
            choose_array(reader, array="ragged")
        with pytest.raises(UnknownName, match=r"no stored layer '30'(.|\n)*Known: 3, 31, norm"):
            choose_array(reader, layer="30")
        with pytest.raises(
            UnknownName, match=r"no feature array with time steps under the kind 'text'.\nIt holds: ragged"
        ):
            choose_array(reader, "text")


def test_several_arrays_are_refused_with_the_list(several: Path) -> None:
    with (
        open_store(several / "tokens") as reader,
        pytest.raises(BadInput, match=r"could be meant: layer3.visual, layer31.visual.\nChoose one with --array"),
    ):
        choose_array(reader)
