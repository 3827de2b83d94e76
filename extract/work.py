"""What a configuration asks for, seen against what the store already holds. Reads only; loads no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.errors import AxisMismatch, BadInput
from vfc.cache_schema.progress import Progress
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.recipe import Recipe
from vfc.cache_schema.record import ArraySpec, Json, Key

from .backbone import Backbone, BackboneOptions, open_backbone
from .collection import Collection, Video, collect
from .config import ExtractConfig
from .failures import Failed, KnownFailures, read_failures
from .launch import Place
from .numerics import THREADS, Mode, chosen_mode
from .sampling import fixed_count
from .texts import PLAIN, Text, read_texts, template_id


@dataclass(frozen=True)
class Work:
    """The records wanted, sorted into those to make, those already there and those that failed before.

    `specs`: kind -> arrays of the kinds that are wanted. `videos`, `texts`: still to make, in the order of the
    collection. `failed`: listed by an earlier run and not to be tried again. `wanted` counts all three, by kind.
    """

    backbone: Backbone
    recipe: Recipe
    device: torch.device
    mode: Mode
    specs: Mapping[str, tuple[ArraySpec, ...]]
    annotations: Annotations
    templates: Mapping[str, str]
    wanted: Mapping[str, int]
    videos: tuple[Video, ...]
    texts: tuple[Text, ...]
    there: tuple[Key, ...]
    failed: tuple[Failed, ...]

    @property
    def to_do(self) -> int:
        """How many records are to be made."""
        return len(self.videos) + len(self.texts)

    def share(self, place: Place) -> Work:
        """The part of one rank."""
        return replace(
            self,
            videos=tuple(video for video in self.videos if place.owns(video_key(video))),
            texts=tuple(text for text in self.texts if place.owns(text.key)),
            there=tuple(key for key in self.there if place.owns(key)),
            failed=tuple(failed for failed in self.failed if place.owns(Key(failed.kind, failed.name))),
        )


def video_key(video: Video) -> Key:
    """The key of a video's record."""
    return Key("video", video.name)


def survey(config: ExtractConfig, place: Place, progress: Progress) -> Work:
    """Read the collection, the backbone's config and the store, and say what is left to do.

    Raises:
        VfcError: anything that cannot be used as given; see the functions this calls.
        RecipeMismatch: the store at `config.out` holds features made in another way.
        AxisMismatch: its records of a kind have other arrays.
    """
    device = chosen_device(config.device, place.local_rank)
    mode = chosen_mode(config.mode, device)
    if mode == "deterministic" and config.batch not in (None, 1):
        raise BadInput(
            f"--batch {config.batch} contradicts deterministic mode (the default on a CPU), which takes videos singly.",
            "Leave --batch out, or give --mode fast.",
        )
    options = backbone_options(config, device)
    backbone = open_backbone(config.model, options)
    specs = backbone.specs()
    if config.texts is not None and "text" not in specs:
        raise BadInput(
            f"--texts is given, but --model {config.model} has no text tower.",
            "Leave --texts out, or give --model clip.",
        )
    collection = collect(
        config.videos, root=config.root, include=config.include, exclude=config.exclude, classes=config.classes
    )
    annotations = collection.annotations()
    _say_collection(collection, progress)
    texts = read_texts(config.texts, config.template, annotations.labels()) if config.texts is not None else ()
    recipe = Recipe({**backbone.recipe(), **_own_recipe(config, mode)})
    templates = {template_id(template): template for template in config.template or (PLAIN,)} if texts else {}
    work = Work(
        backbone=backbone,
        recipe=recipe,
        device=device,
        mode=mode,
        specs=specs,
        annotations=annotations,
        templates=templates,
        wanted={"video": len(collection.videos), "text": len(texts)},
        videos=collection.videos,
        texts=texts,
        there=(),
        failed=(),
    )
    if not _holds_something(config.out):
        return work
    with open_store(config.out, verify="never") as reader:
        reader.recipe.require_equal(recipe, str(config.out))
        _require_equal_kinds(reader, specs)
        known = KnownFailures({}) if config.retry_failed else read_failures(config.out)
        return _less_what_is_there(work, reader, known)


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


def _less_what_is_there(work: Work, reader: StoreReader, known: KnownFailures) -> Work:
    wanted = [(video_key(video), video, None) for video in work.videos] + [(t.key, None, t) for t in work.texts]
    there, failed, videos, texts = [], [], [], []
    for key, video, text in wanted:
        listed = None if key in reader else known.of(key, video.path if video else None)
        if key in reader:
            there.append(key)
        elif listed is not None:
            failed.append(listed)
        elif video is not None:
            videos.append(video)
        elif text is not None:
            texts.append(text)
    return replace(work, videos=tuple(videos), texts=tuple(texts), there=tuple(there), failed=tuple(failed))


def backbone_options(config: ExtractConfig, device: torch.device) -> BackboneOptions:
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


def chosen_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device asked for; None takes a GPU where there is one, each rank its own, else the CPU.

    Raises:
        BadInput: a name torch does not know, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda", local_rank % count) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device {name} is not known.", "Give cpu, cuda, or cuda:1 for the second GPU.")
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"there are {count}, cuda:0 to cuda:{count - 1}" if count else "torch sees none here"
        raise BadInput(f"--device {name} asks for a GPU, but {there}.", "Leave --device out, or give --device cpu.")
    return device


def _say_collection(collection: Collection, progress: Progress) -> None:
    classes = len({video.label for video in collection.videos} - {""})
    for note in collection.notes:
        progress.say(note)
    progress.say(f"{len(collection.videos)} videos in {classes} classes.")
    if collection.skipped:
        counted = (f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(collection.skipped.items()))
        progress.say(f"Passed over, as no videos: {', '.join(counted)}.")
