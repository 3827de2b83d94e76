"""The packet index of a video: exact frame count, presentation times, and where decoding can begin.

Packets are read, not decoded, so this costs a few milliseconds per minute of video and does not trust the header.
It is exact for codecs that show one frame per packet, in containers that keep presentation times. `packet_index`
returns None for everything else (packed B-frames in AVI, hidden VP8 frames, GIF, a damaged packet, streams that begin
in the middle of a group of pictures ...); then the whole video must be decoded.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

INDEXED_CODECS: Final = frozenset({"h264", "hevc", "vp9", "av1"})
_CONTAINERS_WITHOUT_PRESENTATION_TIMES: Final = frozenset({"avi"})


@dataclass(frozen=True)
class Keyframe:
    """Where decoding can begin: presentation and decoding time stamp, in units of the stream's time base."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class PacketIndex:
    """`pts[i]` is the time stamp of frame `i` in presentation order; `keyframes` are sorted by pts.

    `open_groups`: some frames stored after a keyframe are shown before it, so decoding from there cannot show them.
    """

    pts: tuple[int, ...]
    keyframes: tuple[Keyframe, ...]
    open_groups: bool

    def governing(self, pts: int) -> Keyframe:
        """The last keyframe shown at or before `pts`.

        A frame that is shown before a keyframe but stored after it depends on the keyframe before.
        """
        return self.keyframes[bisect.bisect_right(self.keyframes, pts, key=lambda k: k.pts) - 1]

    def frames_between(self, earlier: int, later: int) -> int:
        """How many frames are shown after `earlier` and before `later`; 0 or less where `later` comes first."""
        return bisect.bisect_left(self.pts, later) - bisect.bisect_right(self.pts, earlier)


def packet_index(container: InputContainer, video: VideoStream) -> PacketIndex | None:
    """The index of `video`, or None where packets alone do not show which frames a decoder delivers.

    Reads the container to its end.
    """
    codec = video.codec_context.codec.canonical_name
    if codec not in INDEXED_CODECS or container.format.name in _CONTAINERS_WITHOUT_PRESENTATION_TIMES:
        return None
    packets: list[_Entry] = []
    try:
        for packet in container.demux(video):
            if packet.size:
                if packet.pts is None or packet.is_corrupt:
                    return None
                packets.append(_Entry(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    except av.FFmpegError:
        return None
    return _index(packets)


class _Entry(NamedTuple):
    pts: int
    dts: int | None
    is_keyframe: bool
    is_cut: bool
    """Whether an edit list cuts it out: it is decoded, but never shown."""


def _index(packets: list[_Entry]) -> PacketIndex | None:
    pts = sorted(p.pts for p in packets if not p.is_cut)
    keyframes = [Keyframe(p.pts, p.dts) for p in packets if p.is_keyframe]
    if not pts or not keyframes or not _rising(pts) or not _rising([p.dts for p in packets if p.dts is not None]):
        return None
    if not keyframes[0].pts == packets[0].pts == min(p.pts for p in packets):  # begins within a group of pictures
        return None
    latest_keyframe = itertools.accumulate((p.pts if p.is_keyframe else packets[0].pts for p in packets), max)
    open_groups = any(p.pts < key for p, key in zip(packets, latest_keyframe, strict=True))
    return PacketIndex(tuple(pts), tuple(sorted(keyframes, key=lambda k: k.pts)), open_groups)


def _rising(stamps: list[int]) -> bool:
    """Whether no time occurs twice and none is before the one ahead of it."""
    return all(a < b for a, b in itertools.pairwise(stamps))
