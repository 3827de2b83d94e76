"""Videos in chunks: the same frames as in one clip, from processes that may hang, die or be given up in the middle."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from suites.film import encode

from vfc.extract.decode import ChunkReader, Clip, Decoders, Job, Undecodable, chunks, read_chunks, read_job
from vfc.extract.decode.decoding import IndexMismatch
from vfc.extract.decode.process import Worker

SOON = 30.0


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / "a.mp4", count=50, g="10")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose packets do not tell how many frames there are."""
    return encode(tmp_path_factory.mktemp("old") / "a.avi", "mpeg4", count=23)


def job(path: Path, rule: str = "all", chunk: int = 8, overlap: int = 0, name: str = "a") -> Job:
    return Job(name, path, rule, 0, chunk=chunk, overlap=overlap)


def whole(found: Sequence[Clip | None], asked: Job) -> None:
    """Laid end to end, less what comes twice, it is the clip; an announced repetition starts it anew."""
    if None in found:
        found = found[len(found) - found[::-1].index(None) :]
    clips = [clip for clip in found if clip is not None]
    clip = read_job(replace(asked, chunk=0, overlap=0))
    assert all(len(c.frames) <= asked.chunk for c in clips)
    for one, after in itertools.pairwise(clips):
        assert len(one.frames) == asked.chunk
        assert np.array_equal(one.frames[asked.chunk - asked.overlap :], after.frames[: asked.overlap])
    cuts = [asked.overlap if i else 0 for i in range(len(clips))]
    for part in ("frames", "seconds", "indices"):
        joined = np.concatenate([getattr(c, part)[cut:] for c, cut in zip(clips, cuts, strict=True)])
        assert np.array_equal(joined, getattr(clip, part)), part
    assert {k: v for k, v in clips[0].notes.items() if k != "frames"} == clip.notes
    assert clips[0].notes["frames"] == len(clip.frames)
    assert {(c.fps, c.total_frames, c.name) for c in clips} == {(clip.fps, clip.total_frames, asked.name)}


@pytest.mark.parametrize("rule", ["all", "stride:3", "fps:40", "fps:6"])
@pytest.mark.parametrize(("chunk", "overlap"), [(8, 0), (8, 1), (50, 0), (7, 3), (1, 0)])
def test_chunks_joined_equal_the_clip(film: Path, rule: str, chunk: int, overlap: int) -> None:
    asked = job(film, rule, chunk, overlap)
    found = list(read_chunks(asked))
    assert None not in found
    whole(found, asked)


def test_a_video_without_an_index_is_counted_first(old: Path) -> None:
    asked = job(old, "stride:2", 4, 1)
    whole(list(read_chunks(asked)), asked)


def test_a_part_of_a_video(film: Path) -> None:
    asked = replace(job(film), start_seconds=0.4, end_seconds=1.3)
    whole(list(read_chunks(asked)), asked)


def test_a_wrong_index_found_halfway_starts_again(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = chunks.decode_at

    def failing(*args: object) -> Iterator[object]:
        for i, frame in enumerate(decode(*args)):
            if i == 20:
                raise IndexMismatch
            yield frame

    monkeypatch.setattr(chunks, "decode_at", failing)
    found = list(read_chunks(job(film)))
    assert found[2] is None
    whole(found, job(film))


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_one_after_the_other_and_again(film: Path, old: Path, tmp_path: Path, workers: int) -> None:
    missing = tmp_path / "none.mp4"
    jobs = [job(film, name="one"), job(missing, name="gone"), job(old, name="two"), job(film, "stride:9", name="three")]
    streams = ChunkReader(Decoders(workers, SOON), jobs)
    try:
        for number in (0, 2, 3, 0):  # out of order and again, as after a failure
            whole(list(streams.chunks(number)), jobs[number])
        with pytest.raises(Undecodable, match="There is no file"):
            list(streams.chunks(1))
        given_up = streams.chunks(0)
        assert next(given_up) is not None
        given_up.close()  # type: ignore[attr-defined]
        whole(list(streams.chunks(0)), jobs[0])
    finally:
        streams.close()


def test_a_decoder_that_hangs_or_dies_fails_only_its_video(film: Path, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck.mp4"
    os.mkfifo(stuck)
    jobs = [job(stuck), job(film), job(film)]
    streams = ChunkReader(Decoders(1, 2.0), jobs)
    try:
        with pytest.raises(Undecodable, match=r"longer than 2 s"):
            list(streams.chunks(0))
        halfway = streams.chunks(1)
        next(halfway)
        os.kill(_running(halfway)._process.pid, signal.SIGKILL)
        with pytest.raises(Undecodable, match="ended by SIGKILL"):
            list(halfway)
        whole(list(streams.chunks(2)), jobs[2])
    finally:
        streams.close()


def _running(halfway: Iterator[Clip | None]) -> Worker:
    found = halfway.gi_frame.f_locals["worker"]
    assert isinstance(found, Worker)
    return found
