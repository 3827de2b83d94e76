"""Import anew into a store that holds an earlier import alone: the old one stays until the new one is complete."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from vfc.cache_schema.annotations import Annotations, write_annotations
from vfc.cache_schema.annotations.rows import annotation_files, read_annotations
from vfc.cache_schema.root import read_root
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch

from .import_report import WORKER, ImportReport


def is_import(out: Path) -> bool:
    """Whether a store holds an import and nothing that was made from it or beside it."""
    if not (out / "zarr.json").is_file() or "imported" not in read_root(out).fields:
        return False
    parts = [path.name for path in (out / "parts").glob("*") if path.is_dir()]
    return all(name.startswith(f"{WORKER}-") for name in parts) and not any((out / "derived").glob("*"))


def import_anew(out: Path, run: Callable[[Path], ImportReport]) -> ImportReport:
    """Call `run` with a new folder, and put it in the place of `out`. Labels that the new one lacks are kept.

    Raises:
        BadInput: `out` holds more than an import.
    """
    if not out.exists():
        return run(out)
    if not is_import(out):
        raise BadInput(
            f"--replace is given, and {out} holds more than an import.", "Give another --out, or remove it yourself."
        )
    new, old = (out.with_name(f"{out.name}.{word}") for word in ("importing", "before"))
    if old.exists():
        raise BadInput(f"{old} is there, the store before an earlier --replace.", "Move it back or remove it first.")
    shutil.rmtree(new, ignore_errors=True)  # of an import that was stopped
    report = run(new)
    for name, file in annotation_files(out).items():
        rows = {row.name: row for row in read_annotations(file).rows}
        own_file = annotation_files(new).get(name)
        own = {row.name: row for row in read_annotations(own_file).rows} if own_file else {}
        better = {name: row for name, row in own.items() if row.label or row.split or name not in rows}
        kept = {name: row for name, row in rows.items() if name in own or not own}
        write_annotations(new, name, Annotations(tuple({**kept, **better}.values())))
    os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old)
    return dataclasses.replace(report, path=str(out))


def with_replace(error: RecipeMismatch, out: Path) -> RecipeMismatch:
    """The error with --replace as a way out, where the store can be replaced."""
    if not is_import(out):
        return error
    return RecipeMismatch(error.problem, f"{error.remedy} To import anew in its place: --replace.")
