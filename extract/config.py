"""The settings of `vfc extract` and `vfc plan`. Apart from the work, so that their flags are known without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.settings import DEVICE_HELP, setting

from .recipe_settings import Axes, recipe_settings

_NO_AXES: Final[Axes] = MappingProxyType({})


def _models() -> list[str]:
    from .backbone import family_names

    return family_names()


@dataclass(frozen=True)
class ExtractConfig:
    """What to run over which videos, where to keep it, and how fast.

    Raises:
        BadInput: a number that is too small, or settings that contradict each other.
    """

    videos: Path = setting(
        Path("videos"),
        "Folder (class per subfolder), CSV, JSONL or published list of videos",
        "Input",
        unless="dataset",
    )
    root: Path | None = setting(
        None,
        "Folder that names, and paths in a list, are relative to; default: that of the videos or the list",
        "Input",
    )
    dataset: str | None = setting(
        None,
        "Instead of --videos: a preset of list, splits, frames and test views; see vfc datasets list",
        "Input",
        metavar="NAME",
    )
    dataset_list: tuple[Path, ...] = setting(
        (), "Official lists of --dataset, or their folder, where vfc does not hold them", "Input", metavar="FILE,..."
    )
    dataset_views: bool = setting(True, "Take the test views of the papers with --dataset", "Input")
    label: str | None = setting(
        None, "Which label of a list that has several: verb, noun, action (EPIC-KITCHENS), or a column", "Input"
    )
    class_list: Path | None = setting(None, "Names of numbered classes of a list: one per line, CSV or JSON", "Input")
    fps: float | None = setting(
        None, "Frame rate of videos that are folders of numbered pictures; default: 25 is assumed", "Input"
    )
    split_folders: bool = setting(True, "Read folders train, val, test on top of a tree as splits", "Input")
    include: tuple[str, ...] = setting((), "Only these classes", "Input", metavar="CLASS,...")
    exclude: tuple[str, ...] = setting((), "All classes but these", "Input", metavar="CLASS,...")
    classes: str | None = setting(None, "Built-in class list that splits the classes, for example hmdb51-arn", "Input")
    frames: str = setting(
        "tsn-centre", "Frame sampling: tsn-centre, tsn-random, linspace, stride:n, fps:x, all ...", "Input"
    )
    num_frames: int | None = setting(
        None, "Frames per video; default: what the model takes (videomae: 16), else 8", "Input"
    )
    window: int | None = setting(
        None,
        "i3d, videomae, viclip, clip, image: one vector per window of so many frames, of those that --frames selects; "
        "default: 64 (i3d), or the frames of a clip of the model (clip, image: 8) once --stride or --border is given",
        "Input",
    )
    stride: int | None = setting(None, "Frames from one window to the next; default: --window (no overlap)", "Input")
    border: Literal["drop", "repeat", "zero"] | None = setting(
        None,
        "Windows: drop (default): complete windows only, from the first frame on; repeat or zero: a window around "
        "every --stride-th frame, padded at both ends with repeated frames or with zeros",
        "Input",
    )
    flow: str | None = setting(
        None, "Optical flow in addition to RGB: dis, tv-l1 (both by OpenCV), or a FOLDER of computed flow", "Input"
    )
    views: tuple[str, ...] = setting(
        (),
        "Views in addition to the clean one: three-crops, clips:n (in time), augment:n, test:4x3 (clips x crops)",
        "Input",
        metavar="VIEWS,...",
    )
    pipeline: Literal["plain", "vidprism", "msta"] = setting(
        "plain", "Published rules that --views augment and test follow", "Input"
    )
    flip: bool = setting(
        True, "Whether --views augment may mirror frames; switch off if classes differ by left and right", "Input"
    )
    seed: int = setting(0, "Seed of --frames tsn-random, --views augment and --project random", "Input")
    stream: int | None = setting(None, "Index of the video stream in the file; default: the container's best", "Input")
    texts: str | None = setting(
        None,
        "Texts for the text tower: a FILE with one per line, a .json file of descriptions, or the word classes",
        "Input",
    )
    template: tuple[str, ...] = setting(
        (), "Template with {label}, into which each text is put; may be repeated", "Input", metavar="TEXT", commas=False
    )
    prompt: tuple[str, ...] = setting(
        (),
        "Questions to a language model about each video: unknown (default), unknown-temporal, "
        "unknown-interaction, known-support, known-query",
        "Input",
        metavar="ID,...",
    )
    prompt_text: tuple[str, ...] = setting(
        (),
        "Your own prompt; may contain {label} or {options}; may be repeated",
        "Input",
        metavar="[NAME=]TEXT",
        commas=False,
    )
    episodes: Path | None = setting(
        None, "Episode list (vfc episodes); its class options fill {options} for its query videos", "Input"
    )

    model: str = setting("video-llava", "Family of models: see vfc models list", "Model", choices=_models)
    checkpoint: str | None = setting(None, "Hub id or folder of the weights; default: the family's own", "Model")
    layer: tuple[str, ...] = setting(
        (),
        "Layers to keep: 0 (input of block 1), 1, 2 ..., norm (after the final norm), 0-32, 0:32:4 (both ends), all",
        "Model",
        metavar="LAYER,...",
    )
    text_layer: tuple[str, ...] = setting((), "Layers of the text tower to keep", "Model", metavar="LAYER,...")
    keep: tuple[str, ...] = setting(
        (), "Streams to keep: frames, visual, embedding, text", "Size", metavar="STREAM,..."
    )
    cut_texts: bool = setting(
        False, "Truncate texts that are too long for the text tower, instead of refusing them", "Model"
    )
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = setting(
        None, "Storage dtype; default: the family's", "Size"
    )
    compute_dtype: Literal["fp32", "fp16", "bf16"] | None = setting(
        None, "Dtype of the forward pass; default: that of the weights", "Model"
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        None, "Attention implementation; default: the library's choice", "Model"
    )
    max_pixels: int | None = setting(
        None, "qwen: most pixels of a video after resizing; default: the checkpoint's", "Model"
    )
    pixels: str | None = setting(
        None, "viclip: how frames are brought to size: resize (default) or centre-crop", "Model"
    )
    tail: int | None = setting(
        None,
        "viclip: also keep the weights of blocks K and above in the store, for heads that adapt them",
        "Model",
        metavar="K",
    )
    prompt_batching: Literal["serial", "packed", "batched", "single"] | None = setting(
        None,
        "How the prompts of a video run: serial (deterministic mode) or packed (fast mode) with a shared prefix; "
        "batched; or single: one forward pass per prompt",
        "Model",
        renamed_from=("plan",),
    )
    mode: Literal["deterministic", "fast"] | None = setting(
        None, "deterministic (default on a CPU): bitwise equal for any ranks and restarts; fast: batched", "Model"
    )

    pool: str = setting(
        "", "Average the visual tokens of each frame: onto a grid such as 4x4, or mean (one vector)", "Size"
    )
    project: str = setting(
        "", "Project features onto fewer dimensions: pca:1024 or random:256; fitted once and kept in the store", "Size"
    )
    fit_records: int = setting(
        256, "Number of videos that --project is fitted on (the first by the hash of their names)", "Size"
    )
    project_fit: Literal["train", "all", "0.1"] | None = setting(
        None,
        "Videos that a pca is fitted on; default: train where a split is known, else all; 0.1: as version 0.1 did, on "
        "all, less the mean, no common basis of frames and texts",
        "Size",
    )
    project_mean: bool = setting(False, "Subtract the mean before a pca", "Size")

    out: Path = setting(Path("store"), "Store to create or to continue", "Output")
    retry_failed: bool = setting(False, "Try videos again that earlier runs listed under failures/", "Output")
    refresh: bool = setting(False, "Make the records again whose file has changed since", "Output")
    check_content: bool = setting(
        False, "Compare the SHA-256 of every file, not only where its size or time has changed", "Output"
    )
    prune: bool = setting(False, "Remove the annotations of videos whose file is gone from the folder", "Output")
    part_mb: float = setting(128.0, "Commit a part after this many megabytes", "Output")
    part_seconds: float = setting(60.0, "Commit a part after this many seconds", "Output")
    worker: str | None = setting(None, "Name of this process in parts/ and failures/; default: r<rank>", "Output")

    device: str | None = setting(None, DEVICE_HELP, "Performance")
    batch: int | None = setting(None, "Videos per forward in fast mode; default: 8", "Performance")
    threads: int | None = setting(
        None,
        "CPU threads of the forward pass; part of the recipe in deterministic mode (default there: 4)",
        "Performance",
    )
    decode_workers: int | None = setting(
        None, "Processes that decode videos; default: two fewer than cores, 2 to 32", "Performance"
    )
    seconds_per_video: float = setting(
        60.0, "Time limit of the decoder per video, or per chunk of a long one", "Performance"
    )
    rank: int | None = setting(None, "Rank of this process, from 0; default: from torchrun or SLURM", "Performance")
    world_size: int | None = setting(None, "Number of processes that share the work", "Performance")

    def __post_init__(self) -> None:
        self._take_preset()
        for name in ("num_frames", "batch", "threads", "decode_workers", "fit_records", "max_pixels", "tail"):
            self._check(name, least=1)
        for name in ("seed", "stream"):
            self._check(name, least=0)
        for name in ("part_mb", "part_seconds", "seconds_per_video", "fps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise _too_small(name, getattr(self, name), "more than 0")
        if self.batch not in (None, 1) and self.mode == "deterministic":
            raise BadInput(
                f"--batch {self.batch} contradicts --mode deterministic, which forwards every video alone.",
                "Leave --batch out, or give --mode fast.",
            )
        if self.prompt_batching in ("packed", "batched") and self.mode == "deterministic":
            raise not_deterministic(self.prompt_batching)
        if self.template and self.texts is None:
            raise BadInput("--template is given without --texts.", "Say what to fill in: --texts FILE or classes.")
        for template in self.template:
            if "{label}" not in template:
                raise BadInput(
                    f"--template {template!r} has no {{label}}, so all texts would be the same.",
                    "Put {label} where each text belongs, as in --template 'a video of {label}'.",
                )

    def _take_preset(self) -> None:
        """Frames and test views of the preset, where no others are given."""
        if self.dataset is None:
            if self.dataset_list or not self.dataset_views:
                flag = "--dataset-list" if self.dataset_list else "--no-dataset-views"
                raise BadInput(f"{flag} is given without --dataset.", "Name a preset: vfc datasets list.")
            return
        from .collection.presets.catalogue import find

        preset = find(self.dataset)
        if self.videos != type(self).videos:
            raise BadInput(
                f"--videos {self.videos} and --dataset {self.dataset} are both given.",
                "--dataset has its own list; --root says where the videos are.",
            )
        settings: dict[str, Any] = {"frames": preset.frames, "num_frames": preset.num_frames}
        if self.dataset_views and not self.views:
            settings |= {"views": preset.views, "pipeline": preset.pipeline}
        for name, value in settings.items():
            if getattr(self, name) == getattr(type(self), name) and value is not None:
                object.__setattr__(self, name, value)

    def _check(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise _too_small(name, value, f"{least} or more")

    @cached_property
    def frames_per_clip(self) -> int:
        """`num_frames`, or the number that the checkpoint takes; the checkpoint's configuration is read for it."""
        from .backbone import default_num_frames

        return self.num_frames or default_num_frames(self.model, self.checkpoint)

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any], *, axes: Axes = _NO_AXES, **changes: Any) -> Self:
        """The settings that make features as a store's recipe says: the run of these settings has the same recipe.

        Args:
            recipe: `Recipe.fields` of the store.
            axes: Its prompts and views, where they are wanted too; see `recipe_settings`.
            changes: Fields to set: `videos`, `out`, `device` ..., or another `checkpoint` for the same weights.

        Raises:
            BadInput: see `recipe_settings`; contradicting fields.
        """
        return cls(**{**recipe_settings(recipe, axes, changes), **changes})


@dataclass(frozen=True)
class PlanConfig(ExtractConfig):
    """The settings of the run to plan, and how closely to look."""

    calibrate: bool = setting(
        True, "Decode a few of the videos and run the model on them, to estimate time and memory", "Plan"
    )


def not_deterministic(batching: str) -> BadInput:
    """What is wrong with `packed` and `batched` in deterministic mode."""
    return BadInput(
        f"--prompt-batching {batching} contradicts deterministic mode (the default on a CPU), where prompts do not run "
        "together.",
        "Leave --prompt-batching out, or give --mode fast.",
    )


def _too_small(name: str, value: float, allowed: str) -> BadInput:
    flag = f"--{name.replace('_', '-')}"
    return BadInput(f"{flag} is {value}.", f"{flag} takes {allowed}.")
