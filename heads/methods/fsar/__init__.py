"""FSAR-LLaVA: fuses the visual and textual tokens of a video, corrects prototypes by the queries, matches the worst.

"Knowledge is Power: Advancing Few-shot Action Recognition with Multimodal Semantics from MLLMs" (arXiv 2603.26033),
which has no public code. Defaults are the architecture that explains every parameter count the paper prints; where
the paper is silent or contradicts itself, the reading taken is named at the function that takes it. A store without
text gives the visual branch alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
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
from vfc.heads.tasks.fewshot import Batch, EpisodicHead

from .mfm import Downsample, Fusion

TASK = "fewshot"
TRAIN = TrainConfig(
    steps=2500, batch=4, lr=1e-4, optimizer="adam", weight_decay=5e-5, schedule="multistep", validate_every=250
)
"""10,000 training tasks, 4 per update. The paper names Adam and a multi-step schedule and no number."""


def _model(text: str, **more: object) -> dict[str, object]:
    return {"help": text, "panel": "Model", **more}


@dataclass(frozen=True)
class Config:
    """The fitted architecture; every ablation of the paper is a field."""

    dim: int = field(default=256, metadata=_model("Width D' of the narrow tokens."))
    down_hidden: int = field(default=1024, metadata=_model("Width between the two down-projections."))
    ffn_dim: int = field(default=2048, metadata=_model("Width of the feed-forward parts."))
    attention_heads: int = field(default=8, metadata=_model("Attention heads of every layer."))
    dropout: float = field(default=0.2, metadata=_model("Dropout behind attention."))
    ffn_dropout: float = field(default=0.05, metadata=_model("Dropout in the feed-forward parts."))
    spatial: bool = field(default=True, metadata=_model("MFM: attention within a frame."))
    temporal: bool = field(default=True, metadata=_model("MFM: attention over the frames."))
    v_ca: bool = field(default=True, metadata=_model("MFM: frames read the text."))
    t_ca: bool = field(default=True, metadata=_model("MFM: the text reads the frames."))
    visual_branch: bool = field(default=True, metadata=_model("Match visual tokens."))
    text_branch: bool = field(default=True, metadata=_model("Match textual tokens, where the store has them."))
    mode: Literal["transductive", "inductive", "one-query"] = field(
        default="transductive",
        metadata=_model("CTPCM over all queries of a task, not at all, or over one query at a time."),
    )
    lpc: bool = field(default=True, metadata=_model("CTPCM: position by position."))
    gpc: bool = field(default=True, metadata=_model("CTPCM: video by video."))
    alpha: float = field(default=0.9, metadata=_model("Share of LPC against GPC; where it starts if learned."))
    alpha_mode: Literal["fixed", "learn", "adaptive"] = field(
        default="fixed", metadata=_model("adaptive: the gate of Eq. 12, 0.1 or 0.9 per task.")
    )
    ctpcm_tau: float = field(default=1.0, metadata=_model("Temperature of CTPCM's softmax over the queries."))
    ctpcm_queries: Literal["match", "all"] = field(
        default="match", metadata=_model("In training, CTPCM sees as many queries as at test, or all.")
    )
    pad_policy: Literal["mask", "literal"] = field(
        default="mask",
        metadata=_model("Texts of different length: leave padding out, or count zeros as the paper says."),
    )
    metric: Literal["mpmm", "bi-mhm", "hausdorff", "otam"] = field(
        default="mpmm", metadata=_model("How tokens are matched.")
    )
    u: int = field(default=10, metadata=_model("MPMM: largest charges that count; the paper: 50 for 5-shot HMDB-like."))
    distance: Literal["euclidean", "cosine"] = field(default="euclidean", metadata=_model("Between two tokens."))
    smoothing: float = field(default=0.1, metadata=_model("Lambda of otam's soft minimum."))

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "dim", "down_hidden", "ffn_dim", "attention_heads", "u")
        check_range(self, BELOW_ONE, "dropout", "ffn_dropout")
        check_range(self, ZERO_TO_ONE, "alpha")
        check_range(self, POSITIVE, "ctpcm_tau", "smoothing")


class Head(EpisodicHead):
    """`visual [M, T, N, D]` (or `[M, T, D]`) and, where there is one, `text [M, L, D]` to logits `[B, Q, W]`."""

    tokens: ClassVar[bool] = True
    text: ClassVar[bool] = True

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        spec = require(specs, "visual", "fsar")
        self.config = config
        self.transductive = config.mode == "transductive"
        self.notes = _notes(config, spec, "text" in specs)
        told = "text" in specs
        self.branches = tuple(
            role for role, on in (("visual", config.visual_branch), ("text", config.text_branch and told)) if on
        )
        if not self.branches:
            raise BadInput(
                "No branch is left to match: the visual one is off, and text is off or absent.",
                "Leave --visual-branch on, or take a store with a text stream.",
            )
        if config.alpha_mode == "adaptive" and len(self.branches) < 2 and config.mode != "inductive":
            raise BadInput(
                f"--alpha-mode adaptive compares two branches; there is only {self.branches[0]!r}.",
                "Take --alpha-mode fixed or learn, or a store with visual and textual tokens.",
            )
        self.fused_text = told and (config.text_branch or (config.v_ca and config.visual_branch))
        width = int(spec.shape[-1] or 0)
        self.down = Downsample(width, config.down_hidden, config.dim)
        self.fusion = self._fusion(config, spec)
        self.alpha = nn.Parameter(torch.tensor(config.alpha)) if self._learns else None

    @property
    def _learns(self) -> bool:
        config = self.config
        return config.alpha_mode == "learn" and config.mode != "inductive" and config.lpc and config.gpc

    def _fusion(self, config: Config, spec: ArraySpec) -> Fusion:
        """Only layers whose result is used, so that every parameter is trained and counted."""

        def layer(on: bool) -> Layer | None:
            sizes = (config.dim, config.attention_heads, config.ffn_dim, config.dropout, config.ffn_dropout)
            return Layer(*sizes) if on else None

        visual, text = "visual" in self.branches, "text" in self.branches
        read = visual or config.t_ca
        return Fusion(
            layer(config.spatial and read and len(spec.shape) == 3),
            layer(config.temporal and read),
            layer(config.v_ca and visual and self.fused_text),
            layer(config.t_ca and text),
        )

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Narrow and fuse; `text.valid [M, L]` marks rows of text, `visual.of [M]` the video of each text."""
        moving = videos["moving"] if "moving" in videos else self.alone(videos)["moving"]
        video = videos.get("visual.of")
        if not self.fused_text:
            return {"visual": self.fusion.mix(moving, video=video)[0]}
        valid = videos.get("text.valid")
        fused, told = self.fusion.mix(moving, self.down(videos["text"]), valid, video)
        assert told is not None
        found = {"visual": fused, "text": told}
        return found if valid is None else {**found, "text.valid": valid}

    def alone(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Attention within and over the frames, which no text changes."""
        frames = videos["visual"]
        return {"moving": self.fusion.moving(self.down(frames if frames.ndim == 4 else frames[:, :, None]))}

    def match(self, batch: Batch) -> Tensor:
        """Minus the distance of every query to every (corrected) prototype."""
        config = self.config
        with torch.autocast(batch.query.device.type, enabled=False):
            sides = {role: self._sides(batch, role) for role in self.branches}
            peers = self._peers(batch)
            if config.mode != "inductive":
                alpha = self._alpha(sides, peers)
                for side in sides.values():
                    side.correct(config, alpha, peers)
            found = [side.branch(config, peers) for side in sides.values()]
            return -self._metric(found)

    def _sides(self, batch: Batch, role: str) -> _Side:
        tokens = batch.videos[role].float()
        valid = batch.videos.get(f"{role}.valid")
        support_valid = None if valid is None else valid[batch.support]
        prototype, reached = prototypes(tokens[batch.support], support_valid, self.config.pad_policy)
        return _Side(tokens[batch.query], None if valid is None else valid[batch.query], prototype[:, None], reached)

    def _peers(self, batch: Batch) -> Tensor | None:
        """Which queries are looked at together; None: all of a task."""
        if self.config.mode == "one-query":
            return torch.arange(batch.query.shape[1], device=batch.query.device).expand(batch.query.shape)[..., None]
        return batch.peers if self.config.ctpcm_queries == "match" else None

    def _alpha(self, sides: Mapping[str, _Side], peers: Tensor | None) -> Tensor | float:
        if self.alpha is not None:
            # Gradients flow within [0, 1]; beyond it there is no meaning to follow.
            return self.alpha.clamp(0, 1)[None, None]
        if self.config.alpha_mode == "adaptive":
            first = {role: side.branch(self.config, peers) for role, side in sides.items()}
            return adaptive_alpha(first["visual"], first["text"], peers)
        return self.config.alpha

    def _metric(self, found: list[TokenDistances]) -> Tensor:
        config = self.config
        options: dict[str, dict[str, float]] = {"mpmm": {"u": config.u}, "otam": {"smoothing": config.smoothing}}
        return token_distances.METRICS[config.metric](found, **options.get(config.metric, {}))


class _Side:
    """One branch of a batch: queries `[B, Q, L, D]`, prototypes `[B, G, W, L, D]`, what of them is not padding."""

    def __init__(
        self, query: Tensor, query_valid: Tensor | None, prototype: Tensor, prototype_valid: Tensor | None
    ) -> None:
        self.query, self.query_valid = query, query_valid
        self.prototype, self.prototype_valid = prototype, prototype_valid

    def correct(self, config: Config, alpha: Tensor | float, peers: Tensor | None) -> None:
        valid = None if self.query_valid is None else gather_peers(self.query_valid, peers)
        self.prototype = correct_prototypes(
            self.prototype[:, 0],
            gather_peers(self.query, peers),
            alpha,
            local=config.lpc,
            whole=config.gpc,
            tau=config.ctpcm_tau,
            query_valid=valid,
        )

    def branch(self, config: Config, peers: Tensor | None) -> TokenDistances:
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


def _notes(config: Config, spec: ArraySpec, told: bool) -> tuple[str, ...]:
    """What the store, or the mode, makes of the settings; said aloud and kept with the result."""
    notes = []
    if not told and (config.text_branch or config.v_ca or config.t_ca):
        notes.append("There is no text stream here: the text branch and both cross-attentions are off.")
    if config.spatial and len(spec.shape) < 3:
        notes.append("The array holds one vector per frame: attention within frames is off.")
    if config.mode == "transductive":
        notes.append(
            "CTPCM reads all queries of a task (transductive): results depend on their number and balance, and compare "
            "only with others of the same --queries."
        )
    if not math.isclose(config.ctpcm_tau, 1.0):
        notes.append(f"CTPCM's temperature is {config.ctpcm_tau:g}; the paper has none (1).")
    return tuple(notes)
