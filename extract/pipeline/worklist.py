"""What a configuration asks for, seen against what the store already holds. Reads only; loads no weights."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.errors import AxisMismatch, BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Json, Key
from vfc.extract.backbone import Backbone, BackboneOptions, open_backbone
from vfc.extract.backbones.i3d.flow import METHODS
from vfc.extract.collection import Collection, Video, collect
from vfc.extract.config import ExtractConfig, not_deterministic
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.frames.views import View, views
from vfc.extract.models.determinism import THREADS, Mode, chosen_device, chosen_mode
from vfc.extract.prompting.class_texts import PLAIN, ClassText, read_class_texts, template_id
from vfc.extract.prompting.prompt_assignment import PromptAssignment, assign_prompts, keeps_text

from .failures import Failed, KnownFailures, read_failures
from .publish_tail import lacking, with_tail
from .ranks import Place
from .reduction import Shrinking
from .work_item import Visit, visits
from .writer_thread import Lost


@dataclass(frozen=True)
class Work:
    """The records wanted, sorted into those to make, those already there and those that failed before.

    `visits`, `texts`: still to make, in the order of the collection. `hopeless`: prompted records that cannot be made
    for want of a label. `failed`: listed by an earlier run and not to be tried again. `wanted` counts all, by kind.
    `shrinking`: what becomes of arrays before they are stored; `specs`: kind -> arrays as stored. `axes`: what ids of
    prompts, views and templates mean. `sample`: what a projection is fitted on.
    """

    backbone: Backbone
    recipe: Recipe
    device: torch.device
    mode: Mode
    shrinking: Shrinking
    annotations: Annotations
    axes: tuple[tuple[str, str, Json], ...]
    wanted: Mapping[str, int]
    visits: tuple[Visit, ...]
    hopeless: tuple[Lost, ...]
    texts: tuple[ClassText, ...]
    there: tuple[Key, ...]
    failed: tuple[Failed, ...]
    sample: tuple[Visit, ...]

    @property
    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """Kind -> arrays as they are stored."""
        return self.shrinking.stored()

    @property
    def to_do(self) -> int:
        """How many records are to be made, or found to be hopeless."""
        return sum(len(visit.keys) for visit in self.visits) + len(self.texts) + len(self.hopeless)

    def to_make(self) -> dict[str, int]:
        """How many records of each kind are to be made."""
        keys = [key for visit in self.visits for key in visit.keys]
        counts = Counter(key.kind for key in keys)
        return {"video": counts["video"], "prompted": counts["prompted"], "text": len(self.texts)}

    def share(self, place: Place) -> Work:
        """The part of one rank: whole videos, so that one pass serves all that is wanted of a video."""

        def mine(key: Key) -> bool:
            return place.owns(key if key.kind == "text" else Key("video", key.name))

        return replace(
            self,
            visits=tuple(visit for visit in self.visits if mine(visit.key)),
            hopeless=tuple(lost for lost in self.hopeless if mine(lost.key)),
            texts=tuple(text for text in self.texts if mine(text.key)),
            there=tuple(key for key in self.there if mine(key)),
            failed=tuple(failed for failed in self.failed if mine(failed.key)),
        )


def survey(config: ExtractConfig, place: Place, progress: Progress) -> Work:
    """Read the collection, the backbone's config and the store, and say what is left to do.

    Raises:
        VfcError: anything that cannot be used as given; see the functions this calls.
        RecipeMismatch: the store at `config.out` holds features made in another way.
        AxisMismatch: its records of a kind have other arrays, or a prompt or a view is something else there.
    """
    device = chosen_device(config.device, place.local_rank)
    mode = chosen_mode(config.mode, device)
    if mode == "deterministic" and config.batch not in (None, 1):
        raise BadInput(
            f"--batch {config.batch} contradicts deterministic mode (the default on a CPU), which takes videos singly.",
            "Leave --batch out, or give --mode fast.",
        )
    if mode == "deterministic" and config.prompt_batching in ("packed", "batched"):
        raise not_deterministic(config.prompt_batching)
    counted = fixed_count(config.frames)
    looks = views(config.views, seed=config.seed, flip=config.flip, counted=counted, pipeline=config.pipeline)
    options = backbone_options(config, device, mode)
    backbone = open_backbone(config.model, options)
    if config.flow is not None and config.flow not in METHODS and not all(look.whole for look in looks):
        raise BadInput(
            f"--views {','.join(config.views)} changes pictures; the flow in {config.flow} is of whole ones.",
            f"Leave these views out, or give --flow {' or '.join(METHODS)}, which is made of what each view shows.",
        )
    specs = backbone.specs()
    if config.tail is not None:
        with_tail(backbone, config.model, config.tail)
        if flags := lacking(config):
            progress.say(f"--tail {config.tail} begins with what is not kept; what would keep it: {flags}")
    if config.texts is not None and "text" not in specs:
        raise BadInput(
            f"--texts is given, but --model {config.model} has no text tower.",
            "Leave --texts out, or give --model clip.",
        )
    shrinking = Shrinking(specs, Reduction(config.pool, "", config.project, config.fit_records, config.seed))
    shrinking.stored()
    collection = collect(
        config.videos, root=config.root, include=config.include, exclude=config.exclude, classes=config.classes
    )
    annotations = collection.annotations()
    assignment = assign_prompts(config, backbone, collection.videos)
    _say_collection(collection, progress)
    texts = read_class_texts(config.texts, config.template, annotations.labels()) if config.texts is not None else ()

    def visiting(videos: Sequence[Video], looks: Sequence[View]) -> list[Visit | Lost]:
        leading = config.prompt_batching == "single"
        return list(visits(videos, looks, assignment, own="video" in specs, leading=leading))

    wanted = visiting(collection.videos, looks)
    sample = visiting(first_by_hash(collection.videos, config.fit_records), looks[:1]) if config.project else []
    recipe = {**backbone.recipe(), **shrinking.recipe(), **_own_recipe(config, mode)}
    work = Work(
        backbone=backbone,
        recipe=Recipe(recipe),
        device=device,
        mode=mode,
        shrinking=shrinking,
        annotations=annotations,
        axes=tuple(_axes(config, assignment, looks, bool(texts))),
        wanted={},
        visits=tuple(visit for visit in wanted if isinstance(visit, Visit)),
        hopeless=tuple(lost for lost in wanted if isinstance(lost, Lost)),
        texts=texts,
        there=(),
        failed=(),
        sample=tuple(visit for visit in sample if isinstance(visit, Visit)),
    )
    counts = work.to_make()
    work = replace(work, wanted={**counts, "prompted": counts["prompted"] + len(work.hopeless)})
    if not _holds_something(config.out):
        return work
    with open_store(config.out, verify="never") as reader:
        reader.recipe.require_equal(work.recipe, str(config.out))
        _require_equal_kinds(reader, work.specs)
        _require_equal_axes(reader, work.axes)
        known = KnownFailures({}) if config.retry_failed else read_failures(config.out)
        return _less_what_is_there(work, reader, known)


def _axes(
    config: ExtractConfig, assignment: PromptAssignment, looks: Sequence[View], texts: bool
) -> Iterator[tuple[str, str, Json]]:
    for template in assignment.templates:
        yield "prompt", template.id, template.to_json()
    for view in looks[1:]:
        yield "view", str(view.number), dict(view.meaning)
    if texts:
        for text in config.template or (PLAIN,):
            yield "template", template_id(text), text


def first_by_hash(videos: Sequence[Video], count: int) -> list[Video]:
    """The first names by SHA-256: the same for every worker that looks."""
    return sorted(videos, key=lambda video: hashlib.sha256(video.name.encode()).digest())[:count]


def _holds_something(out: Path) -> bool:
    """Whether there is a store to read, or something else that opening it will complain about."""
    if (out / "zarr.json").exists() or (out.exists() and not out.is_dir()):
        return True
    # Another rank may be making the store at this moment; its root file comes last.
    return out.is_dir() and any(out.iterdir()) and not (out / "parts").is_dir()


def _require_equal_kinds(reader: StoreReader, specs: Mapping[str, tuple[ArraySpec, ...]]) -> None:
    """Not only the writer asks this: with nothing to do there is none, and other arrays would pass for those asked."""
    for kind, asked in specs.items():
        there = reader.kinds.get(kind, asked)
        if set(there) != set(asked):
            raise AxisMismatch(
                f"The {kind} records in {reader.root} have the arrays {_arrays(there)}; asked: {_arrays(asked)}.",
                "Records of a kind have the same arrays: use the flags of the store, or another --out.",
            )


def _arrays(specs: Iterable[ArraySpec]) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in sorted(specs, key=lambda s: s.name))


def _require_equal_axes(reader: StoreReader, axes: Iterable[tuple[str, str, Json]]) -> None:
    """Not only the writer asks this: with nothing to do there is none."""
    for axis, name, asked in axes:
        there = reader.axes(axis).get(name, asked)
        if there != asked:
            raise AxisMismatch(
                f"{axis} {name!r} of {reader.root} means {json.dumps(there)}; asked: {json.dumps(asked)}.",
                "Give it another name, use the flags of the store, or another --out.",
            )


def _less_what_is_there(work: Work, reader: StoreReader, known: KnownFailures) -> Work:
    there, failed = list[Key](), list[Failed]()

    def settled(key: Key, path: Path | None) -> bool:
        if key in reader:
            there.append(key)
            return True
        listed = known.of(key, path)
        failed.extend([listed] if listed else [])
        return listed is not None

    left = [visit.without(lambda key, path=visit.video.path: settled(key, path)) for visit in work.visits]  # type: ignore[misc]
    return replace(
        work,
        visits=tuple(visit for visit in left if visit.keys),
        hopeless=tuple(lost for lost in work.hopeless if not settled(lost.key, lost.source)),
        texts=tuple(text for text in work.texts if not settled(text.key, None)),
        there=tuple(there),
        failed=tuple(failed),
    )


def backbone_options(config: ExtractConfig, device: torch.device, mode: Mode) -> BackboneOptions:
    """What of the settings concerns the model."""
    return BackboneOptions(
        checkpoint=config.checkpoint,
        layers=config.layer,
        text_layers=config.text_layer,
        texts=config.texts is not None,
        keep=config.keep,
        num_frames=config.num_frames if fixed_count(config.frames) else None,
        dtype=config.compute_dtype,
        storage=config.dtype,
        attention=config.attention,
        device=str(device),
        cut_texts=config.cut_texts,
        prompts=keeps_text(config.keep) or bool(config.prompt or config.prompt_text),
        prompt_batching=config.prompt_batching or ("serial" if mode == "deterministic" else "packed"),
        max_pixels=config.max_pixels,
        pixels=config.pixels,
        window=config.window,
        stride=config.stride,
        border=config.border,
        flow=config.flow,
    )


def _own_recipe(config: ExtractConfig, mode: Mode) -> dict[str, Json]:
    """The share of the recipe that is no model's: which frames, by which decoder, in which numeric mode."""
    frames: dict[str, Json] = {"rule": config.frames, "stream": config.stream}
    if fixed_count(config.frames):
        frames |= {"count": config.num_frames, "short": "repeat last"}
    if config.frames == "tsn-random":
        frames["seed"] = config.seed
    numerics: dict[str, Json] = {"mode": mode}
    if mode == "deterministic":
        numerics["threads"] = config.threads or THREADS
    return {
        "frames": frames,
        "decoder": {"name": "pyav", "version": version("av").partition("+")[0]},
        "numerics": numerics,
    }


def _say_collection(collection: Collection, progress: Progress) -> None:
    classes = len({video.label for video in collection.videos} - {""})
    for note in collection.notes:
        progress.say(note)
    progress.say(f"{len(collection.videos)} videos in {classes} classes.")
    if collection.skipped:
        counted = (f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(collection.skipped.items()))
        progress.say(f"Passed over, as no videos: {', '.join(counted)}.")
