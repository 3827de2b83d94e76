"""Upkeep and exports on a disk that is really full, or really read-only: two lines, and nothing is lost."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from suites.store import RECIPE

from vfc.cache_schema import ArraySpec, Key, ReadOnlyTarget, Record, Refused, StoreWriter, VfcError, open_store
from vfc.cache_schema.exchange import Format, export
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import compact, convert, materialize, merge, repair, verify
from vfc.cache_schema.values.progress import Silent

QUIET = Silent()
SPECS = (ArraySpec("tokens", "fp16", (4, 16, 64), "frame-major"),)


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "vfc", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (needs rights)")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    mount(tmp_path / "small", "size=1m")
    yield tmp_path / "small"
    subprocess.run(["umount", "-l", str(tmp_path / "small")], check=True)


def fill(root: Path, records: int) -> Path:
    with StoreWriter(root, RECIPE, part_bytes=1 << 16) as writer:
        writer.declare("video", SPECS)
        for i in range(records):
            values = np.random.default_rng(i).normal(size=(4, 16, 64)).astype(np.float32)
            writer.add(Record(Key("video", f"v{i}"), {"tokens": values}))
    return root


def take_up(disk: Path, leave: int) -> None:
    """Fill a disk but for so many bytes."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))


TO_ELSEWHERE: dict[str, Callable[[Path, Path], object]] = {
    "merge": lambda root, out: merge([root], out, QUIET),
    "convert": lambda root, out: convert(root, out, "fp32", QUIET),
    "materialize": lambda root, out: materialize(root, Reduction(project="pca:40"), QUIET, out=out),
    "npy": lambda root, out: export(root, out, "npy", QUIET),
    "safetensors": lambda root, out: export(root, out, "safetensors", QUIET),
    "hdf5": lambda root, out: export(root, out, "hdf5", QUIET),
}


# The file that points at a store fits into 20 kB.
@pytest.mark.parametrize(
    ("verb", "leave"),
    [(verb, leave) for verb in TO_ELSEWHERE for leave in (0, 20_000) if (verb, leave) != ("hdf5", 20_000)],
)
def test_a_full_target_is_refused_and_the_source_stays(tmp_path: Path, small: Path, verb: str, leave: int) -> None:
    root = fill(tmp_path / "s", 30)
    digest = open_store(root).digest
    take_up(small, leave)
    with pytest.raises(Refused, match="No space left on the device while writing") as caught:
        TO_ELSEWHERE[verb](root, small / "out")
    assert str(caught.value).count("\n") == 1
    assert open_store(root).digest == digest
    (small / "ballast").unlink()
    if verb in ("merge", "convert", "materialize") and (small / "out" / "zarr.json").exists():
        assert verify(small / "out", QUIET).ok


@pytest.mark.parametrize("verb", ["compact", "repair", "materialize"])
def test_a_full_store_loses_nothing(small: Path, verb: str) -> None:
    root = fill(small / "s", 16)
    if verb == "repair":
        shard = next(root.glob("parts/*/tokens/c.0.0.0.0"))
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1  # the index: every record is whole
        shard.write_bytes(data)
    keys = open_store(root).keys()
    take_up(small, 30_000)
    verbs: dict[str, Callable[[], object]] = {
        "compact": lambda: compact(root, QUIET),
        "repair": lambda: repair(root, QUIET),
        "materialize": lambda: materialize(root, Reduction(dtype="fp32"), QUIET, name="wide"),
    }
    with pytest.raises(Refused, match="No space left"):
        verbs[verb]()
    (small / "ballast").unlink()
    repair(root, QUIET)
    assert open_store(root).keys() == keys
    for key in keys:
        open_store(root).view(key, "tokens")
    assert list((root / "tmp").iterdir()) == []


def test_a_read_only_store(tmp_path: Path) -> None:
    mount(tmp_path / "disk", "size=2m")
    try:
        root = fill(tmp_path / "disk" / "s", 6)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        assert verify(root, QUIET).ok
        for verb in (
            lambda: compact(root, QUIET),
            lambda: materialize(root, Reduction(pool="mean"), QUIET, name="x"),
            lambda: export(root, root / "out", "npy", QUIET),
            lambda: export(root, root / "out.h5", "hdf5", QUIET),
        ):
            with pytest.raises(ReadOnlyTarget, match="Read-only file system"):
                verb()
        form: Format = "npy"
        assert export(root, tmp_path / "out", form, QUIET).records == 6
        assert issubclass(ReadOnlyTarget, VfcError)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)
