"""Every family of models by every head of clips, every metric and predict: it runs, or the table says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.family_stores import ADAPTED, FAMILIES, TEXTS, extract_family, write_videos

from vfc.cache_schema import StoreWriter
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep.deriving import materialize
from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cli import matrix
from vfc.extract.backbone import find_family
from vfc.heads.data.serving import servable
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.evaluation.predict import Run, predict, predict_classes
from vfc.heads.evaluation.probe import ProbeConfig, probe_layers
from vfc.heads.lookup import configs
from vfc.heads.results.tables import read_rows
from vfc.heads.similarity.matching import METRICS
from vfc.heads.training.fit import train

FEWSHOT = ("prototype", "trx", "fsar")
HEADS = (*FEWSHOT, "linear-probe", "attentive-probe", "mean-pool", "vidprism", "mote", "text-zero-shot", "msta")
NO_TEXTS = ("mote", "text-zero-shot", "msta")
TASKS: dict[str, Any] = {"way": 2, "shot": 1, "classes": "seeded", "tasks": 8}
FRAMES_NEEDED = {("videomae", "trx")}
"""The tiny VideoMAE has two time steps, and trx reads triples."""

Stores = Callable[[str], Path]


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The store called by its family, extracted once."""
    folder = tmp_path_factory.mktemp("stores")
    videos, stores = write_videos(folder / "videos"), dict[str, Path]()

    def of(family: str) -> Path:
        if family not in stores:
            stores[family] = extract_family(family, videos, folder, **(LAYERED if family == "viclip" else {}))
        return stores[family]

    return of


LAYERED: dict[str, Any] = {**TEXTS, **ADAPTED}


def run(head: str, store: Path, out: Path, **task: Any) -> dict[str, Any]:
    """A short training with the head's defaults and its test: the row of results."""
    settings = configs(head)
    if head in FEWSHOT:
        task = {**TASKS, "val_tasks": 4, "train_queries": 1, **task}
    config = replace(
        settings["train"], steps=2, epochs=0, least_steps=0, batch=2, validate_every=2, device="cpu", out=out
    )
    # The adapters of the tiny ViCLIP, 24 wide, are narrower than the paper's.
    own = replace(settings["head"], dim=8) if head == "msta" else settings["head"]
    return train(head, replace(settings["task"], cache=store, **task), own, config, Silent()).row


def measured(store: Path, page: Path, *, layers: bool, **settings: Any) -> None:
    """Every metric of `vfc eval`, and `vfc probe-layers` where a layer is stored, give a share."""
    shared = {**TASKS, "cache": store, "split": "all", **settings}
    for metric in ("avg", "dec-avg", *METRICS):
        assert 0 <= evaluate(EvalConfig(**shared, metric=metric), Silent()).score.accuracy <= 1
    probe = ProbeConfig(**shared, page=page)
    if layers:
        assert len(probe_layers(probe, Silent()).probes) >= 4
        return
    with pytest.raises(UnknownName, match=r"no visual array of a layer to probe\.\n.*Extract several layers"):
        probe_layers(probe, Silent())


def named_again(store: Path, folder: Path) -> None:
    """`vfc predict` reads the store too: a classifier's test videos get the scores of its test."""
    finished = Run.read(folder)
    if finished.few_shot:
        first = {row.label: row for row in load(store).rows}
        support, queries = Annotations(tuple([*first.values()][:3])), Annotations(load(store).rows[:4])
        prediction = predict(finished, store, store, support, queries)
        assert [sum(shares) for shares in prediction.shares] == pytest.approx([1] * 4)
        return
    items = {item["item"]: item["scores"] for item in read_rows(folder / "predictions.jsonl")}
    prediction = predict_classes(finished, store, {name: name for name in items}, store, Silent(), device="cpu")
    for name, shares in zip(prediction.queries, prediction.shares, strict=True):
        of_class = dict(zip(prediction.classes, shares, strict=True))
        assert {label: of_class[label] for label in items[name]} == pytest.approx(items[name], abs=1e-4)


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, str]]:
    return matrix.matrix()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_runs_or_the_table_says_why_not(
    head: str, family: str, store_of: Stores, answers: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    # The head msta names its own arrays; text heads read the embedding; others need the layer of a store with several.
    layer = {"layer": "8"} if family == "viclip" and head not in NO_TEXTS else {}
    if (family, head) in FRAMES_NEEDED:
        with pytest.raises(BadInput, match=r"tuples out of 2 frames\.\n.*an array with more time steps"):
            run(head, store_of(family), tmp_path / "run")
    elif answers[head][family].startswith("yes"):
        row = run(head, store_of(family), tmp_path / "run", **layer)
        assert row["parameters"] >= 0
        assert 0 <= row["accuracy" if head in FEWSHOT else "top1"] <= 1
        named_again(store_of(family), tmp_path / "run")
    else:
        with pytest.raises(UnknownName, match=r"of the class names; it has of texts.*\n.*vfc extract"):
            run(head, store_of(family), tmp_path / "run")


@pytest.fixture(scope="module")
def vectors(store_of: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViCLIP's store without any layer: one vector per clip."""
    folder = store_of("viclip").parent
    return extract_family("viclip", folder / "videos", folder, out=tmp_path_factory.mktemp("vectors") / "s")


@pytest.mark.parametrize("head", [head for head in HEADS if head != "msta"])
def test_one_vector_per_clip_is_read_by_all_but_a_head_that_needs_steps(
    head: str, vectors: Path, answers: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    if answers[head]["viclip"] == matrix.NEEDS_LAYER:
        with pytest.raises(BadInput, match=r"tuples out of 1 frames\.\n.*an array with more time steps"):
            run(head, vectors, tmp_path / "run")
        return
    row = run(head, vectors, tmp_path / "run")
    assert 0 <= row["accuracy" if head in FEWSHOT else "top1"] <= 1
    assert any("one vector per clip" in note for note in row["notes"]) == (head == "prototype")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_whether_its_clips_are_single_vectors(family: str, store_of: Stores, vectors: Path) -> None:
    with open_store(vectors if family == "viclip" else store_of(family)) as reader:
        arrays = [spec for spec in reader.kinds["video"] if servable(spec)]
    single = all(len(spec.shape) == 1 for spec in arrays)
    assert single == matrix.Offer.of(find_family(family)).one_vector


@pytest.mark.parametrize("family", FAMILIES)
def test_every_metric_and_the_probe_read_the_store(family: str, store_of: Stores, tmp_path: Path) -> None:
    if family != "viclip":
        has_layers = family in ("qwen2-vl", "qwen3-vl", "video-llava")
        measured(store_of(family), tmp_path / "page.html", layers=has_layers)
        return
    shared = {**TASKS, "cache": store_of(family), "split": "all"}
    for metric in ("avg", "dec-avg", *METRICS):
        evaluate(EvalConfig(**shared, metric=metric, layer="8"), Silent())
    assert {
        probe.layer for probe in probe_layers(ProbeConfig(**shared, page=tmp_path / "p.html"), Silent()).probes
    } == {
        "7",
        "8",
    }


def sequences(root: Path, crops: tuple[int, ...], dtype: str = "fp16") -> Path:
    """What an import of `[T, D]` or `[T, 10, D]` files leaves: steps of T rows, T differing; labels of whole videos."""
    generator, rows = np.random.default_rng(0), []
    spec = ArraySpec("frames", dtype, (None, *crops, 12), "steps")  # type: ignore[arg-type]
    with StoreWriter(root, Recipe({"source": "an archive"})) as writer:
        writer.declare("video", [spec, ArraySpec("seconds", "float64", (None,), "steps")])
        for label in range(10):
            for clip in range(3):
                length, name = 33 + 20 * clip, f"{label}-{clip}"
                values = generator.normal(size=(length, *crops, 12)).astype(np.float32)
                writer.add(Record(Key("video", name), {"frames": values, "seconds": np.arange(length) / 25}))
                rows.append(Annotation(name, f"class{label}"))
    write_annotations(root, "default", Annotations(tuple(rows)))
    return root


@pytest.mark.parametrize("kind", ["ms-tcn", "ten crops", "int8", "pooled grid", "pooled to a vector"])
def test_imported_int8_and_pooled_stores(kind: str, store_of: Stores, tmp_path: Path) -> None:
    out, layers = tmp_path / "store", kind.startswith("pooled")
    if kind == "ms-tcn":
        sequences(out, ())
    elif kind == "ten crops":
        sequences(out, (10,))
    elif kind == "int8":
        sequences(out, (), "int8")
    else:
        pool = "2x2" if kind == "pooled grid" else "mean"
        materialize(store_of("qwen3-vl"), Reduction(pool=pool), Silent(), out=out, arrays=("layer3.visual",))
    for head in ("prototype", "trx", "fsar", "linear-probe", "mean-pool", "vidprism"):
        run(head, out, tmp_path / head)
        named_again(out, tmp_path / head)
    measured(out, tmp_path / "page.html", layers=layers)
