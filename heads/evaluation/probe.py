"""`vfc probe-layers`: training-free metrics on every layer of a store, on the same tasks, as a table and a curve."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import UnknownName, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.heads.data.features import servable
from vfc.heads.results.tables import Table, layers_picture, percent, write_page
from vfc.heads.similarity.matching import METRICS
from vfc.heads.tasks.fewshot.episodes import Score

from .evaluate import EvalConfig, MeasureSettings, frozen_list, measure


@dataclass(frozen=True)
class ProbeConfig(MeasureSettings):
    """`vfc probe-layers`: as `vfc eval`, for several metrics and all layers."""

    metrics: tuple[str, ...] = field(
        default=("avg", "dec-avg", "mpmm"),
        metadata={
            "help": "Metrics to run.",
            "panel": "Protocol",
            "flag": "metric",
            "choices": ("avg", "dec-avg", *METRICS),
        },
    )
    layers: tuple[str, ...] = field(
        default=(), metadata={"help": "Only these layers.", "panel": "Input", "flag": "layer", "metavar": "LAYER,..."}
    )
    both: bool = field(
        default=True,
        metadata={
            "help": "mpmm with the Euclidean distance and with the cosine: no paper says which.",
            "panel": "Protocol",
        },
    )
    page: Path = field(default=Path("layers.html"), metadata={"help": "Table and curve.", "panel": "Output"})


@dataclass(frozen=True)
class Probe:
    """One metric on one layer."""

    layer: str
    metric: str
    score: Score
    told: dict[str, Json]


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
                **probe.told,
            }
            for probe in self.probes
        ]
        return {**self.provenance, "rows": rows, "page": str(self.page)}

    def tables(self) -> list[Table]:
        """Layers down, metrics across."""
        metrics = list(dict.fromkeys(probe.metric for probe in self.probes))
        found = {(probe.layer, probe.metric): probe.score for probe in self.probes}
        rows = tuple(
            (layer, *(percent(found[layer, m].accuracy, found[layer, m].interval) for m in metrics))
            for layer in dict.fromkeys(probe.layer for probe in self.probes)
        )
        given = self.provenance
        title = f"{given['way']}-way {given['shot']}-shot, {given['tasks']} tasks of the {given['split']} classes"
        best = tuple(
            (m, max((p for p in self.probes if p.metric == m), key=lambda p: p.score.accuracy).layer) for m in metrics
        )
        return [Table(title, ("layer", *metrics), rows), Table("Best layer", ("metric", "layer"), best)]


def probe_layers(config: ProbeConfig, progress: Progress) -> ProbeResult:
    """Run training-free metrics on every layer that a store holds; Table 12 of the FSAR-LLaVA paper in one go.

    Raises:
        UnknownName: the store has no visual array of a layer, or none of a layer asked for.
        BadInput: see `evaluate`.
    """
    with open_store(config.cache) as reader:
        layers = _layers(reader, config.layers)
        annotations, listed = frozen_list(config, reader, progress)
        shared = {named.name: getattr(config, named.name) for named in fields(MeasureSettings)}
        probes = []
        for layer in layers:
            for metric in config.metrics:
                for name, distance in _variants(config, metric):
                    one = EvalConfig(**{**shared, "layer": layer, "metric": metric, "distance": distance})
                    score, told = measure(one, reader, annotations, listed, progress)
                    probes.append(Probe(layer, name, score, told))
                    progress.say(f"Layer {layer}, {name}: {percent(score.accuracy, score.interval)}.")
        provenance: dict[str, Json] = {
            "centre": config.centre,
            **cast("dict[str, Json]", asdict(listed.spec)),
            "tasks": len(listed.episodes),
            "list_digest": listed.digest,
            "annotations_digest": annotations.digest,
            "store_digest": reader.digest,
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


def _layers(reader: StoreReader, wanted: tuple[str, ...]) -> list[str]:
    """Layers with a visual array of fixed shape, in order of depth; `norm` comes last."""
    layers = {ArrayName.parse(spec.name).layer for spec in reader.kinds.get("video", ()) if servable(spec)}
    there = sorted(filter(None, layers), key=_depth)
    if not there:
        held = ", ".join(spec.name for spec in reader.kinds.get("video", ()))
        raise UnknownName(
            f"The store {reader.root} has no visual array of a layer to probe.",
            f"It holds: {held or 'nothing'}. Extract several layers: --layer 0,8,16,24,31.",
        )
    for layer in wanted:
        if layer not in there:
            raise unknown_name("stored layer", layer, there)
    return [layer for layer in there if not wanted or layer in wanted]


def _depth(layer: str) -> tuple[int, int, Any]:
    return (0, int(layer), "") if layer.isdigit() else (1, 0, layer)
