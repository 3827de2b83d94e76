"""Few-shot action recognition: episodes of W classes with K labelled clips each, over a frozen list of tasks."""

from __future__ import annotations

from .episodic_head import EpisodeBatch as EpisodeBatch
from .episodic_head import EpisodicHead as EpisodicHead
from .task import Config as Config
from .task import FewShot as FewShot
from .task import confusion as confusion
from .task import prepare as prepare
from .task import tables as tables
