"""Every layer of a store, one metric after the other, equal to `vfc eval` on that layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from suites.motion_store import MakeStore

from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.evaluation.probe import ProbeConfig, probe_layers

EXTRA = (ArraySpec("layer12.visual", "fp32", (4, 3, 6)), ArraySpec("norm.visual", "fp32", (4, 3, 6)))


def test_each_layer_equals_eval(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tokens=3, extra=EXTRA)
    config = ProbeConfig(store, way=3, tasks=50, page=tmp_path / "layers.html")
    result = probe_layers(config, Silent())
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


def test_some_layers_and_metrics(make_store: MakeStore, tmp_path: Path) -> None:
    config = ProbeConfig(make_store(tokens=3, extra=EXTRA), way=3, tasks=5, page=tmp_path / "p.html")
    result = probe_layers(replace(config, layers=("norm",), metrics=("otam", "mpmm"), distance="cosine"), Silent())
    assert [(p.layer, p.metric) for p in result.probes] == [("norm", "otam"), ("norm", "mpmm")]
    with pytest.raises(UnknownName, match=r"no stored layer '31'"):
        probe_layers(replace(config, layers=("31",)), Silent())


def test_a_store_without_layers_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no visual array of a layer to probe[\s\S]*It holds: frames"):
        probe_layers(ProbeConfig(make_store(), way=3, page=tmp_path / "p.html"), Silent())
