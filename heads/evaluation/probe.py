"""`vfc probe-layers`: training-free metrics on every layer of a store, on the same tasks, as a table and a curve."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from vfc.cache_schema.protocol import EpisodeList
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput, UnknownName, unknown_name
from vfc.cache_schema.values.layer_ranges import HELP as LAYER_HELP
from vfc.cache_schema.values.layer_ranges import expand_layers
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting
from vfc.heads.data.arrays import array_names
from vfc.heads.data.serving import servable
from vfc.heads.data.store_view import DividedRows, StoreView, Wants, resolve
from vfc.heads.results.facts import centre_text, facts_table
from vfc.heads.results.figures import layers_picture
from vfc.heads.results.page import write_page
from vfc.heads.results.tables import Table, percent
from vfc.heads.similarity.matching import METRICS
from vfc.heads.tasks.fewshot.episodes import Score

from .evaluate import EvalConfig, MeasureSettings, annotated, episode_list, eval_facts, measure, task_spec

_SPLITS: Final = ("test", "val", "train", "all")


@dataclass(frozen=True)
class ProbeConfig(MeasureSettings):
    """`vfc probe-layers`: as `vfc eval`, for several metrics, all layers, and perhaps several stores."""

    split: Literal["test", "val", "train", "all"] = setting(
        "val",
        "Classes by whose tasks layers are compared. val: the best layer alone is then measured on the test classes.",
        "Protocol",
        choices=_SPLITS,
    )
    metrics: tuple[str, ...] = setting(
        ("avg", "dec-avg", "mpmm"), "Metrics to run.", "Protocol", flag="metric", choices=("avg", "dec-avg", *METRICS)
    )
    layers: tuple[str, ...] = setting(
        (), f"Only these layers; {LAYER_HELP}.", "Input", flag="layer", metavar="LAYER,..."
    )
    more_cache: tuple[Path, ...] = setting(
        (), "More stores to probe; the layer is chosen by the average over all stores.", "Input", metavar="STORE,..."
    )
    both: bool = setting(True, "Run mpmm with both distances, Euclidean and cosine (no paper says which).", "Protocol")
    page: Path = setting(Path("layers.html"), "HTML page with table and curve.", "Output")

    @property
    def stores(self) -> tuple[Path, ...]:
        """All stores."""
        return (self.cache, *self.more_cache)


@dataclass(frozen=True)
class Probe:
    """One metric on one layer of one store."""

    layer: str
    metric: str
    score: Score
    details: dict[str, Json]
    store: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """Every metric on every layer; `tested`: on test classes, the layer that was best on the val classes."""

    probes: tuple[Probe, ...]
    provenance: dict[str, Json]
    page: Path
    tested: tuple[Probe, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """One row per (store, layer, metric), and what all share."""
        tested: dict[str, Json] = {"tested": [_row(probe) for probe in self.tested]} if self.tested else {}
        return {**self.provenance, "rows": [_row(probe) for probe in self.probes], **tested, "page": str(self.page)}

    def tables(self) -> list[Table]:
        """Layers down, metrics across (of several stores: stores across, a table per metric); the best layers."""
        facts = self.provenance
        title = f"{facts['way']}-way {facts['shot']}-shot, {facts['tasks']} tasks of the {facts['split']} classes"
        title += f", centre {centre_text(str(facts['centre']))}"
        metrics, stores = _unique(p.metric for p in self.probes), _unique(p.store for p in self.probes)
        scores = {(p.layer, p.metric, p.store): p.score for p in self.probes}
        layers = _unique(p.layer for p in self.probes)

        def shares(layer: str, metric: str) -> tuple[str, ...]:
            return tuple(_percent(scores[layer, metric, store]) for store in stores)

        if len(stores) == 1:
            rows = tuple((layer, *(shares(layer, m)[0] for m in metrics)) for layer in layers)
            drawn = [Table(title, ("layer", *metrics), rows)]
        else:
            averages = mean_over_stores(self.probes)
            drawn = [
                Table(
                    f"{m}: {title}",
                    ("layer", *stores, "average"),
                    tuple((layer, *shares(layer, m), percent(averages[m][layer])) for layer in layers),
                )
                for m in metrics
            ]
        return [*drawn, self._best(), *facts_table({"": facts})]

    def _best(self) -> Table:
        best = {m: max(layers, key=lambda layer: layers[layer]) for m, layers in mean_over_stores(self.probes).items()}
        if not self.tested:
            return Table(f"Best layer on the {self.provenance['split']} classes", ("metric", "layer"), (*best.items(),))
        stores = _unique(p.store for p in self.tested)
        scores = {(p.metric, p.store): p.score for p in self.tested}
        averages = mean_over_stores(self.tested)
        rows = []
        for metric, layer in best.items():
            cells = [_percent(scores[metric, store]) for store in stores]
            cells += [percent(averages[metric][layer])] if len(stores) > 1 else []
            rows.append((metric, layer, *cells))
        names = ("test",) if len(stores) == 1 else (*stores, "average")
        return Table(
            "Chosen on the val classes, measured on the test classes", ("metric", "layer", *names), tuple(rows)
        )


def _row(probe: Probe) -> Json:
    return {
        **({"store": probe.store} if probe.store else {}),
        "layer": probe.layer,
        "metric": probe.metric,
        "accuracy": probe.score.accuracy,
        "interval": probe.score.interval,
        **probe.details,
    }


def _percent(score: Score) -> str:
    return percent(score.accuracy, score.interval)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def mean_over_stores(probes: Sequence[Probe]) -> dict[str, dict[str, float]]:
    """Metric -> layer -> accuracy, averaged over stores."""
    shares: dict[str, dict[str, list[float]]] = {}
    for probe in probes:
        shares.setdefault(probe.metric, {}).setdefault(probe.layer, []).append(probe.score.accuracy)
    return {m: {layer: sum(s) / len(s) for layer, s in layers.items()} for m, layers in shares.items()}


def probe_layers(config: ProbeConfig, progress: Progress) -> ProbeResult:
    """Run training-free metrics on every layer that the stores hold; Table 12 of the FSAR-LLaVA paper in one go.

    Raises:
        UnknownName: a store has no visual array of a layer, or none of a layer asked for.
        BadInput: stores with different layers; see `evaluate`.
    """
    chosen_device(config.device)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(open_store(store)) for store in config.stores]
        layers = [stored_layers(reader, config.layers) for reader in readers]
        if any(of_store != layers[0] for of_store in layers):
            listed = "; ".join(f"{r.root}: {', '.join(of)}" for r, of in zip(readers, layers, strict=True))
            raise BadInput(f"The stores hold different layers: {listed}.", "Name layers that all have: --layer 8,16.")
        several = len(readers) > 1
        parts = [_StoreProbe.of(config, reader, layers[0], several=several, progress=progress) for reader in readers]
        if config.split == "test":
            progress.say("--split test: the best layer is then chosen on the test classes. The default is --split val.")
        probes = [part.probe(*place, part.listed, progress) for part in parts for place in part.measures]
        tested: list[Probe] = []
        if parts[0].tested is not None:
            for metric, shares in mean_over_stores(probes).items():
                layer = max(shares, key=lambda layer: shares[layer])
                tested += [part.probe(layer, metric, part.tested, progress) for part in parts if part.tested]
        provenance = parts[0].provenance()
        if len(parts) > 1:
            provenance["stores"] = {part.name: part.provenance() for part in parts}
    result = ProbeResult(tuple(probes), provenance, config.page, tuple(tested))
    curves: dict[str, list[tuple[str, float, float]]] = {}
    for probe in probes:
        name = f"{probe.store}: {probe.metric}" if probe.store else probe.metric
        curves.setdefault(name, []).append((probe.layer, probe.score.accuracy, probe.score.interval))
    title = f"Layers of {', '.join(map(str, config.stores))}"
    write_page(config.page, title, result.tables(), [layers_picture(curves)])
    return result


@dataclass(frozen=True)
class _StoreProbe:
    """One store with its tasks; `tested`: those of the test classes, where layers are chosen on the val classes."""

    config: ProbeConfig
    reader: StoreReader
    rows: DividedRows
    listed: EpisodeList
    tested: EpisodeList | None
    name: str
    measures: Mapping[tuple[str, str], tuple[EvalConfig, StoreView]]
    """(layer, metric as shown) -> its settings and the store as it reads it; all are found before one is measured."""

    @classmethod
    def of(
        cls, config: ProbeConfig, reader: StoreReader, layers: Sequence[str], *, several: bool, progress: Progress
    ) -> _StoreProbe:
        spec = task_spec(config)
        rows = annotated(reader, config, spec, progress, centre=config.centre)
        if spec.split == "val" and "val" not in rows.annotations.splits():
            raise BadInput(
                f"The annotations of {reader.root} have no val classes to choose a layer on.",
                "Give --classes seeded or a list with a val split; --split test or all chooses on those classes.",
            )
        tested = None
        if spec.split == "val" and config.episodes is None and "test" in rows.annotations.splits():
            tested = EpisodeList.draw(rows.annotations, replace(spec, split="test"), config.tasks)
        listed = episode_list(config, spec, rows.annotations)
        shared = {setting.name: getattr(config, setting.name) for setting in fields(MeasureSettings)}
        measures = {}
        for layer, metric in itertools.product(layers, config.metrics):
            for name, distance in _variants(config, metric):
                one = EvalConfig(**{**shared, "layer": layer, "metric": metric, "distance": distance})
                store = resolve(
                    reader, Wants(text=one.raw), lambda: rows, layer=layer, prompt=config.prompt, settings=config
                )
                measures[layer, name] = one, store
        return cls(config, reader, rows, listed, tested, str(reader.root) if several else "", measures)

    def probe(self, layer: str, name: str, listed: EpisodeList, progress: Progress) -> Probe:
        """One metric on one layer, on the tasks `listed`."""
        score, details = measure(*self.measures[layer, name], listed, progress)
        where = f"{self.name}, " if self.name else ""
        progress.say(f"{where}layer {layer}, {name}, {listed.spec.split} classes: {_percent(score)}.")
        return Probe(layer, name, score, details, self.name)

    def provenance(self) -> dict[str, Json]:
        """What the scores rest on."""
        _, store = next(iter(self.measures.values()))
        return {
            "centre": self.config.centre,
            **cast("dict[str, Json]", asdict(self.listed.spec)),
            "tasks": len(self.listed.episodes),
            "list_digest": self.listed.digest,
            **({} if self.tested is None else {"test_list_digest": self.tested.digest}),
            "annotations_digest": self.rows.annotations.digest,
            "store_digest": self.reader.digest,
            **eval_facts(self.config, store),
        }


def _variants(config: ProbeConfig, metric: str) -> list[tuple[str, Literal["euclidean", "cosine"] | None]]:
    if metric == "mpmm" and config.both and config.distance is None:
        return [("mpmm, euclidean", "euclidean"), ("mpmm, cosine", "cosine")]
    return [(metric, config.distance)]


def stored_layers(reader: StoreReader, chosen: tuple[str, ...]) -> list[str]:
    """Layers with a visual array of fixed shape, in order of depth; `norm` comes last."""
    stored = {ArrayName.parse(spec.name).layer for spec in reader.kinds.get("video", ()) if servable(spec)}
    layers = sorted(stored - {""}, key=_depth)
    if not layers:
        raise UnknownName(
            f"The store {reader.root} has no visual array of a layer to probe.",
            f"It holds: {array_names(reader)}. Extract several layers: --layer 0,8,16,24,31.",
        )
    names = expand_layers(chosen, layers, within=True)
    for layer in names:
        if layer not in layers:
            raise unknown_name("stored layer", layer, layers)
    return [layer for layer in layers if not chosen or layer in names]


def _depth(layer: str) -> tuple[int, int, Any]:
    return (0, int(layer), "") if layer.isdigit() else (1, 0, layer)
