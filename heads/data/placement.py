"""Where features are kept: on the device, in RAM or on disk, by how much memory the machine or container has left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import torch

from vfc.cache_schema.values.devices import free_memory

Placement = Literal["device", "ram", "off"]
Resident = Literal["auto", "ram", "device", "off"]
"""Where the user wants the values; `off`: on disk; `auto`: where they fit."""

_SHARE: Final = 0.5
"""The part of the free memory that one array may fill."""

_VERSIONS: Final = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Control groups of versions 2 and 1: folder, and the file names of limit, use and droppable file cache."""


def placed(num_bytes: int, device: torch.device, resident: Resident = "auto") -> Placement:
    """Choose device, RAM or disk for `num_bytes`; a choice of the user's holds."""
    if resident != "auto":
        return resident
    free = free_memory(device)
    if free is not None and num_bytes <= _SHARE * free:
        return "device"
    return "ram" if num_bytes <= _SHARE * available_memory() else "off"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of free memory as the system counts them, at most what every control group of this process has left.

    `root` is the folder of `proc` and `sys`.
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([free, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """What each group with a limit has left; file cache that can be dropped counts as free."""
    own = ["/"]
    with suppress(OSError):
        own += [line.split(":", 2)[2] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    for place, limit, use, cache in _VERSIONS:
        top = root / place
        groups = {folder for path in own for folder in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents)}
        for folder in groups:
            # A group without a limit says "max", or has none of the files.
            with suppress(OSError, ValueError, KeyError):
                if folder.is_relative_to(top):
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    used = int((folder / use).read_text()) - int(stat[cache])
                    yield int((folder / limit).read_text()) - used
