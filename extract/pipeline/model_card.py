"""What a model would give: layers, widths, tokens and bytes per record, from its configuration alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.dtypes import record_bytes
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbone import BackboneOptions, PromptedBackbone, find_family, open_backbone
from vfc.extract.prompting.prompt_assignment import keeps_text
from vfc.extract.prompting.prompts import prompt_templates

from .reduction import Reducer


def describe(
    model: str, options: BackboneOptions, *, size: str = "360x640", prompt: str = "unknown", pool: str = ""
) -> dict[str, Any]:
    """As JSON: all layers that could be kept, the arrays of each kind of record, and bytes per record.

    Args:
        model: Family.
        options: Checkpoint, layers, streams ...; `num_frames` is not used by models with windows, which take all
            frames of a video, and `prompts` follows from `keep`.
        size: Height x width of the frames, where the number of tokens depends on it.
        prompt: Built-in prompt whose tokens are counted.
        pool: See `Reduction`.

    Raises:
        VfcError: no such family, checkpoint, layer or prompt; a size that is none; what cannot be pooled.
    """
    windows = getattr(find_family(model), "WINDOWS", False)
    num_frames = None if windows else options.num_frames
    backbone = open_backbone(model, replace(options, num_frames=num_frames, prompts=keeps_text(options.keep)))
    reducer = Reducer(backbone.specs(), Reduction(pool))
    rows: dict[str, int] = {}
    assumed = f"{options.num_frames} frames"
    if isinstance(backbone, PromptedBackbone):
        (template,) = prompt_templates((prompt,))
        counts = reducer.rows(backbone.rows(*_size(size), template.text))
        rows = {name: round(count) for name, count in counts.items()}
        assumed += f" of {size} pixels under the prompt {prompt!r}"
    arrays = {kind: [_array(spec, rows) for spec in specs] for kind, specs in reducer.stored_specs().items()}
    layers = {
        stream: {layer: _array(spec, {}) for layer, spec in specs.items()} for stream, specs in backbone.taps().items()
    }
    totals = {kind: _total([array["bytes"] for array in described]) for kind, described in arrays.items()}
    return {
        "model": model,
        "layers": layers,
        "record": arrays,
        "meanings": dict(getattr(backbone, "meanings", {})),
        "bytes": totals,
        "assumed": assumed,
    }


def _array(spec: ArraySpec, rows: dict[str, int]) -> dict[str, Any]:
    count = rows.get(spec.name) if spec.ragged else None
    return {
        **spec.to_json(),
        "rows": count,
        "bytes": None if spec.ragged and count is None else record_bytes(spec, count),
        "bytes_per_row": record_bytes(spec, 1) if spec.ragged else None,
    }


def _total(sizes: Sequence[int | None]) -> int | None:
    """The sum; None where one is not known."""
    return None if None in sizes else sum(size or 0 for size in sizes)


def _size(text: str) -> tuple[int, int]:
    height_and_width = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not height_and_width:
        raise BadInput(f"--size {text!r} is no size.", "Give height x width in pixels, as in --size 360x640.")
    return int(height_and_width[1]), int(height_and_width[2])
