"""How an array reaches a head: `frames` `[T', D]` or `tokens` `[T', N, D]` per clip, whatever the array's layout.

T' is the number of time steps that are served. The layout of the array decides what a row is: a frame, a token of a
frame, a token of a ragged grid, or a step of a long record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.layout import PATCH_MAJOR, RAGGED_GRID, TOKENS, ArrayName, Layout
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec
from vfc.cache_schema.values.settings import setting

FrameTokens = Literal["patch", "cls", "all"]
ClipRule = Literal["segment-mean", "segment-centre", "all"]


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Flags: which time steps and tokens of a clip are used."""

    clip_steps: int = setting(
        8, "Time steps per clip that records of different length are reduced to.", "Input", added=True
    )
    clip_rule: ClipRule = setting(
        "segment-mean",
        "Reduce a long record to --clip-steps by the mean or the centre of equal segments; all: keep every step.",
        "Input",
        added=True,
    )
    frame_tokens: Literal["auto", "patch", "cls", "all"] = setting(
        "auto",
        "Tokens of a frame that are averaged; auto: patch tokens, all tokens of a language model.",
        "Input",
        added=True,
    )


@dataclass(frozen=True)
class ServedSpec(ArraySpec):
    """An array as a head gets it; unlike a stored one, any of its axes may vary (None)."""

    def __post_init__(self) -> None:
        """Nothing to check."""


@dataclass(frozen=True)
class Serving:
    """How the records of one array are served.

    `spec`: the array as stored. `tokens`: `[T', N, D]`, else `[T', D]`, the mean over the tokens `frame_tokens` of each
    step. `steps`: number of steps that `rule` makes of each record; None: as many as are stored. `stored_steps`: the
    number that all records of a ragged array have; None where they differ. `grid`: side array with `(t, h, w)` of each
    record of a ragged grid. `as_stored`: rows are served as they are, padded where ragged.
    """

    spec: ArraySpec
    tokens: bool = False
    frame_tokens: FrameTokens = "all"
    steps: int | None = None
    rule: ClipRule = "segment-mean"
    stored_steps: int | None = None
    grid: str = ""
    as_stored: bool = False

    @property
    def layout(self) -> Layout:
        """The layout of the array."""
        return Layout.parse(self.spec.layout)

    @property
    def reduces_records(self) -> bool:
        """Whether records of different length become arrays of T' steps one by one, while they are read."""
        return self.spec.ragged and not self.as_stored and (not self.tokens or self.steps is not None)

    @property
    def served(self) -> ArraySpec:
        """The array as a head gets it: float32; None in the shape where records differ."""
        if self.as_stored:
            shape = self.spec.shape if len(self.spec.shape) > 1 else (1, *self.spec.shape)
        else:
            steps, count = self._stored_steps()
            shape = (steps if self.steps is None else self.steps, *((count,) if self.tokens and count != 0 else ()))
            shape = (*shape, self.spec.shape[-1])
        return ServedSpec(self.spec.name, "fp32", shape, self.spec.layout)

    def _stored_steps(self) -> tuple[int | None, int | None]:
        """(T', N) as stored; N is 0 where steps have no tokens."""
        shape, layout = self.spec.shape, self.layout
        if layout.order == PATCH_MAJOR:
            steps, patches = patch_major_sizes(self.spec)
            return (1, 0) if self.frame_tokens == "cls" and not self.tokens else (steps, patches)
        if self.grid:
            return self.stored_steps, None
        if len(shape) == 1:
            return 1, 0
        return shape[0] or self.stored_steps, shape[1] if len(shape) == 3 else 0

    @property
    def in_words(self) -> str:
        """Which tokens and time steps a head gets; stands in results."""
        words = []
        if not self.as_stored and not self.tokens and has_tokens(self.spec):
            words.append(
                {"all": "mean of all tokens", "patch": "mean of patch tokens", "cls": "class token"}[self.frame_tokens]
            )
        if self.steps is not None:
            words.append(f"{self.steps} steps by {self.rule}")
        return ", ".join(words) or "as stored"

    @property
    def _patch_major(self) -> bool:
        return self.layout.order == PATCH_MAJOR

    @property
    def tokens_per_step(self) -> int:
        """How many tokens of a step `frame_tokens` names, in an array whose steps have the same number; else 1."""
        count = int(self._stored_steps()[1] or 1)
        if count == 1 or self.frame_tokens == "cls":
            return 1
        if self._patch_major:
            return count + (self.frame_tokens == "all")
        return count - (self.layout.leading if self.frame_tokens == "patch" else 0)

    def of_batch(self, values: Tensor) -> Tensor:
        """Decoded records of a fixed shape `[n, ...]` as they are served: `[n, T', D]` or `[n, T', N, D]`."""
        if values.ndim == 2:
            return values[:, None]
        if self.as_stored:
            return values
        if self._patch_major:
            steps, patches = patch_major_sizes(self.spec)
            first, rest = values[:, :1], values[:, 1:].reshape(len(values), patches, steps, -1).transpose(1, 2)
            if self.tokens:
                return rest
            if self.frame_tokens == "cls":
                return first
            if self.frame_tokens == "patch":
                return rest.mean(dim=2)
            return (rest.sum(dim=2) + first) / (patches + 1)
        return values if values.ndim == 3 or self.tokens else self._mean(values)

    def of_record(self, values: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """One decoded record `[L, D]` or `[L, C, D]` as it is served: `[T', D]` or `[T', N, D]`.

        `grid`: `(t, h, w)` of a ragged grid, whose rows are the tokens of t steps of h x w places.
        """
        if grid is not None:
            steps, height, width = (int(size) for size in grid)
            values = values.view(steps, height * width, values.shape[-1])
        if values.ndim == 3 and not self.tokens:
            values = self._mean(values)
        return values if self.steps is None else in_steps(values, self.steps, self.rule)

    def _mean(self, values: Tensor) -> Tensor:
        """Mean over the tokens (second last axis) that `frame_tokens` names."""
        leading = self.layout.leading
        if self.frame_tokens == "cls":
            return values[..., 0, :]
        return values[..., leading:, :].mean(dim=-2) if self.frame_tokens == "patch" else values.mean(dim=-2)


def in_steps(values: Tensor, count: int, rule: ClipRule) -> Tensor:
    """`[L, ...]` to `[count, ...]`: the record in `count` segments of equal length; one value of each.

    Segment i holds the rows from `floor(i L / count)` up to `floor((i + 1) L / count)`, at least one. `segment-mean`:
    their mean; `segment-centre`: row `floor((i + 1/2) L / count)`. A record with fewer rows repeats some.
    """
    length = len(values)
    if rule == "segment-centre":
        return values[torch.tensor([(2 * i + 1) * length // (2 * count) for i in range(count)])]
    starts = [i * length // count for i in range(count)]
    stops = [max(start + 1, (i + 1) * length // count) for i, start in enumerate(starts)]
    return torch.stack([values[start:stop].mean(dim=0) for start, stop in zip(starts, stops, strict=True)])


DEFAULTS: Final = ServingSettings()


def servable(spec: ArraySpec) -> bool:
    """Whether an array has time steps that can be served: one vector, frames, tokens of frames, a grid, or steps."""
    if spec.dtype not in FEATURE_DTYPES or not 1 <= len(spec.shape) <= 3 or spec.shape[-1] is None:
        return False
    order = Layout.parse(spec.layout).order
    if order == PATCH_MAJOR:
        return len(spec.shape) == 2 and not spec.ragged and patch_major_sizes(spec) != (0, 0)
    return order != TOKENS


def has_tokens(spec: ArraySpec) -> bool:
    """Whether the time steps of an array have tokens."""
    return len(spec.shape) == 3 or Layout.parse(spec.layout).order in (PATCH_MAJOR, RAGGED_GRID)


def patch_major_sizes(spec: ArraySpec) -> tuple[int, int]:
    """(T, N) of an array `[1 + N*T, D]` with the clip's class token first; (0, 0) where its layout does not say."""
    layout, rows = Layout.parse(spec.layout), int(spec.shape[0] or 0) - 1
    frames = layout.frames or (rows // (layout.grid[0] * layout.grid[1]) if layout.grid else 0)
    return (frames, rows // frames) if frames and rows % frames == 0 else (0, 0)


def is_language_store(reader: StoreReader) -> bool:
    """Whether a language model made the store: its recipe then says how prompts are put into words."""
    return "question" in reader.recipe.fields


def grids(reader: StoreReader, records: npt.NDArray[np.int64], name: str) -> npt.NDArray[np.int64]:
    """`(t, h, w)` of every record of a ragged grid, `[n, 3]`."""
    sizes = np.zeros((len(records), 3), dtype=np.int64)
    reader.take(records, name, sizes)
    return sizes


def serve(
    reader: StoreReader,
    spec: ArraySpec,
    settings: ServingSettings = DEFAULTS,
    *,
    tokens: bool = False,
    masks: bool = False,
) -> Serving:
    """How a head reads an array of `reader`: settled from the array, the head and the user's settings.

    `tokens`: the head reads `[T', N, D]`. `masks`: it takes records of different T' and N with a mask. Records of
    different length are made --clip-steps long by --clip-rule, unless the head takes a mask and the rule is `all`, or
    the array is a grid. --frame-tokens auto: the patch tokens, of language models all tokens.

    Raises:
        BadInput: class tokens of an array without any; `all` for a head that needs records of one length.
        UnknownName: a ragged grid without the sizes of its grid.
    """
    if settings.clip_steps < 1:
        raise BadInput(f"--clip-steps {settings.clip_steps} is not allowed.", "Give 1 or more.")
    serving = Serving(spec, tokens, _frame_tokens(reader, spec, settings), rule=settings.clip_rule)
    if not spec.ragged:
        return serving
    records = reader.locate(reader.keys("video"))
    if serving.layout.order == RAGGED_GRID:
        serving = replace(serving, grid=_grid_array(reader, spec))
        lengths = set(grids(reader, records, serving.grid)[:, 0].tolist())
    elif settings.clip_rule == "all":
        lengths = {reader.length(int(record), spec.name) for record in records}
    else:
        return replace(serving, steps=settings.clip_steps)
    if len(lengths) <= 1:
        return replace(serving, stored_steps=min(lengths, default=None))
    if masks:
        return serving
    if settings.clip_rule == "all":
        raise BadInput(
            f"--clip-rule all: records of {spec.name} differ in length, and the same number of steps is needed here.",
            "Use --clip-rule segment-mean or segment-centre with --clip-steps, or a head that takes any length (fsar).",
        )
    return replace(serving, steps=settings.clip_steps)


def _frame_tokens(reader: StoreReader, spec: ArraySpec, settings: ServingSettings) -> FrameTokens:
    if settings.frame_tokens == "auto":
        return "all" if is_language_store(reader) else "patch"
    layout = Layout.parse(spec.layout)
    if settings.frame_tokens == "cls" and not (layout.leading or layout.order == PATCH_MAJOR):
        raise BadInput(
            f"--frame-tokens cls: {spec.name} has no class token (layout: {spec.layout or 'none'}).",
            "Use --frame-tokens patch or all, or choose an array with class tokens.",
        )
    return settings.frame_tokens


def _grid_array(reader: StoreReader, spec: ArraySpec) -> str:
    """The side array with the sizes of a ragged grid."""
    name = str(ArrayName("", ArrayName.parse(spec.name).stream, "grid"))
    if name not in {side.name for side in reader.kinds["video"]}:
        raise UnknownName(
            f"{spec.name} is a ragged grid, but its store has no {name}, which holds the sizes of the grids.",
            "Choose another array with --array; an imported grid needs its sizes beside it.",
        )
    return name
