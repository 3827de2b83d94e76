"""Import of what `vfc store export` wrote: the original store again."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.writer import StoreWriter

from .export_reader import ExportedRecord, open_export
from .import_report import WORKER, ImportReport, Intake, annotate, list_failures, read_back
from .labels import update_annotations
from .options import ImportOptions
from .sources import Source


def import_export(place: Path, out: Path, options: ImportOptions, progress: Progress) -> ImportReport:
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
    content, intake = open_export(place), Intake()
    progress.begin("import", len(content.records), "records")
    circumstances: dict[str, Json] = {"source": str(place)}
    with StoreWriter(out, Recipe(content.about["recipe"]), worker=WORKER, circumstances=circumstances) as writer:
        for kind, specs in content.kinds.items():
            writer.declare(kind, specs)
        for axis, ids in content.about["axes"].items():
            for name, meaning in ids.items():
                writer.bind(axis, name, meaning)

        def add(record: ExportedRecord) -> None:
            writer.add_stored(record.key, record.stored(), record.metadata)

        for record in content.records:
            intake.add(writer, record.key, record.path, partial(add, record))
            progress.advance()
    list_failures(out, intake.failed)
    for name, rows in content.annotations.items():
        update_annotations(out, name, {row.name: row for row in rows.rows}, {})
    report = ImportReport(str(out), "", "", 0, 0, 0, ())
    if options.labels:
        report = annotate(out, Source("export", ()), options)
    return dataclasses.replace(
        report,
        source=str(place),
        format=str(content.about["format"]),
        added=len(intake.added),
        present=intake.present,
        checked=read_back(out, intake.added, progress) if options.verify else 0,
        failed=tuple((key.name, reason) for key, _, reason in intake.failed),
        arrays=tuple(spec for specs in content.kinds.values() for spec in specs),
    )
