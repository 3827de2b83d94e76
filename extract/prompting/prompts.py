"""Prompts: the texts that a language model is asked about a video.

A prompt template is the text before it is filled; it may hold the fields `{label}` and `{options}`. A prompt is the
filled text. Its prompt id is the `prompt` axis of a store: the id of the template where it has no fields, else that id
with a digest of the filled text. The built-in templates are those of FSAR-LLaVA (arXiv 2603.26033): `unknown` asks
openly, `known-support` names the video's own label, `known-query` the classes of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vfc.cache_schema.protocol import fill_prompt, option_list, prompt_fields, prompt_id, spoken
from vfc.cache_schema.values.errors import BadInput, RecordRejected, unknown_name
from vfc.cache_schema.values.record import Json

from .class_texts import template_id

TEMPLATES: Final[Mapping[str, str]] = {
    "unknown": "What's the action of the video?",
    "unknown-temporal": "Describe the sequence of actions happening in the video.",
    "unknown-interaction": "How does the interaction between the person and the object evolve?",
    "unknown-interaction-b": "What is the person doing with the object in the video?",
    "known-support": "Please describe if the '{label}' action is present in the video in one sentence.",
    "known-query": "Watch the video and identify the main action category from these options: {options}.",
}
FIELDS: Final = ("label", "options")
"""The fields of a template: the video's own label; the classes of an episode, each in quotes."""

_NAMED: Final = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt before it is filled. In a store, `id` always stands for the same `text`."""

    id: str
    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Its fields in order: some of FIELDS."""
        return tuple(prompt_fields(self.text))

    def to_json(self) -> dict[str, Json]:
        """The content of the axis of its id."""
        return {"template": self.text}


@dataclass(frozen=True)
class Prompt:
    """A filled prompt. `id`: the prompt in the keys of its records; `template`: the id of its template."""

    id: str
    template: str
    text: str


def prompt_templates(ids: Sequence[str], texts: Sequence[str] = ()) -> tuple[PromptTemplate, ...]:
    """The templates with these ids and these texts, in this order, each once.

    Args:
        ids: Of built-in templates.
        texts: `name=TEXT`, or TEXT alone, whose id is made of its words and its digest.

    Raises:
        UnknownName: an unknown id or field.
        BadInput: a text that cannot be read, or a name that stands for another text already.
    """
    by_id: dict[str, PromptTemplate] = {}
    for name in ids:
        if name not in TEMPLATES:
            raise unknown_name("prompt", name, TEMPLATES)
        by_id[name] = PromptTemplate(name, TEMPLATES[name])
    for text in texts:
        template = _read_template(text)
        earlier = by_id[template.id].text if template.id in by_id else TEMPLATES.get(template.id, template.text)
        if earlier != template.text:
            raise BadInput(f"The prompt {template.id!r} is already {earlier!r}.", "Give your text another name.")
        by_id[template.id] = template
    return tuple(by_id.values())


def _read_template(text: str) -> PromptTemplate:
    named = _NAMED.fullmatch(text)
    name, words = named.groups() if named else (template_id(text), text)
    if not words.strip():
        raise BadInput(f"The prompt {text!r} is empty.", 'Give --prompt-text "What happens?", or name=TEXT.')
    template = PromptTemplate(name, words)
    for field in template.fields:
        if field not in FIELDS:
            raise unknown_name("prompt field", field, FIELDS)
    return template


def fill(template: PromptTemplate, *, label: str = "", options: Sequence[str] = ()) -> Prompt:
    """The prompt for one video.

    Args:
        template: What to fill.
        label: The video's own label as annotated; it is written in words (`brush_hair` as `brush hair`).
        options: Labels of an episode's classes, in its order.

    Raises:
        RecordRejected: the template has a field for which there is no value.
    """
    values = {"label": spoken(label), "options": option_list(options)}
    for field in template.fields:
        if not values[field]:
            reason = "the video has no label" if field == "label" else "no options were given"
            raise RecordRejected(
                f"The prompt {template.id!r} names {{{field}}}, and {reason}.",
                "Put videos into class folders or give a list with labels; options come with --episodes.",
            )
    text = fill_prompt(template.text, values)
    return Prompt(prompt_id(template.id, text) if template.fields else template.id, template.id, text)
