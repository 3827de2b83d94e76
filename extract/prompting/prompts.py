"""Prompts by id: what a language model is asked about a video, and how a template is filled for one.

The built-in ones are those of FSAR-LLaVA (arXiv 2603.26033): `unknown` asks openly, `known-support` names the video's
own label, `known-query` the classes of an episode. A filled prompt is named by what it says.
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
"""What a template may ask for: the video's own label; the classes of an episode, each in quotes."""

_NAMED: Final = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A prompt before it is filled. A store binds `id` to `text` for good."""

    id: str
    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        """What it asks for: some of FIELDS, in its order."""
        return tuple(prompt_fields(self.text))

    def to_json(self) -> dict[str, Json]:
        """What the id is bound to."""
        return {"template": self.text}


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it. `id`: the prompt of its records' keys; `template`: the id of the template."""

    id: str
    template: str
    text: str


def templates(ids: Sequence[str], texts: Sequence[str] = ()) -> tuple[Template, ...]:
    """The templates asked for by id and by text, in this order, each once.

    Args:
        ids: Built-in ones.
        texts: `name=TEXT`, or TEXT alone, which is named by its words and its digest.

    Raises:
        UnknownName: an id, or a field, that there is not.
        BadInput: a text that cannot be read, or a name that stands for another text already.
    """
    found: dict[str, Template] = {}
    for name in ids:
        if name not in TEMPLATES:
            raise unknown_name("prompt", name, TEMPLATES)
        found[name] = Template(name, TEMPLATES[name])
    for given in texts:
        template = _given(given)
        taken = TEMPLATES.get(template.id) or getattr(found.get(template.id), "text", template.text)
        if taken != template.text:
            raise BadInput(f"The prompt {template.id!r} is already {taken!r}.", "Give your text another name.")
        found[template.id] = template
    return tuple(found.values())


def _given(text: str) -> Template:
    named = _NAMED.fullmatch(text)
    name, words = named.groups() if named else (template_id(text), text)
    if not words.strip():
        raise BadInput(f"The prompt {text!r} is empty.", 'Give --prompt-text "What happens?", or name=TEXT.')
    template = Template(name, words)
    for field in template.fields:
        if field not in FIELDS:
            raise unknown_name("prompt field", field, FIELDS)
    return template


def fill(template: Template, *, label: str = "", options: Sequence[str] = ()) -> Prompt:
    """The prompt for one video.

    Args:
        template: What to fill.
        label: The video's own label as annotated; it is written as one says it.
        options: Labels of an episode's classes, in its order.

    Raises:
        RecordRejected: the template asks for a label or options, and there are none.
    """
    values = {"label": spoken(label), "options": option_list(options)}
    for field in template.fields:
        if not values[field]:
            lacking = "the video has no label" if field == "label" else "no options were given"
            raise RecordRejected(
                f"The prompt {template.id!r} names {{{field}}}, and {lacking}.",
                "Put videos into class folders or give a list with labels; options come with --episodes.",
            )
    text = fill_prompt(template.text, values)
    return Prompt(prompt_id(template.id, text) if template.fields else template.id, template.id, text)
