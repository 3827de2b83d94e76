"""The settings of `vfc extract` and `vfc plan`. Apart from the work, so that their flags are known without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.settings import setting

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
        Path("videos"), "Input", "Folder (class per subfolder), CSV, JSONL or published list of videos"
    )
    root: Path | None = setting(
        None,
        "Input",
        "Folder that names, and paths in a list, are relative to; default: that of the videos or the list",
    )
    include: tuple[str, ...] = setting((), "Input", "Only these classes", metavar="CLASS,...")
    exclude: tuple[str, ...] = setting((), "Input", "All classes but these", metavar="CLASS,...")
    classes: str | None = setting(None, "Input", "Built-in class list that splits the classes, for example hmdb51-arn")
    frames: str = setting(
        "tsn-centre", "Input", "Frame sampling: tsn-centre, tsn-random, linspace, stride:n, fps:x, all ..."
    )
    num_frames: int = setting(8, "Input", "Frames per video")
    window: int | None = setting(None, "Input", "i3d: frames per window, of those that --frames selects; default: 64")
    stride: int | None = setting(
        None, "Input", "i3d: frames from one window to the next; default: --window (no overlap)"
    )
    border: Literal["drop", "repeat", "zero"] | None = setting(
        None,
        "Input",
        "i3d: drop (default): complete windows only, from the first frame on; repeat or zero: a window around "
        "every --stride-th frame, padded at both ends with repeated frames or with zeros",
    )
    flow: str | None = setting(
        None, "Input", "Optical flow in addition to RGB: dis, tv-l1 (both by OpenCV), or a FOLDER of computed flow"
    )
    views: tuple[str, ...] = setting(
        (),
        "Input",
        "Views in addition to the clean one: three-crops, clips:n (in time), augment:n, test:4x3 (clips x crops)",
        metavar="VIEWS,...",
    )
    pipeline: Literal["plain", "vidprism", "msta"] = setting(
        "plain", "Input", "Published rules that --views augment and test follow"
    )
    flip: bool = setting(
        True, "Input", "Whether --views augment may mirror frames; switch off if classes differ by left and right"
    )
    seed: int = setting(0, "Input", "Seed of --frames tsn-random, --views augment and --project random")
    stream: int | None = setting(None, "Input", "Index of the video stream in the file; default: the container's best")
    texts: str | None = setting(
        None,
        "Input",
        "Texts for the text tower: a FILE with one per line, a .json file of descriptions, or the word classes",
    )
    template: tuple[str, ...] = setting(
        (), "Input", "Template with {label}, into which each text is put; may be repeated", metavar="TEXT", commas=False
    )
    prompt: tuple[str, ...] = setting(
        (),
        "Input",
        "Questions to a language model about each video: unknown (default), unknown-temporal, "
        "unknown-interaction, known-support, known-query",
        metavar="ID,...",
    )
    prompt_text: tuple[str, ...] = setting(
        (),
        "Input",
        "Your own prompt; may contain {label} or {options}; may be repeated",
        metavar="[NAME=]TEXT",
        commas=False,
    )
    episodes: Path | None = setting(
        None, "Input", "Episode list (vfc episodes); its class options fill {options} for its query videos"
    )

    model: str = setting("video-llava", "Model", "Family of models: see vfc models list", choices=_models)
    checkpoint: str | None = setting(None, "Model", "Hub id or folder of the weights; default: the family's own")
    layer: tuple[str, ...] = setting(
        (),
        "Model",
        "Layers to keep: 0 (input of block 1), 1, 2 ..., or norm (after the final norm)",
        metavar="LAYER,...",
    )
    text_layer: tuple[str, ...] = setting((), "Model", "Layers of the text tower to keep", metavar="LAYER,...")
    keep: tuple[str, ...] = setting(
        (), "Size", "Streams to keep: frames, visual, embedding, text", metavar="STREAM,..."
    )
    cut_texts: bool = setting(
        False, "Model", "Truncate texts that are too long for the text tower, instead of refusing them"
    )
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = setting(
        None, "Size", "Storage dtype; default: the family's"
    )
    compute_dtype: Literal["fp32", "fp16", "bf16"] | None = setting(
        None, "Model", "Dtype of the forward pass; default: that of the weights"
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        None, "Model", "Attention implementation; default: the library's choice"
    )
    max_pixels: int | None = setting(
        None, "Model", "qwen: most pixels of a video after resizing; default: the checkpoint's"
    )
    pixels: str | None = setting(
        None, "Model", "viclip: how frames are brought to size: resize (default) or centre-crop"
    )
    tail: int | None = setting(
        None,
        "Model",
        "viclip: also keep the weights of blocks K and above in the store, for heads that adapt them",
        metavar="K",
    )
    prompt_batching: Literal["serial", "packed", "batched", "single"] | None = setting(
        None,
        "Model",
        "How the prompts of a video run: serial (deterministic mode) or packed (fast mode) with a shared prefix; "
        "batched; or single: one forward pass per prompt",
        renamed_from=("plan",),
    )
    mode: Literal["deterministic", "fast"] | None = setting(
        None, "Model", "deterministic (default on a CPU): bitwise equal for any ranks and restarts; fast: batched"
    )

    pool: str = setting(
        "", "Size", "Average the visual tokens of each frame: onto a grid such as 4x4, or mean (one vector)"
    )
    project: str = setting(
        "", "Size", "Project features onto fewer dimensions: pca:1024 or random:256; fitted once and kept in the store"
    )
    fit_records: int = setting(
        256, "Size", "Number of videos that --project is fitted on (the first by the hash of their names)"
    )
    project_fit: Literal["train", "all", "0.1"] | None = setting(
        None,
        "Size",
        "Videos that a pca is fitted on; default: train where a split is known, else all; 0.1: as version 0.1 did, on "
        "all, less the mean, no common basis of frames and texts",
    )
    project_mean: bool = setting(False, "Size", "Subtract the mean before a pca")

    out: Path = setting(Path("store"), "Output", "Store to create or to continue")
    retry_failed: bool = setting(False, "Output", "Try videos again that earlier runs listed under failures/")
    refresh: bool = setting(False, "Output", "Make the records again whose file has changed since")
    check_content: bool = setting(
        False, "Output", "Compare the SHA-256 of every file, not only where its size or time has changed"
    )
    prune: bool = setting(False, "Output", "Remove the annotations of videos whose file is gone from the folder")
    part_mb: float = setting(128.0, "Output", "Commit a part after this many megabytes")
    part_seconds: float = setting(60.0, "Output", "Commit a part after this many seconds")
    worker: str | None = setting(None, "Output", "Name of this process in parts/ and failures/; default: r<rank>")

    device: str | None = setting(None, "Performance", "cpu, cuda or cuda:1; default: a GPU where there is one")
    batch: int | None = setting(None, "Performance", "Videos per forward in fast mode; default: 8")
    threads: int | None = setting(
        None,
        "Performance",
        "CPU threads of the forward pass; part of the recipe in deterministic mode (default there: 4)",
    )
    decode_workers: int | None = setting(
        None, "Performance", "Processes that decode videos; default: one per core, 8 at most"
    )
    seconds_per_video: float = setting(
        60.0, "Performance", "Time limit of the decoder per video, or per chunk of a long one"
    )
    rank: int | None = setting(None, "Performance", "Rank of this process, from 0; default: from torchrun or SLURM")
    world_size: int | None = setting(None, "Performance", "Number of processes that share the work")

    def __post_init__(self) -> None:
        for name in ("num_frames", "batch", "threads", "decode_workers", "fit_records", "max_pixels", "tail"):
            self._check(name, least=1)
        for name in ("seed", "stream"):
            self._check(name, least=0)
        for name in ("part_mb", "part_seconds", "seconds_per_video"):
            if not getattr(self, name) > 0:
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

    def _check(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise _too_small(name, value, f"{least} or more")

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
        True, "Plan", "Decode a few of the videos and run the model on them, to estimate time and memory"
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
