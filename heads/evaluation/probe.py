"""`vfc probe-layers`: training-free metrics on every layer of a store, on the same tasks, as a table and a curve."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import UnknownName, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting
from vfc.heads.data.arrays import array_names
from vfc.heads.data.serving import servable
from vfc.heads.data.store_view import Wants, resolve
from vfc.heads.results.facts import facts_table
from vfc.heads.results.tables import Table, layers_picture, percent, write_page
from vfc.heads.similarity.matching import METRICS
from vfc.heads.tasks.fewshot.episodes import Score

from .evaluate import EvalConfig, MeasureSettings, annotated, episode_list, eval_facts, measure, task_spec


@dataclass(frozen=True)
class ProbeConfig(MeasureSettings):
    """`vfc probe-layers`: as `vfc eval`, for several metrics and all layers."""

    metrics: tuple[str, ...] = setting(
        ("avg", "dec-avg", "mpmm"), "Metrics to run.", "Protocol", flag="metric", choices=("avg", "dec-avg", *METRICS)
    )
    layers: tuple[str, ...] = setting((), "Only these layers.", "Input", flag="layer", metavar="LAYER,...")
    both: bool = setting(True, "Run mpmm with both distances, Euclidean and cosine (no paper says which).", "Protocol")
    page: Path = setting(Path("layers.html"), "HTML page with table and curve.", "Output")


@dataclass(frozen=True)
class Probe:
    """One metric on one layer."""

    layer: str
    metric: str
    score: Score
    details: dict[str, Json]


@dataclass(frozen=True)
class ProbeResult:
    """Every metric on every layer."""

    probes: tuple[Probe, ...]
    provenance: dict[str, Json]
    page: Path

    def to_json(self) -> dict[str, Json]:
        """One row per (layer, metric), and what all share."""
        rows: list[Json] = [
            {
                "layer": probe.layer,
                "metric": probe.metric,
                "accuracy": probe.score.accuracy,
                "interval": probe.score.interval,
                **probe.details,
            }
            for probe in self.probes
        ]
        return {**self.provenance, "rows": rows, "page": str(self.page)}

    def tables(self) -> list[Table]:
        """Layers down, metrics across."""
        metrics = list(dict.fromkeys(probe.metric for probe in self.probes))
        scores = {(probe.layer, probe.metric): probe.score for probe in self.probes}
        rows = tuple(
            (layer, *(percent(scores[layer, m].accuracy, scores[layer, m].interval) for m in metrics))
            for layer in dict.fromkeys(probe.layer for probe in self.probes)
        )
        facts = self.provenance
        title = f"{facts['way']}-way {facts['shot']}-shot, {facts['tasks']} tasks of the {facts['split']} classes"
        best = tuple(
            (m, max((p for p in self.probes if p.metric == m), key=lambda p: p.score.accuracy).layer) for m in metrics
        )
        title += f", centre {facts['centre']}"
        return [
            Table(title, ("layer", *metrics), rows),
            Table("Best layer", ("metric", "layer"), best),
            *facts_table({"": facts}),
        ]


def probe_layers(config: ProbeConfig, progress: Progress) -> ProbeResult:
    """Run training-free metrics on every layer that a store holds; Table 12 of the FSAR-LLaVA paper in one go.

    Raises:
        UnknownName: the store has no visual array of a layer, or none of a layer asked for.
        BadInput: see `evaluate`.
    """
    with open_store(config.cache) as reader:
        layers = _layers(reader, config.layers)
        spec = task_spec(config)
        rows = annotated(reader, config, spec, progress, centre=config.centre)
        listed = episode_list(config, spec, rows.annotations)
        shared = {setting.name: getattr(config, setting.name) for setting in fields(MeasureSettings)}
        measures = []
        for layer, metric in itertools.product(layers, config.metrics):
            for name, distance in _variants(config, metric):
                one = EvalConfig(**{**shared, "layer": layer, "metric": metric, "distance": distance})
                store = resolve(
                    reader, Wants(text=one.raw), lambda: rows, layer=layer, prompt=config.prompt, settings=config
                )
                measures.append((name, one, store))
        probes = []
        for name, one, store in measures:
            score, details = measure(one, store, listed, progress)
            probes.append(Probe(one.layer, name, score, details))
            progress.say(f"Layer {one.layer}, {name}: {percent(score.accuracy, score.interval)}.")
        provenance: dict[str, Json] = {
            "centre": config.centre,
            **cast("dict[str, Json]", asdict(listed.spec)),
            "tasks": len(listed.episodes),
            "list_digest": listed.digest,
            "annotations_digest": rows.annotations.digest,
            "store_digest": reader.digest,
            **eval_facts(config, measures[0][2]),
        }
    result = ProbeResult(tuple(probes), provenance, config.page)
    curves: dict[str, list[tuple[str, float, float]]] = {}
    for probe in probes:
        curves.setdefault(probe.metric, []).append((probe.layer, probe.score.accuracy, probe.score.interval))
    write_page(config.page, f"Layers of {config.cache}", result.tables(), [layers_picture(curves)])
    return result


def _variants(config: ProbeConfig, metric: str) -> list[tuple[str, Literal["euclidean", "cosine"] | None]]:
    if metric == "mpmm" and config.both and config.distance is None:
        return [("mpmm, euclidean", "euclidean"), ("mpmm, cosine", "cosine")]
    return [(metric, config.distance)]


def _layers(reader: StoreReader, chosen: tuple[str, ...]) -> list[str]:
    """Layers with a visual array of fixed shape, in order of depth; `norm` comes last."""
    stored = {ArrayName.parse(spec.name).layer for spec in reader.kinds.get("video", ()) if servable(spec)}
    layers = sorted(stored - {""}, key=_depth)
    if not layers:
        raise UnknownName(
            f"The store {reader.root} has no visual array of a layer to probe.",
            f"It holds: {array_names(reader)}. Extract several layers: --layer 0,8,16,24,31.",
        )
    for layer in chosen:
        if layer not in layers:
            raise unknown_name("stored layer", layer, layers)
    return [layer for layer in layers if not chosen or layer in chosen]


def _depth(layer: str) -> tuple[int, int, Any]:
    return (0, int(layer), "") if layer.isdigit() else (1, 0, layer)
