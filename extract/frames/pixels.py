"""From decoded frames to what a model reads: resize, crop, rescale, normalise, on the CPU.

Bit-equal to the torchvision processors of transformers, without torchvision: they resize uint8 frames with torch's
fixed-point antialiased kernel and fuse rescaling with normalisation, and so does this. Their PIL twins, which the
library falls back to where torchvision is missing, differ from them by one or two grey levels; a GPU resize by up to
ten. Parameters are read from the checkpoint's own JSON, absent ones from the defaults of the processor it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.record import Json

from .processor_defaults import DEFAULTS, MODEL_TYPES, PILLOW_FILTERS

IMPLEMENTATION: Final = "torch uint8 antialias"
VERSION: Final = 1
"""To be raised with any change that alters a single output bit: both stand in the recipe."""


@dataclass(frozen=True)
class PixelRule:
    """One checkpoint's way from uint8 frames to pixel values, every parameter spelt out.

    `shortest_edge` resizes with the aspect ratio kept (no longer than `longest_edge`, where given), `exact` to
    (height, width); at most one of the two is set. `crops` are centre crops (height, width) in order, padded with
    zeros where the frame is smaller. `rescale_first` rescales before resizing, in float (DINOv3). `offset` is
    subtracted after rescaling, unfused, and `second_std` divides once more (EfficientNet). `bgr` swaps channels.
    """

    processor: str
    shortest_edge: int | None
    longest_edge: int | None
    exact: tuple[int, int] | None
    resample: str
    crops: tuple[tuple[int, int], ...]
    rescale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    rescale_first: bool = False
    offset: float = 0.0
    second_std: tuple[float, ...] | None = None
    bgr: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every output frame, or None where it follows the video."""
        return self.crops[-1] if self.crops else self.exact

    def recipe(self) -> dict[str, Json]:
        """Implementation, version and all parameters, for the recipe of a store."""
        fields = cast("dict[str, Json]", json.loads(json.dumps(asdict(self))))
        return {"implementation": IMPLEMENTATION, "version": VERSION, **fields}

    def __call__(self, frames: npt.NDArray[Any] | Tensor) -> Tensor:
        """Pixel values float32 `[T, 3, h, w]` of uint8 RGB frames `[T, H, W, 3]`.

        Raises BadInput for anything but uint8 `[T, H, W, 3]`. Safe to call from several threads.
        """
        x = torch.as_tensor(frames)
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[-1] != 3 or 0 in x.shape:
            raise BadInput(
                f"Frames have the shape {tuple(x.shape)} and dtype {x.dtype}.", "Give uint8 RGB frames [T, H, W, 3]."
            )
        x = x.permute(0, 3, 1, 2).contiguous()
        if self.rescale_first and self.rescale is not None:
            x = x * self.rescale
        x = self._resize(x)
        for crop in self.crops:
            x = centre_crop(x, crop)
        return self._normalise(x)

    def _resize(self, x: Tensor) -> Tensor:
        old = (x.shape[-2], x.shape[-1])
        new = self.exact or (resized(*old, self.shortest_edge, self.longest_edge) if self.shortest_edge else old)
        if new == old:
            return x
        # On uint8 this is torch's fixed-point kernel: the float kernel, then rounding, gives other grey levels.
        return torch.nn.functional.interpolate(x, new, mode=self.resample, align_corners=False, antialias=True)

    def _normalise(self, x: Tensor) -> Tensor:
        rescale = None if self.rescale_first else self.rescale
        mean, std = (None if v is None else torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        if rescale is not None and mean is not None and std is not None and not self.offset:
            # (x / 255 - mean) / std differs from this in the last bits.
            mean, scaled_std = mean * (1.0 / rescale), std * (1.0 / rescale)
            x = x.to(torch.float32).sub_(mean).div_(scaled_std)
        else:
            if rescale is not None:
                x = x * rescale - self.offset if self.offset else x * rescale
            if mean is not None and std is not None:
                x = x.to(torch.float32, copy=True).sub_(mean).div_(std)
        if self.second_std is not None:
            x = x.to(torch.float32).div(torch.tensor(self.second_std).view(-1, 1, 1))
        return (x.flip(1) if self.bgr else x).to(torch.float32).contiguous()


def resized(height: int, width: int, shortest: int, longest: int | None = None) -> tuple[int, int]:
    """(height, width) with the short side at `shortest`, the long side cut down to a whole pixel.

    With `longest`, the whole frame is made smaller where its long side would pass that.
    """
    short, long = min(height, width), max(height, width)
    exact = float(shortest)
    if longest is not None and long / short * shortest > longest:
        exact = longest * short / long
        shortest = round(exact)
        if short == shortest:
            return height, width
    long = int((exact if longest is not None else shortest) * long / short)
    return (shortest, long) if height <= width else (long, shortest)


def centre_crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (height, width) of `[..., H, W]`; zeros around it where it is larger than the frame."""
    height, width = size
    more_h, more_w = max(height - x.shape[-2], 0), max(width - x.shape[-1], 0)
    if more_h or more_w:
        x = torch.nn.functional.pad(x, (more_w // 2, (more_w + 1) // 2, more_h // 2, (more_h + 1) // 2))
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def read_pixel_rule(folder: Path, *, model_type: str, video: bool = False) -> PixelRule:
    """The rule that a checkpoint folder's processor files describe.

    Looks into `processor_config.json` (its `image_processor`, or with `video` its `video_processor`), then, with
    `video`, `video_preprocessor_config.json`, then `preprocessor_config.json`. `model_type` (from config.json) names
    the processor where the file does not.

    Raises MissingPath where there is no such file, BadInput for a processor or parameter this does not reproduce.
    """
    section = processor_section(folder, video)
    return pixel_rule(section, model_type=model_type, where=str(folder))


def processor_section(folder: Path, video: bool) -> dict[str, Any]:
    """The JSON object that describes a checkpoint's processor; see `read_pixel_rule` for where it is looked for."""
    candidates = [("processor_config.json", "image_processor"), ("preprocessor_config.json", None)]
    if video:
        candidates[:0] = [("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None)]
    for name, key in candidates:
        path = folder / name
        if path.is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            found = data if key is None else data.get(key)
            if found:
                return cast("dict[str, Any]", found)
    raise MissingPath(
        f"The checkpoint {folder} does not say how its pixels are made: no {candidates[0][0]}, no {candidates[-1][0]}.",
        "Copy that file from the checkpoint's page into the folder.",
    )


def pixel_rule(section: Mapping[str, Any], *, model_type: str = "", where: str = "the checkpoint") -> PixelRule:
    """The rule that one processor's JSON object describes; see `read_pixel_rule`."""
    kind = _processor_name(section, model_type, where)
    value = {**DEFAULTS[kind], **{name: v for name, v in section.items() if v is not None}}
    if value.get("do_pad"):
        raise BadInput(
            f"The processor {kind} of {where} pads (do_pad).", "Set do_pad to false, or pick another checkpoint."
        )
    (shortest, longest, exact), crops = _geometry(kind, value, where)
    # MobileViT's processor takes do_normalize and does nothing with it.
    normalise, rescale = value.get("do_normalize") and kind != "MobileViTImageProcessor", value.get("do_rescale")
    efficientnet = kind == "EfficientNetImageProcessor"
    return PixelRule(
        processor=kind,
        shortest_edge=shortest,
        longest_edge=longest,
        exact=exact,
        resample=filter_name(value["resample"], where),
        crops=crops,
        rescale=float(value["rescale_factor"]) if rescale else None,
        mean=channels(value["image_mean"]) if normalise else None,
        std=channels(value["image_std"]) if normalise else None,
        rescale_first=kind == "DINOv3ViTImageProcessor",
        offset=1.0 if efficientnet and rescale and value.get("rescale_offset") else 0.0,
        second_std=channels(value["image_std"]) if efficientnet and value.get("include_top") else None,
        bgr=bool(kind == "MobileViTImageProcessor" and value.get("do_flip_channel_order")),
    )


def _processor_name(section: Mapping[str, Any], model_type: str, where: str) -> str:
    """Class name of the processor: as the file says, under its present name; else as its model type says."""
    said = (
        section.get("video_processor_type")
        or section.get("image_processor_type")
        or section.get("feature_extractor_type")
    )
    name = str(said or MODEL_TYPES.get(model_type, model_type or "unnamed"))
    name = name.removesuffix("Fast").removesuffix("Pil")
    if name.endswith("FeatureExtractor"):
        name = name.removesuffix("FeatureExtractor") + "ImageProcessor"
    # Files from before video processors name the image processor whose parameters they were.
    twin = name.replace("ImageProcessor", "VideoProcessor")
    name = twin if name not in DEFAULTS and twin in DEFAULTS else name
    if name not in DEFAULTS:
        raise BadInput(
            f"The checkpoint {where} wants its pixels from {name}, whose steps are not reproduced here.",
            f"Known processors: {', '.join(sorted(DEFAULTS))}.",
        )
    return name


Resize = tuple[int | None, int | None, tuple[int, int] | None]


def _geometry(kind: str, value: Mapping[str, Any], where: str) -> tuple[Resize, tuple[tuple[int, int], ...]]:
    """((shortest edge, longest edge, exact size), centre crops), with each processor's own habits worked in."""
    resize: Resize = (None, None, None)
    crops: list[tuple[int, int]] = []
    if value.get("do_resize"):
        resize = _resize(value["size"], bool(value.get("default_to_square", True)), kind, where)
        shortest = resize[0]
        if kind == "ConvNextImageProcessor":
            if shortest is None:
                raise BadInput(
                    f"The processor {kind} of {where} has the size {value['size']!r}.", "It takes shortest_edge alone."
                )
            resize = (None, None, (shortest, shortest))
            if shortest < 384:
                resize = (int(shortest / value["crop_pct"]), None, None)
                crops.append((shortest, shortest))
        if kind == "LevitImageProcessor" and shortest is not None:
            resize = (int((256 / 224) * shortest), None, None)
    if value.get("do_center_crop"):
        crop = value["crop_size"]
        height, width = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        crops.append((int(height), int(width)))
    return resize, tuple(crops)


def _resize(size: Any, square: bool, kind: str, where: str) -> Resize:
    """A `size` in any of the forms that processor files have had over the years."""
    if isinstance(size, int | float):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if isinstance(size, dict) and size.get("shortest_edge"):
        longest = size.get("longest_edge")
        return int(size["shortest_edge"]), int(longest) if longest else None, None
    if isinstance(size, dict) and size.get("height") and size.get("width"):
        return None, None, (int(size["height"]), int(size["width"]))
    raise BadInput(f"The processor {kind} of {where} has the size {size!r}.", "Known: shortest_edge; height and width.")


def filter_name(number: int, where: str) -> str:
    """A Pillow filter's number as torch names it; raises BadInput for one that is not reproduced."""
    names = {2: "bilinear", 3: "bicubic"}
    if int(number) not in names:
        raise BadInput(
            f"The checkpoint {where} resizes with {PILLOW_FILTERS.get(int(number), number)} (resample {number}).",
            "Reproduced here: bilinear (2) and bicubic (3).",
        )
    return names[int(number)]


def channels(value: float | list[float]) -> tuple[float, ...]:
    """A processor's mean or deviation, one number per channel."""
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
