"""Prompt templates with fields: filled in one way, and named by what they say."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Mapping
from typing import Final

from vfc.cache_schema.values.errors import BadInput, unknown_name

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+|[A-Z]")
_BRACES: Final = "Write a field as {name}, and a brace that belongs to the text twice: {{ or }}."


def prompt_fields(template: str) -> list[str]:
    """The names in braces of a prompt template, in order, each once; `{{` and `}}` are plain braces.

    Raises:
        BadInput: unbalanced braces, or anything but a plain name between them.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"The prompt template {template!r} cannot be read: {error}.", _BRACES) from None
    names = [(field, spec, conversion) for _, field, spec, conversion in pieces if field is not None]
    for field, spec, conversion in names:
        if not field.isidentifier() or spec or conversion:
            raise BadInput(
                f"The prompt template {template!r} has the field {{{field}}}, which is no plain name.", _BRACES
            )
    return list(dict.fromkeys(field for field, _, _ in names))


def fill_prompt(template: str, fields: Mapping[str, str]) -> str:
    """The template with every `{name}` replaced by `fields[name]`.

    Raises:
        UnknownName: the template asks for a field that is not offered; those offered are listed.
        BadInput: see `prompt_fields`.
    """
    for name in prompt_fields(template):
        if name not in fields:
            raise unknown_name("prompt field", name, fields)
    return template.format(**fields)


def prompt_id(template_id: str, filled: str) -> str:
    """The prompt of a key whose template has fields: `<template id>@<first 16 hex digits of SHA-256 of the text>`.

    Labels may be corrected later; another text is another prompt.
    """
    return f"{template_id}@{hashlib.sha256(filled.encode()).hexdigest()[:16]}"


def spoken(label: str) -> str:
    """A label as it is written into a prompt: words in lower case, without brackets.

    `ApplyEyeMakeup`, `Apply_Eye_Makeup` and `apply eye makeup` are all "apply eye makeup"; SSv2's `[something]` is
    "something".
    """
    words = re.sub(r"[\[\]_]", " ", label).split()
    return " ".join(part for word in words for part in _WORD.findall(word)).lower()


def option_list(labels: Iterable[str]) -> str:
    """The options of a question, in the order given: `'feeding birds', 'reading book'`."""
    return ", ".join(f"'{spoken(label)}'" for label in labels)
