"""`vfc predict`: the command, the features of the videos of a call, the frames on its page."""

from __future__ import annotations

from .run import PredictConfig as PredictConfig
from .run import predict as predict
