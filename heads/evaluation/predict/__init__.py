"""The part of `vfc predict` after extraction: a trained head names new videos.

`run`: a finished training. `few_shot`: by a few labelled clips. `classes`: among the classes of the training.
`sequences`: segments of long videos. `result`, `timelines`, `page`: what is printed and written.
"""

from __future__ import annotations

from .classes import predict_classes as predict_classes
from .few_shot import predict as predict
from .result import Prediction as Prediction
from .result import Predictions as Predictions
from .result import write as write
from .run import Run as Run
from .run import tested_views as tested_views
from .sequences import SequenceSettings as SequenceSettings
from .sequences import predict_sequences as predict_sequences
from .timelines import Timelines as Timelines
