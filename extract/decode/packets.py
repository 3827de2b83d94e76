"""What a demux pass alone tells about a video: exact frame count, presentation times, where decoding can begin.

Packets are read, not decoded, so this costs a few milliseconds per minute of video and does not trust the header.
It holds for codecs that show one frame per packet in containers that keep presentation times; `packet_index`
returns None for everything else (packed B-frames in AVI, hidden VP8 frames, GIF, a damaged packet, streams that begin
in the middle of a group of pictures ...), and then only decoding the whole video tells.
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
    """`pts[i]` is the time stamp of frame `i` in presentation order; `keyframes` rise by pts.

    `open_groups`: some frames stored after a keyframe are shown before it, so decoding from there cannot show them.
    """

    pts: tuple[int, ...]
    keyframes: tuple[Keyframe, ...]
    open_groups: bool

    def governing(self, pts: int) -> Keyframe:
        """The last keyframe shown at or before `pts`.

        Frames shown before a keyframe but stored after it lean on the group before; this keyframe is never theirs.
        """
        return self.keyframes[bisect.bisect_right(self.keyframes, pts, key=lambda k: k.pts) - 1]

    def frames_between(self, earlier: int, later: int) -> int:
        """How many frames are shown after `earlier` and before `later`; not above 0 where `later` comes first."""
        return bisect.bisect_left(self.pts, later) - bisect.bisect_right(self.pts, earlier)


def packet_index(container: InputContainer, video: VideoStream) -> PacketIndex | None:
    """The index of `video`, or None where packets alone do not tell which frames a decoder delivers.

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
    """An edit list cuts it out: it is decoded, but never shown."""


def _index(packets: list[_Entry]) -> PacketIndex | None:
    shown = sorted(p.pts for p in packets if not p.is_cut)
    keyframes = [Keyframe(p.pts, p.dts) for p in packets if p.is_keyframe]
    begins_clean = bool(keyframes) and keyframes[0].pts == packets[0].pts == min(p.pts for p in packets)
    if not (shown and begins_clean and _rising(shown) and _rising([p.dts for p in packets if p.dts is not None])):
        return None
    latest = itertools.accumulate((p.pts if p.is_keyframe else packets[0].pts for p in packets), max)
    open_groups = any(p.pts < key for p, key in zip(packets, latest, strict=True))
    return PacketIndex(tuple(shown), tuple(sorted(keyframes, key=lambda k: k.pts)), open_groups)


def _rising(stamps: list[int]) -> bool:
    """No time twice, and no clock set back: sorting by time would otherwise shuffle the frames."""
    return all(a < b for a, b in itertools.pairwise(stamps))
