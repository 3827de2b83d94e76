"""VidPrism: classifies clips with several frame rates, an expert per rate, and an attention query over all experts.

"VidPrism" (CVPR 2026, arXiv 2605.28229) and its released code, which differ in places: the preset `paper` follows the
paper wherever it is specific, `code` computes exactly what the released head computes, `mixed` has the layers of the
code with the losses and sums of the paper (the default of version 0.1). The paper gives no constants (alpha, tau,
delta, threshold, attention heads, widths, loss weights): all presets take those of the code, and its merge weights,
which are close to 1 and not exactly 1 as in Eq. 6 (see `RgSTA`). Both were trained together with the image encoder;
here the encoder is frozen, so do not expect the published accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, ZERO_TO_ONE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch, Wants

from .aggregation import Grouping, Plain, RgSTA
from .experts import Activation, Combination, Expert, Way
from .interaction import Exchange, Interaction
from .losses import balance, diversity, diversity_of_clips, text_contrast

TASK = "classification"
TRAIN = TrainConfig(
    epochs=30, warmup_epochs=3, least_steps=300, batch=32, lr=3e-4, weight_decay=0.1, select="last", validate_every=100
)
"""For small data sets. Published: lr 5e-5 (K400: 1e-4), 5 (10) of 30 (40) epochs of warm-up, weight decay 0.2
(HMDB51: 0.1), no gradient clipping, 32 clips on each of 2 GPUs."""

_OF_PAPER: Final = {"sources": "accumulate", "threshold_on": "sample", "diversity": "experts", "text_weight": 0.0}
_LAYERS: Final = {"pairs": "slow-fast", "gates": "directed", "activation": "quick-gelu", "combination_norm": True}
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "paper": {**_OF_PAPER, "pairs": "all", "gates": "symmetric", "activation": "gelu", "combination_norm": False},
    "mixed": {**_OF_PAPER, **_LAYERS},
    "code": {"sources": "overwrite", "threshold_on": "batch", "diversity": "clips", "text_weight": 0.01, **_LAYERS},
}
"""Settings in which paper and released code differ."""


@dataclass(frozen=True)
class Config:
    """The head and its ablations (Tables 3 to 5 of the paper). Fields that are None take the preset's value."""

    preset: Literal["paper", "mixed", "code"] = setting(
        "paper",
        "Follow the paper or the released code where the two differ; mixed: layers of the code, losses of the paper.",
        "Model",
    )
    rates: tuple[int, ...] = setting(
        (), "Frame rates: frames per token, one expert each; default 2,4,8, and 16 for 16 or more frames.", "Model"
    )
    aggregation: Literal["rgsta", "hard", "avg", "max"] = setting(
        "rgsta",
        "How the frames of a window become one token: the paper's RgSTA, the first frame, mean, maximum.",
        "Model",
    )
    merge_norm: Literal["kept", "rest"] = setting(
        "kept", "rgsta: weights of the other frames. kept: about 1 each; rest: they sum to 1, by similarity.", "Model"
    )
    interaction: Literal["dbi", "slow-to-fast", "fast-to-slow", "none"] = setting(
        "dbi", "Which streams add to which: both ways (dbi), one way, or none.", "Model"
    )
    pairs: Literal["slow-fast", "all"] | None = setting(
        None, "Pairs of streams that interact: all (paper), or slow with fast; slow is from rate 8 on.", "Model"
    )
    gates: Literal["directed", "symmetric"] | None = setting(
        None, "One gate per direction, or one for both (paper).", "Model"
    )
    threshold: float = setting(0.3, "Gate values below this are treated as 0.", "Model")
    threshold_on: Literal["sample", "batch"] | None = setting(
        None, "Compare the threshold with each clip's gate, or with the mean over the batch.", "Model"
    )
    sources: Literal["accumulate", "overwrite"] | None = setting(
        None, "If several streams add to one: sum all of them, or keep only the last.", "Model"
    )
    activation: Activation | None = setting(None, "Activation of the experts; the paper says GELU.", "Model")
    combination: Way = setting("global", "How the experts are combined into one vector.", "Model")
    combination_norm: bool | None = setting(
        None,
        "LayerNorm after the combination; the paper has none after Eq. 14.",
        "Model",
        added=True,
    )
    positions: Literal["none", "learned"] = setting(
        "none", "learned: a position embedding per token of a stream (not in the paper).", "Model"
    )
    attention_heads: int = setting(4, "Attention heads of the experts and of the combination.", "Model")
    alpha: float = setting(
        0.7, "rgsta: weight of the learned score; 1 - alpha is the weight of the frame's norm.", "Model"
    )
    tau: float = setting(0.1, "rgsta: temperature of the similarities.", "Model")
    delta: float = setting(0.5, "rgsta: factor of the frames that are merged into the selected one.", "Model")
    rank_temperature: float = setting(0.2, "Temperature of the ranking loss.", "Model")
    rank_weight: float = setting(0.1, "Weight of the ranking loss; 0: off.", "Model")
    div_weight: float = setting(0.005, "Weight of the diversity loss; 0: off.", "Model")
    gate_weight: float = setting(0.01, "Weight of the expert balance loss; 0: off.", "Model")
    text_weight: float | None = setting(
        None, "Weight of the contrastive loss with class texts; 0: off (preset paper).", "Model"
    )
    diversity: Literal["experts", "clips"] | None = setting(
        None, "Diversity loss: between the experts of a clip, or between the clips of an expert (preset code).", "Model"
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "rates", "attention_heads")
        check_range(self, ZERO_TO_ONE, "alpha")
        check_range(self, POSITIVE, "tau", "rank_temperature")
        check_range(self, NOT_NEGATIVE, "rank_weight", "div_weight", "gate_weight", "text_weight")

    def resolved(self) -> Config:
        """These settings with the preset's values instead of None.

        With pairs, gates and activation all given, the combination has its norm, as in version 0.1.
        """
        values = {**PRESETS[self.preset]}
        if None not in (self.pairs, self.gates, self.activation):
            values["combination_norm"] = True  # records of version 0.1 give these three, and their head has the norm
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})


class Head(ClassifierHead):
    """Frames `visual [B, T, D]` to logits `[B, C]`; every width and length comes from the store."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        self.config, given = config.resolved(), config
        config = self.config
        assert config.activation is not None
        spec = require(specs, "visual", "vidprism")
        frames, width = spec.shape[0], int(spec.shape[-1] or 0)
        self.rates = _rates(config.rates, frames)
        _check(given, self.rates, width)
        grouping = Grouping(config.alpha, config.tau, config.delta, config.merge_norm, config.rank_temperature)
        self.streams = nn.ModuleList(
            RgSTA(width, rate, grouping) if config.aggregation == "rgsta" else Plain(rate, config.aggregation)
            for rate in self.rates
        )
        self.interaction = None if config.interaction == "none" else _interaction(config, width, self.rates)
        self.experts = nn.ModuleList(Expert(width, config.attention_heads, config.activation) for _ in self.rates)
        self.combination = Combination(
            width, len(self.rates), config.attention_heads, config.combination, norm=bool(config.combination_norm)
        )
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
        """Frames; with the contrastive loss also the projected embedding of each class text."""
        if not settings.resolved().text_weight:
            return Wants()
        return Wants(
            classes={"text": "embedding"},
            remedy='With a text tower: vfc extract --model clip --texts classes --template "a video of {label}". '
            "Or train without the contrastive loss: --text-weight 0.",
        )

    @classmethod
    def prepare_config(cls, config: Config, task: Any) -> Config:
        """The settings as they are.

        Raises:
            BadInput: a rate above the number of frames, whose stream would be one padded window.
        """
        frames = task.specs["visual"].shape[0]
        beyond = [rate for rate in config.rates if frames is not None and rate > frames]
        if beyond:
            raise BadInput(
                f"--rates {','.join(map(str, config.rates))} asks for {max(beyond)} frames per token; "
                f"a clip has {frames}.",
                f"Give rates of {frames} or less, or a store with more frames (vfc extract --num-frames).",
            )
        return config

    def forward(self, frames: Tensor) -> Outputs:
        """What scores, losses and report need, from frames `[B, T, D]`."""
        streams = [stream(frames) for stream in self.streams]
        tokens = [stream for stream, _ in streams]
        if self.interaction is not None:
            tokens = self.interaction(tokens)
        if self.config.positions == "learned":
            tokens = [stream + place for stream, place in zip(tokens, self.positions, strict=True)]
        tokens = [expert(stream) for expert, stream in zip(self.experts, tokens, strict=True)]
        means = torch.stack([stream.mean(dim=1) for stream in tokens], dim=1)
        fused, shares = self.combination(tokens, means)
        ranked = [loss for _, loss in streams if loss is not None]
        return Outputs(fused, shares, means, torch.stack(ranked).mean() if ranked else None)

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        logits: Tensor = self.classifier(self(batch.clips["visual"]).fused)
        return logits

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Cross-entropy and weighted terms; terms without effect (one expert, fixed shares) are left out."""
        config, outputs = self.config, self(batch.clips["visual"])
        logits = self.classifier(outputs.fused)
        terms = {"cross-entropy": functional.cross_entropy(logits.float(), batch.labels)}
        several = len(self.rates) > 1
        if config.rank_weight and outputs.ranked is not None:
            terms["rank"] = config.rank_weight * outputs.ranked
        if config.div_weight and (several or config.diversity == "clips"):
            form = diversity if config.diversity == "experts" else diversity_of_clips
            terms["diversity"] = config.div_weight * form(outputs.experts.float())
        if config.gate_weight and several and self.combination.learned:
            terms["balance"] = config.gate_weight * balance(outputs.shares.float())
        if config.text_weight and self.projection is not None:
            projected = self.projection(outputs.fused)
            terms["text"] = config.text_weight * text_contrast(projected, batch.classes["text"], batch.labels)
        return terms

    def usage(self, batch: ClipBatch) -> Mapping[str, Tensor]:
        """The share of each expert per clip, `rate 2` ... -> `[B]`; the shares of a clip sum to 1."""
        shares = self(batch.clips["visual"]).shares
        return {f"rate {rate}": share for rate, share in zip(self.rates, shares.unbind(dim=1), strict=True)}


@dataclass(frozen=True)
class Outputs:
    """Combined vectors `fused [B, D]`, `shares [B, N]` and mean outputs `experts [B, N, D]`, and the ranking loss."""

    fused: Tensor
    shares: Tensor
    experts: Tensor
    ranked: Tensor | None


def _rates(rates: tuple[int, ...], frames: int | None) -> tuple[int, ...]:
    if frames is None:
        raise BadInput(
            "VidPrism needs clips of the same length; in this array the length differs from clip to clip.",
            "Extract with a fixed number of frames (--num-frames 8).",
        )
    if not rates:
        return tuple(rate for rate in (2, 4, 8, 16) if rate <= frames) or (1,)
    if min(rates) < 1 or len(set(rates)) < len(rates):
        raise BadInput(
            f"Rates of {', '.join(map(str, rates))} frames per token are not possible.",
            "Give different numbers of 1 or more, as in --rates 2,4,8.",
        )
    return rates


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
    """The interaction (DBI) of resolved settings."""
    assert config.interaction != "none"
    assert config.threshold_on is not None
    assert config.sources is not None
    assert config.pairs is not None
    assert config.gates is not None
    exchange = Exchange(
        config.interaction, config.pairs, config.gates, config.threshold, config.threshold_on, config.sources
    )
    return Interaction(width, rates, exchange)


def _notes(head: Head) -> tuple[str, ...]:
    notes = []
    if head.interaction is not None and head.interaction.idle and len(head.rates) > 1:
        notes.append("No streams interact: these rates are all slow or all fast (--pairs all allows all pairs).")
    if head.config.threshold_on == "batch":
        notes.append(
            "Scores depend on which clips are in one batch: the threshold is compared with the mean gate of the batch."
        )
    return tuple(notes)
