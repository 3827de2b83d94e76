"""Classification of clips by heads trained on full sets or a few shots per class, with the controls that it needs."""

from .contract import Batch, ClassifierHead, Wants

__all__ = ["Batch", "ClassifierHead", "Wants"]
