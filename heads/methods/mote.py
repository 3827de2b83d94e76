"""MoTE, "Reconciling Generalization with Specialization in Visual-Language to Video Knowledge Transferring" (2024).

Transformer layers over frames whose feed-forward networks exist in several copies, the temporal experts. In training,
each layer draws one expert for the whole batch (later ones more often), and a second pass uses their weighted mean with
a random temperature; at test their plain mean is used. A clip's score is its cosine to the class texts. On stored
features the encoder is frozen; the published method fine-tunes it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import AT_LEAST_ONE, NOT_NEGATIVE, check_range
from vfc.heads.similarity.text_similarity import cosine_logits, shared_width
from vfc.heads.tasks.classification import TRAIN as TASK_TRAIN
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch, Wants

TASK = "classification"
TRAIN: Final = replace(TASK_TRAIN, lr=5e-5, weight_decay=0.2, warmup_epochs=5, clip=0.0)

PLACES: Final = 77
TEMPERATURES: Final = (*(sign * t for t in (9.6, 4.8, 2.4, 1.2, 0.6) for sign in (1, -1)), math.inf)
NEAREST: Final = 5
SHARPNESS: Final = 0.05


@dataclass(frozen=True)
class Config:
    """The layers over time; their width is that of the stored features."""

    experts: int = setting(4, "Experts: copies of each feed-forward network.", "Model")
    layers: int = setting(0, "Transformer layers over time; 0: 4, or 6 for features wider than 512.", "Model")
    merged_weight: float = setting(0.5, "Weight of the loss of the merged experts.", "Model")
    stay_weight: float = setting(0.1, "Weight of the squared distance between merged outputs and inputs.", "Model")
    modulate: bool = setting(
        True, "At test, reduce the layers' contribution for classes unlike the training classes.", "Model"
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "experts")
        check_range(self, NOT_NEGATIVE, "layers", "merged_weight", "stay_weight")


class _Expert(nn.Module):
    """Feed-forward network with QuickGELU: D to 4 D to D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.normal_(self.up.weight, std=(2 * width) ** -0.5)


class _Layer(nn.Module):
    """Pre-norm attention over frames, then a feed-forward network with mixed expert weights."""

    def __init__(self, width: int, heads: int, experts: int, depth: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.before_attention, self.before_experts = nn.LayerNorm(width), nn.LayerNorm(width)
        self.experts = nn.ModuleList(_Expert(width) for _ in range(experts))
        for weight in (self.attention.out_proj.weight, *(e.down.weight for e in self._all())):
            nn.init.normal_(weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def _all(self) -> list[_Expert]:
        return [expert for expert in self.experts if isinstance(expert, _Expert)]

    def forward(self, x: Tensor, mixture: Sequence[float]) -> Tensor:
        """Frames `[B, T, D]` to the same; `mixture` is the weight of each expert."""
        normed = self.before_attention(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        hidden = functional.linear(self.before_experts(x), *_mixed([e.up for e in self._all()], mixture))
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        return x + functional.linear(hidden, *_mixed([e.down for e in self._all()], mixture))


def _mixed(layers: list[nn.Linear], mixture: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a weighted sum of linear layers."""
    used = [(layer, share) for layer, share in zip(layers, mixture, strict=True) if share]
    if len(used) == 1:
        return used[0][0].weight, used[0][0].bias
    weight = torch.stack([share * layer.weight for layer, share in used]).sum(dim=0)
    return weight, torch.stack([share * layer.bias for layer, share in used]).sum(dim=0)


class Head(ClassifierHead):
    """Frames `[B, T, D]` and class texts `[C, D]` to logits `[B, C]`."""

    open_classes: ClassVar[bool] = True

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        frames, width = shared_width(specs, "mote")
        if frames > PLACES:
            raise BadInput(
                f"mote takes up to {PLACES} frames; the store has {frames}.", "Extract with a smaller --num-frames."
            )
        depth = config.layers or (4 if width <= 512 else 6)
        self._config, heads = config, max(1, width // 64)
        if width % heads:
            raise BadInput(
                f"mote cannot divide a width of {width} into {heads} heads.", "Take another model's features."
            )
        self.places = nn.Parameter(0.01 * torch.randn(PLACES, width))
        self.layers = nn.ModuleList(_Layer(width, heads, config.experts, depth) for _ in range(depth))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(int(specs["classes"].shape[0] or 0), width))

    @classmethod
    def wants(cls, settings: Any) -> Wants:
        """Projected frames and projected class texts."""
        return Wants(classes={"text": "embedding"}, prefer=("frames", "embedding"))

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Cross-entropy with drawn experts and with merged experts, and the merged outputs' distance to the input."""
        self.seen.copy_(batch.classes["text"])
        count, frames = self._config.experts, batch.clips["visual"]
        chances = torch.arange(1.0, count + 1).softmax(dim=0)
        drawn = [int(torch.multinomial(chances, 1)) for _ in self.layers]
        through = frames + self._over_time(frames, [_one(count, expert) for expert in drawn])
        temperature = TEMPERATURES[int(torch.randint(len(TEMPERATURES), ()))]
        mixture = (torch.arange(1.0, count + 1) / temperature).softmax(dim=0).tolist()
        merged = frames + self._over_time(frames, [mixture] * len(self.layers))
        texts, labels = batch.classes["text"], batch.labels
        return {
            "experts": functional.cross_entropy(cosine_logits(through.mean(dim=1), texts).float(), labels),
            "merged": self._config.merged_weight
            * functional.cross_entropy(cosine_logits(merged.mean(dim=1), texts).float(), labels),
            "stay": self._config.stay_weight * functional.mse_loss(merged.float(), frames.float()),
        }

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]` with the plain mean of the experts."""
        frames, texts = batch.clips["visual"], batch.classes["text"]
        even = [1 / self._config.experts] * self._config.experts
        changed = self._over_time(frames, [even] * len(self.layers))
        if self._config.modulate and not self.training:
            changed = self.share(frames.mean(dim=1), texts)[:, None, None] * changed
        return cosine_logits((frames + changed).mean(dim=1), texts)

    def share(self, clips: Tensor, texts: Tensor) -> Tensor:
        """Factor of the layers' contribution per clip `[B, D]`: 1 if the clip's nearest classes were trained on.

        exp(-(1 - s) / 0.05). s: of the 5 class texts nearest to the clip, the mean of each one's largest cosine to the
        5 training class texts nearest to the clip.
        """
        clips, texts, trained = (functional.normalize(x.float(), dim=-1) for x in (clips, texts, self.seen))
        nearest = texts[(clips @ texts.mT).topk(min(NEAREST, len(texts)), dim=-1).indices]
        nearest_trained = trained[(clips @ trained.mT).topk(min(NEAREST, len(trained)), dim=-1).indices]
        similarity = (nearest @ nearest_trained.mT).amax(dim=-1).mean(dim=-1)
        return torch.exp(-(1 - similarity) / SHARPNESS)

    def _over_time(self, frames: Tensor, mixtures: Sequence[Sequence[float]]) -> Tensor:
        x = frames + self.places[: frames.shape[1]]
        for layer, mixture in zip(self.layers, mixtures, strict=True):
            x = layer(x, mixture)
        return x


def _one(count: int, at: int) -> list[float]:
    """A mixture of one expert alone."""
    return [float(i == at) for i in range(count)]
