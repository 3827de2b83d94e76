"""Processor files with mutated settings, against transformers: equal pixels, or refused.

The library's PIL processors read the same files as its torchvision ones. Two operations are replaced here by those of
the torchvision processors: the kernel of the resize, and on which side a crop that is larger than the picture gets one
row of zeros more. All sizes, steps, scales and decisions are the library's own.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from suites.pixel_cases import frames
from transformers import image_processing_backends

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.frames.pixels import pixel_rule

FILES: Final[dict[str, dict[str, Any]]] = {
    "CLIPImageProcessor": {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}},
    "ViTImageProcessor": {"size": {"height": 20, "width": 24}},
    "SiglipImageProcessor": {"size": {"height": 22, "width": 22}},
    "BitImageProcessor": {"size": {"shortest_edge": 26}, "crop_size": {"height": 20, "width": 24}},
    "VideoMAEImageProcessor": {"size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 20}, "crop_pct": 0.875},
    "DeiTImageProcessor": {"size": {"height": 28, "width": 26}, "crop_size": {"height": 24, "width": 24}},
    "BeitImageProcessor": {"size": {"height": 20, "width": 20}, "crop_size": {"height": 16, "width": 18}},
    "LevitImageProcessor": {"size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}},
    "MobileNetV1ImageProcessor": {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 20}, "crop_size": {"height": 24, "width": 18}},
    "EfficientNetImageProcessor": {"size": {"height": 24, "width": 22}, "crop_size": {"height": 20, "width": 20}},
    "PvtImageProcessor": {"size": {"height": 20, "width": 22}},
    "SegformerImageProcessor": {"size": {"height": 24, "width": 18}},
    "ChineseCLIPImageProcessor": {"size": {"shortest_edge": 22}, "crop_size": {"height": 20, "width": 20}},
}
STEPS: Final = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb")
SIZES: Final[tuple[Any, ...]] = (
    18, [20, 26], [20], [20, 24, 28], 0, -4, 20.0, "20", True, {}, {"shortest_edge": 18}, {"shortest_edge": None},
    {"shortest_edge": 20, "longest_edge": 30}, {"shortest_edge": 20, "longest_edge": None}, {"longest_edge": 30},
    {"height": 18, "width": 21}, {"height": 18}, {"height": 18, "width": None}, {"height": 18, "width": 0},
    {"height": 18, "width": 18, "shortest_edge": 20}, {"max_height": 20, "max_width": 22}, {"edge": 3},
)  # fmt: skip
CHANNELS: Final[tuple[Any, ...]] = (
    0.5,
    1,
    [0.4, 0.5, 0.6],
    [0, 1, 0],
    [0.5],
    [0.5, 0.5],
    [0.5, "0.5", 0.5],
    "0.5",
    [],
    [0.2] * 4,
)
VALUES: Final[dict[str, tuple[Any, ...]]] = {
    **dict.fromkeys(STEPS, (True, False)),
    "size": SIZES,
    "crop_size": SIZES,
    "resample": (0, 1, 2, 3, 4, 5, 3.0, "bicubic", 9),
    "rescale_factor": (1, 1 / 127.5, 0.5, "x", [1]),
    "image_mean": CHANNELS,
    "image_std": CHANNELS,
    "default_to_square": (True, False),
    "crop_pct": (0.5, 1, 0.9),
    "do_flip_channel_order": (True, False),
    "rescale_offset": (True, False),
    "include_top": (True, False),
    "use_square_size": (True, False),
    "a setting of no processor": (1, "x"),
}
COUNT: Final = 720


def mutated(number: int) -> tuple[str, dict[str, Any]]:
    """Processor and file `number`: one to three settings set to another value, to null, or left out."""
    rng = np.random.default_rng([7, number])
    kind = sorted(FILES)[number % len(FILES)]
    file = {"image_processor_type": kind, **FILES[kind]}
    for name in rng.choice(sorted(VALUES), int(rng.integers(1, 4)), replace=False).tolist():
        choice = rng.random()
        if choice < 0.15:
            file.pop(name, None)
        elif choice < 0.4:
            file[name] = None
        else:
            file[name] = VALUES[name][int(rng.integers(len(VALUES[name])))]
    return kind, file


def resized(image: npt.NDArray[Any], size: Any, resample: Any = None, **_: Any) -> npt.NDArray[Any]:
    """The library's resize of `[3, H, W]` with torch's uint8 kernel; filters that are refused here give any pixels."""
    height, width = (int(side) for side in size)
    if tuple(image.shape[1:]) == (height, width):
        return image
    mode = {2: "bilinear", 3: "bicubic"}.get(int(resample), "bilinear")
    x = torch.from_numpy(np.ascontiguousarray(image))[None]
    return torch.nn.functional.interpolate(x, (height, width), mode=mode, antialias=True)[0].numpy()


def cropped(image: npt.NDArray[Any], size: tuple[int, int], **_: Any) -> npt.NDArray[Any]:
    """The middle (height, width) of `[3, H, W]`; of an odd number of rows of zeros, the larger half comes after."""
    more = [max(side - old, 0) for side, old in zip(size, image.shape[1:], strict=True)]
    image = np.pad(image, [(0, 0), *((extra // 2, (extra + 1) // 2) for extra in more)])
    top, left = ((old - side) // 2 for side, old in zip(size, image.shape[1:], strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def of_library(kind: str, file: dict[str, Any], frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any] | None:
    """Pixels `[3, h, w]` of one frame; None where the library fails."""
    try:
        processor = getattr(transformers, f"{kind}Pil").from_dict(dict(file))
        pixels = processor([frame], return_tensors=None)["pixel_values"]
        while isinstance(pixels, list):
            pixels = pixels[0]
        return np.asarray(pixels, np.float32)
    except Exception:
        return None


def by_rule(file: dict[str, Any]) -> bool:
    """Whether a file holds a setting that is refused by rule, also where the library's PIL processor takes it."""
    sizes = [file[name] for name in ("size", "crop_size") if file.get(name) is not None]
    mappings = [size for size in sizes if isinstance(size, dict)]
    channels = [file.get(name) for name in ("image_mean", "image_std")]
    needed = ["rescale_offset", "include_top", "crop_pct", *(["default_to_square"] if 18 in sizes else [])]
    return any(
        (
            type(file.get("resample", 3)) is not int or file["resample"] not in (2, 3) if "resample" in file else False,
            bool(file.get("do_pad")),
            any(name in file and file[name] is None for name in needed),
            isinstance(file.get("rescale_factor"), list),
            any(
                isinstance(size, bool) or size in (0, -4) or (isinstance(size, list) and len(size) > 2)
                for size in sizes
            ),
            any(
                set(size) not in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"height", "width"})
                for size in mappings
            ),
            any(not length for size in mappings for key, length in size.items() if key != "longest_edge"),
            any(
                isinstance(number, str)
                for values in channels
                for number in np.atleast_1d(np.array(values, object)).tolist()
            ),
            any(0 in values for values in channels[1:] if isinstance(values, list)),
        )
    )


@pytest.fixture(scope="module")
def outcomes() -> Counter[str]:
    """How the files came out; what is neither equal nor rightly refused is named in full."""
    counts: Counter[str] = Counter()
    clip = frames(27, 33, 1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), np.errstate(all="ignore"):
        patch.setattr(image_processing_backends, "np_resize", resized)
        patch.setattr(image_processing_backends, "np_center_crop", cropped)
        warnings.simplefilter("ignore")
        for number in range(COUNT):
            kind, file = mutated(number)
            counts[outcome(file, of_library(kind, file, clip[0]), clip)] += 1
    return counts


def outcome(file: dict[str, Any], theirs: npt.NDArray[Any] | None, clip: npt.NDArray[np.uint8]) -> str:
    try:
        ours = pixel_rule(file)(clip)[0].numpy()
    except BadInput as error:
        if theirs is None:
            return "both refuse"
        return "refused by rule" if by_rule(file) else f"{file}: refused with {error.problem}, the library takes it"
    if theirs is None:
        return f"{file}: the library fails"
    if ours.shape != theirs.shape:
        return f"{file}: {ours.shape}, not {theirs.shape}"
    near = np.isclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(theirs).max()))).all()
    return "equal" if near else f"{file}: other pixels, by {np.abs(ours - theirs).max()}"


def test_every_mutated_file_gives_the_library_s_pixels_or_is_refused(outcomes: Counter[str]) -> None:
    wrong = [text for text in outcomes if text not in ("equal", "both refuse", "refused by rule")]
    assert not wrong, "\n".join(wrong)


def test_most_mutated_files_are_compared(outcomes: Counter[str]) -> None:
    assert outcomes["equal"] > COUNT // 3, outcomes
    assert outcomes["both refuse"] > COUNT // 10, outcomes
