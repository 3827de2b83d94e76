"""The contract of a backbone, a frozen network that turns clips and texts into named arrays; and finding families.

A family is a file in `backbones/`; its name, hyphenated, is what `--model` takes. Nothing here imports torch: lists,
help texts and option checks stay fast.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Dtype, Json

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

COMPUTE_DTYPES = ("fp32", "fp16", "bf16")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
PROMPT_BATCHINGS = ("serial", "packed", "batched", "single")


class Frames(Protocol):
    """The parts of a decoded clip that a backbone reads; `decode.Clip` is one."""

    @property
    def frames(self) -> npt.NDArray[Any]:
        """RGB, uint8 `[T, H, W, 3]`."""

    @property
    def seconds(self) -> npt.NDArray[Any]:
        """Presentation time of each frame in seconds, float64 `[T]`."""

    @property
    def indices(self) -> npt.NDArray[Any]:
        """Number of each frame in the whole video, int64 `[T]`."""

    @property
    def fps(self) -> float:
        """Mean frame rate of the video."""


@dataclass(frozen=True)
class BackboneOptions:
    """The options of a backbone; families refuse those that they do not have.

    `checkpoint`: a folder, a hub id, or `id@revision`; None is the family's default. `layers`, `text_layers`: taps,
    "0" to "L" or "norm". `texts`: whether text records are needed; only then is the text tower read. `keep`: streams
    to keep, for the kinds whose streams it names; empty keeps all. `num_frames`: frames per clip, None where it differs
    from clip to clip, which makes every video array ragged. `dtype`: of the forward pass; None is the checkpoint's,
    except that fp16 on a CPU becomes fp32. `storage`: None is the family's. `attention`: None is the library's
    choice. `device`: "cpu", "cuda", "cuda:1". `cut_texts`: cut texts beyond the context length instead of refusing.
    `pixels`: one of the family's ways from frames to pixels (its `PIXELS`); None is the first.

    For language models: `prompts`: whether prompted records are needed. `prompt_batching`: how several
    prompts of one video are run, see `PromptedBackbone`. `max_pixels`: instead of the checkpoint's own budget.

    For models with windows over a long video: `window`, `stride`, `border`: see `frames.windows`; None is the
    family's own. `flow`: the source of optical flow, see `i3d.flow`; None is no flow.
    """

    checkpoint: str | None = None
    layers: tuple[str, ...] = ()
    text_layers: tuple[str, ...] = ()
    texts: bool = False
    keep: tuple[str, ...] = ()
    num_frames: int | None = 8
    dtype: str | None = None
    storage: Dtype | None = None
    attention: str | None = None
    device: str = "cpu"
    cut_texts: bool = False
    prompts: bool = False
    prompt_batching: str = "serial"
    max_pixels: int | None = None
    window: int | None = None
    stride: int | None = None
    border: str | None = None
    flow: str | None = None
    pixels: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in COMPUTE_DTYPES:
            raise unknown_name("dtype to compute in", self.dtype, COMPUTE_DTYPES)
        if self.storage is not None and self.storage not in FEATURE_DTYPES:
            raise unknown_name("dtype to store", self.storage, FEATURE_DTYPES)
        if self.attention is not None and self.attention not in ATTENTIONS:
            raise unknown_name("attention implementation", self.attention, ATTENTIONS)
        if self.prompt_batching not in PROMPT_BATCHINGS:
            raise unknown_name("prompt batching", self.prompt_batching, PROMPT_BATCHINGS)
        if self.num_frames is not None and self.num_frames < 1:
            raise BadInput(f"{self.num_frames} frames per clip were asked for.", "Ask for 1 or more.")
        if self.text_layers and not self.texts:
            raise BadInput(
                f"Text layers {', '.join(self.text_layers)} were asked for, but no texts.",
                "Name the texts with --texts, or leave out --text-layer.",
            )


@dataclass(frozen=True)
class Prepared:
    """One clip, text or prompt, ready for the forward pass: tensors on the CPU, and the metadata of its record."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Json]


@dataclass(frozen=True)
class Encoded:
    """The arrays of one video: those of its own record and those of each prompted record, in the order of prompts.

    On the device, in transfer dtype. `video` is empty where the video's own record is not needed.
    """

    video: dict[str, Tensor]
    prompted: tuple[dict[str, Tensor], ...]


class Backbone(Protocol):
    """One frozen network with its taps chosen; returned by a family's `build`, which reads configuration only.

    Optional beside these: `meanings`, array name to what it holds in a few words, where the name does not say it.
    """

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """The arrays of each kind of record ("video", "text"), exactly as `encode_*` returns them. Needs no weights."""

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """All layers that can be chosen: stream ("visual", "text") to layer name to its array. Needs no weights."""

    def recipe(self) -> dict[str, Json]:
        """This network's share of the recipe: all that determines its numbers, given a clip. Hashes the weight files.

        Without the text taps, which the specs of kind "text" state, so that texts can be added to a store later; and
        without frame rule and count, which the caller adds.

        Raises MissingPath where the weights are missing.
        """

    def load(self) -> None:
        """Read the weights to the device: nothing above the highest tap, no tower that is not needed.

        Raises BadInput where the checkpoint lacks weights that are needed, MissingPath where it has none.
        """

    def pixels(self, clip: Frames) -> Prepared:
        """A clip, resized, cropped and normalised as the checkpoint's own processor does. On the CPU, thread-safe.

        Raises RecordRejected where this clip is unusable.
        """

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Named arrays of each clip, on the device, in transfer dtype (see `taps.TRANSFER`).

        With one clip per call, shapes and plan depend on that clip alone, and so do the numbers, bit for bit.
        """


@runtime_checkable
class CountingBackbone(Protocol):
    """A backbone that knows how many rows a video gives before it sees the video; `vfc plan` asks it."""

    def rows_of(self, frames: int) -> Mapping[str, int]:
        """The rows of each ragged array of kind "video", for a video of so many frames."""


@dataclass(frozen=True)
class Chunking:
    """How a long video is divided: into chunks of at most `frames` frames.

    The first `overlap` frames of a chunk repeat the last ones of the chunk before.
    """

    frames: int
    overlap: int = 0


@runtime_checkable
class StreamingBackbone(Backbone, Protocol):
    """A backbone that encodes a video chunk by chunk, so that a long one is never in memory as a whole.

    Used where the number of frames differs from video to video (`num_frames` None).
    """

    @property
    def chunking(self) -> Chunking:
        """The size of its chunks."""

    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Rows of each array; concatenated they equal, bit for bit, what `encode_videos` gives for the whole video.

        `chunks`: `Prepared.tensors` of the chunks, in order.

        Raises RecordRejected where the video gives no row at all.
        """


@runtime_checkable
class TextBackbone(Backbone, Protocol):
    """A backbone with a text tower; "text" is in its specs where `texts` is set."""

    @property
    def shared_space(self) -> tuple[frozenset[str], ...]:
        """Sets of array names whose vectors, of videos and of texts, lie in one space and are compared by a cosine.

        One name may stand for the arrays of both kinds of record, such as `embedding`.
        """

    def tokens(self, text: str) -> Prepared:
        """A text as token ids, padded to the context length. On the CPU, thread-safe.

        Raises RecordRejected where it is too long, unless `cut_texts`.
        """

    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Named arrays of each text, as `encode_videos` does for clips."""


@runtime_checkable
class PromptedBackbone(Backbone, Protocol):
    """A language model that sees a video and then a prompt; "prompted" is in its specs where `prompts` is set.

    The video comes first in every row of tokens, so its states do not depend on the prompt: they and their keys and
    values are computed once (the prefix: the tokens up to the last visual one).
    Ways of batching prompts:

    - `serial`: the prefix, then one prompt after the other. With one video per call, the numbers of a video, and of a
      video under a prompt, depend on nothing else in the call, bit for bit.
    - `packed`: the prompts of a call side by side in one row, kept apart by a mask.
    - `batched`: the prompts of a video as rows of a batch, padded on the right; what `packed` becomes under flash
      attention, which takes no mask.
    - `single`: every prompt in a forward pass of its own, equal to the library's bit for bit. The video's own record
      comes from that of the first prompt.
    """

    def prompt(self, text: str) -> Prepared:
        """The tokens of a prompt after the video. On the CPU, thread-safe; the same for every clip.

        Raises RecordRejected where the text holds special tokens.
        """

    def encode_prompted(
        self,
        batch: Sequence[Mapping[str, Tensor]],
        prompts: Sequence[Sequence[Mapping[str, Tensor]]],
        *,
        visual: Sequence[bool] | None = None,
    ) -> list[Encoded]:
        """Each clip of the batch under its prompts; `visual`: whether its own record is needed (default: True).

        Raises RecordRejected where clip and prompt together are longer than the context of the model.
        """

    def rows(self, height: int, width: int, prompt: str = "", frames: int | None = None) -> Mapping[str, int]:
        """The approximate number of rows of each ragged array, for frames of this size under this prompt.

        `frames`: of the video, where `num_frames` does not say it.
        """


class Family(Protocol):
    """What a file or folder in `backbones/` offers.

    Optional beside these: `WINDOWS = True` where it takes windows and flow; `PIXELS`, the names of its ways from frames
    to pixels where it has several; `clip_frames`, a function from a checkpoint's name to the frames of its clips, where
    it takes one number only; `build_windows`, like `build`, for one vector per window, where windows are asked for;
    `ONE_VECTOR = True` where a clip is one vector without time steps unless layers are asked for.
    """

    DEFAULT_CHECKPOINT: str | None

    def build(self, options: BackboneOptions) -> Backbone:
        """Read the checkpoint's configuration, check the options against it."""


def family_names() -> list[str]:
    """Public names of the families, sorted: `video_llava.py` answers to `video-llava`."""
    folder = Path(__file__).parent / "backbones"
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(folder)]))


def find_family(name: str) -> Family:
    """Import the family of that name; raises UnknownName, with a suggestion, where there is none."""
    if name not in family_names():
        raise unknown_name("model", name, family_names())
    return cast("Family", importlib.import_module(f".backbones.{name.replace('-', '_')}", __package__))


def open_backbone(name: str, options: BackboneOptions) -> Backbone:
    """The backbone of that name with these options, its weights not read yet.

    Raises BadInput for windows, flow or ways of making pixels where the family has none, UnknownName for another way.
    """
    family = find_family(name)
    windowed, ways = getattr(family, "WINDOWS", False), getattr(family, "PIXELS", ())
    build_windows = getattr(family, "build_windows", None)
    for flag in ("window", "stride", "border", "flow"):
        models = "i3d" if flag == "flow" else "i3d, videomae, viclip, clip or image"
        if getattr(options, flag) is not None and not windowed and (flag == "flow" or build_windows is None):
            raise BadInput(
                f"--{flag} is for models that look at windows of a video; {name} does not.",
                f"Leave --{flag} out, or give --model {models}.",
            )
    if options.pixels is not None and not ways:
        raise BadInput(f"{name} makes pixels in one way; --pixels {options.pixels} is given.", "Leave --pixels out.")
    if options.pixels is not None and options.pixels not in ways:
        raise unknown_name("way of making pixels", options.pixels, ways)
    if build_windows is not None and (options.window, options.stride, options.border) != (None, None, None):
        return cast("Backbone", build_windows(options))
    return family.build(options)


def default_num_frames(name: str, checkpoint: str | None) -> int:
    """Frames per clip where no number is asked for: what the checkpoint of that family takes, else 8.

    Raises VfcError where there is no such family or checkpoint.
    """
    clip_frames = getattr(find_family(name), "clip_frames", None)
    return 8 if clip_frames is None else int(clip_frames(checkpoint))


def versions() -> dict[str, Json]:
    """Versions of torch and transformers without local suffix: a CPU and a CUDA build of one version count as one."""
    return {name: version(name).split("+")[0] for name in ("torch", "transformers")}
