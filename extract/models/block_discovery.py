"""Where the blocks of an image network are, found by watching the library itself run.

The network is run once on the meta device (shapes only, no weights) with `output_hidden_states=True`; the module that
made each entry of the library's tuple is the block of that layer. So layers mean what the library means by them, for
families this file has never heard of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput

from .taps import Tap

RANDOM: Final = {"vit_mae": "drops three quarters of its patches at random"}
SHUFFLED: Final = ("hiera",)
"""Model types whose tokens do not lie row by row."""


@dataclass(frozen=True)
class Anatomy:
    """Taps of a network by layer name ("0", "1" ..., "norm"), and what one image gives at each.

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
    kind: str
    entered: object
    left: object


def anatomy(model: Any, size: tuple[int, int]) -> Anatomy:
    """What `model` (on the meta device) is made of, for images of (height, width).

    Raises BadInput for a network that does not take images of this size, or gives no hidden states.
    """
    name = model.config.model_type
    if name in RANDOM:
        raise BadInput(f"{name} {RANDOM[name]}: its features would differ from run to run.", "Pick another checkpoint.")
    model.config.tie_last_hidden_states = False
    pixels = torch.zeros(2, getattr(model.config, "num_channels", 3), *size, device="meta", dtype=model.dtype)
    calls, output = _watched(model, pixels)
    states = output.get("hidden_states") or ()
    last = output.get("last_hidden_state")
    if not states or last is None:
        raise BadInput(f"{name} gives no hidden states for images.", "Pick another checkpoint.")
    makers = [_maker(calls, state) for state in states]
    blocks, stem = _blocks(makers, name)
    taps = {str(i): Tap(path) for i, path in enumerate(blocks, start=1)}
    tensors: dict[str, Any] = {str(i): states[i if stem else i - 1] for i in range(1, len(blocks) + 1)}
    entered = next(call.entered for call in calls if call.name == blocks[0])
    first = stem or set(re.findall(r"\.(\d+)(?=\.|$)", "." + blocks[0])) <= {"0"}
    if first and isinstance(entered, Tensor) and entered is not pixels and entered.shape != pixels.shape:
        taps, tensors = {"0": Tap(blocks[0], "input"), **taps}, {"0": entered, **tensors}
    norm = _maker(calls, last)
    if norm is not None and norm not in blocks and "Norm" in type(model.get_submodule(norm)).__name__:
        taps["norm"], tensors["norm"] = Tap(norm), last
    pooled = output.get("pooler_output")
    return Anatomy(
        taps=taps,
        shapes={layer: tuple(tensor.shape[1:]) for layer, tensor in tensors.items()},
        pooled=None if pooled is None else int(pooled[0].numel()),
        last=tuple(last.shape[1:]),
    )


def _watched(model: nn.Module, pixels: Tensor) -> tuple[list[_Call], Any]:
    """Every call of a module, in the order they ended, and what the model returned."""
    calls: list[_Call] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entered = args[0] if args else next(iter(kwargs.values()), None)
            left = output[0] if isinstance(output, tuple | list) and output else output
            calls.append(_Call(name, type(module).__name__, entered, left))

        return hook

    handles = [m.register_forward_hook(watch(name), with_kwargs=True) for name, m in model.named_modules() if name]
    try:
        with torch.inference_mode():
            return calls, model(pixel_values=pixels, output_hidden_states=True, return_dict=True)
    except Exception as error:  # any model may fail in any way on input that it was not made for
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{type(model).__name__} does not take images of {tuple(pixels.shape[2:])} pixels: {said}",
            "Check that preprocessor_config.json belongs to this checkpoint, and that it is an image encoder.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _maker(calls: Sequence[_Call], tensor: Tensor) -> str | None:
    """The module that made this very tensor: the first to return it, or the outermost one around that."""
    made = [call.name for call in calls if call.left is tensor]
    around = [name for name in made if f"{made[0]}.".startswith(f"{name}.")]
    return min(around, key=len) if around else None


def _blocks(makers: Sequence[str | None], name: str) -> tuple[list[str], bool]:
    """Paths of blocks 1 to L, and whether the library's tuple began with the stem.

    Blocks share their path but for its numbers; the stem before them, or a norm after them, does not.
    """
    patterns = [None if maker is None else re.sub(r"\d+", "*", maker) for maker in makers]
    pattern, _ = Counter(p for p in patterns[1:] or patterns).most_common(1)[0]
    stem = patterns[0] != pattern
    end = len(makers) - (patterns[-1] != pattern)
    blocks = [maker for maker, p in zip(makers[stem:end], patterns[stem:end], strict=True) if maker and p == pattern]
    if pattern is None or len(blocks) != end - stem or len(set(blocks)) != len(blocks):
        raise BadInput(
            f"The blocks of {name} cannot be told apart: its hidden states come from {list(makers)}.",
            "Pick another checkpoint, or keep the pooled vector alone in another tool and import it.",
        )
    return blocks, stem


def token_grid(shape: tuple[int, ...], image: tuple[int, int], patch: int | None) -> tuple[int, int, int] | None:
    """(tokens in front that are no patches, grid height, grid width) of one layer's output, or None if that is unclear.

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
