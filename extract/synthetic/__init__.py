"""The demo's clips: shapes that move, turn, grow, fade and blink, rendered from a seed and encoded as real videos.

The appearance of a clip (shape, colours, position, size, angle, contrast) is drawn alike for all classes; only the
motion depends on the class. Most classes come in pairs that are each other played backwards, so the order of frames
matters. The two classes of a pair are in the same split.
"""

from __future__ import annotations

from .clip import render_clip
from .motion import CLASSES, REVERSED, SPLIT_OF
from .render import TABLE, render_collection

__all__ = ["CLASSES", "REVERSED", "SPLIT_OF", "TABLE", "render_clip", "render_collection"]
