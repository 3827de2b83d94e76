"""The devices on which models and heads run: the one place that knows their kinds.

Functions of a kind are those of `torch.get_device_module`, which are the same for CUDA and XPU.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import torch

from .errors import BadInput

_GPUS: Final = ("cuda", "xpu", "mps")
"""In the order in which they are chosen by default."""

_ONE_STREAM: Final = ("cpu", "mps", "meta")
"""Kinds whose copies do not run while they compute: pinned memory and streams of their own are of no use to them."""


def chosen_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The requested device; None and `auto` are a GPU where there is one, else the CPU.

    A kind without a number is the GPU of the rank, `local_rank` on this machine.

    Raises:
        BadInput: a name that torch does not know, or a device that is not there.
    """
    if name in (None, "auto"):
        name = next((kind for kind in _GPUS if _count(kind)), "cpu")
    try:
        device = torch.device(str(name))
        module = None if device.type == "meta" else torch.get_device_module(device)
    except RuntimeError:
        module = None
    if module is None:
        raise BadInput(f"--device {name} is not known.", "Give cpu, cuda, cuda:1 for the second GPU, xpu, mps or auto.")
    if device.type == "cpu":
        return torch.device("cpu")
    count = _count(device.type)
    if (device.index or 0) >= count:
        number = f"there are {count}, {device.type}:0 to {device.type}:{count - 1}" if count else "torch sees none here"
        raise BadInput(f"--device {name} asks for a GPU, but {number}.", "Leave --device out, or give --device cpu.")
    return torch.device(device.type, local_rank % count) if device.index is None else device


def _count(kind: str) -> int:
    """How many devices of a kind are there."""
    try:
        module = torch.get_device_module(kind)
    except RuntimeError:
        return 0
    return int(module.device_count()) if module.is_available() else 0


def has_streams(device: torch.device | str) -> bool:
    """Whether copies from and to pinned memory run while the device computes."""
    return torch.device(device).type not in _ONE_STREAM


def on_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on the device; a GPU reads it from pinned memory while the host goes on.

    torch reuses pinned memory only once the copies from it have ended.
    """
    if has_streams(device) and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def functions(device: torch.device | str) -> Any:
    """`torch.cuda` or its like for the device: `Stream`, `Event`, `current_stream`, `stream`, `synchronize`."""
    return torch.get_device_module(torch.device(device))


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The device is the current one of its kind inside, as libraries need that take no device."""
    return functions(device).device(device) if device.index and has_streams(device) else contextlib.nullcontext()


def free_memory(device: torch.device) -> int | None:
    """Bytes that the device has left; None where that cannot be asked, and on a CPU."""
    return int(functions(device).mem_get_info(device)[0]) if has_streams(device) else None


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors have taken on the device; 0 where that is not counted."""
    return int(functions(device).max_memory_allocated(device)) if has_streams(device) else 0


def release_unused(device: torch.device) -> None:
    """Give cached blocks of the device back, so that larger ones can be made of them."""
    if device.type not in ("cpu", "meta"):
        functions(device).empty_cache()


def description(device: torch.device) -> dict[str, str | None]:
    """The name of a GPU and the version of CUDA, for what is recorded of a run."""
    about: dict[str, str | None] = {}
    if has_streams(device):
        about["gpu"] = str(functions(device).get_device_name(device))
    return about | ({"cuda": torch.version.cuda} if device.type == "cuda" else {})


def double(values: torch.Tensor) -> torch.Tensor:
    """The values in float64; on the CPU where they lie on an MPS device, which has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()
