"""Block discovery: which modules of an image network are its blocks, found from a run of the library itself.

The network runs once on the meta device (shapes only, no weights) with `output_hidden_states=True`; the module that
returned an entry of the library's tuple is the block of that layer. So layers mean what the library means by them, also
for architectures that this file does not name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput, first_line

from .taps import Tap

RANDOM: Final = {"vit_mae": "drops three quarters of its patches at random"}
SHUFFLED: Final = ("hiera",)
"""Model types whose tokens are not in row-major order."""


@dataclass(frozen=True)
class Blocks:
    """Taps of a network by layer name ("0", "1" ..., "norm"), and their shapes for one image.

    `shapes`: `(S, D)` for tokens, `(D, h, w)` for maps. `pooled`: width of the library's `pooler_output`, or None.
    `last`: shape of its `last_hidden_state`.
    """

    taps: Mapping[str, Tap]
    shapes: Mapping[str, tuple[int, ...]]
    pooled: int | None
    last: tuple[int, ...]


@dataclass
class _Call:
    name: str
    entered: object
    returned: object


def discover_blocks(model: Any, size: tuple[int, int]) -> Blocks:
    """The blocks of `model` (on the meta device) for images of (height, width).

    Raises BadInput for a network that does not take images of this size, or gives no hidden states.
    """
    name = model.config.model_type
    if name in RANDOM:
        raise BadInput(f"{name} {RANDOM[name]}: its features would differ from run to run.", "Pick another checkpoint.")
    model.config.tie_last_hidden_states = False
    pixels = torch.zeros(2, getattr(model.config, "num_channels", 3), *size, device="meta", dtype=model.dtype)
    calls, output = _recorded_calls(model, pixels)
    states, last = output.get("hidden_states") or (), output.get("last_hidden_state")
    if not states or last is None:
        raise BadInput(f"{name} gives no hidden states for images.", "Pick another checkpoint.")
    paths, stem = _block_paths([_source(calls, state) for state in states], name)
    taps: dict[str, Tap] = {}
    tensors: dict[str, Any] = {}
    entered = next(call.entered for call in calls if call.name == paths[0])
    if _has_layer_0(paths[0], stem) and isinstance(entered, Tensor) and entered.shape != pixels.shape:
        taps["0"], tensors["0"] = Tap(paths[0], "input"), entered
    for i, path in enumerate(paths, start=1):
        taps[str(i)], tensors[str(i)] = Tap(path), states[i if stem else i - 1]
    norm = _source(calls, last)
    if norm is not None and norm not in paths and "Norm" in type(model.get_submodule(norm)).__name__:
        taps["norm"], tensors["norm"] = Tap(norm), last
    pooled = output.get("pooler_output")
    return Blocks(
        taps=taps,
        shapes={layer: tuple(tensor.shape[1:]) for layer, tensor in tensors.items()},
        pooled=None if pooled is None else int(pooled[0].numel()),
        last=tuple(last.shape[1:]),
    )


def _has_layer_0(block: str, stem: bool) -> bool:
    """Whether the input of the first listed block is layer 0: a stem, or no other block, comes before it."""
    return stem or set(re.findall(r"\.(\d+)(?=\.|$)", "." + block)) <= {"0"}


def _recorded_calls(model: nn.Module, pixels: Tensor) -> tuple[list[_Call], Any]:
    """Every call of a module, in the order they ended, and what the model returned."""
    calls: list[_Call] = []

    def recording(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entered = args[0] if args else next(iter(kwargs.values()), None)
            returned = output[0] if isinstance(output, tuple | list) and output else output
            calls.append(_Call(name, entered, returned))

        return hook

    handles = [m.register_forward_hook(recording(name), with_kwargs=True) for name, m in model.named_modules() if name]
    try:
        with torch.inference_mode():
            return calls, model(pixel_values=pixels, output_hidden_states=True, return_dict=True)
    except Exception as error:  # any model may fail in any way on input that it was not made for
        raise BadInput(
            f"{type(model).__name__} does not take images of {tuple(pixels.shape[2:])} pixels: {first_line(error)}",
            "Check that preprocessor_config.json belongs to this checkpoint, and that it is an image encoder.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _source(calls: Sequence[_Call], tensor: Tensor) -> str | None:
    """The module that returned this tensor object: the first one, or the outermost module around it that did too."""
    names = [call.name for call in calls if call.returned is tensor]
    around = [name for name in names if f"{names[0]}.".startswith(f"{name}.")]
    return min(around, key=len) if around else None


def _block_paths(sources: Sequence[str | None], name: str) -> tuple[list[str], bool]:
    """Paths of blocks 1 to L, and whether the library's tuple began with the stem.

    Paths of blocks differ in their numbers alone; the stem before them, or a norm after them, has another path.
    """
    patterns = [None if source is None else re.sub(r"\d+", "*", source) for source in sources]
    pattern, _ = Counter(p for p in patterns[1:] or patterns).most_common(1)[0]
    stem = patterns[0] != pattern
    end = len(sources) - (patterns[-1] != pattern)
    paths = [source for source, p in zip(sources[stem:end], patterns[stem:end], strict=True) if source and p == pattern]
    if pattern is None or len(paths) != end - stem or len(set(paths)) != len(paths):
        raise BadInput(
            f"The blocks of {name} cannot be told apart: its hidden states come from {list(sources)}.",
            "Pick another checkpoint, or keep the pooled vector alone in another tool and import it.",
        )
    return paths, stem


def token_grid(shape: tuple[int, ...], image: tuple[int, int], patch: int | None) -> tuple[int, int, int] | None:
    """(tokens before the patches, grid height, grid width) of one layer's output, or None where that is unclear.

    `shape`: `(D, h, w)` for maps, `(S, D)` for tokens. `patch`: edge of a patch in pixels, where the config has one.
    """
    if len(shape) == 3:
        return 0, shape[1], shape[2]
    count = shape[0]
    if patch:
        height, width = image[0] // patch, image[1] // patch
        if 0 <= count - height * width <= 16:
            return count - height * width, height, width
    for extra in (0, 1):
        height = round(((count - extra) * image[0] / image[1]) ** 0.5)
        if height and (count - extra) % height == 0 and height * image[1] == (count - extra) // height * image[0]:
            return extra, height, (count - extra) // height
    return None
