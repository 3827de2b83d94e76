"""The machine of a benchmark, for the title of its table."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from vfc.cache_schema.values.devices import chosen_device, description
from vfc.cache_schema.values.record import Json


def machine(device: str) -> dict[str, Json]:
    """Processor or GPU, threads, version of torch, and the load at this moment."""
    place = chosen_device(device)
    about: dict[str, Json] = {"device": str(place), **description(place)}
    about |= {"cpu": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return about | ({"load": f"{os.getloadavg()[0]:.1f}"} if hasattr(os, "getloadavg") else {})


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
