"""Which array of a store is read: by its name, by its layer, or by default."""

from __future__ import annotations

from collections.abc import Mapping

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, UnknownName, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec

from .serving import has_tokens, servable

Specs = Mapping[str, ArraySpec]


def choose_array(
    reader: StoreReader, kind: str = "video", *, array: str = "", layer: str = "", tokens: bool = False
) -> ArraySpec:
    """The feature array to read: as named, else of the layer, else `frames`, else the only one.

    With `tokens`, arrays with tokens of a time step go before `frames`. See `serving.servable` for what can be read.

    Raises:
        UnknownName: none fits; those in the store are listed.
        BadInput: several fit; an array that is not of the layer.
    """
    specs = {spec.name: spec for spec in reader.kinds.get(kind, ()) if servable(spec)}
    if array:
        return _named(specs, kind, array, layer)
    candidates = _of_layer(specs, layer) if layer else _by_default(specs, tokens=tokens)
    if not candidates:
        raise UnknownName(
            f"The store {reader.root} holds no feature array with time steps under the kind {kind!r}.",
            f"It holds: {array_names(reader, kind)}.",
        )
    if len(candidates) > 1:
        raise BadInput(
            f"Several arrays of {reader.root} could be meant: {', '.join(sorted(candidates))}.",
            "Choose one with --array NAME, or a layer with --layer.",
        )
    return next(iter(candidates.values()))


def choose_sequence(reader: StoreReader, array: str = "", *, labelled: bool = True) -> ArraySpec:
    """The features of the steps of a video, `[None, D]`: as named, else the only ones.

    Raises:
        UnknownName: none of this name, or none at all; no class ids in the store, though they are to be `labelled`.
        BadInput: several could be meant.
    """
    specs = {spec.name: spec for spec in reader.kinds.get("video", ())}
    steps = {
        name: spec
        for name, spec in specs.items()
        if spec.dtype in FEATURE_DTYPES and spec.ragged and len(spec.shape) == 2 and not has_tokens(spec)
    }
    if array and array not in steps:
        raise unknown_name("array of steps [None, D]", array, steps)
    if not steps or (labelled and "labels" not in specs):
        raise UnknownName(
            f"The store {reader.root} holds no sequences: {'labels' if steps else 'features [None, D]'} are missing.",
            f"It holds: {array_names(reader)}. Import sequences with `vfc store import`, or give their --labels.",
        )
    if len(steps) > 1 and not array:
        raise BadInput(f"Several arrays could be meant: {', '.join(sorted(steps))}.", "Choose one with --array NAME.")
    return steps[array] if array else next(iter(steps.values()))


def array_names(reader: StoreReader, kind: str = "video") -> str:
    """The arrays of a kind, for a message."""
    return ", ".join(sorted(spec.name for spec in reader.kinds.get(kind, ()))) or "nothing"


def _named(specs: Specs, kind: str, array: str, layer: str) -> ArraySpec:
    if array not in specs:
        raise unknown_name(f"{kind} array", array, specs)
    if layer and ArrayName.parse(array).layer != layer:
        raise BadInput(f"--array {array} is not of --layer {layer}.", "Give one of the two.")
    return specs[array]


def _of_layer(specs: Specs, layer: str) -> Specs:
    layers = {name: ArrayName.parse(name).layer for name in specs}
    if layer not in layers.values():
        raise unknown_name("stored layer", layer, set(layers.values()) - {""})
    return {name: specs[name] for name in specs if layers[name] == layer}


def _by_default(specs: Specs, *, tokens: bool) -> Specs:
    per_token = tokens and any(has_tokens(spec) for spec in specs.values())
    if "frames" in specs and not per_token:
        return {"frames": specs["frames"]}
    return {name: spec for name, spec in specs.items() if name != "frames"} or specs
