"""From decoded frames to the pixels that a model reads: resize, crop, rescale, normalise, on the CPU.

Bit-equal to the torchvision processors of transformers, without torchvision: like them, it resizes uint8 frames with
torch's fixed-point antialiased kernel and fuses rescaling with normalisation. The PIL processors, which the library
uses where torchvision is missing, differ from them by one or two grey levels; a GPU resize by up to ten. Parameters are
read from the checkpoint's own JSON (see `processor_file`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import has_streams
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json

from .processor_defaults import DEFAULTS, MODEL_TYPES
from .processor_file import Settings, Size, processor_section

IMPLEMENTATION: Final = "torch uint8 antialias"
VERSION: Final = 1
"""To be increased with any change of output bits: IMPLEMENTATION and VERSION are part of the recipe."""


@dataclass(frozen=True)
class PixelRule:
    """The steps from uint8 frames to pixel values of one checkpoint, with every parameter.

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
        return self.normalise(self.resized(frames))

    def resized(self, frames: npt.NDArray[Any] | Tensor) -> Tensor:
        """The same without `normalise`: uint8 `[T, 3, h, w]`, a quarter of the bytes; float32 with `rescale_first`."""
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
        return x

    def _resize(self, x: Tensor) -> Tensor:
        old = (x.shape[-2], x.shape[-1])
        new = self.exact or (resized(*old, self.shortest_edge, self.longest_edge) if self.shortest_edge else old)
        if new == old:
            return x
        # On uint8 this is torch's fixed-point kernel: the float kernel, then rounding, gives other grey levels.
        return torch.nn.functional.interpolate(x, new, mode=self.resample, align_corners=False, antialias=True)

    def normalise(self, x: Tensor) -> Tensor:
        """Pixel values float32 of `resized` ones `[..., 3, h, w]`, with the same bits on every device."""
        rescale = None if self.rescale_first else self.rescale
        fused = rescale is not None and self.mean is not None and self.std is not None and not self.offset
        # (x / 255 - mean) / std differs from the fused steps in the last bits.
        factor = 1.0 / rescale if fused and rescale is not None else 1.0
        if rescale is not None and not fused:
            x = x * rescale - self.offset if self.offset else x * rescale
        if self.mean is not None and self.std is not None:
            mean, std = (_per_channel(values, factor, x.device) for values in (self.mean, self.std))
            x = x.to(torch.float32, copy=True).sub_(mean).div_(std)
        if self.second_std is not None:
            x = x.to(torch.float32).div(_per_channel(self.second_std, 1.0, x.device))
        return (x.flip(-3) if self.bgr else x).to(torch.float32).contiguous()


@functools.lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], factor: float, device: torch.device) -> Tensor:
    """`factor * values` `[3, 1, 1]`, computed on the CPU and copied to the device once."""
    on_cpu = (torch.tensor(values) * factor).view(-1, 1, 1)
    return (on_cpu.pin_memory() if has_streams(device) else on_cpu).to(device, non_blocking=True)


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

    `model_type` (from config.json) names the processor where the file does not; `video`: whether to read the video
    processor where there is one.

    Raises:
        MissingPath: there is no processor file.
        BadInput: a processor or a setting that is not reproduced here.
    """
    return pixel_rule(processor_section(folder, video), model_type=model_type, where=str(folder))


def pixel_rule(section: Mapping[str, Any], *, model_type: str = "", where: str = "the checkpoint") -> PixelRule:
    """The rule that one processor's JSON object describes; see `read_pixel_rule`."""
    kind = _processor_name(section, model_type, where)
    settings = Settings(kind, {**DEFAULTS[kind], **section}, where)
    if settings.step("do_pad"):
        raise BadInput(
            f"The processor {kind} of {where} pads (do_pad).", "Set do_pad to false, or pick another checkpoint."
        )
    resize, crops = _geometry(settings)
    # MobileViT's processor takes do_normalize and does nothing with it.
    normalise = settings.step("do_normalize") and kind != "MobileViTImageProcessor"
    rescale = settings.step("do_rescale")
    efficientnet = kind == "EfficientNetImageProcessor"
    return PixelRule(
        processor=kind,
        shortest_edge=resize.shortest_edge,
        longest_edge=resize.longest_edge,
        exact=resize.exact,
        resample=settings.filter_name(),
        crops=crops,
        rescale=settings.number("rescale_factor") if rescale else None,
        mean=settings.channels("image_mean") if normalise else None,
        std=settings.channels("image_std") if normalise else None,
        rescale_first=kind == "DINOv3ViTImageProcessor",
        offset=1.0 if efficientnet and rescale and settings.flag("rescale_offset") else 0.0,
        second_std=settings.channels("image_std") if efficientnet and settings.flag("include_top") else None,
        bgr=kind == "MobileViTImageProcessor" and settings.step("do_flip_channel_order"),
    )


def _processor_name(section: Mapping[str, Any], model_type: str, where: str) -> str:
    """Class name of the processor, as transformers calls it now: stated by the file, else by the model type."""
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    stated = next((section[key] for key in keys if section.get(key)), None)
    name = str(stated or MODEL_TYPES.get(model_type, model_type or "unnamed"))
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


def _geometry(settings: Settings) -> tuple[Size, tuple[tuple[int, int], ...]]:
    """The resize (no field set: none) and the centre crops, with the special rules of some processors."""
    square = settings.values.get("default_to_square")
    size, crop = settings.size("size", square=square), settings.size("crop_size")
    if settings.kind == "CLIPImageProcessor" and settings.step("use_square_size"):
        edge = DEFAULTS[settings.kind]["size"]["shortest_edge"]
        size = Size(height=edge, width=edge)
    resize, crops = Size(), list[tuple[int, int]]()
    if settings.step("do_resize"):
        if size is None:
            raise settings.error("size", "Known: shortest_edge; height and width.")
        resize = size
        if settings.kind == "ConvNextImageProcessor":
            resize, crops = _convnext(settings, size)
        elif settings.kind == "LevitImageProcessor" and size.shortest_edge is not None:
            resize = Size(int((256 / 224) * size.shortest_edge))
    if settings.step("do_center_crop"):
        if crop is None or crop.exact is None:
            raise settings.error("crop_size", "It takes height and width.")
        if settings.kind != "SegformerImageProcessor":  # which checks the setting and does nothing with it
            crops.append(crop.exact)
    return resize, tuple(crops)


def _convnext(settings: Settings, size: Size) -> tuple[Size, list[tuple[int, int]]]:
    """ConvNeXt resizes small pictures to more than the size, and crops them to it."""
    edge = size.shortest_edge
    if edge is None:
        raise settings.error("size", "It takes shortest_edge alone.")
    if edge >= 384:
        return Size(height=edge, width=edge), []
    return Size(int(edge / settings.number("crop_pct"))), [(edge, edge)]
