"""Long-term action anticipation: the segments of the next half of a video from its first 20 or 30 %, scored by MoC.

The protocol of the field: observed 0.2 or 0.3 of a video, predicted the next 0.1 to 0.5 of it, mean over classes of the
frames of all test videos of a split, then the mean over splits. The last epoch is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfc.heads.contract.train_config import TrainConfig

from .contract import AnticipationHead as AnticipationHead
from .contract import Prediction as Prediction
from .contract import Sampling as Sampling
from .contract import WindowBatch as WindowBatch
from .contract import future_losses as future_losses
from .contract import normalised as normalised
from .contract import past_loss as past_loss
from .contract import targets as targets
from .settings import Config as Config
from .splits import over_runs as over_runs
from .tables import pictures as pictures
from .tables import tables as tables
from .task import prepare as prepare

SEQUENCES = True
TRAIN = TrainConfig(epochs=60, batch=8, validate_every=0, select="last")


def confusion(result: Mapping[str, Any]) -> None:
    """No confusion matrix: a prediction of segments has none of its own."""
