"""FSAR-LLaVA: fuses visual and textual tokens (MFM), corrects prototypes by the queries (CTPCM), matches by MPMM.

"Knowledge is Power: Advancing Few-shot Action Recognition with Multimodal Semantics from MLLMs" (arXiv 2603.26033),
which has no public code. MPMM: distance = mean of the u largest nearest-neighbour distances, in both directions. The
defaults explain every parameter count the paper prints; where the paper is silent or contradicts itself, the function
concerned says which reading it follows. A store without text uses the visual branch alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, POSITIVE, ZERO_TO_ONE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.layers.attention import Layer
from vfc.heads.similarity import token_distances
from vfc.heads.similarity.prototypes import (
    adaptive_alpha,
    correct_prototypes,
    gather_peers,
    prototype_distances,
    prototypes,
)
from vfc.heads.similarity.token_distances import TokenDistances
from vfc.heads.tasks.fewshot import EpisodeBatch, EpisodicHead

from .mfm import Downsample, Fusion

TASK = "fewshot"
TRAIN = TrainConfig(
    steps=2500, batch=4, lr=1e-4, optimizer="adam", weight_decay=5e-5, schedule="multistep", validate_every=250
)
"""10,000 training tasks, 4 per update. The paper names Adam and a multi-step schedule, without numbers."""


@dataclass(frozen=True)
class Config:
    """The architecture; every ablation of the paper is a field."""

    dim: int = setting(256, "Width D' of the down-projected tokens.", "Model")
    down_hidden: int = setting(1024, "Hidden width of the down-projection.", "Model")
    ffn_dim: int = setting(2048, "Hidden width of the feed-forward networks.", "Model")
    attention_heads: int = setting(8, "Attention heads of every layer.", "Model")
    dropout: float = setting(0.2, "Dropout after attention.", "Model")
    ffn_dropout: float = setting(0.05, "Dropout in the feed-forward networks.", "Model")
    spatial: bool = setting(True, "MFM: self-attention within each frame.", "Model")
    temporal: bool = setting(True, "MFM: self-attention over the frames.", "Model")
    v_ca: bool = setting(True, "MFM: cross-attention from frames to text.", "Model")
    t_ca: bool = setting(True, "MFM: cross-attention from text to frames.", "Model")
    visual_branch: bool = setting(True, "Compare visual tokens.", "Model")
    text_branch: bool = setting(True, "Compare text tokens, if the store has them.", "Model")
    mode: Literal["transductive", "inductive", "one-query"] = setting(
        "transductive", "CTPCM: use all queries of a task, no queries (CTPCM is off), or each query alone.", "Model"
    )
    lpc: bool = setting(True, "CTPCM: local correction (LPC), position by position.", "Model")
    gpc: bool = setting(True, "CTPCM: global correction (GPC), by whole videos.", "Model")
    alpha: float | None = setting(
        None,
        "CTPCM: weight of LPC (initial weight if learned); GPC has 1 - alpha. The paper: 0.9 for HMDB51, UCF101 and "
        "Kinetics, 0.1 for SSv2, where motion counts. Default: 0.9, or per task (--alpha-mode adaptive).",
        "Model",
    )
    alpha_mode: Literal["auto", "fixed", "learn", "adaptive"] = setting(
        "auto",
        "adaptive: alpha is 0.1 or 0.9 per task, by Eq. 12. auto: adaptive where visual and text tokens are compared "
        "and no --alpha is given, else fixed.",
        "Model",
    )
    ctpcm_tau: float = setting(1.0, "CTPCM: temperature of the softmax over the queries.", "Model")
    ctpcm_queries: Literal["match", "all"] = setting(
        "match", "CTPCM in training: as many queries per class as at test, or all.", "Model"
    )
    pad_policy: Literal["mask", "literal"] = setting(
        "mask",
        "Padding of texts and clips of different length: ignore it, or count it as zeros (as the paper says).",
        "Model",
    )
    metric: Literal["mpmm", "bi-mhm", "hausdorff", "otam"] = setting(
        "mpmm", "Distance between two token sequences.", "Model"
    )
    u: int = setting(
        10, "MPMM: how many of the largest distances are averaged; the paper: 50 for 5-shot HMDB51.", "Model"
    )
    distance: Literal["euclidean", "cosine"] = setting("euclidean", "Distance between two tokens.", "Model")
    smoothing: float = setting(0.1, "otam: lambda of the soft minimum.", "Model")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "dim", "down_hidden", "ffn_dim", "attention_heads", "u")
        check_range(self, BELOW_ONE, "dropout", "ffn_dropout")
        check_range(self, ZERO_TO_ONE, "alpha")
        check_range(self, POSITIVE, "ctpcm_tau", "smoothing")


class Head(EpisodicHead):
    """`visual [M, T, N, D]` (or `[M, T, D]`) and optionally `text [M, L, D]` to logits `[B, Q, W]`.

    `visual.valid [M, T, N]` (or `[M, T]`) and `text.valid [M, L]` are False at padding, which changes no number.
    """

    tokens: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    text: ClassVar[bool] = True

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        spec = require(specs, "visual", "fsar")
        self.config = config
        self.transductive = config.mode == "transductive"
        has_text = "text" in specs
        self.branches = tuple(
            role for role, on in (("visual", config.visual_branch), ("text", config.text_branch and has_text)) if on
        )
        if not self.branches:
            raise BadInput(
                "No branch is left to compare: the visual branch is off; the text branch is off or has no data.",
                "Keep --visual-branch on, or use a store with a text stream.",
            )
        self.alpha_mode = self._resolved_mode
        if config.alpha_mode == "adaptive" and len(self.branches) < 2 and config.mode != "inductive":
            raise BadInput(
                f"--alpha-mode adaptive compares two branches; only {self.branches[0]!r} is in use.",
                "Use --alpha-mode fixed or learn, or a store with visual and text tokens.",
            )
        self.notes = (*_notes(config, spec, has_text), *self._alpha_notes())
        self.fused_text = has_text and (config.text_branch or (config.v_ca and config.visual_branch))
        width = int(spec.shape[-1] or 0)
        self.down = Downsample(width, config.down_hidden, config.dim)
        self.fusion = self._fusion(config, spec)
        self.alpha = nn.Parameter(torch.tensor(self._initial)) if self._learns else None

    @property
    def _initial(self) -> float:
        return 0.9 if self.config.alpha is None else self.config.alpha

    @property
    def _resolved_mode(self) -> str:
        config = self.config
        if config.alpha_mode != "auto":
            return config.alpha_mode
        two = len(self.branches) == 2 and config.lpc and config.gpc and config.mode != "inductive"
        return "adaptive" if two and config.alpha is None else "fixed"

    def _alpha_notes(self) -> list[str]:
        if self.config.alpha_mode != "auto" or self.alpha_mode != "adaptive":
            return []
        return ["CTPCM chooses alpha per task, 0.1 or 0.9, by Eq. 12 (--alpha-mode adaptive); --alpha fixes it."]

    @property
    def _learns(self) -> bool:
        config = self.config
        return config.alpha_mode == "learn" and config.mode != "inductive" and config.lpc and config.gpc

    def _fusion(self, config: Config, spec: ArraySpec) -> Fusion:
        """MFM with only the layers whose output is used, so that every parameter is trained."""

        def layer(on: bool) -> Layer | None:
            sizes = (config.dim, config.attention_heads, config.ffn_dim, config.dropout, config.ffn_dropout)
            return Layer(*sizes) if on else None

        visual, text = "visual" in self.branches, "text" in self.branches
        frames_used = visual or config.t_ca
        return Fusion(
            layer(config.spatial and frames_used and len(spec.shape) == 3),
            layer(config.temporal and frames_used),
            layer(config.v_ca and visual and self.fused_text),
            layer(config.t_ca and text),
        )

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Down-project and fuse; `text.valid [M, L]` marks text rows, `visual.of [M]` is the video of each text."""
        alone = videos if "frames" in videos else self.alone(videos)
        frames, steps, video = alone["frames"], alone.get("frames.valid"), videos.get("visual.of")
        masks = {} if steps is None else {"visual.valid": steps if video is None else steps[video]}
        if not self.fused_text:
            return {"visual": self.fusion.mix(frames, video=video, steps=steps)[0], **masks}
        valid = videos.get("text.valid")
        visual, text = self.fusion.mix(frames, self.down(videos["text"]), valid, video, steps)
        assert text is not None
        fused = {"visual": visual, "text": text, **masks}
        return fused if valid is None else {**fused, "text.valid": valid}

    def alone(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Attention within and over the frames, which does not depend on the text."""
        frames, valid = videos["visual"], videos.get("visual.valid")
        if frames.ndim == 3:
            frames, valid = frames[:, :, None], None if valid is None else valid[:, :, None]
        attended = {"frames": self.fusion.self_attention(self.down(frames), valid)}
        return attended if valid is None else {**attended, "frames.valid": valid.any(dim=2)}

    def match(self, batch: EpisodeBatch) -> Tensor:
        """Minus the distance of every query to every (corrected) prototype."""
        config = self.config
        with torch.autocast(batch.query.device.type, enabled=False):
            sides = {role: self._sides(batch, role) for role in self.branches}
            peers = self._peers(batch)
            if config.mode != "inductive":
                alpha = self._alpha(sides, peers)
                for side in sides.values():
                    side.correct(config, alpha, peers)
            return -self._metric([side.distances(config, peers) for side in sides.values()])

    def _sides(self, batch: EpisodeBatch, role: str) -> _Side:
        tokens = batch.videos[role].float()
        valid = batch.videos.get(f"{role}.valid")
        support_valid, query_valid = (None, None) if valid is None else (valid[batch.support], valid[batch.query])
        prototype, prototype_valid = prototypes(tokens[batch.support], support_valid, self.config.pad_policy)
        return _Side(tokens[batch.query], query_valid, prototype[:, None], prototype_valid)

    def _peers(self, batch: EpisodeBatch) -> Tensor | None:
        """Which queries CTPCM uses together, `[B, Q, S]`; None: all queries of a task."""
        if self.config.mode == "one-query":
            return torch.arange(batch.query.shape[1], device=batch.query.device).expand(batch.query.shape)[..., None]
        return batch.peers if self.config.ctpcm_queries == "match" else None

    def _alpha(self, sides: Mapping[str, _Side], peers: Tensor | None) -> Tensor | float:
        if self.alpha is not None:
            # No gradient outside [0, 1], where alpha has no meaning.
            return self.alpha.clamp(0, 1)[None, None]
        if self.alpha_mode == "adaptive":
            uncorrected = {role: side.distances(self.config, peers) for role, side in sides.items()}
            return adaptive_alpha(uncorrected["visual"], uncorrected["text"], peers)
        return self._initial

    def _metric(self, branches: list[TokenDistances]) -> Tensor:
        config = self.config
        options: dict[str, dict[str, float]] = {"mpmm": {"u": config.u}, "otam": {"smoothing": config.smoothing}}
        return token_distances.METRICS[config.metric](branches, **options.get(config.metric, {}))


class _Side:
    """One branch of a batch: queries `[B, Q, L, D]`, prototypes `[B, G, W, L, D]` and masks, False at padding."""

    def __init__(
        self, query: Tensor, query_valid: Tensor | None, prototype: Tensor, prototype_valid: Tensor | None
    ) -> None:
        self.query, self.query_valid = query, query_valid
        self.prototype, self.prototype_valid = prototype, prototype_valid

    def correct(self, config: Config, alpha: Tensor | float, peers: Tensor | None) -> None:
        """Replace the prototypes by the corrected ones (CTPCM)."""
        valid = None if self.query_valid is None else gather_peers(self.query_valid, peers)
        self.prototype = correct_prototypes(
            self.prototype[:, 0],
            gather_peers(self.query, peers),
            alpha,
            locally=config.lpc,
            globally=config.gpc,
            tau=config.ctpcm_tau,
            query_valid=valid,
            policy=config.pad_policy,
        )

    def distances(self, config: Config, peers: Tensor | None) -> TokenDistances:
        """Distances between all tokens of queries and prototypes."""
        return prototype_distances(
            self.query,
            self.query_valid,
            self.prototype,
            self.prototype_valid,
            peers,
            distance=config.distance,
            policy=config.pad_policy,
            alone=config.mode == "inductive",
        )


def _notes(config: Config, spec: ArraySpec, has_text: bool) -> tuple[str, ...]:
    """Settings that this store or mode switches off or that limit comparisons; kept with the result."""
    notes = []
    if not has_text and (config.text_branch or config.v_ca or config.t_ca):
        notes.append("This store has no text stream: the text branch and both cross-attentions are off.")
    if config.spatial and len(spec.shape) < 3:
        notes.append("The array holds one vector per frame: attention within frames is off.")
    if config.mode == "transductive":
        notes.append(
            "CTPCM uses all queries of a task (transductive): results depend on the number and balance of the queries. "
            "Compare only with results of the same --queries."
        )
    if not math.isclose(config.ctpcm_tau, 1.0):
        notes.append(f"CTPCM's temperature is {config.ctpcm_tau:g}; the paper has none (that is, 1).")
    return tuple(notes)
