"""Clips and texts of different size, padded further than needed with values that must never be used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vfc.cache_schema.values.record import ArraySpec


def ragged_videos(specs: Mapping[str, ArraySpec], count: int, poison: float) -> dict[str, Tensor]:
    """Random streams by role, `<role>.valid` beside each: every clip has its own size in all axes but the last.

    Sizes go up to that of the spec (6 where it is None); every axis is two longer than that. Padding holds `poison`.
    """
    generator, videos = torch.Generator().manual_seed(12), dict[str, Tensor]()
    for role, spec in specs.items():
        *axes, width = (int(size or 6) for size in spec.shape)
        valid = torch.ones(count, *[1] * len(axes), dtype=torch.bool)
        for axis, most in enumerate(axes, 1):
            lengths = torch.randint(1, most + 1, (count,), generator=generator)
            inside = torch.arange(most + 2) < lengths[:, None]
            shape = [count, *(-1 if axis == other else 1 for other in range(1, len(axes) + 1))]
            valid = valid & inside.view(shape)
        values = torch.randn(*valid.shape, width, generator=generator)
        videos[role], videos[f"{role}.valid"] = torch.where(valid[..., None], values, poison), valid
    return videos


def ragged_texts(texts: Mapping[str, Tensor], poison: float) -> dict[str, Tensor]:
    """The same texts where they have no mask; the others 1, 2 ... rows long, padded by two rows more than before."""
    ragged = dict(texts)
    for name, valid in texts.items():
        if name.endswith(".valid"):
            role, (count, rows) = name.removesuffix(".valid"), valid.shape
            inside = torch.arange(rows + 2) < (torch.arange(count) % rows + 1)[:, None]
            values = torch.cat([texts[role], torch.zeros_like(texts[role][:, :1]).expand(-1, 2, -1)], dim=1)
            ragged[name], ragged[role] = inside, torch.where(inside[..., None], values, poison)
    return ragged


def trimmed(streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Streams without what is padding in all of their rows."""
    cut = dict(streams)
    for name, valid in streams.items():
        if name.endswith(".valid"):
            role, places = name.removesuffix(".valid"), valid.nonzero().amax(dim=0)[1:] + 1
            inside = (slice(None), *(slice(int(size)) for size in places))
            cut[name], cut[role] = valid[inside], streams[role][inside]
    return cut


def without_padding(videos: Mapping[str, Tensor], clip: int) -> dict[str, Tensor]:
    """The streams of one clip at their true size, without masks."""
    one = trimmed({name: values[clip : clip + 1] for name, values in videos.items()})
    return {name: values for name, values in one.items() if not name.endswith(".valid")}
