"""Taps: reading a network at chosen blocks, and reading from disk no more of it than that.

Layer l is what block l hands on, un-normed; layer 0 is what enters block 1; `norm` is the normed last state. Each is
caught by a hook on the module itself: a model cut short, or the library's last tuple entry, may have been changed
after the block (final norms, features added between layers).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Dtype

from .checkpoint import Checkpoint

COMPUTE: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TRANSFER: Final[dict[Dtype, torch.dtype]] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""In which dtype arrays leave a backbone, by how they will be stored. int8 is made by the store, from float32."""

FRAMES_PER_FORWARD: Final = 64

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Tap:
    """A place in a network: the output of the module at this path, or its first input."""

    module: str
    side: Literal["input", "output"] = "output"


class _Reached(Exception):
    pass


@contextmanager
def caught(
    model: nn.Module, taps: dict[str, Tap], keep: Callable[[str, Tensor], Tensor], *, stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Run one forward pass inside; afterwards the dict holds `keep(name, tensor)` of every tap.

    `keep` must copy: later blocks may write into the tensor it is given. With `stop` the pass ends, silently, as soon
    as every tap has been seen. Hooks are removed on the way out, whatever happens.

    Raises RuntimeError where a tapped module runs twice, or never.
    """
    found: dict[str, Tensor] = {}

    def see(name: str, value: object) -> None:
        tensor = value[0] if isinstance(value, tuple | list) else value
        if name in found:
            raise RuntimeError(f"the module of tap {name!r} ran twice in one forward pass")
        if not isinstance(tensor, Tensor):
            raise RuntimeError(f"tap {name!r} saw a {type(tensor).__name__}, not a tensor")
        found[name] = keep(name, tensor)
        if stop and len(found) == len(taps):
            raise _Reached

    handles = []
    try:
        for name, tap in taps.items():
            module = model.get_submodule(tap.module)
            if tap.side == "output":
                handles.append(module.register_forward_hook(lambda _m, _in, out, name=name: see(name, out)))
            else:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _m, args, kwargs, name=name: see(name, args or tuple(kwargs.values())), with_kwargs=True
                    )
                )
        yield found
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if len(found) < len(taps):
        raise RuntimeError(f"these taps were never reached: {', '.join(sorted(taps.keys() - found.keys()))}")


def shortened(cls: type[Model], block: str) -> type[Model]:
    """`cls` without anything that comes after `block` (a path such as `encoder.layer.7`) in the lists it lies in.

    Made before weights are read, so `from_pretrained` takes the upper blocks' weights for superfluous and skips them.
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
    """`cls` with None where it has its module `part`, whose weights `from_pretrained` then skips."""

    def init(self: Model, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        setattr(self, part, None)

    return _under_the_same_name(cls, init)


def _under_the_same_name(cls: type[Model], init: Callable[..., None]) -> type[Model]:
    # The library keeps what it knows of a class under the class's printed name.
    named = {"__init__": init, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return cast("type[Model]", type(cls.__name__, (cls,), named))


def on_meta(cls: Any, config: Any, attention: str | None) -> Any:
    """The model of a configuration without memory: shapes, paths and the attention it would use.

    Raises BadInput where the library cannot build it, or not with this attention.
    """
    try:
        with silenced_transformers(), torch.device("meta"):
            return cls._from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    except (ValueError, ImportError, TypeError, RuntimeError, AttributeError) as error:
        asked = f" with attention {attention!r}" if attention else ""
        raise BadInput(
            f"transformers cannot build {cls.__name__}{asked}: {_first_line(error)}",
            "Leave out --attention, or pick another checkpoint.",
        ) from error


def attention_of(model: Any) -> str | None:
    """The attention implementation in use, None for a network without attention."""
    if not any("Attention" in type(module).__name__ for module in model.modules()):
        return None
    return cast("str | None", model.config._attn_implementation)


def compute_dtype(asked: str | None, config: Any, device: str) -> str:
    """fp32, fp16 or bf16: as asked, else the checkpoint's own.

    fp16 becomes fp32 on a CPU unless asked for: its convolutions take ten times as long there.
    """
    if asked is not None:
        return asked
    own = {dtype: name for name, dtype in COMPUTE.items()}.get(getattr(config, "dtype", None) or torch.float32, "fp32")
    return "fp32" if own == "fp16" and torch.device(device).type == "cpu" else own


def load(
    cls: Any,
    checkpoint: Checkpoint,
    config: Any,
    *,
    dtype: str,
    attention: str | None,
    device: str,
    may_lack: Sequence[str] = (),
) -> Any:
    """The model with its weights, in `dtype`, on the device. `may_lack`: prefixes of weights that are not needed.

    Raises BadInput where the checkpoint lacks a needed weight (the library would draw it at random), or the device is
    not there; MissingPath where there are no weights.
    """
    require_device(device)
    safetensors = checkpoint.weights()[0].suffix == ".safetensors"
    with silenced_transformers():
        model, info = cls.from_pretrained(
            checkpoint.folder,
            config=copy.deepcopy(config),
            dtype=COMPUTE[dtype],
            attn_implementation=attention,
            use_safetensors=safetensors,
            local_files_only=True,
            output_loading_info=True,
        )
    refuse_lacking(
        checkpoint,
        cls,
        info["missing_keys"],
        may_lack,
        f"Its config.json names the architecture {checkpoint.model_type}; give a checkpoint of that architecture.",
    )
    # Parameters keep requires_grad: without it torch's attention module takes another kernel, and other last bits.
    return model.eval().to(device)


def refuse_lacking(
    checkpoint: Checkpoint, cls: Any, missing: Iterable[str], may_lack: Sequence[str], remedy: str
) -> None:
    """Raises BadInput where weights are `missing` other than those whose names begin as in `may_lack`."""
    lacking = sorted(name for name in missing if not name.startswith(tuple(may_lack)))
    if lacking:
        shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise BadInput(f"The checkpoint {checkpoint.id} lacks weights that {cls.__name__} needs: {shown}.", remedy)


def require_device(device: str) -> None:
    """Raises BadInput where a GPU was asked for that is not there."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            f"The device {device} was asked for, and there is none here.", "Leave out --device, or ask for cpu."
        )


def over_frames(
    batch: Sequence[Mapping[str, Tensor]], run: Callable[[Tensor], dict[str, Tensor]], *, device: str, dtype: str
) -> list[dict[str, Tensor]]:
    """Run an image network over the frames of several clips, and give each clip its rows back.

    Each item holds `pixels` `[T, 3, h, w]`, T may differ; `run` takes `[n, 3, h, w]` on the device, n at most
    `FRAMES_PER_FORWARD`, and returns arrays of n rows. One clip alone is always cut in the same way.
    """
    frames = torch.cat([item["pixels"] for item in batch]) if len(batch) > 1 else batch[0]["pixels"]
    parts = [run(part.to(device, COMPUTE[dtype], non_blocking=True)) for part in frames.split(FRAMES_PER_FORWARD)]
    joined = {
        name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]
    }
    rows = [len(item["pixels"]) for item in batch]
    split = {name: whole.split(rows) for name, whole in joined.items()}
    return [{name: pieces[i] for name, pieces in split.items()} for i in range(len(batch))]


def transferred(tensor: Tensor, storage: Dtype) -> Tensor:
    """A contiguous copy in transfer dtype; maps `[n, D, h, w]` become tokens `[n, h * w, D]`, row by row."""
    tokens = tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor
    return tokens.to(TRANSFER[storage], copy=True, memory_format=torch.contiguous_format)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def silenced_transformers() -> Iterator[None]:
    """Transformers without progress bars and load reports: what they say is checked in `load`, and raised."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
