"""`vfc store annotate`: labels, splits and folds from a table or an official list into a store."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome

from .inspect import count

if TYPE_CHECKING:
    from vfc.cache_schema.annotations import Annotation

_SHOWN = 5


@dataclass(frozen=True)
class AnnotateConfig:
    """The store, the labels, and the name under which they are kept."""

    store: Path = setting(MISSING, "The store", argument=True)
    labels: tuple[Path, ...] = setting(
        MISSING, "CSV or JSONL with name,label,split,fold, or lists as vfc videos reads them", argument=True
    )
    name: str = setting("default", "Set of annotations to write; --annotations NAME reads it", "Output")
    label: str | None = setting(
        None, "Which label of a list that has several: verb, noun, action, or a column", "Input"
    )
    class_list: Path | None = setting(
        None, "Names of numbered classes: one a line, 'number name', CSV or JSON", "Input"
    )


def _annotate(config: AnnotateConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema import open_store
    from vfc.cache_schema.annotations import Annotation
    from vfc.cache_schema.annotations.rows import annotation_files, read_annotations
    from vfc.cache_schema.annotations.tables import matched
    from vfc.cache_schema.exchange.labels import by_folder, update_annotations

    with open_store(config.store) as reader:
        names = list(dict.fromkeys(key.name for kind in ("video", "prompted") for key in reader.keys(kind)))
    rows, strangers = matched(_rows(config, progress), names)
    if not rows:
        raise BadInput(
            f"None of the {len(strangers)} rows names a record of {config.store}: {', '.join(strangers[:3])} ...",
            f"Records are called {', '.join(names[:3])} ... ; a row may leave out folders and the suffix.",
        )
    otherwise = {name: Annotation(name) for name in names} | by_folder(names) if config.name == "default" else {}
    unsplit = update_annotations(config.store, config.name, rows, otherwise)
    written = read_annotations(annotation_files(config.store)[config.name])
    without = [name for name in names if name not in rows]
    document = {
        "store": str(config.store),
        "name": config.name,
        "rows": len(rows),
        "without": without,
        "strangers": strangers,
        "unsplit": list(unsplit),
        "digest": written.digest,
    }
    lines = [f"Annotations {config.name!r} of {config.store}: {count(len(rows), 'row')} of {len(names):,} records"]
    for what, listed in (
        ("no row, as before", without),
        ("a row, but no record", strangers),
        ("in no split now", list(unsplit)),
    ):
        if listed:
            more = " ..." if len(listed) > _SHOWN else ""
            lines.append(f"{what}: {len(listed):,} ({', '.join(listed[:_SHOWN])}{more})")
    lines.append(f"Digest: {written.digest[:12]}")
    return Outcome(document, "\n".join(lines))


def _rows(config: AnnotateConfig, progress: Progress) -> tuple[Annotation, ...]:
    """The rows of a table of one's own; those of official lists as `vfc videos` reads them."""
    from vfc.cache_schema.annotations.tables import is_table, read_table
    from vfc.extract.collection import ListOptions, is_official, read_sources

    own = len(config.labels) == 1 and is_table(config.labels[0]) and not is_official(config.labels[0])
    if own and not (config.label or config.class_list):
        return read_table(config.labels[0])
    options = ListOptions(config.label or "", config.class_list)
    collection = read_sources(config.labels, None, options, must_exist=False)
    for note in collection.notes:
        progress.say(note)
    return collection.annotations().rows


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store annotate",
        "Give the videos of a store labels, splits and folds from a table or an official list.",
        AnnotateConfig,
        _annotate,
        "vfc store annotate ./store labels.csv",
        "Rows replace those of the same record; the others stay. A row names its record with or without folders and "
        "suffix. The features do not change.",
    ),
)
