"""Import of what `vfc store export` wrote: the store that it came from, again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json, Key
from vfc.cache_schema.writer import StoreWriter

from . import labels
from .export_reader import exported
from .import_report import WORKER, Import, annotate, list_failures, read_back
from .options import ImportOptions
from .sources import Source


def import_export(place: Path, out: Path, options: ImportOptions, progress: Progress) -> Import:
    """Bring an export back: the same recipe, keys, values and metadata, every checksum compared.

    Raises:
        BadInput: it did not finish, or an option that would change it.
        RecipeMismatch, AxisMismatch: the store holds other features.
    """
    plain = ImportOptions(labels=options.labels, verify=options.verify, form=options.form)
    changed = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != getattr(plain, f.name)]
    if changed:
        raise BadInput(
            f"{place} is an export, which comes back as it was: {', '.join(changed)} cannot be asked.",
            "Import it without, then `vfc store convert` or `vfc store materialize`.",
        )
    found = exported(place)
    failed: list[tuple[Key, Path, str]] = []
    added, present = [], 0
    progress.begin("import", len(found.records), "records")
    circumstances: dict[str, Json] = {"source": str(place)}
    with StoreWriter(out, Recipe(found.about["recipe"]), worker=WORKER, circumstances=circumstances) as writer:
        for kind, specs in found.kinds.items():
            writer.declare(kind, specs)
        for axis, ids in found.about["axes"].items():
            for name, content in ids.items():
                writer.bind(axis, name, content)
        for record in found.records:
            if record.key in writer:
                present += 1
            else:
                try:
                    writer.add_stored(record.key, record.stored(), record.metadata)
                    added.append(record.key)
                except RecordRejected as error:
                    failed.append((record.key, record.path, error.problem))
            progress.advance()
    list_failures(out, failed)
    for name, rows in found.annotations.items():
        labels.bring_up_to_date(out, name, {row.name: row for row in rows.rows}, {})
    told = annotate(out, Source("export", ()), options) if options.labels else Import(str(out), "", "", 0, 0, 0, ())
    return dataclasses.replace(
        told,
        source=str(place),
        format=str(found.about["format"]),
        added=len(added),
        present=present,
        checked=read_back(out, added, progress) if options.verify else 0,
        failed=tuple((key.name, reason) for key, _, reason in failed),
        arrays=tuple(spec for specs in found.kinds.values() for spec in specs),
    )
