"""MSTA: adapters in the upper blocks of both ViCLIP towers, trained on the cached inputs of these blocks.

"Efficient Transfer Learning for Video-language Foundation Models" (CVPR 2025). Its model code was never released: this
head has the parameter counts of its logs and tables, and where they leave a choice, the choice is a flag. LoRA and
AdaptFormer on the same blocks are available for comparison.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.frozen_blocks import check_tail
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import require
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch, Wants

from .adapter import consistency
from .blocks import Tail, read_tail
from .cost import Sizes, saving_note
from .described import Described, read_described
from .settings import PRESETS, Config
from .towers import Adapters, text_embeddings, video_embeddings

__all__ = ["PRESETS", "TASK", "TRAIN", "Config", "Head"]

TASK = "classification"
TRAIN = TrainConfig(
    epochs=50,
    batch=32,
    lr=1e-3,
    weight_decay=1e-3,
    decay_all=True,
    betas=(0.9, 0.98),
    warmup_epochs=5,
    schedule="cosine-total",
    clip=0.0,
    select="last",
)
"""The paper's few-shot setting; the other presets bring their own, see `Head.training_of`."""

_TAIL = re.compile(r"blocks-(\d+)\.safetensors")


@dataclass(frozen=True)
class PreparedConfig(Config):
    """The settings with the description embeddings read from the store."""

    described: Described | None = None


class Head(ClassifierHead):
    """`visual [B, 1 + N T, D]` and `tokens [C, L, D']` of the class names to cosine / temperature `[B, C]`."""

    tokens: ClassVar[bool] = True
    open_classes: ClassVar[bool] = True

    @classmethod
    def wants(cls, settings: Config) -> Wants:
        """Layer k-1 of both towers, and layer k of the video if stored; embeddings for a tower that is not adapted."""
        below, optional = settings.first - 1, frozenset[str]()
        clips, classes = {"visual": "embedding"}, {"embedding": "embedding"}
        if settings.towers != "text":
            clips = {"visual": array_name(str(below), "visual")}
            if settings.adapter == "msta":  # lora and adaptformer change the block itself
                clips["frozen"], optional = array_name(str(below + 1), "visual"), frozenset({"frozen"})
        if settings.towers != "video":
            classes = {"tokens": array_name(str(below), "text")}
        return Wants(clips, classes, optional, extract_line(settings))

    @classmethod
    def training_of(cls, config: Config) -> Mapping[str, Any]:
        """Batch, learning rate and epochs of the preset."""
        preset = config.published
        return {"batch": preset.batch, "lr": preset.lr, "epochs": preset.epochs}

    @classmethod
    def prepare_config(cls, config: Config, task: Any) -> Config:
        """The settings with the tail of the task's store and the embeddings of the descriptions stored there."""
        tail = config.tail or _tail_of(task.store, config)
        described = None
        if config.descriptions and config.alpha:
            with open_store(task.store) as reader:
                described = read_described(
                    reader,
                    config.descriptions,
                    config.described_by,
                    task.class_list,
                    task.lists.train.names,
                    extract_line(config).split(" --texts")[0],
                )
        return PreparedConfig(
            **{f.name: getattr(config, f.name) for f in fields(Config)} | {"tail": tail}, described=described
        )

    @classmethod
    def trained_config(cls, config: Config, store: Path) -> Config:
        """The settings with the tail of the store; the loss alone reads descriptions."""
        return replace(config, tail=config.tail or _tail_of(store, config))

    @classmethod
    def identity(cls, config: Config) -> Mapping[str, Json]:
        """Digest of the sentences: other sentences in the same file make another run."""
        described: Described | None = getattr(config, "described", None)
        return {} if described is None else {"descriptions_digest": described.digest}

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec], tail: Tail | None = None) -> None:
        super().__init__(config, specs)
        visual = require(specs, "visual", "msta")
        require(specs, "class.embedding" if config.towers == "video" else "class.tokens", "msta")
        if tail is None and config.tail is None:
            raise BadInput("The frozen blocks that msta adapts are not given.", "Give --tail FILE.")
        tail = tail or read_tail(cast("Path", config.tail), config.first)
        if config.towers != "text":
            tail = replace(tail, frames=_frames(visual, tail))
        self._config, self._temperature = config, tail.temperature
        self.adapters = Adapters(config, tail)
        self.vision_tail = None if config.towers == "text" else tail.vision
        self.text_tail = None if config.towers == "video" else tail.text
        self._described: Described | None = getattr(config, "described", None)
        self.descriptions: Tensor
        if self._described is not None:
            self.register_buffer("descriptions", self._described.values, persistent=False)
        self.notes = tuple(_notes(config, specs, tail, self._described))
        self._cached_classes: tuple[Tensor, int, Tensor] | None = None

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Cross-entropy over the training classes, and alpha times the consistency with their descriptions."""
        classes = self._classes(batch.classes)
        terms = {"cross-entropy": functional.cross_entropy(self._logits(batch.clips, classes), batch.labels)}
        if self._described is not None:
            described = replace(self._described, values=self.descriptions).of(batch.names)
            terms["consistency"] = self._config.alpha * consistency(classes.float(), described)
        return terms

    def scores(self, batch: ClipBatch) -> Tensor:
        """Cosine of video and class text over the temperature, `[B, C]`."""
        return self._logits(batch.clips, self._classes_once(batch.classes))

    def embeddings(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Video embeddings `[B, E]`, not normalised."""
        if self.vision_tail is None:
            return clips["visual"].flatten(1)
        return video_embeddings(self.vision_tail, self.adapters, clips["visual"], clips.get("frozen"))

    def _classes(self, classes: Mapping[str, Tensor]) -> Tensor:
        """Class embeddings `[C, E]` from the adapted text tower, or as stored if it is not adapted."""
        if self.text_tail is None:
            return classes["embedding"]
        tokens = classes["tokens"]
        valid = classes.get("tokens.valid")
        if valid is None:
            last = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        else:
            # Attention gives padding the weight 0, and 0 times a number that is none is none.
            tokens, last = torch.where(valid[..., None], tokens, 0), valid.sum(dim=1)
        return text_embeddings(self.text_tail, self.adapters, tokens, last - 1)

    def _classes_once(self, classes: Mapping[str, Tensor]) -> Tensor:
        """As `_classes`; in a test, encoded once for all batches, and again when the texts or a weight changed."""
        if self.training or torch.is_grad_enabled():
            return self._classes(classes)
        texts = next(iter(classes.values()))
        state = sum(parameter._version for parameter in self.parameters())
        if self._cached_classes is None or self._cached_classes[0] is not texts or self._cached_classes[1] != state:
            self._cached_classes = (texts, state, self._classes(classes))
        return self._cached_classes[2]

    def _logits(self, clips: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        videos = self.embeddings(clips)
        with torch.autocast(videos.device.type, enabled=False):
            cosines = functional.normalize(videos.float(), dim=-1) @ functional.normalize(classes.float(), dim=-1).mT
            return cosines / self._temperature


def extract_line(settings: Config) -> str:
    """The `vfc extract` line that makes a store with what the head needs."""
    below = settings.first - 1
    layers = f" --layer {below},{below + 1}" if settings.towers != "text" else ""
    text = f" --text-layer {below}" if settings.towers != "video" else ""
    tail = f" --tail {settings.first}"
    return f'vfc extract --model viclip{layers}{tail} --texts classes{text} --template "a video of {{label}}"'


def _tail_of(store: Path, config: Config) -> Path:
    """The smallest file in `tail/` of a store that has block k.

    Raises:
        BadInput: there is none; with the command that adds it.
        Damaged: its checksum is wrong.
    """
    files = {int(m[1]): m.string for m in map(_TAIL.fullmatch, (p.name for p in store.glob("tail/*"))) if m}
    fit = [number for number in files if number <= config.first]
    if not fit:
        names = ", ".join(files[number] for number in sorted(files)) or "none"
        raise BadInput(
            f"The store {store} has no frozen blocks from {config.first} up (in its tail/: {names}).",
            f"Add them: {extract_line(config)}; or give a ViCLIP checkpoint: --tail FILE.",
        )
    path = store / "tail" / files[max(fit)]
    check_tail(path)
    return path


def _frames(spec: ArraySpec, tail: Tail) -> int:
    """T of the stored tokens, which may differ from the model's own."""
    tokens = int(spec.shape[0] or 0)
    layout = Layout.parse(spec.layout)
    frames, patches = (tokens - 1) // tail.patches, tail.patches
    if layout.grid and layout.frames:
        frames, patches = layout.frames, layout.grid[0] * layout.grid[1]
    if len(spec.shape) != 2 or tokens != 1 + patches * frames or spec.shape[1] != tail.vision.width:
        raise BadInput(
            f"{spec.name} is {list(spec.shape)}, which is not a class token and {patches} patches of frames, "
            f"{tail.vision.width} wide.",
            "Give the --tail of the model that made this store.",
        )
    return frames


def _notes(config: Config, specs: Mapping[str, ArraySpec], tail: Tail, described: Described | None) -> list[str]:
    """Compute saved by caching, and where settings differ from the paper."""
    notes, preset = [], config.published
    if config.towers != "text":
        tokens, width = (int(size or 0) for size in specs["visual"].shape)
        wide = tail.vision.block(tail.vision.last).mlp[0].out_features
        sizes = Sizes(tokens, width, tail.vision.last, int(wide))  # type: ignore[arg-type]
        notes.append(saving_note(sizes, config.first, output="frozen" in specs))
    if config.preset != "fewshot":
        notes.append(f"The paper trains {config.preset} with {preset.training}, warm-up over the first 5 epochs.")
    if preset.test_views:
        notes.append(f"The paper tests {config.preset} with {preset.test_views}.")
    if config.factor == 0:
        notes.append("--lambda 0: this is the frozen model; nothing is trained.")
    if described is not None:
        notes += described.notes
        if described.count not in preset.sentences:
            usual = " or ".join(map(str, preset.sentences))
            notes.append(f"N = {described.count} descriptions per class; the preset {config.preset} has {usual}.")
    return notes
