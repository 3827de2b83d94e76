"""A GPU for tests on machines without one: the device `emulated`, real values by the rules of a GPU.

Operations that mix devices raise. Copies that the host has not waited for are not there yet: what is read too early is
poison, what is overwritten too early a fault, and so is memory that one stream reads while another may still write it
or may already have it back. Synchronisations, launches and bytes that are not pinned are counted. It does not show
CUDA's autocast, attention kernels, deterministic mode, or the memory of real kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.utils._device
from torch.utils import backend_registration

from . import timeline
from .tensor import NAME, TIMELINE, Emulated
from .timeline import Counts

__all__ = ["DEVICE", "Counts", "counted", "emulated_gpu", "register"]

DEVICE = f"{NAME}:0"
FREE_MEMORY = 8 << 30


class _Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """What `torch.get_device_module` gives for the device: the functions of `torch.cuda` that the project calls."""

    def Stream(self, device: Any = None) -> timeline.Stream:  # noqa: N802
        return timeline.Stream(TIMELINE)

    def Event(self, *, enable_timing: bool = False) -> timeline.Event:  # noqa: N802
        return timeline.Event(TIMELINE)

    def current_stream(self, device: Any = None) -> timeline.Stream:
        return TIMELINE.current

    def stream(self, stream: timeline.Stream | None) -> contextlib.AbstractContextManager[None]:
        return TIMELINE.on(stream)

    def synchronize(self, device: Any = None) -> None:
        TIMELINE.counts.sync("synchronize")
        TIMELINE.wait_for_all()

    def is_available(self) -> bool:
        return True

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return FREE_MEMORY, FREE_MEMORY

    def max_memory_allocated(self, device: Any = None) -> int:
        return 0

    def empty_cache(self) -> None:
        pass

    def get_device_name(self, device: Any = None) -> str:
        return "an emulated GPU"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        """The generator of the CPU is the only one here."""


_registered: list[torch.library.Library] = []


def register() -> None:
    """Make the device known to torch, once per process.

    Autograd counts the devices at the first backward pass of a process and never again, so this comes before it.
    """
    if _registered:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    empty = torch.library.Library("aten", "IMPL")

    def strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Emulated:
        return Emulated(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def contiguous(size: Any, dtype: Any = None, **_: Any) -> Emulated:
        return Emulated(torch.empty(size, dtype=dtype, device="cpu"))

    empty.impl("empty_strided", strided, "PrivateUse1")
    empty.impl("empty.memory_format", contiguous, "PrivateUse1")
    # torch makes these empty and then resizes them, which a wrapper cannot do.
    for name in ("arange.start_step", "eye", "eye.m", "linspace", "randperm", "randperm.generator"):
        empty.impl(name, _built(name), "PrivateUse1")
    autocast = torch.library.Library("_", "IMPL")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _registered.extend((empty, autocast))


@contextlib.contextmanager
def emulated_gpu() -> Iterator[None]:
    """Inside, `torch.device("emulated")` works and host memory can be pinned."""
    register()
    torch.utils._device._device_constructors()  # torch keeps this list from its first use; it must name no patched ones
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as patches:
        for name in ("empty", "zeros"):
            patches.enter_context(mock.patch.object(torch, name, _pinning(getattr(torch, name))))
        for name in ("tensor", "as_tensor", "asarray"):
            patches.enter_context(mock.patch.object(torch, name, _from_host(getattr(torch, name))))
        pin: dict[str, Any] = {
            "pin_memory": lambda self, *_: TIMELINE.pin(self.clone()),
            "is_pinned": lambda self: TIMELINE.is_pinned(self),
        }
        for name, function in pin.items():
            patches.enter_context(mock.patch.object(torch.Tensor, name, function))
        # Wrapped tensors cannot be made in inference mode, nor be what the data of a parameter is replaced by.
        patches.enter_context(mock.patch.object(torch.inference_mode, "__enter__", _enter))
        patches.enter_context(mock.patch.object(torch.inference_mode, "__exit__", _exit))
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)
            TIMELINE.wait_for_all()


@contextlib.contextmanager
def counted(*, wait: bool = True) -> Iterator[Counts]:
    """Counts of what is done inside, apart from those of an outer one; faults are left to the caller to assert.

    `wait`: copies under way when it begins and ends are completed there.
    """
    if wait:
        TIMELINE.wait_for_all()
    before, TIMELINE.counts = TIMELINE.counts, Counts()
    try:
        yield TIMELINE.counts
    finally:
        if wait:
            TIMELINE.wait_for_all()
        before.faults.update(TIMELINE.counts.faults)
        TIMELINE.counts = before


def _enter(mode: Any) -> None:
    mode.without_gradients = torch.no_grad()
    mode.without_gradients.__enter__()


def _exit(mode: Any, *error: Any) -> None:
    mode.without_gradients.__exit__(*error)


def _built(name: str) -> Any:
    operation, _, overload = name.partition(".")
    built = getattr(getattr(torch.ops.aten, operation), overload or "default")

    def made(*args: Any, **kwargs: Any) -> Emulated:
        TIMELINE.counts.launches[operation] += 1
        TIMELINE.current.advance()
        return Emulated(built(*args, **{**kwargs, "device": torch.device("cpu"), "pin_memory": False}))

    return made


def _pinning(function: Any) -> Any:
    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        tensor: torch.Tensor = function(*args, **kwargs)
        return TIMELINE.pin(tensor) if pin_memory else tensor

    return made


def _from_host(function: Any) -> Any:
    """torch copies to the device below the level at which the emulation sees it; here it is a copy like any other."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor: torch.Tensor = function(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made
