"""VidPrism: streams of different speed, what they exchange, an expert for each, and one query that reads them all.

"VidPrism" (CVPR 2026, arXiv 2605.28229) and its released code, which differ in places: the preset `paper` follows the
paper wherever it says something, `code` is the released head to the bit of its arithmetic. Both were trained together
with the image encoder; here the encoder is frozen, so the published tables are not what to expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, ZERO_TO_ONE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.classification import Batch, ClassifierHead, Wants

from .aggregation import Grouping, Plain, RgSTA
from .experts import Activation, Combination, Expert, Way
from .interaction import Exchange, Interaction
from .losses import balance, diversity, diversity_of_clips, text_contrast

TASK = "classification"
TRAIN = TrainConfig(
    epochs=30, warmup_epochs=3, least_steps=300, batch=32, lr=3e-4, weight_decay=0.1, select="last", validate_every=100
)
"""For small sets. The published recipe: lr 5e-5 (K400: 1e-4), 5 (10) of 30 (40) epochs of warm-up, weight decay 0.2
(HMDB51: 0.1), no limit of the gradient, 32 clips on each of 2 GPUs."""

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "paper": {"sources": "accumulate", "threshold_on": "sample", "diversity": "experts", "text_weight": 0.0},
    "code": {"sources": "overwrite", "threshold_on": "batch", "diversity": "clips", "text_weight": 0.01},
}
"""Where paper and released code differ, and someone has to choose."""


def _model(text: str, **more: object) -> dict[str, object]:
    return {"help": text, "panel": "Model", **more}


@dataclass(frozen=True)
class Config:
    """The head and its ablations (Tables 3 to 5 of the paper). Fields left at None are as the preset says."""

    preset: Literal["paper", "code"] = field(
        default="paper", metadata=_model("Where they differ: as in the paper, or as in the released code.")
    )
    rates: tuple[int, ...] = field(
        default=(), metadata=_model("Frames per token, one expert each; default 2,4,8 and, from 16 frames on, 16.")
    )
    aggregation: Literal["rgsta", "hard", "avg", "max"] = field(
        default="rgsta", metadata=_model("What becomes of the frames of a window; hard: the first is kept.")
    )
    merge_norm: Literal["kept", "rest"] = field(
        default="kept", metadata=_model("rgsta: others count 1 each, or in all 1, by likeness to the kept frame.")
    )
    interaction: Literal["dbi", "slow-to-fast", "fast-to-slow", "none"] = field(
        default="dbi", metadata=_model("Which streams act on which.")
    )
    pairs: Literal["slow-fast", "all"] = field(
        default="slow-fast", metadata=_model("Which pairs of streams; slow: rates of 8 and more.")
    )
    gates: Literal["directed", "symmetric"] = field(
        default="directed", metadata=_model("A gate per direction, or one for both.")
    )
    threshold: float = field(default=0.3, metadata=_model("The gate below which nothing passes."))
    threshold_on: Literal["sample", "batch"] | None = field(
        default=None, metadata=_model("Whose gate counts: each clip's, or the mean over the batch.")
    )
    sources: Literal["accumulate", "overwrite"] | None = field(
        default=None, metadata=_model("Several streams act on one: all add up, or the last one counts.")
    )
    activation: Activation = field(default="quick-gelu", metadata=_model("Of the experts; the paper says GELU."))
    combination: Way = field(default="global", metadata=_model("How the experts become one vector."))
    positions: Literal["none", "learned"] = field(
        default="none", metadata=_model("learned: an embedding per token of a stream, which the paper has not.")
    )
    attention_heads: int = field(default=4, metadata=_model("Attention heads of experts and combination."))
    alpha: float = field(default=0.7, metadata=_model("rgsta: share of the learned score against the frame's norm."))
    tau: float = field(default=0.1, metadata=_model("rgsta: temperature of the likeness."))
    delta: float = field(default=0.5, metadata=_model("rgsta: weight of the frames that are not kept."))
    rank_temperature: float = field(default=0.2, metadata=_model("Temperature of the ranking loss."))
    rank_weight: float = field(default=0.1, metadata=_model("Weight of the ranking loss; 0: without."))
    div_weight: float = field(default=0.005, metadata=_model("Weight of the diversity loss; 0: without."))
    gate_weight: float = field(default=0.01, metadata=_model("Weight of the balance of experts; 0: without."))
    text_weight: float | None = field(
        default=None, metadata=_model("Weight of the contrast with the class texts; 0: without (preset paper).")
    )
    diversity: Literal["experts", "clips"] | None = field(
        default=None, metadata=_model("Experts of a clip apart, or clips of an expert together (preset code).")
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "attention_heads")
        check_range(self, ZERO_TO_ONE, "alpha")
        check_range(self, POSITIVE, "tau", "rank_temperature")
        check_range(self, NOT_NEGATIVE, "rank_weight", "div_weight", "gate_weight", "text_weight")

    def resolved(self) -> Config:
        """These settings with the preset's values where none were given."""
        values = PRESETS[self.preset]
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})


class Head(ClassifierHead):
    """Frames `visual [B, T, D]` to logits `[B, C]`; every width and length comes from the store."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        self.config = config = config.resolved()
        spec = require(specs, "visual", "vidprism")
        frames, width = spec.shape[0], int(spec.shape[-1] or 0)
        self.rates = _rates(config.rates, frames)
        _check(config, self.rates, width)
        grouping = Grouping(config.alpha, config.tau, config.delta, config.merge_norm, config.rank_temperature)
        self.streams = nn.ModuleList(
            RgSTA(width, rate, grouping) if config.aggregation == "rgsta" else Plain(rate, config.aggregation)
            for rate in self.rates
        )
        self.interaction = None if config.interaction == "none" else _interaction(config, width, self.rates)
        self.experts = nn.ModuleList(Expert(width, config.attention_heads, config.activation) for _ in self.rates)
        self.combination = Combination(width, len(self.rates), config.attention_heads, config.combination)
        self.classifier = nn.Linear(width, int(require(specs, "classes", "vidprism").shape[0] or 0))
        self.projection: nn.Module | None = None
        if config.text_weight:
            texts = int(require(specs, "class.text", "vidprism").shape[-1] or 0)
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, texts))
        self.positions = nn.ParameterList()
        if config.positions == "learned":
            self.positions.extend(0.02 * torch.randn(-(-int(frames or 0) // rate), width) for rate in self.rates)
        self.transductive = config.threshold_on == "batch"
        self.notes = _notes(self)

    @classmethod
    def wants(cls, settings: Config) -> Wants:
        """Frames; and with the contrastive loss the projected embedding of each class's text."""
        if not settings.resolved().text_weight:
            return Wants()
        return Wants(
            classes={"text": "embedding"},
            remedy='With a text tower: vfc extract --model clip --texts classes --template "a video of {label}". '
            "Or leave the contrast out: --text-weight 0.",
        )

    def forward(self, frames: Tensor) -> Seen:
        """Everything the losses and the report want of frames `[B, T, D]`."""
        made = [stream(frames) for stream in self.streams]
        tokens = [stream for stream, _ in made]
        if self.interaction is not None:
            tokens = self.interaction(tokens)
        if self.config.positions == "learned":
            tokens = [stream + place for stream, place in zip(tokens, self.positions, strict=True)]
        tokens = [expert(stream) for expert, stream in zip(self.experts, tokens, strict=True)]
        means = torch.stack([stream.mean(dim=1) for stream in tokens], dim=1)
        fused, shares = self.combination(tokens, means)
        ranked = [loss for _, loss in made if loss is not None]
        return Seen(fused, shares, means, torch.stack(ranked).mean() if ranked else None)

    def scores(self, batch: Batch) -> Tensor:
        """Logits `[B, C]`."""
        logits: Tensor = self.classifier(self(batch.clips["visual"]).fused)
        return logits

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and the weighted others; those that cannot act (one expert, fixed shares) are left out."""
        config, seen = self.config, self(batch.clips["visual"])
        logits = self.classifier(seen.fused)
        terms = {"cross-entropy": functional.cross_entropy(logits.float(), batch.labels)}
        several = len(self.rates) > 1
        if config.rank_weight and seen.ranked is not None:
            terms["rank"] = config.rank_weight * seen.ranked
        if config.div_weight and (several or config.diversity == "clips"):
            form = diversity if config.diversity == "experts" else diversity_of_clips
            terms["diversity"] = config.div_weight * form(seen.experts.float())
        if config.gate_weight and several and self.combination.learned:
            terms["balance"] = config.gate_weight * balance(seen.shares.float())
        if config.text_weight and self.projection is not None:
            projected = self.projection(seen.fused)
            terms["text"] = config.text_weight * text_contrast(projected, batch.classes["text"], batch.labels)
        return terms

    def usage(self, batch: Batch) -> Mapping[str, Tensor]:
        """The share of each expert in each clip, `rate 2` ... -> `[B]`; they sum to 1."""
        shares = self(batch.clips["visual"]).shares
        return {f"rate {rate}": share for rate, share in zip(self.rates, shares.unbind(dim=1), strict=True)}


@dataclass(frozen=True)
class Seen:
    """What a clip becomes: `fused [B, D]`, experts' `shares [B, N]` and mean outputs `[B, N, D]`, the ranking loss."""

    fused: Tensor
    shares: Tensor
    experts: Tensor
    ranked: Tensor | None


def _rates(asked: tuple[int, ...], frames: int | None) -> tuple[int, ...]:
    if frames is None:
        raise BadInput(
            "VidPrism reads clips of one length, and this array differs from clip to clip.",
            "Extract with a fixed number of frames (--num-frames 8).",
        )
    if not asked:
        return tuple(rate for rate in (2, 4, 8, 16) if rate <= frames) or (1,)
    if min(asked) < 1 or len(set(asked)) < len(asked):
        raise BadInput(
            f"Rates of {', '.join(map(str, asked))} frames per token are not possible.",
            "Give different numbers from 1 on, as in --rates 2,4,8.",
        )
    return asked


def _check(config: Config, rates: tuple[int, ...], width: int) -> None:
    if width % config.attention_heads:
        raise BadInput(
            f"A width of {width} cannot be divided among {config.attention_heads} attention heads.",
            "Choose another --attention-heads.",
        )
    if width < 4:
        raise BadInput(f"A width of {width} is too small for the gates.", "Store features of 4 channels or more.")
    if config.interaction != "none" and config.pairs == "all" and len(rates) < 2:
        raise BadInput(
            "With one rate there are no pairs of streams.", "Give several --rates, or leave --pairs as it is."
        )


def _interaction(config: Config, width: int, rates: tuple[int, ...]) -> Interaction:
    """DBI of resolved settings."""
    assert config.interaction != "none"
    assert config.threshold_on is not None
    assert config.sources is not None
    exchange = Exchange(
        config.interaction, config.pairs, config.gates, config.threshold, config.threshold_on, config.sources
    )
    return Interaction(width, rates, exchange)


def _notes(head: Head) -> tuple[str, ...]:
    notes = []
    if head.interaction is not None and head.interaction.idle and len(head.rates) > 1:
        notes.append("No stream acts on another: these rates are all slow or all fast (--pairs all lets them).")
    if head.config.threshold_on == "batch":
        notes.append("Scores depend on which clips are scored together: the gates' threshold is on the batch mean.")
    return tuple(notes)
