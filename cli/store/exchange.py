"""`vfc store import|export`: features of other programs into a store, and from a store into other formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vfc.cache_schema.exchange.options import ImportOptions
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, human_bytes, table

from .inspect import count

_SHOWN = 20


@dataclass(frozen=True)
class ImportConfig:
    """The features, the store, and how they are read."""

    source: Path = setting(MISSING, "Folder or file of features", argument=True)
    out: Path = setting(MISSING, "Store to create or to add to", "Output")
    options: ImportOptions = field(default_factory=ImportOptions)


@dataclass(frozen=True)
class ExportConfig:
    """The store, and the format."""

    store: Path = setting(MISSING, "The store", argument=True)
    format: Literal["hdf5", "npy", "safetensors", "detection"] = setting(
        MISSING,
        "Format of the export; detection: [T, D] npy files and a JSON for toolkits of action detection, anticipation",
        "Output",
    )
    out: Path = setting(MISSING, "File (hdf5) or folder to create or to complete", "Output")
    arrays: tuple[str, ...] = setting(
        (), "Arrays to export; default: all of them", "Input", flag="array", metavar="ARRAY,..."
    )
    verify: bool = setting(True, "Read back what was written and compare checksums", "Output")

    def __post_init__(self) -> None:
        if self.format == "hdf5" and self.out.is_dir():
            raise BadInput(
                f"--out {self.out} is a folder; hdf5 writes one file.", "Give a file name, such as store.h5."
            )
        if self.format != "hdf5" and self.out.is_file():
            raise BadInput(f"--out {self.out} is a file; {self.format} writes a folder.", "Give another --out.")


def _import(config: ImportConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.exchange import import_features

    done = import_features(config.source, config.out, config.options, progress)
    lines = [
        f"{done.path} from {done.source} ({done.format}): {count(done.added, 'record')} added, "
        f"{done.present:,} there already, {done.checked:,} read back"
    ]
    lines += done.notes
    if done.splits:
        rows = [(name, f"{matched} of {named} videos named") for name, (matched, named) in sorted(done.splits.items())]
        lines.append(table(("annotations", "with a record"), rows))
    trimmed = [f"{name}, {steps} steps of features, {labels} of labels" for name, steps, labels in done.trimmed]
    lines += _few("trimmed to the shorter", trimmed)
    lines += _few("no label", done.unlabelled)
    lines += _few("a label, but no record", done.strangers)
    lines += _few("not in these labels, and in no split now", done.unsplit)
    lines += _few("not imported", [f"{name}: {reason}" for name, reason in done.failed])
    if done.failed:
        lines.append(f"Listed in {Path(done.path) / 'failures'}; the same command tries them again.")
    return Outcome(done.to_json(), "\n".join(lines), 3 if done.failed or done.unlabelled else 0)


def _few(what: str, lines: Sequence[str]) -> list[str]:
    """The first lines, each after its title, and the number of the others."""
    more = [f"{what}: and {len(lines) - _SHOWN:,} more (all of them with --json)"] if len(lines) > _SHOWN else []
    return [*(f"{what}: {line}" for line in lines[:_SHOWN]), *more]


def _export(config: ExportConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.exchange import export

    done = export(config.store, config.out, config.format, progress, arrays=config.arrays, verify=config.verify)
    lines = [
        f"{done.path}: {count(done.records, 'record')} of {', '.join(done.arrays)} in {count(done.files, 'file')}, "
        f"{human_bytes(done.bytes)}"
    ]
    if done.present or done.mended:
        lines.append(f"{done.present:,} were there already, {done.mended:,} were written anew")
    lines += [f"{done.checked:,} read back: every byte is what was committed"] if done.checked else []
    return Outcome(done.to_json(), "\n".join(lines))


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store import",
        "Import features of other programs, or an export of vfc, into a store.",
        ImportConfig,
        _import,
        "vfc store import ./50salads --fps 30 --out ./store",
        "SOURCE is an MS-TCN folder (features/, groundTruth/, mapping.txt, splits/), a folder of video_features, an "
        "HDF5 or MATLAB file, LMDB of RULSTM, a folder of npy, npz, safetensors or pt files with one video each, one "
        "such file with many, or what `vfc store export` wrote. "
        "What cannot be used is listed, the rest is imported. A second run adds what is missing.",
    ),
    Command(
        "store export",
        "Write a store as HDF5, as npy files, as safetensors, or for toolkits of action detection.",
        ExportConfig,
        _export,
        "vfc store export ./store --format hdf5 --out store.h5",
        "HDF5 copies no features: its data sets refer to the files of the store, which must not be moved. "
        "A second run checks the files and writes what is missing or damaged.",
    ),
)
