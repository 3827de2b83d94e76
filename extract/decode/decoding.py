"""The two ways to decode: only what the chosen frames need, or everything in the order of delivery."""

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

_NEAR: Final = 16
"""Frames that are decoded and dropped rather than seeking anew."""


class IndexMismatch(Exception):
    """The packet index does not describe what the decoder delivers."""


def decode_at(
    container: InputContainer, video: VideoStream, index: PacketIndex, stamps: Sequence[int], threads: int
) -> Iterator[VideoFrame]:
    """The frames with these time stamps (rising); decodes no more than they depend on.

    Raises:
        IndexMismatch: a frame is missing or damaged.
        FFmpegError: any error of the decoder.
    """
    codec = video.codec_context
    codec.thread_type = "NONE" if threads == 1 else "AUTO"
    codec.thread_count = threads
    if not index.open_groups:  # with open groups, frames before the keyframe of a seek always fail
        codec.options = {"err_detect": "explode"}
    # H.264 marks pictures that no other picture depends on (nal_ref_idc 0), so they can be skipped.
    # HEVC's mark is valid within one temporal layer only, and the other codecs have none.
    droppable = codec.codec.canonical_name == "h264"
    for key, targets in _runs(index, stamps):
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


def _runs(index: PacketIndex, stamps: Sequence[int]) -> list[tuple[Keyframe, list[int]]]:
    """Where to seek, and which frames to decode from there: one seek for all frames that are close together."""
    runs: list[tuple[Keyframe, list[int]]] = []
    for target in stamps:
        key = index.governing(target)
        if runs and index.frames_between(runs[-1][1][-1], key.pts) <= _NEAR:
            runs[-1][1].append(target)
        else:
            runs.append((key, [target]))
    return runs


def _decode_run(
    codec: VideoCodecContext, packets: Iterator[Packet[VideoStream]], targets: set[int], droppable: bool
) -> Iterator[VideoFrame]:
    """Frames from the first packet until all packets of `targets` are decoded; then those left in the decoder."""
    for packet in packets:
        if not packet.size or not targets:
            break
        if droppable:
            codec.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
        yield from codec.decode(packet)
        targets.discard(cast(int, packet.pts))
    yield from codec.decode(None)


def _seek(container: InputContainer, video: VideoStream, key: Keyframe) -> Iterator[Packet[VideoStream]]:
    """Packets from `key` on. Some containers seek by pts, others by dts, so the packet is checked."""
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
    """The errors that were skipped while a whole video was decoded."""

    def __init__(self) -> None:
        self.packets = 0
        self.frames = 0
        self.last = ""

    def __bool__(self) -> bool:
        return bool(self.packets or self.frames)

    def text(self, prefix: str = "") -> str:
        """The errors in words after `prefix`; empty where there were none."""
        parts = []
        if self.packets:
            parts.append(f"{self.packets} packets could not be read or decoded ({self.last})")
        if self.frames:
            parts.append(f"{self.frames} frames are marked as damaged")
        return prefix + "; ".join(parts) if parts else ""


def decode_all(container: InputContainer, video: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """Every frame, in the order in which the decoder delivers; errors are counted in `damage`."""
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
    """The message of FFmpeg or of the system, without number and file name."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
