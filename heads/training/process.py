"""The process that trains: a single one, whose precision, accumulation and compilation come from the settings alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

import torch
from accelerate import Accelerator

from vfc.cache_schema.values.devices import current
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json

_RANKS: Final = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *(f"{name}_{of}" for name in ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD") for of in ("RANK", "SIZE")),
    *(f"{name}_LOCAL_{of}" for name in ("OMPI_COMM_WORLD", "MV2_COMM_WORLD") for of in ("RANK", "SIZE")),
    *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Variables of torchrun, accelerate launch and MPI, as accelerate reads them."""

_NUMERIC: Final = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
)
"""Variables by which torch's libraries choose how they compute. They cannot be undone here, so they are recorded.

CUBLAS_WORKSPACE_CONFIG is not one of them: it makes cuBLAS repeatable, and extraction sets it itself.
"""


def refuse_ranks() -> None:
    """Check that this process was not launched as one of several. Initialises nothing.

    Raises:
        BadInput: a variable of a launcher names another rank than 0 or a world of several processes.
    """
    values = {name: os.environ[name] for name in _RANKS if name in os.environ}
    several = {
        name: value
        for name, value in values.items()
        if not value.isdecimal() or int(value) > (1 if name.endswith(("SIZE", "NRANKS")) else 0)
    }
    if several:
        listed = ", ".join(f"{name}={value}" for name, value in several.items())
        raise BadInput(
            f"A head is trained by one process; the environment names several: {listed}.",
            "Start it without torchrun, accelerate launch or mpirun. If an earlier launch left these variables: "
            f"unset {' '.join(values)}",
        )


def make_accelerator() -> Accelerator:
    """The accelerator of this process; accelerate's own variables and those of launchers are not read.

    accelerate fixes its device once per process and knows no number of a GPU: what trains is moved by its caller.
    """
    with _without_launcher_variables():
        return Accelerator(
            cpu=True, device_placement=False, mixed_precision="no", gradient_accumulation_steps=1, dynamo_backend="no"
        )


@contextlib.contextmanager
def own_draws(device: torch.device) -> Iterator[None]:
    """The device is the current one; draws inside, on the CPU and on the device, do not change those after it.

    On a CPU, gradients are the same in every run with as many threads (`_in_fixed_order`).
    """
    numbers = [] if device.type in ("cpu", "mps") else [device.index or 0]
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng has no place for it
    try:
        with (
            _in_fixed_order(device),
            current(device),
            torch.random.fork_rng(numbers, device_type=device.type if numbers else None),
        ):
            yield
    finally:
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


@contextlib.contextmanager
def _in_fixed_order(device: torch.device) -> Iterator[None]:
    """On a CPU, the gradient of `values[index]` is summed in a fixed order; torch's default is that of the threads."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    library: Any = torch.utils.deterministic
    filled = library.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    library.fill_uninitialized_memory = False  # which costs time and changes nothing that is used
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        library.fill_uninitialized_memory = filled


def numeric_variables() -> dict[str, Json]:
    """The variables that are set and change how torch's libraries compute, which this program cannot undo."""
    return {name: os.environ[name] for name in _NUMERIC if name in os.environ}


@contextlib.contextmanager
def _without_launcher_variables() -> Iterator[None]:
    # Several of them take precedence over what accelerate is passed.
    hidden = {name: v for name, v in os.environ.items() if name.startswith("ACCELERATE_") or name in _RANKS}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
