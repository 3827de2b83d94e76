"""Presets of data sets: a list, its splits and labels, and the frames and views of the papers, under one name."""

from __future__ import annotations

from vfc.extract.collection.presets.catalogue import PRESETS, find
from vfc.extract.collection.presets.members import Member, members_digest
from vfc.extract.collection.presets.on_disk import Check, check, listed_members, preset_collection
from vfc.extract.collection.presets.preset import Preset

__all__ = [
    "PRESETS",
    "Check",
    "Member",
    "Preset",
    "check",
    "find",
    "listed_members",
    "members_digest",
    "preset_collection",
]
