"""Processor files: the JSON of a checkpoint's image or video processor, with the meaning that transformers gives it.

A setting that is absent has the processor's default. `null` switches a step (`do_...`) off; elsewhere it is no value,
and is refused where a step that is on needs one. A size may be one number, a list of height and width, or a mapping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath

from .processor_defaults import PILLOW_FILTERS

_SIZE_KEYS: Final = ({"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"height", "width"})
_FILTERS: Final = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Size:
    """A size in pixels: the shortest edge, which may be bounded by a longest one, or height and width."""

    shortest_edge: int | None = None
    longest_edge: int | None = None
    height: int | None = None
    width: int | None = None

    @property
    def exact(self) -> tuple[int, int] | None:
        """(height, width), where both are set."""
        return (self.height, self.width) if self.height and self.width else None


@dataclass(frozen=True)
class Settings:
    """The settings of one processor. `values`: those of the file over the defaults. `kind`, `where`: for messages.

    All methods raise BadInput for a value that cannot be used.
    """

    kind: str
    values: Mapping[str, Any]
    where: str

    def step(self, name: str) -> bool:
        """Whether a step is on: `null` and an absent setting without default are off."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "A step is true, false or null.")
        return bool(value)

    def flag(self, name: str) -> bool:
        """A setting that is true or false, and cannot be null."""
        if self.values.get(name, False) is None:
            raise self.error(name, "Set it to true or false, or leave it out for the default.")
        return self.step(name)

    def number(self, name: str) -> float:
        """A number that is not 0."""
        value = self.values[name]
        if not _is_number(value) or not value:
            raise self.error(name, "It takes a number that is not 0.")
        return float(value)

    def length(self, name: str) -> int:
        """A whole number from 1 up."""
        value = self.values[name]
        if not is_length(value):
            raise self.error(name, "It takes a whole number from 1 up.")
        return int(value)

    def channels(self, name: str) -> tuple[float, ...]:
        """One number per channel; a single number stands for all three."""
        value = self.values[name]
        numbers = (value,) * 3 if _is_number(value) else value
        if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_number, numbers)):
            raise self.error(name, "It takes one number, or a list of three.")
        if name == "image_std" and not all(numbers):
            raise self.error(name, "A deviation of 0 cannot divide.")
        return tuple(map(float, numbers))

    def filter_name(self) -> str:
        """The resize filter as torch names it; its setting is the number that Pillow gives it."""
        number = self.values["resample"]
        if number is None and self.step("do_resize"):
            raise self.error("resample", "Reproduced here: bilinear (2) and bicubic (3).")
        if number is not None and not (is_length(number) and number in _FILTERS):
            pillow = PILLOW_FILTERS.get(number, "an unknown filter") if isinstance(number, int) else "an unknown filter"
            raise BadInput(
                f"The checkpoint {self.where} resizes with {pillow} (resample {number}).",
                "Reproduced here: bilinear (2) and bicubic (3).",
            )
        return _FILTERS[number or 2]

    def size(self, name: str, *, square: bool | None = True) -> Size | None:
        """A size in any of the forms that transformers takes; None for `null`.

        `square`: whether one number is height and width (else the shortest edge); None: one number is refused.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if is_length(value) and square is not None:
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        if isinstance(value, list | tuple) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        if not isinstance(value, dict) or value.keys() not in _SIZE_KEYS:
            raise self.error(name, "Known: shortest_edge; height and width.")
        size = {key: length for key, length in value.items() if length is not None or key != "longest_edge"}
        if not all(map(is_length, size.values())):
            raise self.error(name, "Lengths are whole numbers from 1 up.")
        return Size(**size)

    def error(self, name: str, remedy: str) -> BadInput:
        """That setting `name` cannot be used."""
        if name in self.values and self.values[name] is None:
            return BadInput(f"The processor {self.kind} of {self.where} has {name} null, which a step needs.", remedy)
        value = self.values.get(name)
        return BadInput(f"The processor {self.kind} of {self.where} has the {name} {value!r}.", remedy)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_length(value: object) -> bool:
    """Whether `value` is a whole number from 1 up."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def processor_section(folder: Path, video: bool) -> dict[str, Any]:
    """The JSON object that describes a checkpoint's processor.

    Looks into `processor_config.json` (its `image_processor`, or with `video` its `video_processor`), then, with
    `video`, `video_preprocessor_config.json`, then `preprocessor_config.json`.

    Raises:
        MissingPath: there is no such file.
        BadInput: a file that is not a JSON object.
    """
    candidates = [("processor_config.json", "image_processor"), ("preprocessor_config.json", None)]
    if video:
        candidates[:0] = [("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None)]
    for name, key in candidates:
        if (folder / name).is_file():
            data = _read_object(folder / name)
            section = data if key is None else data.get(key)
            if isinstance(section, dict) and section:
                return section
    raise MissingPath(
        f"The checkpoint {folder} does not say how its pixels are made: no {candidates[0][0]}, no {candidates[-1][0]}.",
        "Copy that file from the checkpoint's page into the folder.",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not JSON ({error}).", "Copy it again from the checkpoint's page.") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not a JSON object.", "Copy it again from the checkpoint's page.")
    return data
