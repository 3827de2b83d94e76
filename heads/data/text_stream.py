"""The text stream of a store: the array of the `prompted` records, and which prompt goes with which video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from vfc.cache_schema.protocol import fill_prompt, option_list, prompt_id, spoken
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key

KNOWN: Final = "known"
NO_TEXT: Final = "none"
SUPPORT, QUERY = "known-support", "known-query"


@dataclass(frozen=True)
class TextStream:
    """Which prompted record goes with a video: of one prompt always, or as its place in an episode says.

    `prompt` is an id of the store, or `known`: a support video then has the record of `known-support` filled with its
    label, a query that of `known-query` filled with the classes of its episode, in the order of the episode.
    """

    spec: ArraySpec
    prompt: str
    templates: Mapping[str, str]

    @property
    def known(self) -> bool:
        """Whether the record depends on the episode."""
        return self.prompt == KNOWN

    def of_support(self, label: str) -> str:
        """The prompt of a support video of this class."""
        return prompt_id(SUPPORT, fill_prompt(self.templates[SUPPORT], {"label": spoken(label)}))

    def of_query(self, classes: Sequence[str]) -> str:
        """The prompt of every query of an episode."""
        return prompt_id(QUERY, fill_prompt(self.templates[QUERY], {"options": option_list(classes)}))


def choose_prompt(reader: StoreReader, prompt: str) -> str:
    """The prompt to read: as named, else the only one of the store; `none` where no text is wanted or stored.

    Raises:
        UnknownName: no such prompt in the store.
        BadInput: none was named, and there are several.
    """
    if prompt == NO_TEXT:
        return NO_TEXT
    stored = {key.prompt.split("@")[0] for key in reader.keys("prompted")} if text_arrays(reader) else set()
    choices = sorted(stored - {SUPPORT, QUERY}) + ([KNOWN] if {SUPPORT, QUERY} <= stored else [])
    if prompt and prompt not in choices:
        raise unknown_name("prompt in this store", prompt, choices)
    if not prompt and len(choices) != 1 and text_arrays(reader):
        raise BadInput(
            f"The store {reader.root} holds text under several prompts: {', '.join(choices) or 'none that is whole'}.",
            "Choose one with --prompt, or leave the text out with --prompt none.",
        )
    return prompt or (choices[0] if choices else NO_TEXT)


def text_array(reader: StoreReader, visual: ArraySpec) -> ArraySpec | None:
    """The text array of the layer of a visual array; None where the store has no text.

    Raises:
        BadInput: the store has text of other layers only.
    """
    arrays = text_arrays(reader)
    tap = ArrayName.parse(visual.name).tap
    beside = str(ArrayName(tap, "text"))
    if arrays and beside not in arrays and (len(arrays) > 1 or tap):
        raise BadInput(
            f"The store {reader.root} has text of {', '.join(sorted(arrays))}; none is of the layer of {visual.name}.",
            "Choose a layer that has both with --layer, or leave the text out with --prompt none.",
        )
    return arrays.get(beside) or next(iter(arrays.values()), None)


def text_arrays(reader: StoreReader) -> dict[str, ArraySpec]:
    """The arrays `[L, D]` of text tokens, by name."""
    return {
        spec.name: spec
        for spec in reader.kinds.get("prompted", ())
        if ArrayName.parse(spec.name).stream == "text" and "." in spec.name
        if spec.dtype in FEATURE_DTYPES and spec.ragged and len(spec.shape) == 2
    }


def templates_of(reader: StoreReader) -> dict[str, str]:
    """Prompt id -> template."""
    contents = {name: content for name, content in reader.axes("prompt").items() if isinstance(content, dict)}
    return {name.split("@")[0]: str(cast("Any", content)["template"]) for name, content in contents.items()}


def require_texts(reader: StoreReader, keys: Sequence[Key]) -> None:
    """Check that these `prompted` records are stored.

    Raises:
        BadInput: one is not, by name.
    """
    try:
        reader.locate(keys)
    except MissingRecord as error:
        raise BadInput(
            f"The text stream is not whole: {error.problem}",
            "Extract the missing prompts (for known prompts, with the episode list that is asked here), "
            "or leave the text out with --prompt none.",
        ) from None
