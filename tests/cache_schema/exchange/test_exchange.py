"""What other programs read from an export is what the store holds."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from safetensors import deserialize
from suites.store import RECIPE, TEXT, VIDEO, as_stored, made, record

from vfc.cache_schema import (
    BadInput,
    Damaged,
    Key,
    Recipe,
    RecipeMismatch,
    Record,
    Refused,
    StoreWriter,
    UnknownName,
    exchange,
    open_store,
)
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.exchange import ImportOptions, export, export_hdf5, file_writers, files, hdf5, import_features
from vfc.cache_schema.upkeep import compare
from vfc.cache_schema.values.progress import Silent

QUIET = Silent()
FORMS = ["hdf5", "npy", "safetensors"]
TEXT_NAME = "a/../b: what is <this>?\n" + "x" * 300


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts of videos, with a duplicate and a deleted record among them, a view, a prompt, and a text."""
    root = tmp_path_factory.mktemp("exchange") / "in" / "store"
    with StoreWriter(root, RECIPE) as writer, StoreWriter(root, RECIPE, worker="b") as other:
        for one in (writer, other):
            one.declare("video", VIDEO)
            one.declare("prompted", VIDEO)
            one.declare("text", TEXT)
        for group in ((0, 1, 2, 3), (4, 5)):
            for i in group:
                writer.add(record(i))
            writer.commit()
        other.add(record(0))
        other.add(record(6))
        other.commit()
        other.refresh()
        other.delete([record(1).key])
        other.add(Record(Key("video", record(2).key.name, view=1), made(7)))
        other.add(Record(Key("prompted", record(2).key.name, prompt="what"), made(8)))
        other.add(Record(Key("text", TEXT_NAME), {"embedding": np.arange(7, dtype=np.float32)}))
    return root


def wanted(key: Key, array: str, root: Path) -> npt.NDArray[Any]:
    return open_store(root).read(key, array)


def decoded(values: npt.NDArray[Any], dtype: str, scale: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """As the documents tell a stranger to do it."""
    if dtype == "bf16":
        return np.asarray((values.astype(np.uint32) << 16).view(np.float32))
    if dtype == "int8":
        assert scale is not None
        return np.asarray(values.astype(np.float32) * scale)
    return values.astype(np.float32) if dtype == "fp16" else values


def keys_in(group: h5py.Group, kind: str) -> list[Key]:
    columns = group["keys"]
    names, prompts = columns["name"].asstr()[:], columns["prompt"].asstr()[:]
    return [Key(kind, n, int(v), p) for n, v, p in zip(names, columns["view"][:], prompts, strict=True)]


@pytest.mark.parametrize("absolute", [False, True])
def test_hdf5_shows_the_records_without_copying_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    shutil.copytree(root.parent, tmp_path / "there" / "in")
    store, out = tmp_path / "there" / "in" / "store", tmp_path / "there" / "out" / "store.h5"
    done = export_hdf5(store, out, QUIET, absolute=absolute)
    assert done.records == 9
    assert done.bytes == out.stat().st_size
    if not absolute:  # the pair may move together
        (tmp_path / "there").rename(tmp_path / "moved")
        store, out = tmp_path / "moved" / "in" / "store", tmp_path / "moved" / "out" / "store.h5"
    reader = open_store(store)
    monkeypatch.chdir(tmp_path)
    seen = []
    with h5py.File(out, "r") as file:

        def opened(name: str) -> Any:
            found = file[name]
            if absolute or found.external is None:
                return found
            shape, dtype = found.shape, found.dtype
            del found
            return file.require_dataset(name, shape, dtype, efile_prefix=file.attrs["efile_prefix"])

        for kind in reader.kinds:
            keys = keys_in(file[kind], kind)
            seen.extend(keys)
            for row, key in enumerate(keys):
                assert json.loads(file[kind]["keys/metadata"].asstr()[row]) == reader.metadata(key)
            for spec in reader.kinds[kind]:
                name = f"{kind}/{spec.name}"
                data = opened(name)
                dtype, values = data.attrs["dtype"], data[:]
                scales = opened(f"{name}.scale")[:] if dtype == "int8" else [None] * len(keys)
                assert (dtype, data.attrs["layout"]) == (spec.dtype, spec.layout)
                offsets = file[f"{name}.offsets"][:] if spec.ragged else None
                for row, key in enumerate(keys):
                    one = values[row] if offsets is None else values[offsets[row] : offsets[row + 1]]
                    got = decoded(one, dtype, scales[row])
                    np.testing.assert_array_equal(got, wanted(key, spec.name, store), strict=bool(spec.shape))
                del data
        told = json.loads(file.attrs["vfc"])
    assert sorted(seen) == reader.keys()
    assert told["recipe"] == RECIPE.fields
    assert told["store_digest"] == reader.digest
    assert out.stat().st_size < 60_000


def test_hdf5_points_at_the_shard_files(root: Path, tmp_path: Path) -> None:
    export_hdf5(root, tmp_path / "x.h5", QUIET, arrays=["layer3.visual"], absolute=True)
    with h5py.File(tmp_path / "x.h5", "r") as file:
        assert set(file["video"]) == {"keys", "layer3.visual"}
        pieces = file["video/layer3.visual"].external
    size = 2 * 5 * 12 * 2
    # Parts in order: 0 _ 2 3 (1 was deleted), 4 5, then 6 beside a duplicate of 0, then the second view.
    assert [(offset // size, length // size) for _, offset, length in pieces] == [
        (0, 1),
        (2, 2),
        (0, 2),
        (1, 1),
        (0, 1),
    ]
    assert all((root / "parts") in Path(name).parents for name, _, _ in pieces)


def test_hdf5_refusals(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.h5").write_text("mine")
    with pytest.raises(BadInput, match=r"There is something at .*x\.h5 already"):
        export_hdf5(root, tmp_path / "x.h5", QUIET)
    with pytest.raises(UnknownName, match=r"no array in this store 'layer3'\. Did you mean"):
        export_hdf5(root, tmp_path / "y.h5", QUIET, arrays=["layer3"])
    monkeypatch.setattr(hdf5, "_MOST_SEGMENTS", 4)
    with pytest.raises(
        Refused, match=r"'layer3\.visual' lies in 5 pieces; HDF5 can point at 4\.\nRun `vfc store compact`"
    ):
        export_hdf5(root, tmp_path / "y.h5", QUIET)
    monkeypatch.undo()
    shutil.copytree(root, tmp_path / "hit")
    shard = next((tmp_path / "hit" / "parts").glob("w0-*/wide/c.0.0.0.0"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Damaged, match=r"wide/c\.0\.0\.0\.0 has \d+ bytes instead of"):
        export_hdf5(tmp_path / "hit", tmp_path / "y.h5", QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hit", "x.h5"]


def index_of(out: Path) -> dict[Key, dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    return {Key(row["kind"], row["name"], row["view"], row["prompt"]): row for row in rows}


def test_npy_files(root: Path, tmp_path: Path) -> None:
    done = export(root, tmp_path / "out", "npy", QUIET)
    reader, index = open_store(root), index_of(tmp_path / "out")
    assert sorted(index) == reader.keys()
    for key, row in index.items():
        assert row["metadata"] == reader.metadata(key)
        for spec in reader.kinds[key.kind]:
            got = np.load(tmp_path / "out" / row["files"][spec.name])
            expected = wanted(key, spec.name, root)
            if spec.dtype == "fp16":
                assert got.dtype == np.float16
                expected = expected.astype(np.float16)
            np.testing.assert_array_equal(got, expected, strict=True)
    first = tmp_path / "out" / "video" / "layer3.visual" / "class 0" / "clip000.mp4.npy"
    np.testing.assert_array_equal(np.load(first), as_stored(made(0)["layer3.visual"], VIDEO[0]).astype(np.float16))
    assert index[Key("video", record(2).key.name, 1)]["files"]["single"].endswith("clip002.mp4@1.npy")
    assert index[Key("prompted", record(2).key.name, 0, "what")]["files"]["single"].endswith("clip002.mp4@what.npy")
    text = Key("text", TEXT_NAME)
    assert index[text]["files"] == {"embedding": f"text/embedding/{text.hash128().hex()}.npy"}
    told = json.loads((tmp_path / "out" / "store.json").read_text())
    assert told["recipe"] == RECIPE.fields
    assert (done.records, done.files) == (9, 8 * (len(VIDEO) + 2) + 1 + 3)
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(BadInput, match=r"There is something at .*mine already"):
        export(root, tmp_path / "mine", "npy", QUIET)
    with pytest.raises(UnknownName, match=r"no export format 'hdf'\. Did you mean 'hdf5'"):
        export(root, tmp_path / "more", "hdf", QUIET)


def test_names_that_would_leave_the_folder_or_collide(tmp_path: Path) -> None:
    prompts = ["/../../../../up", "a/b", "/x"]
    names = ["../up", "/abs", "a//b", "a/./b", "x@1", "x.npy/y", "x", "c\\d", "é/ü"]
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", TEXT)
        for i, name in enumerate(names):
            writer.add(Record(Key("video", name), {"embedding": np.full(7, i, np.float32)}))
        writer.add(Record(Key("video", "x", view=1), {"embedding": np.full(7, 99, np.float32)}))
        writer.declare("prompted", TEXT)
        for i, prompt in enumerate(prompts):
            writer.add(Record(Key("prompted", "x", 0, prompt), {"embedding": np.full(7, i, np.float32)}))
    export(tmp_path / "s", tmp_path / "out", "npy", QUIET)
    index = index_of(tmp_path / "out")
    for i, name in enumerate(names):
        row = index[Key("video", name)]
        file = (tmp_path / "out" / row["files"]["embedding"]).resolve()
        assert file.is_relative_to(tmp_path / "out" / "video" / "embedding")
        assert np.load(file)[0] == i
    assert np.load(tmp_path / "out" / index[Key("video", "x", 1)]["files"]["embedding"])[0] == 99
    for i, prompt in enumerate(prompts):
        file = (tmp_path / "out" / index[Key("prompted", "x", 0, prompt)]["files"]["embedding"]).resolve()
        assert file.is_relative_to(tmp_path / "out" / "prompted" / "embedding")
        assert np.load(file)[0] == i
    assert len(list((tmp_path / "out").rglob("*.npy"))) == len(names) + 1 + len(prompts)


_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "F64": "<f8", "I64": "<i8"}


@pytest.mark.parametrize("file_bytes", [1, 1 << 30])
def test_safetensors_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int) -> None:
    monkeypatch.setattr(file_writers, "_FILE_BYTES", file_bytes)
    done = export(root, tmp_path / "out", "safetensors", QUIET)
    reader, index = open_store(root), index_of(tmp_path / "out")
    assert sorted(index) == reader.keys()
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (9 if file_bytes == 1 else 3)
    for key, row in index.items():
        # The library's own parser: it refuses holes, overlaps and lengths that do not fit.
        tensors = dict(deserialize((tmp_path / "out" / row["file"]).read_bytes()))  # type: ignore[no-untyped-call]
        for spec in reader.kinds[key.kind]:
            found = tensors[f"{row['prefix']}/{spec.name}"]
            assert found["dtype"] == {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}.get(
                spec.dtype, "F64" if spec.dtype == "float64" else "I64"
            )
            values = np.frombuffer(found["data"], _NUMPY[found["dtype"]]).reshape(found["shape"])
            scale = tensors.get(f"{row['prefix']}/{spec.name}.scale")
            scales = None if scale is None else np.frombuffer(scale["data"], "<f4")
            np.testing.assert_array_equal(decoded(values, spec.dtype, scales), wanted(key, spec.name, root))
    assert done.arrays == tuple(sorted({spec.name for spec in VIDEO} | {"embedding"}))


def test_damage_is_not_exported(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "hit")
    part = next(p for p in (tmp_path / "hit" / "parts").glob("w0-*") if b"clip004" in (p / "records/c.0").read_bytes())
    data = bytearray((part / "seconds" / "c.0.0").read_bytes())
    data[3] ^= 1
    (part / "seconds" / "c.0.0").write_bytes(data)
    for form in ("npy", "safetensors"):
        with pytest.raises(Damaged, match=r"'seconds' of video '.*clip004\.mp4'"):
            export(tmp_path / "hit", tmp_path / form, form, QUIET)
        assert not (tmp_path / form / "store.json").exists()


def test_an_empty_kind(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.add(Record(Key("video", "short"), made(0, rows=32) | {"layer3.text": np.empty((0, 12), np.float32)}))
        writer.declare("text", TEXT)
    for form in ("hdf5", "npy", "safetensors"):
        assert export(tmp_path / "s", tmp_path / form, form, QUIET).records == 1
    with h5py.File(tmp_path / "hdf5", "r") as file:
        assert file["video/layer3.text"].shape == (0, 12)
        assert file["text/embedding"].shape == (0, 7)
    assert np.load(tmp_path / "npy/video/layer3.text/short.npy").shape == (0, 12)


def exported(root: Path, tmp_path: Path, form: exchange.Format, **more: Any) -> Path:
    """Beside a copy of the store, because HDF5 points at it."""
    out = tmp_path / f"out{'.h5' if form == 'hdf5' else ''}"
    export(root, out, form, QUIET, **more)
    return out


@pytest.mark.parametrize("form", FORMS)
def test_an_export_comes_back_as_it_was(root: Path, tmp_path: Path, form: exchange.Format) -> None:
    rows = Annotations((Annotation(record(0).key.name, "waving", "train", start_seconds=1.5),))
    shutil.copytree(root, tmp_path / "store")
    write_annotations(tmp_path / "store", "mine", rows)
    with StoreWriter(tmp_path / "store", RECIPE) as writer:
        writer.bind("prompt", "what", {"template": "x" * (70_000 if form == "hdf5" else 7)})
    out = exported(tmp_path / "store", tmp_path, form)
    done = import_features(out, tmp_path / "back", ImportOptions(), QUIET)
    assert (done.added, done.present, done.checked, done.failed) == (9, 0, 9, ())
    found = compare(tmp_path / "store", tmp_path / "back", QUIET)
    assert found.identical
    assert found.same_recipe
    back = open_store(tmp_path / "back")
    assert back.digest == open_store(root).digest
    assert back.axes("prompt") == open_store(tmp_path / "store").axes("prompt")
    assert load(tmp_path / "back", "mine") == rows
    again = import_features(out, tmp_path / "back", ImportOptions(), QUIET)
    assert (again.added, again.present, again.failed) == (0, 9, ())


@pytest.mark.parametrize("form", FORMS)
def test_an_export_run_again_checks_what_is_there_and_adds_what_is_new(
    root: Path, tmp_path: Path, form: exchange.Format
) -> None:
    shutil.copytree(root, tmp_path / "store")
    out = exported(tmp_path / "store", tmp_path, form)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out*/**/*.npy")}
    again = export(tmp_path / "store", out, form, QUIET)
    assert (again.records, again.present, again.mended, again.checked) == (9, 9, 0, 9)
    assert export(tmp_path / "store", out, form, QUIET, verify=False).checked == 0
    with StoreWriter(tmp_path / "store", RECIPE) as writer:
        writer.add(record(9))
        writer.delete([record(0).key])
        writer.add(Record(record(0).key, made(77)))
    grown = export(tmp_path / "store", out, form, QUIET)
    assert (grown.records, grown.checked) == (10, 10)
    assert (grown.present, grown.mended) == ((0, 10) if form == "hdf5" else (8, 1))
    kept = [path for path, changed in before.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) == len(before) - len(VIDEO) - 2 or form != "npy"
    assert import_features(out, tmp_path / "back", ImportOptions(), QUIET).failed == ()
    assert compare(tmp_path / "store", tmp_path / "back", QUIET).identical
    with StoreWriter(tmp_path / "store", RECIPE) as writer:
        writer.delete([record(9).key])
    if form != "hdf5":
        with pytest.raises(BadInput, match=r"out holds 1 records that the store no longer has, '.*clip009\.mp4'"):
            export(tmp_path / "store", out, form, QUIET)
    with pytest.raises(BadInput, match=r"is an export that differs in kinds from the one that is asked for"):
        export(tmp_path / "store", out, form, QUIET, arrays=["single"])


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_a_damaged_export_is_mended_or_costs_one_record(root: Path, tmp_path: Path, form: exchange.Format) -> None:
    out = exported(root, tmp_path, form)
    clean = out / "video" / "single" / "class 0" / "clip000.mp4.npy"
    hit = clean if form == "npy" else sorted(out.glob("video*.safetensors"))[0]
    data = bytearray(hit.read_bytes())
    data[-1] ^= 1
    hit.write_bytes(data)
    done = import_features(out, tmp_path / "back", ImportOptions(), QUIET)
    assert len(done.failed) == 1
    assert f"{hit}: array " in done.failed[0][1]
    assert "is not what was exported" in done.failed[0][1]
    listed = (tmp_path / "back" / "failures" / "import.jsonl").read_text()
    assert json.loads(listed.splitlines()[0])["name"] == done.failed[0][0]
    mended = export(root, out, form, QUIET)
    assert (mended.present, mended.mended, mended.checked) == (8, 1, 9)
    assert import_features(out, tmp_path / "back", ImportOptions(), QUIET).added == 1
    assert open_store(tmp_path / "back").digest == open_store(root).digest


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_export_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: exchange.Format, after: int
) -> None:
    monkeypatch.setattr(file_writers, "_FILE_BYTES", 1)
    real, calls = files.exported_record, []

    def dying(out: Path, row: dict[str, Any], specs: Any) -> Any:
        calls.append(row)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(out, row, specs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "exported_record", dying)
        with pytest.raises(KeyboardInterrupt):
            export(root, tmp_path / "out", form, QUIET)
    with open(tmp_path / "out" / "index.jsonl", "ab") as index:
        index.write(b'{"kind": "video", "na')  # the line that the kill cut short
    with pytest.raises(BadInput, match=r"out is an export that did not finish\.\nRun `vfc store export` again"):
        import_features(tmp_path / "out", tmp_path / "back", ImportOptions(), QUIET)
    done = export(root, tmp_path / "out", form, QUIET)
    assert (done.present, done.mended) == (after, 0)
    import_features(tmp_path / "out", tmp_path / "back", ImportOptions(), QUIET)
    assert open_store(tmp_path / "back").digest == open_store(root).digest


def test_what_comes_back_cannot_be_changed_on_the_way(root: Path, tmp_path: Path) -> None:
    out = exported(root, tmp_path, "npy")
    with pytest.raises(BadInput, match=r"comes back as it was: fps, dtype cannot be asked\.\nImport it without"):
        import_features(out, tmp_path / "back", ImportOptions(fps=30, dtype="bf16"), QUIET)
    with StoreWriter(tmp_path / "other", Recipe({"model": "another"})):
        pass
    with pytest.raises(RecipeMismatch, match="made with another recipe"):
        import_features(out, tmp_path / "other", ImportOptions(), QUIET)


def test_an_hdf5_export_without_its_store_says_so(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "store")
    out = exported(tmp_path / "store", tmp_path, "hdf5")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(BadInput, match=r"out\.h5 points at .*, which is not there\.\nThe store must stay"):
        import_features(out, tmp_path / "back", ImportOptions(), QUIET)


def test_an_export_that_the_disk_did_not_keep_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = np.save

    def failing_disk(file: Any, values: npt.NDArray[Any], **more: Any) -> None:
        real(file, values + values.dtype.type(1), **more)

    monkeypatch.setattr(np, "save", failing_disk)
    with pytest.raises(Damaged, match=r"is not what was exported\.\nThe disk does not keep what is written"):
        export(root, tmp_path / "out", "npy", QUIET)
    assert not (tmp_path / "out" / "store.json").exists()


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_an_index_that_is_not_the_whole_one_is_refused(root: Path, tmp_path: Path, form: exchange.Format) -> None:
    out = exported(root, tmp_path, form)
    lines = (out / "index.jsonl").read_bytes().splitlines(keepends=True)
    renamed = b"".join(lines).replace(b"clip002", b"clip003")
    for changed in (b"".join(lines[:4]), b"".join([*lines[:4], b"{" + lines[4], *lines[5:]]), renamed):
        (out / "index.jsonl").write_bytes(changed)
        with pytest.raises(BadInput, match=r"index\.jsonl is not as the export left it: .*\nFetch that file again"):
            import_features(out, tmp_path / "back", ImportOptions(), QUIET)
    (out / "index.jsonl").write_bytes(b"".join(lines[:4]))
    assert export(root, out, form, QUIET).present == 4
    assert import_features(out, tmp_path / "back", ImportOptions(), QUIET).added == 9
    assert open_store(tmp_path / "back").digest == open_store(root).digest


@pytest.mark.parametrize("form", FORMS)
def test_annotations_of_any_form_travel_as_they_are_now(root: Path, tmp_path: Path, form: exchange.Format) -> None:
    shutil.copytree(root, tmp_path / "store")
    (tmp_path / "store" / "annotations").mkdir()
    written = tmp_path / "store" / "annotations" / "mine.jsonl"
    written.write_text('\ufeff{"name": "a", "label": "one\u2028two\x85"}\n\n{"name": "b"}\n', "utf-8")
    write_annotations(tmp_path / "store", "empty", Annotations(()))
    out = exported(tmp_path / "store", tmp_path, form)
    import_features(out, tmp_path / "back", ImportOptions(), QUIET)
    assert load(tmp_path / "back", "mine") == load(tmp_path / "store", "mine")
    assert load(tmp_path / "back", "empty") == Annotations(())
    assert export(tmp_path / "store", out, form, QUIET).present == 9
    write_annotations(tmp_path / "store", "mine", Annotations((Annotation("a", "corrected"),)))
    with StoreWriter(tmp_path / "store", RECIPE) as writer:
        writer.bind("prompt", "new", "New?")
    export(tmp_path / "store", out, form, QUIET)
    import_features(out, tmp_path / "again", ImportOptions(), QUIET)
    assert load(tmp_path / "again", "mine").labels() == ["corrected"]
    assert open_store(tmp_path / "again").axes("prompt") == {"new": "New?"}


def test_hdf5_paths_are_those_asked_for_the_last_time(root: Path, tmp_path: Path) -> None:
    for absolute in (False, True, True):
        done = export_hdf5(root, tmp_path / "x.h5", QUIET, absolute=absolute)
        with h5py.File(tmp_path / "x.h5", "r") as file:
            assert Path(file["video/single"].external[0][0]).is_absolute() == absolute
    assert done.present == 9


def test_a_changed_description_is_refused(root: Path, tmp_path: Path) -> None:
    out = exported(root, tmp_path, "npy", arrays=["single"])
    for name, use, said in (
        (
            "store.json",
            lambda: import_features(out, tmp_path / "back", ImportOptions(), QUIET),
            r"store\.json is not as",
        ),
        (
            "export.json",
            lambda: export(root, out, "npy", QUIET, arrays=["single"]),
            r"export\.json is not as|differs in",
        ),
    ):
        data = (out / name).read_bytes()
        told = len(data.partition(b'"digest"')[0])  # a hit there takes only the checksum itself away
        for at in [i for i in range(told) if data[i : i + 1].strip()][::5]:
            (out / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 5]) + data[at + 1 :])
            with pytest.raises(BadInput, match=said):
                use()
        (out / name).write_bytes(data)
    assert not (tmp_path / "back").exists()
    # Exports of earlier versions tell less.
    about = json.loads((out / "store.json").read_bytes())
    del about["digest"], about["index_digest"]
    (out / "store.json").write_text(json.dumps(about))
    assert import_features(out, tmp_path / "back", ImportOptions(), QUIET).added == 8
