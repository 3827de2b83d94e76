"""Defaults of the processors that `pixels.py` reproduces, for what a checkpoint's processor file does not set.

Facts of transformers 5: class attributes of its processors, named without suffix (`CLIPImageProcessor`).
A test compares each with the installed library.
"""

from __future__ import annotations

from typing import Any, Final

CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN: Final = [0.485, 0.456, 0.406]
IMAGENET_STD: Final = [0.229, 0.224, 0.225]
HALF: Final = [0.5, 0.5, 0.5]

PILLOW_FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def _defaults(
    resample: int,
    mean: list[float],
    std: list[float],
    *,
    shortest: int | None = None,
    exact: int | None = None,
    crop: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    size = {"shortest_edge": shortest} if shortest else {"height": exact, "width": exact}
    return {
        "do_resize": True,
        "size": size,
        "default_to_square": shortest is None,
        "resample": resample,
        "do_center_crop": crop is not None,
        "crop_size": None if crop is None else {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        **more,
    }


DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "BeitImageProcessor": _defaults(3, HALF, HALF, exact=224, crop=224, do_center_crop=False),
    "BitImageProcessor": _defaults(3, CLIP_MEAN, CLIP_STD, shortest=224, crop=224),
    "CLIPImageProcessor": _defaults(3, CLIP_MEAN, CLIP_STD, shortest=224, crop=224),
    "ChineseCLIPImageProcessor": _defaults(3, CLIP_MEAN, CLIP_STD, shortest=224, crop=224),
    "ConvNextImageProcessor": _defaults(3, HALF, HALF, shortest=384, crop_pct=224 / 256),
    "DINOv3ViTImageProcessor": _defaults(2, IMAGENET_MEAN, IMAGENET_STD, exact=224),
    "DeiTImageProcessor": _defaults(3, HALF, HALF, exact=256, crop=224),
    "EfficientNetImageProcessor": _defaults(
        3, HALF, HALF, exact=346, crop=289, do_center_crop=False, rescale_offset=False, include_top=True
    ),
    "LevitImageProcessor": _defaults(3, IMAGENET_MEAN, IMAGENET_STD, shortest=224, crop=224),
    "MobileNetV1ImageProcessor": _defaults(2, HALF, HALF, shortest=256, crop=224),
    "MobileNetV2ImageProcessor": _defaults(2, HALF, HALF, shortest=256, crop=224),
    "MobileViTImageProcessor": _defaults(
        3, HALF, HALF, shortest=224, crop=256, do_normalize=False, do_flip_channel_order=True
    ),
    "PvtImageProcessor": _defaults(3, IMAGENET_MEAN, IMAGENET_STD, exact=224),
    "SegformerImageProcessor": _defaults(2, IMAGENET_MEAN, IMAGENET_STD, exact=512),
    "SiglipImageProcessor": _defaults(3, HALF, HALF, exact=224, default_to_square=False),
    "ViTImageProcessor": _defaults(2, HALF, HALF, exact=224),
    "VideoLlavaVideoProcessor": _defaults(3, CLIP_MEAN, CLIP_STD, shortest=224, crop=224),
    "VideoMAEImageProcessor": _defaults(2, HALF, HALF, shortest=224, crop=224),
    "VideoMAEVideoProcessor": _defaults(2, HALF, HALF, shortest=224, crop=224),
}

MODEL_TYPES: Final[dict[str, str]] = {
    "beit": "BeitImageProcessor",
    "bit": "BitImageProcessor",
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "convnextv2": "ConvNextImageProcessor",
    "data2vec-vision": "BeitImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "efficientnet": "EfficientNetImageProcessor",
    "ijepa": "ViTImageProcessor",
    "levit": "LevitImageProcessor",
    "mobilenet_v1": "MobileNetV1ImageProcessor",
    "mobilenet_v2": "MobileNetV2ImageProcessor",
    "mobilevit": "MobileViTImageProcessor",
    "pvt": "PvtImageProcessor",
    "regnet": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "segformer": "SegformerImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "swin": "ViTImageProcessor",
    "swinv2": "ViTImageProcessor",
    "video_llava": "VideoLlavaVideoProcessor",
    "videomae": "VideoMAEVideoProcessor",
    "vit": "ViTImageProcessor",
    "vit_msn": "ViTImageProcessor",
}
"""Which processor a model type has where its processor file names none."""
