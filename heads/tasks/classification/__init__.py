"""Classification of clips by heads trained on full sets or a few shots per class, with the controls that it needs.

The last update is the result, unless a list for validation is given; a video is scored once, its views averaged. The
control of `shuffle_frames` says what the order of frames is worth: the same head and the same data without it.
"""

from vfc.heads.data.store_view import Wants

from .config import TRAIN, Config
from .contract import ClassifierHead, ClipBatch
from .results import confusion, over_runs, tables
from .task import Classification, prepare

__all__ = [
    "TRAIN",
    "Classification",
    "ClassifierHead",
    "ClipBatch",
    "Config",
    "Wants",
    "confusion",
    "over_runs",
    "prepare",
    "tables",
]
