"""Which layers and streams of a network are kept, and the names and specs of their arrays. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.layer_ranges import expand_layers
from vfc.cache_schema.values.layout import Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype

NORM = "norm"


def layer_names(depth: int, *, norm: bool = True) -> tuple[str, ...]:
    """Names of the layers of `depth` blocks: "0" to str(depth), then "norm" where there is a final norm."""
    return (*map(str, range(depth + 1)), *((NORM,) if norm else ()))


def chosen_layers(requested: Sequence[str], available: Sequence[str], where: str) -> tuple[str, ...]:
    """The requested layers and ranges, each layer once, in the order of `available`, from the lowest up.

    Raises BadInput, with the range, for a layer that is not available; negative numbers are refused.
    """
    numbers = [name for name in available if name.isdigit()]
    others = [name for name in available if not name.isdigit()]
    layers = expand_layers(requested, available)
    for layer in layers:
        if layer not in available:
            hint = "; layers count from the front" if layer.startswith("-") else ""
            raise BadInput(
                f"There is no layer {layer!r} in {where}{hint}.",
                f"Allowed: {numbers[0]} to {numbers[-1]}" + (f", or {', '.join(others)}." if others else "."),
            )
    return tuple(name for name in available if name in layers)


def kept_streams(requested: Sequence[str], streams: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """The streams to keep of each kind of record. `streams`: kind to the streams that it has.

    A kind none of whose streams is requested keeps all of them; a name that two kinds have counts for both.

    Raises UnknownName for a stream that no kind has.
    """
    names = list(dict.fromkeys(name for of_kind in streams.values() for name in of_kind))
    for name in requested:
        if name not in names:
            raise unknown_name("stream", name, names)
    return {kind: frozenset(of_kind).intersection(requested) or frozenset(of_kind) for kind, of_kind in streams.items()}


def check_kept(layers: Sequence[str], chosen: frozenset[str], streams: Sequence[str], flag: str) -> None:
    """Raise BadInput where the chosen layers would not be kept, or nothing of `streams` (pooled, tokens) would be.

    `chosen`: the streams to keep. `flag`: the option that names layers.
    """
    pooled, tokens = streams
    if layers and tokens not in chosen:
        raise BadInput(
            f"Layers were asked for, but {tokens} is not kept.", f"Add {tokens} to --keep, or leave out {flag}."
        )
    if not layers and pooled not in chosen:
        raise BadInput(f"Nothing would be kept of {' and '.join(streams)}.", f"Name layers with {flag}.")


def layer_specs(
    stream: str, layers: Iterable[str], dtype: Dtype, shape: tuple[int | None, ...], layout: Layout | str
) -> dict[str, ArraySpec]:
    """The specs of one stream by layer name, where all layers have one shape and layout."""
    return {layer: ArraySpec(array_name(layer, stream), dtype, shape, str(layout)) for layer in layers}
