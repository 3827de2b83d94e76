"""What a run reads of a store, resolved once from the store and the settings, and handed on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from vfc.cache_schema.annotations import Annotations, near_equal_warning
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.reduction.projection import same_projection
from vfc.cache_schema.values.errors import BadInput, UnknownName, VfcError
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Json, Key

from .arrays import array_names, choose_array
from .features import Rows
from .serving import DEFAULTS, Serving, ServingSettings, serve
from .side_arrays import side_array
from .text_stream import NO_TEXT, TextStream, choose_prompt, templates_of, text_array

CLASS_TEXTS: Final = (
    "Extract the class names with the store's model (clip and viclip have a text tower): "
    "vfc extract ... --texts classes --template TEXT."
)


@dataclass(frozen=True)
class Wants:
    """What a head reads of a store.

    `clips`: role -> array of the `video` records (`layer7.visual`); None: as --array and --layer say. `classes`: role
    -> array of the `text` records of the class names (`embedding`, `layer7.text`, `text.eot`). An array of fixed shape
    is averaged over the templates of a class, each scaled to length 1 first; one with rows, and one of whole numbers,
    needs exactly one template. Roles in `optional` may be absent. `remedy`: the line to type where something is not
    there. `prefer`: arrays taken before all others where None is wanted and the user asks for none.

    `tokens`: `[T', N, D]`, not averaged to `[T', D]`; `masks`: of any T' and N, with a mask. Arrays that are named are
    read as stored. `text`: the text stream too.
    """

    clips: Mapping[str, str | None] = field(default_factory=lambda: {"visual": None})
    classes: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    remedy: str = ""
    prefer: tuple[str, ...] = ()
    tokens: bool = False
    masks: bool = False
    text: bool = False


NOTHING_ELSE: Final = Wants()


@dataclass(frozen=True)
class DividedRows:
    """The annotated videos in use, with the splits that hold.

    `rule`: where the splits come from, without a seed. `groups_kept`: how many groups of videos a random split kept
    together; None where the split is not random.
    """

    annotations: Annotations
    rule: str
    groups_kept: int | None = None


@dataclass(frozen=True)
class StoreView:
    """A store, the annotated videos in use (with the splits that hold), and the arrays that are read.

    `arrays`: role -> array of the `video` records, as stored; `text`: the text stream; `classes`: role -> array of the
    `text` records of the class names. `wants`: what the head reads; `settings`: which steps and tokens the user wants.
    `split_rule`, `groups_kept`: see `DividedRows`.
    """

    reader: StoreReader
    annotations: Annotations
    arrays: Mapping[str, ArraySpec]
    text: TextStream | None = None
    classes: Mapping[str, ArraySpec] = field(default_factory=dict)
    wants: Wants = NOTHING_ELSE
    settings: ServingSettings = DEFAULTS
    split_rule: str = ""
    groups_kept: int | None = None

    @property
    def visual(self) -> ArraySpec:
        """The array of the role `visual`."""
        return self.arrays["visual"]

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """Role -> array as the head gets it."""
        served = {role: serving.served for role, serving in self.serving.items()}
        return {**served, **({"text": self.text.spec} if self.text else {})}

    @cached_property
    def serving(self) -> dict[str, Serving]:
        """Role -> how its records are served; see `serving.serve` for what it raises."""
        wants = self.wants
        return {
            role: Serving(spec, as_stored=True)
            if wants.clips.get(role)
            else serve(self.reader, spec, self.settings, tokens=wants.tokens, masks=wants.masks)
            for role, spec in self.arrays.items()
        }

    def side(self, field: str, keys: Sequence[Key], role: str = "visual") -> Rows:
        """A side array of the steps that `role` is served in (`seconds`: their times); see `side_arrays.side_array`."""
        return side_array(self.reader, self.serving[role], field, keys)

    def of_frames(self) -> StoreView:
        """The same with one vector per time step and equally many steps per clip, as training-free baselines read it.

        Records that differ in length are made --clip-steps long, also where --clip-rule all keeps their steps.
        """
        settings = self.settings
        if settings.clip_rule == "all" and self.visual.ragged and self.specs["visual"].shape[0] is None:
            settings = replace(settings, clip_rule="segment-mean")
        return replace(self, wants=replace(self.wants, tokens=False, masks=False), settings=settings)

    @property
    def identity(self) -> dict[str, Json]:
        """Digests of the store, of how it was made, and of the annotations."""
        return {
            "store_digest": self.reader.digest,
            "recipe_digest": self.reader.recipe.digest,
            "annotations_digest": self.annotations.digest,
        }

    @property
    def recipe(self) -> Mapping[str, Json]:
        """How the store was made."""
        return self.reader.recipe.fields

    def names(self, split: str) -> list[str]:
        """The videos of a split, in order."""
        return [row.name for row in self.annotations.of_split(split).rows]


def resolve(
    reader: StoreReader,
    wants: Wants,
    annotations: Callable[[], DividedRows],
    *,
    array: str = "",
    layer: str = "",
    prompt: str = "",
    settings: ServingSettings = DEFAULTS,
) -> StoreView:
    """What a run reads of a store. Everything that is refused is collected and told together.

    `annotations` reads and divides the annotated videos; `array`, `layer` and `prompt` are the user's choice.

    Raises:
        UnknownName: an array, layer, prompt or set of annotations that is not there, with the remedy of `wants`.
        BadInput: several arrays or prompts could be meant; --array or --layer for a head that reads fixed arrays.
    """
    refusals = Refusals()
    with refusals.collect():
        rows = annotations()
    arrays: dict[str, ArraySpec] = {}
    with refusals.collect():
        arrays = _clip_arrays(reader, wants, array, layer)
    chosen = NO_TEXT
    text: ArraySpec | None = None
    with refusals.collect():
        chosen = choose_prompt(reader, prompt) if wants.text else NO_TEXT
    with refusals.collect():
        text = text_array(reader, arrays["visual"]) if wants.text and prompt != NO_TEXT and arrays else None
    classes: dict[str, ArraySpec] = {}
    with refusals.collect():
        classes = _class_arrays(reader, wants)
    with refusals.collect():
        embeddings = [spec for spec in classes.values() if spec.dtype in FEATURE_DTYPES and not spec.ragged]
        require_one_basis(reader, arrays.values(), embeddings)
    refusals.raise_together()
    stream = TextStream(text, chosen, templates_of(reader)) if text and chosen != NO_TEXT else None
    view = StoreView(reader, rows.annotations, arrays, stream, classes, wants, settings, rows.rule, rows.groups_kept)
    view.serving  # noqa: B018 - what cannot be served is refused here
    return view


class Refusals:
    """Errors of one resolution, told together: what is wrong in the first line, what is allowed in the second."""

    def __init__(self) -> None:
        self._errors: list[VfcError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error of the block for later."""
        try:
            yield
        except VfcError as error:
            self._errors.append(error)

    def raise_together(self) -> None:
        """Raise one error of the kind of the first, with the two lines of all."""
        if self._errors:
            problems = dict.fromkeys(error.problem for error in self._errors)
            remedies = dict.fromkeys(error.remedy for error in self._errors)
            raise type(self._errors[0])(" ".join(problems), " ".join(remedies))


def require_one_basis(reader: StoreReader, clips: Iterable[ArraySpec], classes: Iterable[ArraySpec]) -> None:
    """Check that clips and class texts that are compared were projected by one basis, or by none.

    Raises:
        BadInput: they were not, so that a cosine between them means nothing.
    """
    for clip, text in itertools.product(clips, classes):
        if clip.shape[-1] == text.shape[-1] and not same_projection(reader.root, clip, text):
            raise BadInput(
                f"{clip.name} of the clips and {text.name} of the class texts in {reader.root} were projected by "
                "different bases, so they lie in no common space.",
                "Take a store without --project, or one in which both were projected together.",
            )


def rows_in_use(rows: Annotations, reader: StoreReader, progress: Progress, *, view: int | None = None) -> Annotations:
    """The labelled rows that have a record (of `view`); rows left out and nearly equal labels are said.

    Raises:
        BadInput: there is no such row.
    """
    stored = {key.name for key in reader.keys("video") if view is None or key.view == view}
    if warning := near_equal_warning(rows.labels()):
        progress.say(warning)
    labelled = [row for row in rows.rows if row.label]
    usable = Annotations(tuple(row for row in labelled if row.name in stored))
    if not usable.rows:
        record = "a record" if view is None else f"a record of view {view}"
        raise BadInput(
            f"None of the {len(rows)} annotated videos ({len(labelled)} with a label) has {record} in {reader.root}.",
            "Names in the annotations are paths below the collection's root, as `vfc store inspect` shows them.",
        )
    if len(usable) < len(rows):
        progress.say(
            f"{len(usable)} of {len(rows)} annotated videos are used: {len(rows) - len(labelled)} have no label, "
            f"{len(labelled) - len(usable)} no record."
        )
    return usable


def split_rule(line: str) -> str:
    """Where splits come from, of the line that says it: without the seed and the counts."""
    return re.sub(r" \(seed \d+\)", "", line.partition(":")[0])


def _clip_arrays(reader: StoreReader, wants: Wants, array: str, layer: str) -> dict[str, ArraySpec]:
    if (array or layer) and None not in wants.clips.values():
        raise BadInput(
            f"This head reads {', '.join(map(str, wants.clips.values()))}; --array and --layer change nothing.",
            "Leave them out, or set the head's flags.",
        )
    stored = {spec.name for spec in reader.kinds.get("video", ())}
    if not (array or layer):
        array = next((name for name in wants.prefer if name in stored), "")
    arrays = {}
    for role, name in wants.clips.items():
        try:
            arrays[role] = choose_array(reader, array=name or array, layer="" if name else layer, tokens=wants.tokens)
        except UnknownName as error:
            if role not in wants.optional:
                raise UnknownName(error.problem, wants.remedy or error.remedy) from None
    return arrays


def _class_arrays(reader: StoreReader, wants: Wants) -> dict[str, ArraySpec]:
    specs = {spec.name: spec for spec in reader.kinds.get("text", ())} if wants.classes else {}
    stored = bool(specs) and bool(reader.keys("text"))
    arrays = {}
    for role, name in wants.classes.items():
        if name in specs and stored:
            arrays[role] = specs[name]
        elif role not in wants.optional:
            raise UnknownName(
                f"The store {reader.root} has no {name!r} of the class names; it has of texts: "
                f"{array_names(reader, 'text')}.",
                wants.remedy or CLASS_TEXTS,
            )
    return arrays
