"""Linear classifier on the mean of the frames, which is layer-normalised first (--no-norm: a plain linear probe).

The normalisation (LayerNorm without weights, over the channels) lets one learning rate work for features of any scale.
Other papers' linear probes are often plain: compare with them using --no-norm. The order of the frames has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch

TASK = "classification"


@dataclass(frozen=True)
class Config:
    """The input of the linear layer."""

    norm: bool = setting(True, "Layer-normalise the mean frame; --no-norm: a plain linear probe.", "Model", added=True)


class Head(ClassifierHead):
    """Frames `[B, T, D]` to their mean to logits `[B, C]`; D C + C weights."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "linear-probe").shape[-1] or 0)
        self._norm = config.norm
        self.classify = nn.Linear(width, int(specs["classes"].shape[0] or 0))

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        mean = batch.clips["visual"].mean(dim=1)
        logits: Tensor = self.classify(functional.layer_norm(mean, mean.shape[-1:]) if self._norm else mean)
        return logits
