"""Pooling: mean over the tokens of a frame, by the layout of the array."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.layout import FRAME_MAJOR, PATCH_MAJOR, RAGGED_GRID, Layout
from vfc.cache_schema.values.record import ArraySpec

Array: TypeAlias = npt.NDArray[Any]


def pooled_spec(spec: ArraySpec, pool: str, grid: str = "") -> ArraySpec:
    """What an array looks like after `pool_values`. Raises BadInput: the array cannot be pooled so, with the reason."""
    if not pool:
        return spec
    cells = pool_cells(pool)
    layout = Layout.parse(spec.layout)
    if layout.order == RAGGED_GRID and spec.ragged:
        return spec
    if layout.order == FRAME_MAJOR and len(spec.shape) == 3:
        return _pooled_frames(spec, layout, pool, cells, grid)
    if layout.order == PATCH_MAJOR and len(spec.shape) == 2:
        return _pooled_patches(spec, layout, pool, cells or (1, 1), grid)
    if cells is None and len(spec.shape) == 2:
        return dataclasses.replace(spec, shape=spec.shape[1:], layout="")
    raise _cannot(spec, pool, f"its layout is {spec.layout!r} with {len(spec.shape)} axes")


def _pooled_frames(spec: ArraySpec, layout: Layout, pool: str, cells: tuple[int, int] | None, grid: str) -> ArraySpec:
    """The leading tokens of each frame stay; a grid is stated where it was stated before."""
    frames, tokens, width = spec.shape
    leading = layout.leading
    if cells is None:
        shape = (frames, leading + 1, width) if leading else (frames, width)
        return dataclasses.replace(spec, shape=shape, layout=str(dataclasses.replace(layout, grid=None)))
    rows, columns = _token_grid(spec, (tokens or 0) - leading, grid)
    if cells[0] > rows or cells[1] > columns:
        raise _cannot(spec, pool, f"its frames have {rows}x{columns} tokens")
    pooled = dataclasses.replace(layout, grid=cells if layout.grid else None)
    return dataclasses.replace(spec, shape=(frames, cells[0] * cells[1] + leading, width), layout=str(pooled))


def _pooled_patches(spec: ArraySpec, layout: Layout, pool: str, cells: tuple[int, int], grid: str) -> ArraySpec:
    """Class token, then every cell of every frame: the order stays."""
    rows, columns = _patch_grid(spec, pool, grid)
    tokens, width = spec.shape
    if cells[0] > rows or cells[1] > columns:
        raise _cannot(spec, pool, f"its frames have {rows}x{columns} tokens")
    frames = None if tokens is None else _patch_frames(spec, tokens, rows * columns)
    shape = (None if frames is None else 1 + frames * cells[0] * cells[1], width)
    return dataclasses.replace(spec, shape=shape, layout=str(dataclasses.replace(layout, grid=cells)))


def pool_values(values: Array, spec: ArraySpec, pool: str, grid: str = "", token_grid: Sequence[int] = ()) -> Array:
    """Mean over tokens; float32 in, float32 out.

    A grid `RxC` averages the tokens of every frame into R x C cells. Where the token grid is no multiple of it, cell r
    of R takes the rows floor(r*H/R) up to ceil((r+1)*H/R), so that neighbours overlap by a row (the rule of the usual
    adaptive average pooling). `mean` averages all tokens of a frame, or, where an array has one vector per frame or
    step, all of these. Class and register tokens that are first in each frame are not averaged with the others: they
    stay first, as they are (so `mean` leaves two tokens per frame, class token and mean). So does the one class token
    of a video that stands before patches in `cls first, patch-major` (so `mean` leaves 1 + T tokens).

    Args:
        values: `[T, N, D]`, `[L, D]`, `[1 + N*T, D]` or `[T, D]`, as `spec` says.
        spec: The array before pooling.
        pool: `RxC` or `mean`.
        grid: Rows x columns of the tokens of a frame where that is no square.
        token_grid: (T, H, W) of this record, for the layout `ragged grid`: its `<stream>.grid`.

    Raises:
        BadInput: the array cannot be pooled so.
        RecordRejected: this record's token grid is smaller than the pooled one, or does not fit its rows.
    """
    pooled_spec(spec, pool, grid)
    cells = pool_cells(pool)
    layout = Layout.parse(spec.layout)
    if layout.order == RAGGED_GRID and spec.ragged:
        frames, rows, columns = _record_grid(values, spec, token_grid)
        mean = _cell_means(values.reshape(frames, rows, columns, -1), cells or (1, 1), spec, pool)
        return mean.reshape(-1, values.shape[-1])
    if layout.order == PATCH_MAJOR:
        rows, columns = _patch_grid(spec, pool, grid)
        frames = _patch_frames(spec, len(values), rows * columns)
        maps = values[1:].reshape(rows, columns, frames, -1).transpose(2, 0, 1, 3)
        mean = _cell_means(maps, cells or (1, 1), spec, pool).transpose(1, 0, 2).reshape(-1, values.shape[-1])
        return np.concatenate([values[:1].astype(np.float32), mean])
    if len(spec.shape) == 2:
        if not len(values):
            raise RecordRejected(f"Array {spec.name!r} of this record has no rows.", "Leave the video out.")
        return np.asarray(values.mean(axis=0, dtype=np.float32))
    leading = layout.leading
    tokens = values[:, leading:]
    if cells is None:
        mean = tokens.mean(axis=1, keepdims=True, dtype=np.float32)
    else:
        rows, columns = _token_grid(spec, tokens.shape[1], grid)
        mean = _cell_means(tokens.reshape(len(values), rows, columns, -1), cells, spec, pool)
    if leading:
        return np.concatenate([values[:, :leading].astype(np.float32), mean], axis=1)
    return mean[:, 0] if cells is None else mean


def _cell_means(tokens: Array, cells: tuple[int, int], spec: ArraySpec, pool: str) -> Array:
    """`[T, H, W, D]` to `[T, R*C, D]`."""
    frames, rows, columns, width = tokens.shape
    if cells[0] > rows or cells[1] > columns:
        raise RecordRejected(
            f"Array {spec.name!r} of this record has {rows}x{columns} tokens per frame; --pool {pool} needs as many.",
            "Give a smaller --pool, or leave the video out.",
        )
    bands = [_bands(rows, cells[0]), _bands(columns, cells[1])]
    means = np.empty((frames, cells[0] * cells[1], width), np.float32)
    places = ((top, left) for top in bands[0] for left in bands[1])
    for cell, (top, left) in enumerate(places):
        tokens[:, top, left].mean(axis=(1, 2), dtype=np.float32, out=means[:, cell])
    return means


def _bands(size: int, parts: int) -> list[slice]:
    return [slice(p * size // parts, -(-(p + 1) * size // parts)) for p in range(parts)]


def _record_grid(values: Array, spec: ArraySpec, token_grid: Sequence[int]) -> tuple[int, int, int]:
    if len(token_grid) != 3 or math.prod(token_grid) != len(values):
        raise RecordRejected(
            f"Array {spec.name!r} of this record has {len(values)} rows, not those of its grid {list(token_grid)}.",
            "The grid must be frames, rows, columns of the tokens as stored.",
        )
    frames, rows, columns = token_grid
    return frames, rows, columns


def _patch_grid(spec: ArraySpec, pool: str, grid: str) -> tuple[int, int]:
    """Rows and columns of the patches of a frame: frames and patches share one axis, whose length is not enough."""
    stated = parse_grid(grid, "--grid") or Layout.parse(spec.layout).grid
    if stated is None:
        raise _cannot(spec, pool, f"its layout {spec.layout!r} states no grid, and --grid gives none")
    return stated


def _patch_frames(spec: ArraySpec, tokens: int, per_frame: int) -> int:
    frames, rest = divmod(tokens - 1, per_frame)
    if rest or frames < 1:
        raise BadInput(
            f"Array {spec.name!r} has {tokens} tokens, which is no class token and frames of {per_frame}.",
            "Give rows and columns of the patches of a frame with --grid, for example --grid 14x14.",
        )
    return frames


def _token_grid(spec: ArraySpec, tokens: int, grid: str) -> tuple[int, int]:
    stated = parse_grid(grid, "--grid") or Layout.parse(spec.layout).grid
    side = math.isqrt(tokens)
    rows, columns = stated or (side, side)
    if rows * columns != tokens:
        expected = f"grid of {rows}x{columns}" if stated else "square"
        raise BadInput(
            f"Array {spec.name!r} has {tokens} tokens per frame, which is no {expected}.",
            "Give their rows and columns with --grid, for example --grid 8x14.",
        )
    return rows, columns


def pool_cells(pool: str) -> tuple[int, int] | None:
    """Rows and columns of a pooled grid; None for `mean` and for no pooling. Raises BadInput for anything else."""
    return None if pool in ("", "mean") else parse_grid(pool, "--pool")


def parse_grid(text: str, flag: str) -> tuple[int, int] | None:
    """`8x14` -> (8, 14); None for nothing. Raises BadInput, naming the flag, for anything else."""
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        either = " or `mean`" if flag == "--pool" else ""
        raise BadInput(f"{flag} {text!r} is no grid.", f"Give rows x columns, as in {flag} 4x4{either}.")
    return int(match[1]), int(match[2])


def _cannot(spec: ArraySpec, pool: str, reason: str) -> BadInput:
    return BadInput(
        f"Array {spec.name!r} cannot be pooled with {pool!r}: {reason}.",
        "Name the arrays to keep with --array; a grid needs tokens per frame ('frame-major' or 'ragged grid').",
    )
