"""Taps: capturing the states of a network at chosen blocks, and building no more of it than that.

Layer l is the output of block l, un-normed; layer 0 is what enters block 1; `norm` is the normed last state. Each is
captured by a hook on the module itself: the output of a shortened model, or the library's last tuple entry, may have
been changed after the block (final norms, features added between layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.record import Dtype

TRANSFER: Final[dict[Dtype, torch.dtype]] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""The dtype in which arrays leave a backbone, by storage dtype. The store makes int8 from float32."""

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Tap:
    """A place in a network: the output of the module at this path, or its first input."""

    module: str
    side: Literal["input", "output"] = "output"


def block_tap(blocks: str, layer: str | int) -> Tap:
    """The tap of a numbered layer; `blocks` is the path of the module list of blocks."""
    number = int(layer)
    return Tap(f"{blocks}.{number - 1}") if number else Tap(f"{blocks}.0", "input")


class _AllCaptured(Exception):
    pass


@contextmanager
def captured(
    model: nn.Module, taps: dict[str, Tap], keep: Callable[[str, Tensor], Tensor], *, stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Run one forward pass inside; afterwards the dict holds `keep(name, tensor)` of every tap.

    `keep` must copy: later blocks may write into its tensor. With `stop` the pass ends, silently, as soon as every tap
    is captured. Hooks are removed at the end, also after an error.

    Raises RuntimeError where a tapped module runs twice, or never.
    """
    states: dict[str, Tensor] = {}

    def capture(name: str, value: object) -> None:
        tensor = value[0] if isinstance(value, tuple | list) else value
        if name in states:
            raise RuntimeError(f"the module of tap {name!r} ran twice in one forward pass")
        if not isinstance(tensor, Tensor):
            raise RuntimeError(f"tap {name!r} captured a {type(tensor).__name__}, not a tensor")
        states[name] = keep(name, tensor)
        if stop and len(states) == len(taps):
            raise _AllCaptured

    def hooked(name: str, tap: Tap) -> Any:
        module = model.get_submodule(tap.module)
        if tap.side == "output":
            return module.register_forward_hook(lambda _module, _args, output: capture(name, output))
        return module.register_forward_pre_hook(
            lambda _module, args, kwargs: capture(name, args or tuple(kwargs.values())), with_kwargs=True
        )

    handles: list[Any] = []
    try:
        for name, tap in taps.items():
            handles.append(hooked(name, tap))
        yield states
    except _AllCaptured:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if len(states) < len(taps):
        raise RuntimeError(f"these taps were never reached: {', '.join(sorted(taps.keys() - states.keys()))}")


def shortened(cls: type[Model], block: str) -> type[Model]:
    """`cls` without anything that comes after `block` (a path such as `encoder.layer.7`) in the lists that hold it.

    Cut before weights are read, so `from_pretrained` skips the weights of the upper blocks.
    """

    def init(self: Model, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        parent: nn.Module = self
        for part in block.split("."):
            child = parent.get_submodule(part)
            if isinstance(parent, nn.ModuleList | nn.Sequential):
                del parent[int(part) + 1 :]
            parent = child

    return _under_the_same_name(cls, init)


def without(cls: type[Model], part: str) -> type[Model]:
    """`cls` with None for its module `part`, whose weights `from_pretrained` then skips."""

    def init(self: Model, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        setattr(self, part, None)

    return _under_the_same_name(cls, init)


def _under_the_same_name(cls: type[Model], init: Callable[..., None]) -> type[Model]:
    # The library looks up properties of a class by the printed name of the class.
    namespace = {
        "__init__": init,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return cast("type[Model]", type(cls.__name__, (cls,), namespace))


def transferred(tensor: Tensor, storage: Dtype) -> Tensor:
    """A contiguous copy in transfer dtype; maps `[n, D, h, w]` become tokens `[n, h * w, D]`, row by row."""
    tokens = tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor
    return tokens.to(TRANSFER[storage], copy=True, memory_format=torch.contiguous_format)
