"""The demo's clips: shapes that move, turn, grow, fade and blink, rendered from a seed and encoded as real videos.

What a clip shows (shape, colours, place, size, slant, contrast) is drawn alike for all classes; what happens in time is
the class. Most classes come in pairs that are each other played backwards, so order matters, and a pair never spans two
splits.
"""

from __future__ import annotations

from .clip import render_clip
from .motion import CLASSES, REVERSED, SPLIT_OF
from .render import TABLE, render_collection

__all__ = ["CLASSES", "REVERSED", "SPLIT_OF", "TABLE", "render_clip", "render_collection"]
