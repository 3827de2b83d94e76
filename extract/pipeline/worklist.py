"""What a configuration asks for, compared with what the store holds. Reads only; loads no weights."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.parts.zarr_format import METADATA
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.reduction.reduce import stored_fit
from vfc.cache_schema.root import read_root
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import AxisMismatch, BadInput, MissingPath
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Json, Key
from vfc.extract.backbone import Backbone, BackboneOptions, TextBackbone, open_backbone
from vfc.extract.collection import Video
from vfc.extract.config import ExtractConfig, not_deterministic
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.models.determinism import Mode, chosen_mode
from vfc.extract.prompting.class_texts import PLAIN, ClassText, template_id
from vfc.extract.prompting.prompt_assignment import PromptAssignment, assign_prompts, keeps_text

from .failures import Failed, KnownFailures, read_failures
from .frames_and_numerics import frames_and_numerics
from .inputs import Inputs, read_inputs
from .other_names import refuse_other_names
from .publish_tail import missing_flags, with_tail
from .ranks import Rank
from .reduction import Reducer
from .source_files import is_changed
from .work_item import WorkItem, work_items
from .writer_thread import FailedRecord


@dataclass(frozen=True)
class WorkList:
    """The records asked for, sorted into those to make, those stored already and those that failed before.

    `items`, `texts`: still to make, in the order of the collection. `unfillable`: prompted records that cannot be made
    for want of a label. `failed`: listed by an earlier run and not to be tried again. `changed`: stored, but the file
    is another one now; `replaced`: the same, and they are made again. `requested` counts all, by kind.
    `reducer`: what becomes of arrays before they are stored. `axes`: what ids of prompts, views and templates mean.
    `sample`: what a projection is fitted on. `root`: the folder that names start from. `no_weights`: why the weights
    cannot be read; the recipe is empty then. Empty where they are there.
    """

    backbone: Backbone
    recipe: Recipe
    device: torch.device
    mode: Mode
    reducer: Reducer
    annotations: Annotations
    axes: tuple[tuple[str, str, Json], ...]
    requested: Mapping[str, int]
    items: tuple[WorkItem, ...]
    unfillable: tuple[FailedRecord, ...]
    texts: tuple[ClassText, ...]
    stored: tuple[Key, ...]
    failed: tuple[Failed, ...]
    changed: tuple[Key, ...]
    replaced: tuple[Key, ...]
    root: Path
    sample: tuple[WorkItem, ...]
    no_weights: str = ""

    @property
    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """Kind -> arrays as they are stored."""
        return self.reducer.stored_specs()

    @property
    def views(self) -> frozenset[int]:
        """Numbers of the views of the run."""
        return frozenset({0, *(int(name) for axis, name, _ in self.axes if axis == "view")})

    @property
    def to_do(self) -> int:
        """How many records are to be made, or listed as failed for want of a label."""
        return sum(len(item.keys) for item in self.items) + len(self.texts) + len(self.unfillable)

    def counts(self) -> dict[str, int]:
        """How many records of each kind are to be made."""
        kinds = Counter(key.kind for item in self.items for key in item.keys)
        return {"video": kinds["video"], "prompted": kinds["prompted"], "text": len(self.texts)}

    def share(self, rank: Rank) -> WorkList:
        """The part of one rank: whole videos, so that one forward serves all records of a video."""

        def mine(key: Key) -> bool:
            return rank.owns(key if key.kind == "text" else Key("video", key.name))

        return replace(
            self,
            items=tuple(item for item in self.items if mine(item.key)),
            unfillable=tuple(record for record in self.unfillable if mine(record.key)),
            texts=tuple(text for text in self.texts if mine(text.key)),
            stored=tuple(key for key in self.stored if mine(key)),
            failed=tuple(failed for failed in self.failed if mine(failed.key)),
            changed=tuple(key for key in self.changed if mine(key)),
            replaced=tuple(key for key in self.replaced if mine(key)),
        )


def build_work_list(config: ExtractConfig, rank: Rank, progress: Progress, *, needs_weights: bool = True) -> WorkList:
    """Read the collection, the backbone's config and the store, and say what is left to do.

    Args:
        config: What is asked for.
        rank: Its device is chosen by its number on this machine.
        progress: Where to report.
        needs_weights: Whether weights that are not on this machine are an error. If not, see `WorkList.no_weights`;
            a store is then compared by its arrays and axes alone.

    Raises:
        VfcError: anything that cannot be used as given; see the functions this calls.
        RecipeMismatch: the store at `config.out` holds features made in another way.
        AxisMismatch: its records of a kind have other arrays, or a prompt or a view is something else there.
    """
    device = chosen_device(config.device, rank.local_rank)
    mode = chosen_mode(config.mode, device)
    _check_mode(config, mode)
    inputs = read_inputs(config, progress)
    backbone = open_backbone(config.model, backbone_options(config, device, mode))
    _check_tail_and_texts(config, backbone, progress)
    work = _everything(config, device, mode, inputs, backbone)
    recipe, no_weights = _recipe(config, work, needs_weights=needs_weights)
    work = replace(work, recipe=recipe, no_weights=no_weights)
    if not _holds_something(config.out):
        return work
    with open_store(config.out, verify="never") as reader:
        if not work.no_weights:
            reader.recipe.require_equal(work.recipe, str(config.out))
        _require_equal_kinds(reader, work.specs)
        _require_equal_axes(reader, work.axes)
        refuse_other_names(reader, inputs.collection, inputs.root, config.out)
        return _remaining(config, work, reader)


def _recipe(config: ExtractConfig, work: WorkList, *, needs_weights: bool) -> tuple[Recipe, str]:
    """The recipe of the run; or an empty one, and why there are no weights to hash."""
    try:
        own = frames_and_numerics(config, work.mode)
        return Recipe({**work.backbone.recipe(), **work.reducer.recipe(), **own}), ""
    except MissingPath as error:
        if needs_weights:
            raise
        return Recipe({}), error.problem


def _check_mode(config: ExtractConfig, mode: Mode) -> None:
    if mode == "deterministic" and config.batch not in (None, 1):
        raise BadInput(
            f"--batch {config.batch} contradicts deterministic mode (the default on a CPU), which takes videos singly.",
            "Leave --batch out, or give --mode fast.",
        )
    if mode == "deterministic" and config.prompt_batching in ("packed", "batched"):
        raise not_deterministic(config.prompt_batching)


def _check_tail_and_texts(config: ExtractConfig, backbone: Backbone, progress: Progress) -> None:
    if config.tail is not None:
        with_tail(backbone, config.model, config.tail)
        if flags := missing_flags(config):
            progress.say(f"--tail {config.tail} begins with arrays that are not kept; to keep them: {flags}")
    if config.texts is not None and "text" not in backbone.specs():
        raise BadInput(
            f"--texts is given, but --model {config.model} has no text tower.",
            "Leave --texts out, or give --model clip.",
        )


def _everything(
    config: ExtractConfig, device: torch.device, mode: Mode, inputs: Inputs, backbone: Backbone
) -> WorkList:
    """The work list of an empty store, without a recipe."""
    trained = [video for video in inputs.collection.videos if video.split == "train"]
    fitted_on = config.project_fit or _stored_fit(config.out) or ("train" if trained else "all")
    spaces = backbone.shared_space if isinstance(backbone, TextBackbone) else ()
    reducer = Reducer(backbone.specs(), inputs.reduction, spaces, fitted_on, config.project_mean)
    assignment = assign_prompts(config, backbone, inputs.collection.videos)
    options = {"own": "video" in backbone.specs(), "leading": config.prompt_batching == "single"}
    videos = inputs.collection.videos
    records = list(work_items(videos, inputs.views, assignment, **options))
    fitting = first_by_hash(trained if fitted_on == "train" else videos, config.fit_records) if config.project else []
    sample = work_items(fitting, inputs.views[:1], assignment, **options)
    work = WorkList(
        backbone=backbone,
        recipe=Recipe({}),
        device=device,
        mode=mode,
        reducer=reducer,
        annotations=inputs.annotations,
        axes=tuple(_axes(config, assignment, inputs)),
        requested={},
        items=tuple(item for item in records if isinstance(item, WorkItem)),
        unfillable=tuple(record for record in records if isinstance(record, FailedRecord)),
        texts=inputs.texts,
        stored=(),
        failed=(),
        changed=(),
        replaced=(),
        root=inputs.root,
        sample=tuple(item for item in sample if isinstance(item, WorkItem)),
    )
    counts = work.counts()
    return replace(work, requested={**counts, "prompted": counts["prompted"] + len(work.unfillable)})


def _stored_fit(out: Path) -> Literal["train", "all", "0.1"] | None:
    """What the projections of the store were fitted on: more videos may have other splits, or none."""
    fields = read_root(out).fields.get("shrink") if (out / METADATA).exists() else None
    return stored_fit(fields) if isinstance(fields, dict) else None


def _axes(config: ExtractConfig, assignment: PromptAssignment, inputs: Inputs) -> Iterator[tuple[str, str, Json]]:
    for template in assignment.templates:
        yield "prompt", template.id, template.to_json()
    for view in inputs.views[1:]:
        yield "view", str(view.number), dict(view.meaning)
    if inputs.texts:
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
    """Not only the writer checks this: with nothing to do there is none, and other arrays would pass for these."""
    for kind, new in specs.items():
        stored = reader.kinds.get(kind, new)
        if set(stored) != set(new):
            raise AxisMismatch(
                f"The {kind} records in {reader.root} have the arrays {_arrays(stored)}; asked: {_arrays(new)}.",
                "Records of a kind have the same arrays: use the flags of the store, or another --out.",
            )


def _arrays(specs: Iterable[ArraySpec]) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in sorted(specs, key=lambda s: s.name))


def _require_equal_axes(reader: StoreReader, axes: Iterable[tuple[str, str, Json]]) -> None:
    """Not only the writer checks this: with nothing to do there is none."""
    for axis, name, new in axes:
        stored = reader.axes(axis).get(name, new)
        if stored != new:
            raise AxisMismatch(
                f"{axis} {name!r} of {reader.root} means {json.dumps(stored)}; asked: {json.dumps(new)}.",
                "Give it another name, use the flags of the store, or another --out.",
            )


def _remaining(config: ExtractConfig, work: WorkList, reader: StoreReader) -> WorkList:
    """Less the records that are stored, and those that failed before and whose file is unchanged."""
    failures = KnownFailures({}) if config.retry_failed else read_failures(config.out)
    stored, changed, failed = list[Key](), list[Key](), list[Failed]()

    def settled(key: Key, path: Path | None) -> bool:
        if key in reader:
            if path and is_changed(path, reader.metadata(key), check_content=config.check_content):
                changed.append(key)
                return not config.refresh
            stored.append(key)
            return True
        listed = failures.of(key, path)
        failed.extend([listed] if listed else [])
        return listed is not None

    items = [item.without(lambda key, path=item.video.path: settled(key, path)) for item in work.items]  # type: ignore[misc]
    return replace(
        work,
        items=tuple(item for item in items if item.keys),
        unfillable=tuple(record for record in work.unfillable if not settled(record.key, record.source)),
        texts=tuple(text for text in work.texts if not settled(text.key, None)),
        stored=tuple(stored),
        failed=tuple(failed),
        changed=() if config.refresh else tuple(changed),
        replaced=tuple(changed) if config.refresh else (),
    )


def backbone_options(config: ExtractConfig, device: torch.device, mode: Mode) -> BackboneOptions:
    """What of the settings concerns the model."""
    return BackboneOptions(
        checkpoint=config.checkpoint,
        layers=config.layer,
        text_layers=config.text_layer,
        texts=config.texts is not None,
        keep=config.keep,
        num_frames=config.frames_per_clip if fixed_count(config.frames) else None,
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
