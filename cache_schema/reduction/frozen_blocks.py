"""Tails: frozen upper blocks of a network beside the records, `tail/blocks-<k>.safetensors`; made once, checked by sum.

The metadata of the file, all strings, says how to build the blocks; its `crc32c` is over the tensors' bytes, which
are then comparable without being read, and damage is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import google_crc32c

from vfc.cache_schema.parts.atomic_files import create_file
from vfc.cache_schema.values.errors import AxisMismatch, Damaged

SUM: Final = "crc32c"
_LENGTH: Final = 8


def tail_path(root: Path, k: int) -> Path:
    """The path of the tail from block k (counted from 1) in a store."""
    return root / "tail" / f"blocks-{k}.safetensors"


def publish_tail(root: Path, k: int, write: Callable[[Mapping[str, str]], bytes], about: Mapping[str, str]) -> bool:
    """Put a tail into a store unless it is there; whether this call made it.

    Args:
        root: The store.
        k: Its lowest block.
        write: The safetensors file with this metadata, as bytes.
        about: The metadata.

    Raises:
        AxisMismatch: another tail is there.
        Damaged: the one that is there cannot be read.
        Refused, ReadOnlyTarget: the disk is full, or takes no writes.
    """
    path = tail_path(root, k)
    bare = write({})
    _, start = _header(bare, path)
    data = write({**about, SUM: _sum(memoryview(bare)[start:])})
    if not path.exists() and create_file(path, data):
        return True
    if read_header(path) != _header(data, path)[0]:
        raise AxisMismatch(
            f"{path} holds blocks of another checkpoint, or for another number of frames.",
            "Use the flags of the store, or another --out.",
        )
    return False


def read_header(path: Path) -> dict[str, Any]:
    """The header of a tail: dtype and shape by name of weight, and `__metadata__`. Raises Damaged."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        # A damaged length may be larger than the memory.
        return _parsed(file.read(min(length, path.stat().st_size)), length, path)


def check_tail(path: Path) -> None:
    """Raises Damaged where a tail's bytes are not those that were written."""
    data = path.read_bytes()
    header, start = _header(data, path)
    if header.get("__metadata__", {}).get(SUM) != _sum(memoryview(data)[start:]):
        raise Damaged(f"{path} is not what was written.", "Remove it, and run vfc extract with its --tail again.")


def _header(data: bytes, path: Path) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:_LENGTH], "little")
    return _parsed(data[_LENGTH : _LENGTH + length], length, path), _LENGTH + length


def _parsed(text: bytes, length: int, path: Path) -> dict[str, Any]:
    try:
        if len(text) != length:
            raise ValueError("it ends in its header")
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except ValueError as error:
        raise Damaged(
            f"{path} cannot be read: {error}.", "Remove it, and run vfc extract with its --tail again."
        ) from error
    return header


def _sum(data: memoryview) -> str:
    return f"{google_crc32c.value(bytes(data)):08x}"
