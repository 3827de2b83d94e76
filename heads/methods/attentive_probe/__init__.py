"""The attentive probe of V-JEPA 2: one learned query attends to all tokens of a clip, then one linear layer.

Assran et al., "V-JEPA 2" (2025), and its public code. The probe has no positions: the order of the tokens has no
effect, and what it knows of time is what the model put into each token. The released probes read the tokens after the
model's final norm (`--layer norm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import NOT_NEGATIVE, check_range
from vfc.heads.tasks.classification import TRAIN as TASK_TRAIN
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch
from vfc.heads.tasks.classification import Config as TaskConfig

from .blocks import Pooler

TASK = "classification"
TRAIN: Final = replace(TASK_TRAIN, epochs=20, lr=1e-3, weight_decay=0.01, decay_all=True, clip=0.0)
"""One of the 20 pairs of rate and weight decay of the public code; decay on every parameter, no clipping."""

PROTOCOL: Final = TaskConfig(view_sum="probabilities")
"""The public code averages the softmax over the views of a clip."""

HEADS: Final = 16
_DEPTHS: Final = {"": 1, "vjepa2": 4}


@dataclass(frozen=True)
class Config:
    """The size of the probe; its width is that of the stored tokens."""

    preset: Literal["", "vjepa2"] = setting(
        "", "vjepa2: --depth 4, the four blocks of the published results.", "Model", choices=("", "vjepa2")
    )
    depth: int = setting(
        0, "Blocks: the last pools, those before it transform the tokens; 0: 1, or the preset's.", "Model"
    )
    heads: int = setting(0, "Attention heads; 0: 16, or the largest smaller number that divides the width.", "Model")

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "depth", "heads")


class Head(ClassifierHead):
    """Tokens `[B, T', N, D]` (or frames `[B, T', D]`) to logits `[B, C]`.

    `(depth - 1)(12 D^2 + 13 D) + 11 D^2 + 13 D + C (D + 1)` weights. Parameters have the names of the public code.
    """

    tokens: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "attentive-probe").shape[-1] or 0)
        heads = config.heads or next(count for count in range(min(HEADS, width), 0, -1) if width % count == 0)
        if width % heads:
            raise BadInput(
                f"--heads {heads} does not divide the width of the tokens, {width}.",
                "Give a number that divides it, or leave the flag out.",
            )
        if not config.heads and heads != HEADS:
            self.notes = (f"A width of {width} is not a multiple of {HEADS}: the probe has {heads} attention heads.",)
        self.pooler = Pooler(width, config.depth or _DEPTHS[config.preset], heads)
        self.linear = nn.Linear(width, int(specs["classes"].shape[0] or 0))
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        visual, valid = batch.clips["visual"], batch.clips.get("visual.valid")
        tokens = visual.flatten(1, -2)
        if valid is not None:
            valid = valid.expand(visual.shape[:-1]).flatten(1)
            tokens = torch.where(valid[..., None], tokens, 0.0)
        logits: Tensor = self.linear(self.pooler(tokens, valid))
        return logits
