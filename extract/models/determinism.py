"""The settings of torch that decide the last bits of a number: threads, algorithms, reduced precision.

The number of CPU threads is among them. Measured with torch 2.13: the last bits of a MobileNetV1's states differ
between 1 and 2 threads, those of a small Llama between 2 and 3; a CLIP tower's and the resizing of uint8 frames do not.
So deterministic mode fixes the count, whatever the machine has, and the recipe names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch

Mode = Literal["deterministic", "fast"]

THREADS: Final = 4
"""Threads of a deterministic forward pass by default. More than a laptop has spare cost a few percent there; fewer
would leave most of a larger machine idle."""


def chosen_mode(mode: Mode | None, device: torch.device) -> Mode:
    """The requested mode, else `deterministic` on a CPU and `fast` elsewhere."""
    return mode or ("deterministic" if device.type == "cpu" else "fast")


@contextmanager
def determinism(mode: Mode, threads: int | None) -> Iterator[None]:
    """Set torch for a mode, and restore the settings at the end.

    Both modes compute float32 in float32 (no TF32). `deterministic` also fixes the number of threads and takes
    algorithms whose result does not depend on the order in which threads finish.
    """
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    deterministic = mode == "deterministic"
    if threads is not None or deterministic:
        torch.set_num_threads(threads or THREADS)
    if deterministic:
        # Read by cuBLAS when the device is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
        torch.backends.cudnn.allow_tf32 = before[4]
        torch.backends.cuda.matmul.allow_tf32 = before[5]
