"""Running out of memory: how it is recognised, and what is freed before another try."""

from __future__ import annotations

from typing import Final

import torch

from vfc.cache_schema.values.errors import Refused
from vfc.extract.backbone import Backbone

_MESSAGES: Final = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # pinned host memory, which raises no OutOfMemoryError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "backend out of memory",  # MPS
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or this machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def free_unused(device: torch.device) -> None:
    """Give cached blocks of the device back, so that larger ones can be made of them."""
    if device.type in ("cuda", "mps", "xpu"):
        torch.get_device_module(device).empty_cache()


def load_model(backbone: Backbone, device: torch.device) -> None:
    """Load the weights of a model.

    Raises:
        Refused: memory cannot hold them.
        VfcError: see `Backbone.load`.
    """
    try:
        backbone.load()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        other = "" if device.type == "cpu" else ", or --device cpu, which takes the memory of the machine"
        raise Refused(
            f"Out of memory while the model is loaded to {device}: {first}",
            "Give --compute-dtype bf16 (half of fp32), a lower --layer (blocks above the highest are not loaded), a "
            f"smaller --checkpoint{other}. Another dtype, layer or checkpoint needs another --out.",
        ) from error
