"""Processor files and frames that pixels.py is proved on, with and without torchvision.

`GOLDEN` holds SHA-256 of float32 outputs of transformers' own torchvision processors (transformers 5.23.0,
torchvision 0.28.0, torch 2.13.0), made by `torchvision_parity.py`, which also prints them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIZES = ((240, 320), (360, 640), (721, 405), (97, 131), (224, 224), (256, 200))
"""(height, width): landscape, portrait and odd, smaller than the crop, no resize needed, narrower than the crop."""

CASES: dict[str, dict[str, Any]] = {
    "clip": {"image_processor_type": "CLIPImageProcessor"},
    "clip-2021": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 224,
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "mobilenet": {
        "image_processor_type": "MobileNetV1ImageProcessor",
        "size": {"shortest_edge": 256},
        "resample": 2,
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "mobilenet-v2": {"image_processor_type": "MobileNetV2ImageProcessor"},
    "vit": {"image_processor_type": "ViTImageProcessor", "size": 224},
    "vit-unnormalised": {"image_processor_type": "ViTImageProcessor", "size": 64, "do_normalize": False},
    "vit-unscaled": {"image_processor_type": "ViTImageProcessor", "size": 64, "do_rescale": False},
    "vit-as-it-comes": {"image_processor_type": "ViTImageProcessor", "do_resize": False},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 96, "width": 64}},
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "bounded": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 200, "longest_edge": 260}},
    "crop-larger": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, "crop_size": 101},
    "convnext-224": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
    "convnext-384": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "levit": {"image_processor_type": "LevitImageProcessor"},
    "deit": {"image_processor_type": "DeiTImageProcessor"},
    "beit": {"image_processor_type": "BeitImageProcessor", "do_center_crop": True, "size": 256},
    "efficientnet": {"image_processor_type": "EfficientNetImageProcessor"},
    "efficientnet-offset": {
        "image_processor_type": "EfficientNetImageProcessor",
        "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
        "include_top": False,
        "size": {"height": 100, "width": 90},
    },
    "mobilevit": {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288}},
    "pvt": {"image_processor_type": "PvtImageProcessor"},
    "segformer": {"image_processor_type": "SegformerImageProcessor", "size": {"height": 128, "width": 128}},
    "chinese-clip": {"image_processor_type": "ChineseCLIPImageProcessor"},
    "dinov3": {"image_processor_type": "DINOv3ViTImageProcessor"},
    "video-llava": {"video_processor_type": "VideoLlavaVideoProcessor"},
    "videomae-video": {"video_processor_type": "VideoMAEVideoProcessor"},
    "videomae-image": {"image_processor_type": "VideoMAEImageProcessor"},
}
"""Sections of processor files by the name of the case."""

FLOAT_RESIZE = ("dinov3",)
"""Resized in float, where the last bits are the processor's (CPU's) own: compared live, not by a golden hash."""


def frames(height: int, width: int, count: int = 2) -> npt.NDArray[np.uint8]:
    """Frames `[count, height, width, 3]`: noise in the first half of the rows, a moving ramp in the second."""
    rng = np.random.default_rng([height, width])
    made = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    t, y, x, c = np.ogrid[:count, : height - height // 2, :width, :3]
    made[:, height // 2 :] = (3 * x + 2 * y + 17 * t + 40 * c) // 4 % 256
    return made


def sha(make: Callable[[npt.NDArray[np.uint8]], Tensor]) -> str:
    """One hash over what `make` gives for the frames of all SIZES."""
    whole = hashlib.sha256()
    for size in SIZES:
        values = make(frames(*size)).to(torch.float32).contiguous()
        whole.update(repr(tuple(values.shape)).encode() + values.numpy().tobytes())
    return whole.hexdigest()[:16]


GOLDEN: dict[str, str] = {
    "clip": "deaaaf6037ffd309",
    "clip-2021": "deaaaf6037ffd309",
    "mobilenet": "6980a477920e3f62",
    "mobilenet-v2": "6980a477920e3f62",
    "vit": "16dae57103c16025",
    "vit-unnormalised": "5aa21210c508cc1f",
    "vit-unscaled": "3449c94537ada394",
    "vit-as-it-comes": "3913f8f16af8bab7",
    "siglip": "2c69af95a5ed27e6",
    "dinov2": "6e05e745d2c50cc0",
    "bounded": "80a5d3238b9ba6e5",
    "crop-larger": "68cfc0345ac92ad2",
    "convnext-224": "5528b5d65f3221b8",
    "convnext-384": "ce4e72c7a1daa647",
    "levit": "6e05e745d2c50cc0",
    "deit": "6256024b7dc12975",
    "beit": "6256024b7dc12975",
    "efficientnet": "e886c2a319eadfa4",
    "efficientnet-offset": "ad6ca572de25b4a7",
    "mobilevit": "5b67b2737db2a323",
    "pvt": "7de63609cdea5820",
    "segformer": "9ccff89181568efa",
    "chinese-clip": "deaaaf6037ffd309",
    "video-llava": "deaaaf6037ffd309",
    "videomae-video": "e743a02eacc84628",
    "videomae-image": "e743a02eacc84628",
}
