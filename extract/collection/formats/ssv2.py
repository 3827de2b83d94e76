"""Something-Something V2: JSON lists of `{id, label, template, placeholders}`; the test list has ids alone."""

from __future__ import annotations

import csv

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.class_names import read_class_names
from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format


def _read(document: Document) -> Listing | None:
    entries = document.objects
    with_template = all("id" in entry and "template" in entry for entry in entries)
    ids_alone = all(set(entry) == {"id"} for entry in entries)
    if not entries or not (with_template or ids_alone):
        return None
    answers = _answers(document) if ids_alone else {}
    rows = []
    for number, entry in enumerate(entries, start=1):
        where, name = f"{document.path}, entry {number}", str(entry["id"]).strip()
        # `label` is the sentence with the objects filled in; the class is the template without its brackets.
        label = answers.get(name, "") if ids_alone else _class(str(entry["template"]))
        if not name or (with_template and not label):
            raise BadInput(f"{where}: it has no {'template' if name else 'id'}.", "Download the list again.")
        rows.append(Row(f"{name}.webm", label, document.split, where, "id"))
    return Listing(document.path, FORMAT.name, tuple(rows), _unknown_classes(document, rows))


def _class(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()


def _answers(document: Document) -> dict[str, str]:
    """Id -> class of the test videos, where their answers lie beside the list."""
    answers: dict[str, str] = {}
    for file in document.beside("*answers*.csv"):
        rows = csv.reader(file.read_text("utf-8-sig").splitlines(), delimiter=";")
        answers |= {row[0].strip(): _class(row[1]) for row in rows if len(row) > 1}
    return answers


def _unknown_classes(document: Document, rows: list[Row]) -> tuple[str, ...]:
    """A note where labels.json beside the list does not know a class of the list."""
    for file in document.beside("labels.json", "*-labels.json"):
        class_names = {_class(name) for name in read_class_names(file).values()}
        unknown = sorted({row.label for row in rows} - class_names - {""})
        if unknown:
            return (f"{len(unknown)} classes are not in {file.name}, as {unknown[0]!r}.",)
    return ()


FORMAT = Format(
    "Something-Something V2",
    "a JSON list of objects with `id` and `template` (the test list: `id` alone)",
    "something-something-v2-train.json",
    _read,
)
