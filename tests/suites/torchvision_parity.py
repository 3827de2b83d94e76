"""Run by itself: compares pixels.py with transformers' torchvision processors, and prints one JSON object.

    python torchvision_parity.py FOLDER_WITH_TORCHVISION

torchvision lies in a folder of its own, because a torchvision that is installed but does not import breaks
transformers; two operator schemas are declared first, so that it imports without its compiled extension.
"""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])
sys.path.insert(1, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt
import torch

_library = torch.library.Library("torchvision", "FRAGMENT")
for _op in ("nms", "qnms"):
    _library.define(f"{_op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402
import transformers  # noqa: E402
from suites.patch_cases import CLIPS, PATCH_CASES, patch_sha  # noqa: E402
from suites.pixel_cases import CASES, SIZES, frames, sha  # noqa: E402

from vfc.extract.frames.pixels import pixel_rule  # noqa: E402
from vfc.extract.frames.qwen_patches import patch_rule  # noqa: E402


def theirs(processor: Any, clip: npt.NDArray[np.uint8]) -> torch.Tensor:
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2)
    output = processor([frames] if "Video" in type(processor).__name__ else list(frames), return_tensors="pt")
    (values,) = (value for key, value in output.items() if key.startswith("pixel_values"))
    made: torch.Tensor = values.reshape(len(clip), *values.shape[-3:]).to(torch.float32)
    return made


def their_patches(processor: Any, clip: npt.NDArray[np.uint8]) -> tuple[torch.Tensor, tuple[int, int, int]]:
    video = torch.from_numpy(clip).permute(0, 3, 1, 2)
    output = processor([video], return_tensors="pt", do_sample_frames=False)
    t, rows, columns = output["video_grid_thw"][0].tolist()
    return output["pixel_values_videos"], (t, rows, columns)


def patches_report() -> dict[str, object]:
    report: dict[str, object] = {}
    for name, (model_type, section) in PATCH_CASES.items():
        rule = patch_rule(section, model_type=model_type)
        given = {key: value for key, value in section.items() if not key.endswith("_type")}
        processor = getattr(transformers, rule.frames.processor)(**given)
        unequal = []
        for count, height, width in CLIPS:
            clip = frames(height, width, count)
            values, grid = rule(clip)
            wanted, wanted_grid = their_patches(processor, clip)
            if grid != wanted_grid or not torch.equal(values, wanted):
                unequal.append((count, height, width))
        report[name] = {
            "unequal": unequal,
            "golden": patch_sha(partial(their_patches, processor)),
        }
    return report


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    report: dict[str, object] = {"torchvision": torchvision.__version__, "transformers": transformers.__version__}
    for name, section in CASES.items():
        rule = pixel_rule(section)
        given = {key: value for key, value in section.items() if not key.endswith("_type")}
        processor = getattr(transformers, rule.processor)(**given)
        unequal = [size for size in SIZES if not torch.equal(theirs(processor, frames(*size)), rule(frames(*size)))]
        report[name] = {"unequal": unequal, "golden": sha(partial(theirs, processor))}
    print(json.dumps({**report, **patches_report()}))


if __name__ == "__main__":
    main()
