"""The two ways to decode: only what chosen frames need, or everything in the order of delivery."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .packets import Keyframe, PacketIndex

_FEW: Final = 16


class IndexMismatch(Exception):
    """The packet index does not describe what the decoder delivers."""


def decode_at(
    container: InputContainer, video: VideoStream, index: PacketIndex, wanted: Sequence[int], threads: int
) -> Iterator[VideoFrame]:
    """The frames with the time stamps `wanted` (rising), decoding no more than they lean on.

    Raises:
        IndexMismatch: a frame does not come when it should, or comes damaged.
        FFmpegError: anything at all that the decoder objects to.
    """
    codec = video.codec_context
    codec.thread_type = "NONE" if threads == 1 else "AUTO"
    codec.thread_count = threads
    if not index.open_groups:  # there, frames that come before the keyframe of a seek fail as a matter of course
        codec.options = {"err_detect": "explode"}
    # H.264 marks pictures that no other picture leans on (nal_ref_idc 0), so leaving them out changes nothing else.
    # HEVC's mark only holds within one temporal layer, and the others have none.
    droppable = codec.codec.canonical_name == "h264"
    for key, targets in _runs(index, wanted):
        waiting = iter(targets)
        target = next(waiting, None)
        for frame in _decode_run(codec, _seek(container, video, key), set(targets), droppable):
            if target is None or frame.pts is None or frame.pts < target:
                continue
            if frame.pts > target or frame.is_corrupt:
                raise IndexMismatch
            yield frame
            target = next(waiting, None)
        if target is not None:
            raise IndexMismatch


def _runs(index: PacketIndex, wanted: Sequence[int]) -> list[tuple[Keyframe, list[int]]]:
    """Where to seek, and what to decode from there on: one seek for all that lies close together."""
    runs: list[tuple[Keyframe, list[int]]] = []
    for target in wanted:
        key = index.governing(target)
        if runs and index.frames_between(runs[-1][1][-1], key.pts) <= _FEW:
            runs[-1][1].append(target)
        else:
            runs.append((key, [target]))
    return runs


def _decode_run(
    codec: VideoCodecContext, packets: Iterator[Packet[VideoStream]], targets: set[int], droppable: bool
) -> Iterator[VideoFrame]:
    """Frames from the first packet on, until all packets of `targets` are in; then what the decoder still holds."""
    for packet in packets:
        if not packet.size or not targets:
            break
        if droppable:
            codec.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
        yield from codec.decode(packet)
        targets.discard(cast(int, packet.pts))
    yield from codec.decode(None)


def _seek(container: InputContainer, video: VideoStream, key: Keyframe) -> Iterator[Packet[VideoStream]]:
    """Packets from `key` on. Containers disagree on whether a seek goes by pts or dts, so what comes is checked."""
    for offset in dict.fromkeys((key.pts, key.dts)):
        if offset is None:
            continue
        container.seek(offset, stream=video, backward=True)
        packets = container.demux(video)
        for packet in packets:
            if packet.pts == key.pts and packet.is_keyframe:
                return itertools.chain((packet,), packets)
            if packet.dts is None or key.dts is None or packet.dts >= key.dts:
                break
    raise IndexMismatch


class Damage:
    """What was passed over in a decoding that does not give up."""

    def __init__(self) -> None:
        self.packets = 0
        self.frames = 0
        self.last = ""

    def __bool__(self) -> bool:
        return bool(self.packets or self.frames)

    def words(self, prefix: str = "") -> str:
        """For people, `prefix` in front; empty where nothing was passed over."""
        parts = []
        if self.packets:
            parts.append(f"{self.packets} packets could not be read or decoded ({self.last})")
        if self.frames:
            parts.append(f"{self.frames} frames are marked as damaged")
        return prefix + "; ".join(parts) if parts else ""


def deliver(container: InputContainer, video: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """Every frame in the order of delivery; errors are counted in `damage`."""
    codec = video.codec_context
    codec.thread_type = "NONE"
    codec.thread_count = 1
    packets = container.demux(video)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            damage.packets += 1
            damage.last = error_text(error)
            packet = None
        ending = packet is None or not packet.size
        try:
            for frame in codec.decode(None if ending else packet):
                damage.frames += frame.is_corrupt
                yield frame
        except av.FFmpegError as error:
            damage.packets += 1
            damage.last = error_text(error)
        if ending:
            return


def error_text(error: Exception) -> str:
    """What FFmpeg or the system says, without the number and the file name."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
