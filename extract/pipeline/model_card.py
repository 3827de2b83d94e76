"""What a model would give: layers, widths, tokens and bytes per record, from its configuration alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.dtypes import record_bytes
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec, Dtype
from vfc.extract.backbone import BackboneOptions, PromptedBackbone, find_family, open_backbone
from vfc.extract.prompting.prompt_assignment import keeps_text
from vfc.extract.prompting.prompts import prompt_templates

from .reduction import Shrinking


def describe(
    model: str,
    *,
    checkpoint: str | None = None,
    layers: Sequence[str] = (),
    text_layers: Sequence[str] = (),
    texts: bool = False,
    num_frames: int = 8,
    keep: Sequence[str] = (),
    max_pixels: int | None = None,
    size: str = "360x640",
    prompt: str = "unknown",
    pool: str = "",
    dtype: Dtype | None = None,
) -> dict[str, Any]:
    """As JSON: all layers that could be kept, the arrays of each kind of record, and bytes per record.

    Args:
        model: Family.
        checkpoint: See `BackboneOptions`, as are the others that are named so there.
        layers: Visual layers.
        text_layers: Those of the text tower.
        texts: Whether texts would be run.
        num_frames: Frames per video; of no account for models that look at windows, which take all frames there are.
        keep: Streams.
        max_pixels: Budget of pixels.
        size: Height x width of the frames, where the number of tokens depends on it.
        prompt: Built-in prompt whose tokens are counted.
        pool: See `Reduction`.
        dtype: Storage dtype.

    Raises:
        VfcError: no such family, checkpoint, layer or prompt; a size that is none; what cannot be pooled.
    """
    windows = getattr(find_family(model), "WINDOWS", False)
    options = BackboneOptions(
        checkpoint=checkpoint,
        layers=tuple(layers),
        text_layers=tuple(text_layers),
        texts=texts,
        keep=tuple(keep),
        num_frames=None if windows else num_frames,
        storage=dtype,
        prompts=keeps_text(keep),
        max_pixels=max_pixels,
    )
    backbone = open_backbone(model, options)
    shrinking = Shrinking(backbone.specs(), Reduction(pool))
    rows: dict[str, int] = {}
    assumed = f"{num_frames} frames"
    if isinstance(backbone, PromptedBackbone):
        height, width = _size(size)
        (template,) = prompt_templates((prompt,))
        counted = shrinking.rows(backbone.rows(height, width, template.text))
        rows = {name: round(count) for name, count in counted.items()}
        assumed += f" of {size} pixels under the prompt {prompt!r}"
    kept = {kind: [_told(spec, rows) for spec in specs] for kind, specs in shrinking.stored().items()}
    totals = {
        kind: sum(each["bytes"] for each in specs) if all(each["bytes"] is not None for each in specs) else None
        for kind, specs in kept.items()
    }
    known = {stream: {layer: _told(spec, {}) for layer, spec in of.items()} for stream, of in backbone.taps().items()}
    return {"model": model, "layers": known, "record": kept, "bytes": totals, "assumed": assumed}


def _told(spec: ArraySpec, rows: dict[str, int]) -> dict[str, Any]:
    count = rows.get(spec.name) if spec.ragged else None
    known = not spec.ragged or count is not None
    return {
        **spec.to_json(),
        "rows": count,
        "bytes": record_bytes(spec, count) if known else None,
        "bytes_per_row": record_bytes(spec, 1) if spec.ragged else None,
    }


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise BadInput(f"--size {text!r} is no size.", "Give height x width in pixels, as in --size 360x640.")
    return int(found[1]), int(found[2])
