"""Every layer of a store, one metric after the other, equal to `vfc eval` on that layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from suites.motion_store import MakeStore, Told, make_store

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.evaluation.probe import ProbeConfig, probe_layers

EXTRA = (ArraySpec("layer12.visual", "fp32", (4, 3, 6)), ArraySpec("norm.visual", "fp32", (4, 3, 6)))


def test_each_layer_equals_eval(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tokens=3, extra=EXTRA)
    config = ProbeConfig(store, way=3, tasks=50, split="test", page=tmp_path / "layers.html")
    progress = Told()
    result = probe_layers(config, progress)
    assert any("chosen on the test classes" in line for line in progress.lines)
    assert [p.layer for p in result.probes] == [*["3"] * 4, *["12"] * 4, *["norm"] * 4]
    assert [p.metric for p in result.probes[:4]] == ["avg", "dec-avg", "mpmm, euclidean", "mpmm, cosine"]
    for probe in result.probes:
        name, _, distance = probe.metric.partition(", ")
        given = EvalConfig(store, way=3, tasks=50, layer=probe.layer, metric=name, distance=distance or None)  # type: ignore[arg-type]
        found = evaluate(given, Silent())
        assert np.array_equal(found.score.per_task, probe.score.per_task)
        assert found.to_json()["list_digest"] == result.to_json()["list_digest"]
    page = (tmp_path / "layers.html").read_text()
    assert page.count("<svg") == 1
    assert "norm" in page
    table, best, data = result.tables()
    assert dict(data.rows)["views"] == "test 0"
    assert table.columns == ("layer", "avg", "dec-avg", "mpmm, euclidean", "mpmm, cosine")
    assert len(table.rows) == 3
    assert {row[1] for row in best.rows} <= {"3", "12", "norm"}


def test_the_layer_is_chosen_on_val_and_measured_alone_on_test(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tokens=3, extra=EXTRA)
    config = ProbeConfig(store, way=3, tasks=50, metrics=("avg", "dec-avg"), page=tmp_path / "layers.html")
    result = probe_layers(config, Silent())
    on_test = probe_layers(replace(config, split="test"), Silent())
    assert result.provenance["split"] == "val"
    assert not on_test.tested
    assert [probe.metric for probe in result.tested] == ["avg", "dec-avg"]
    for probe in result.tested:
        best = max((p for p in result.probes if p.metric == probe.metric), key=lambda p: p.score.accuracy)
        (same,) = [p for p in on_test.probes if (p.metric, p.layer) == (probe.metric, best.layer)]
        assert probe.layer == best.layer
        assert np.array_equal(probe.score.per_task, same.score.per_task)
    assert result.tables()[1].title == "Chosen on the val classes, measured on the test classes"


def test_several_stores_have_an_average_column_and_one_layer(tmp_path: Path) -> None:
    stores = [
        make_store(tmp_path / name, classes=classes, tokens=3, extra=EXTRA) for name, classes in (("a", 15), ("b", 14))
    ]
    config = ProbeConfig(stores[0], way=3, tasks=20, metrics=("avg",), page=tmp_path / "p.html")
    result = probe_layers(replace(config, more_cache=(stores[1],)), Silent())
    alone = [probe_layers(replace(config, cache=store), Silent()) for store in stores]
    table, best, _ = result.tables()
    assert table.columns == ("layer", *map(str, stores), "average")
    for row in table.rows:
        shares = [p.score.accuracy for one in alone for p in one.probes if p.layer == row[0]]
        assert row[-1] == f"{100 * np.mean(shares):.2f} %"
    highest = max(table.rows, key=lambda row: float(row[-1].split()[0]))
    assert best.rows[0][:2] == ("avg", highest[0])
    assert len(result.tested) == 2
    assert {p.layer for p in result.tested} == {highest[0]}
    other = make_store(tmp_path / "c", tokens=3, extra=EXTRA[:1])
    with pytest.raises(BadInput, match=r"hold different layers[\s\S]*Name layers that all have"):
        probe_layers(replace(config, more_cache=(other,)), Silent())


def test_ranges_of_layers(make_store: MakeStore, tmp_path: Path) -> None:
    config = ProbeConfig(make_store(tokens=3, extra=EXTRA), way=3, tasks=5, metrics=("avg",), page=tmp_path / "p.html")
    for layers, names in ((("0-8",), ["3"]), (("3:12:9",), ["3", "12"]), (("4-32", "norm"), ["12", "norm"])):
        assert [p.layer for p in probe_layers(replace(config, layers=layers), Silent()).probes] == names
    assert [p.layer for p in probe_layers(replace(config, layers=("all",)), Silent()).probes] == ["3", "12", "norm"]
    with pytest.raises(BadInput, match="The range 4-8 holds no layer of 3, 12, norm"):
        probe_layers(replace(config, layers=("4-8",)), Silent())


def test_some_layers_and_metrics(make_store: MakeStore, tmp_path: Path) -> None:
    config = ProbeConfig(make_store(tokens=3, extra=EXTRA), way=3, tasks=5, page=tmp_path / "p.html")
    result = probe_layers(replace(config, layers=("norm",), metrics=("otam", "mpmm"), distance="cosine"), Silent())
    assert [(p.layer, p.metric) for p in result.probes] == [("norm", "otam"), ("norm", "mpmm")]
    with pytest.raises(UnknownName, match=r"no stored layer '31'"):
        probe_layers(replace(config, layers=("31",)), Silent())


def test_a_store_without_layers_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no visual array of a layer to probe[\s\S]*It holds: frames"):
        probe_layers(ProbeConfig(make_store(), way=3, page=tmp_path / "p.html"), Silent())
