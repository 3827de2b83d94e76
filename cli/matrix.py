"""`vfc models matrix`: which head can be trained on features of which family of models, and why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting

from .command import Command, Outcome, table

NEEDS_LAYER = "yes, from --layer or --window: without them this family gives one vector per clip, which has no steps"
VISUAL_ONLY = "yes, without the text stream: this family answers no prompts"


@dataclass(frozen=True)
class MatrixConfig:
    """How the table is printed."""

    format: Literal["text", "markdown"] = setting("text", "Form of the table")


@dataclass(frozen=True)
class Offer:
    """What a family of models puts into a store, as its code declares it.

    `long`: one row per time step of a long video; `texts`: embeddings of class names; `prompts`: a text stream per
    prompt; `tail`: its frozen upper blocks; `one_vector`: without layers a clip has no time steps. Every family gives
    arrays of clips.
    """

    long: bool
    texts: bool
    prompts: bool
    tail: bool
    one_vector: bool = False

    @classmethod
    def of(cls, family: Any) -> Offer:
        """Read from the module of a family (see `extract.backbone.Family`) and from the class that `build` returns."""
        backbone = get_type_hints(family.build).get("return")
        return cls(
            long=hasattr(backbone, "encode_stream") or hasattr(family, "build_windows"),
            texts=hasattr(backbone, "encode_texts"),
            prompts=hasattr(backbone, "encode_prompted"),
            tail=hasattr(backbone, "tail"),
            one_vector=getattr(family, "ONE_VECTOR", False),
        )


def answer(method: Any, task: Any, offer: Offer) -> str:
    """`yes`, `yes` with a limit, or `no` with the reason, for a head (the module of a method) and its task."""
    settings = method.Config()
    if getattr(task, "SEQUENCES", False):
        return "yes" if offer.long else "no: the head reads long videos step by step, which this family does not give"
    wants = method.Head.wants(settings) if hasattr(method.Head, "wants") else None
    if wants is not None and set(wants.classes) - wants.optional and not offer.texts:
        return "no: the head reads embeddings of the class names; this family has no text tower"
    if "tail" in {setting.name for setting in dataclasses.fields(settings)} and not offer.tail:
        return "no: the head adapts the upper blocks of the model, which this family does not keep in the store"
    if offer.one_vector and method.Head.least_steps(settings) > 1:
        return NEEDS_LAYER
    return VISUAL_ONLY if method.Head.text and not offer.prompts else "yes"


def matrix() -> dict[str, dict[str, str]]:
    """Head to family to `answer`, for every head and every family that is there."""
    from vfc.extract import backbone
    from vfc.heads import lookup

    offers = {name: Offer.of(backbone.find_family(name)) for name in backbone.family_names()}
    answers = {}
    for head in lookup.names():
        method = lookup.find(head)
        answers[head] = {model: answer(method, lookup.task_of(method), offer) for model, offer in offers.items()}
    return answers


def lines(answers: dict[str, dict[str, str]], *, markdown: bool) -> str:
    """The answers as a table of heads by families; reasons and limits are numbered below it."""
    notes = list(dict.fromkeys(text for row in answers.values() for text in row.values() if text != "yes"))
    columns = ["head", *next(iter(answers.values()))]
    rows = [[head, *(_cell(text, notes) for text in row.values())] for head, row in answers.items()]
    below = "\n".join(f"({number}) {text}." for number, text in enumerate(notes, 1))
    if not markdown:
        return f"{table(columns, rows)}\n\n{below}"
    return "\n".join([*map(_markdown_row, (columns, ["---"] * len(columns), *rows)), "", below.replace("\n", "  \n")])


def _cell(text: str, notes: Sequence[str]) -> str:
    return text if text == "yes" else f"{text.partition(':')[0].partition(',')[0]} ({notes.index(text) + 1})"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def show_matrix(config: MatrixConfig, progress: Progress) -> Outcome:
    """Every head by every family of models."""
    answers = matrix()
    return Outcome({"heads": answers}, lines(answers, markdown=config.format == "markdown"))


COMMAND = Command(
    "models matrix",
    "Show which head can be trained on features of which model.",
    MatrixConfig,
    show_matrix,
    "vfc models matrix",
    "The table is read from the code of models and heads, so it lists also those that you add.",
)
