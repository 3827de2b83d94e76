"""Class texts, which become `text` records: class names or lines of a file in templates, or descriptions of classes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfc.cache_schema.protocol import fill_prompt, spoken
from vfc.cache_schema.protocol.descriptions import read_descriptions
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.record import Key

CLASSES: Final = "classes"
PLAIN: Final = "{label}"


@dataclass(frozen=True)
class ClassText:
    """One text as the text tower reads it, the label it stands for, the id of its template."""

    text: str
    label: str
    template: str

    @property
    def key(self) -> Key:
        """Its record's key; the name is the text itself."""
        return Key("text", self.text)


def template_id(template: str) -> str:
    """The id of a template: its words, hyphenated, and 8 hex digits of its SHA-256."""
    letters = "-".join(re.findall(r"[a-z0-9]+", template.lower()))[:40].strip("-")
    return f"{letters or 'template'}-{hashlib.sha256(template.encode()).hexdigest()[:8]}"


def read_class_texts(source: str, templates: Sequence[str], labels: Iterable[str]) -> tuple[ClassText, ...]:
    """The texts of `--texts` and `--template`, in order, each once.

    Args:
        source: `classes` for the `labels` in words, else a UTF-8 file with one text per line, or a .json file of
            descriptions in their published form, whose sentences are not changed.
        templates: Texts with the field `{label}`; none means the label alone.
        labels: Class names of the collection.

    Raises:
        MissingPath: There is no such file.
        BadInput: No text in it, no class has a name, a template that cannot be read, or descriptions in another form.
        UnknownName: A template with another field.
    """
    if source != CLASSES and Path(source).suffix == ".json":
        if templates:
            raise BadInput(f"--template is given with --texts {source}, whose sentences stay.", "Leave --template out.")
        return _sentences(Path(source))
    labelled = [(label, spoken(label)) for label in labels] if source == CLASSES else _lines(Path(source))
    if not labelled:
        raise BadInput(
            f"--texts {source} gives no text.",
            "Put one text on each line of the file, or give --texts classes for videos that lie in class folders.",
        )
    texts: dict[str, ClassText] = {}
    for template in templates or (PLAIN,):
        for label, words in labelled:
            filled = fill_prompt(template, {"label": words})
            texts.setdefault(filled, ClassText(filled, label, template_id(template)))
    return tuple(texts.values())


def _sentences(path: Path) -> tuple[ClassText, ...]:
    lines = [line for of_class in read_descriptions(path).sentences.values() for line in of_class]
    return tuple(ClassText(line, line, template_id(PLAIN)) for line in dict.fromkeys(lines))


def _lines(path: Path) -> list[tuple[str, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingPath(f"There is no file of texts {path}.", "Give a file, or --texts classes.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    lines = [line.strip() for line in text.split("\n")]
    return [(line, line) for line in lines if line]
