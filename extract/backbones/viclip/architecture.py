"""The sizes of a ViCLIP, from its configuration or from the shapes of its weights. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput

MODEL_TYPE: Final = "viclip"
ACTIVATION: Final = "quick_gelu"
EPS: Final = 1e-5
HEAD_WIDTH: Final = 64
"""Width of an attention head of all published models; used where no configuration says otherwise."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tower:
    """A stack of blocks: width D, how many blocks, heads of each."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Architecture:
    """Both towers. `patch`, `image`: edges in pixels. `frames`: number of learned temporal positions.

    `context`, `vocabulary`: of the text tower. `embedding`: width of what both project to.
    """

    vision: Tower
    text: Tower
    patch: int = 16
    image: int = 224
    frames: int = 8
    context: int = 32
    vocabulary: int = 49408
    embedding: int = 512

    @property
    def grid(self) -> int:
        """Patches along an edge of a frame."""
        return self.image // self.patch

    def to_json(self) -> dict[str, Any]:
        """The content of a checkpoint's config.json."""
        return {"model_type": MODEL_TYPE, **asdict(self)}


PUBLISHED: Final = {
    "b": Architecture(Tower(768, 12, 12), Tower(512, 12, 8)),
    "l": Architecture(Tower(1024, 24, 16), Tower(768, 12, 12), patch=14, embedding=768),
}
"""By the `size` in the published config.json: B/16 and L/14."""


def architecture_of(config: Mapping[str, Any], shapes: Callable[[], Shapes], where: str) -> Architecture:
    """The sizes of a checkpoint: from its config.json, in this project's form or the published one, else from shapes.

    Args:
        config: config.json; empty where there is none.
        shapes: Returns names and shapes of all weights; called only where the configuration gives no sizes.
        where: The checkpoint, for messages.

    Raises:
        BadInput: another architecture, or a configuration or weights that are not those of a ViCLIP.
    """
    named = config.get("model_type") or ", ".join(config.get("architectures") or ())
    if named and str(named).lower() != MODEL_TYPE:
        raise BadInput(
            f"The checkpoint {where} is a {named} model; viclip needs a ViCLIP one.",
            "Give another --checkpoint, or the --model that this one belongs to.",
        )
    if isinstance(config.get("vision"), dict):
        return _from_config(config, where)
    if "size" in config:
        size = str(config["size"]).lower()
        if size not in PUBLISHED:
            raise BadInput(
                f"config.json of {where} says size {size!r}.", f"Known sizes: {', '.join(sorted(PUBLISHED))}."
            )
        return PUBLISHED[size]
    return _from_shapes(shapes(), where)


def _from_config(config: Mapping[str, Any], where: str) -> Architecture:
    try:
        towers = {
            name: Tower(**{key: int(value) for key, value in config[name].items()}) for name in ("vision", "text")
        }
        others = {
            name: int(config[name]) for name in ("patch", "image", "frames", "context", "vocabulary", "embedding")
        }
        architecture = Architecture(towers["vision"], towers["text"], **others)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"config.json of {where} does not describe a ViCLIP: {type(error).__name__}: {error}.",
            "Remove config.json, and sizes are read from the weights; or copy it again.",
        ) from error
    for name, tower in towers.items():
        if tower.heads < 1 or tower.width % tower.heads:
            raise BadInput(
                f"config.json of {where}: the {name} tower is {tower.width} wide, with {tower.heads} heads.",
                "The width must be a multiple of the heads.",
            )
    return architecture


def _from_shapes(shapes: Shapes, where: str) -> Architecture:
    try:
        (width, _, _, patch, _) = shapes["vision_encoder.conv1.weight"]
        tokens, _ = shapes["vision_encoder.positional_embedding"]
        _, frames, _ = shapes["vision_encoder.temporal_positional_embedding"]
        _, embedding = shapes["vision_encoder.proj"]
        vocabulary, text_width = shapes["text_encoder.token_embedding.weight"]
        context, _ = shapes["text_encoder.positional_embedding"]
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"The checkpoint {where} is no ViCLIP: {error.args[0]!r} is not as it should be.",
            "Give a file with the published names: vision_encoder.*, text_encoder.*, temp.",
        ) from error
    return Architecture(
        Tower(width, _depth(shapes, "vision_encoder"), max(1, width // HEAD_WIDTH)),
        Tower(text_width, _depth(shapes, "text_encoder"), max(1, text_width // HEAD_WIDTH)),
        patch,
        math.isqrt(tokens - 1) * patch,
        frames,
        context,
        vocabulary,
        embedding,
    )


def _depth(shapes: Shapes, tower: str) -> int:
    return sum(name.startswith(f"{tower}.") and name.endswith(".ln_1.weight") for name in shapes)
