"""Decoding against decoding everything in sequence, against published frames and time stamps, and on broken files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.film import encode, every_frame, pictures, some_frames

from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName
from vfc.extract.decode import Clip, Job, orientation, read, read_chunks, read_clip
from vfc.extract.decode.packets import packet_index
from vfc.extract.decode.sampling import frame_indices


def assert_equals_sequence(clip: Clip, path: Path, rule: str, n: int, stream: int | None = None) -> None:
    frames, _ = every_frame(path, stream)
    assert clip.total_frames == len(frames)
    assert clip.indices.tolist() == frame_indices(rule, n, len(frames), clip.fps, seconds=None).tolist()
    for frame, index in zip(clip.frames, clip.indices.tolist(), strict=True):
        assert np.array_equal(frame, frames[index])


def is_indexed(path: Path) -> bool:
    with read.opened(Job("", path, "all", 0)) as (container, video):
        return packet_index(container, video) is not None


# --- published answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("video", "answers", "stream"),
    [
        ("nasa_13013.mp4", "nasa_13013.mp4.stream3.all_frames_info.json", None),
        ("nasa_13013.mp4", "nasa_13013.mp4.stream3.all_frames_info.json", 3),
        ("nasa_13013_rotated.mp4", "nasa_13013_rotated.mp4.stream0.all_frames_info.json", None),
        ("test_non_zero_start.mp4", "test_non_zero_start.mp4.stream0.all_frames_info.json", 0),
    ],
)
def test_time_stamps_equal_the_published_ones(shared_data: Path, video: str, answers: str, stream: int | None) -> None:
    folder = shared_data / "clips/decoder_reference"
    published = [float(row["pts_time"]) for row in json.loads((folder / answers).read_text())]
    job = Job("", folder / video, "all", 0, stream)
    with read.opened(job) as (container, opened):
        index = packet_index(container, opened)
        assert index is not None
        selection = read.select(job, opened, index.pts)
    assert np.abs(selection.seconds - published).max() <= 5.1e-7  # they are printed with six decimals
    clip = read_clip(folder / video, "stride:16", 0, stream=stream)
    assert clip.total_frames == len(published)
    assert np.abs(clip.seconds - published[::16]).max() <= 5.1e-7


@pytest.mark.parametrize(("rule", "n"), [("stride:35", 0), ("linspace", 2), ("stride:389", 0)])
def test_frames_equal_the_published_pixels(shared_data: Path, rule: str, n: int) -> None:
    folder = shared_data / "clips/decoder_reference"
    clip = read_clip(folder / "nasa_13013.mp4", rule, n, stream=3)
    compared = 0
    for index, frame in zip(clip.indices.tolist(), clip.frames, strict=True):
        file = folder / f"nasa_13013.mp4.stream3.frame{index:06d}.pt"
        if file.exists():
            published = torch.load(file, weights_only=True)
            assert np.array_equal(frame, published.numpy())
            compared += 1
    assert compared == 2


def test_real_videos_equal_decoding_everything(shared_data: Path) -> None:
    """One video in eight and every special one; the counts are those of the manifest, made by another program."""
    with (shared_data / "MANIFEST.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["decoded_frames"]]
    common = ("surv_fight", "ut_interaction_set1")
    chosen = [row for i, row in enumerate(rows) if i % 8 == 0 or not any(part in row["path"] for part in common)]
    assert len(chosen) > 30
    for row in chosen:
        path = shared_data / row["path"]
        stream = 0 if path.name == "nasa_13013.mp4" else None  # the manifest counted its first stream
        clip = read_clip(path, "tsn-centre", 8, stream=stream)
        assert clip.total_frames == int(row["decoded_frames"]), row["path"]
        turns = int(row["rotation"] or 0) // 90
        wanted = frame_indices("tsn-centre", 8, clip.total_frames, 1.0).tolist()
        for i, frame in enumerate(some_frames(path, wanted, stream)):
            assert np.array_equal(clip.frames[i], np.rot90(frame, turns)), row["path"]
        assert "damage" not in clip.metadata(), row["path"]


def test_a_frame_count_that_the_header_gets_wrong(shared_data: Path) -> None:
    path = shared_data / "clips/ut_interaction_set1/handshake/17_3_0.avi"
    clip = read_clip(path, "all", 0)
    assert (clip.total_frames, clip.metadata()["header_frames"]) == (121, 123)
    # Packed B-frames: the file's own times run backwards, ours do not.
    assert clip.metadata()["seconds_from"] == "frame rate"
    assert np.allclose(np.diff(clip.seconds), 1 / 30)


def test_rotation_is_applied_as_players_do(shared_data: Path) -> None:
    clip = read_clip(shared_data / "clips/decoder_reference/video_90.mov", "linspace", 2)
    assert clip.frames.shape == (2, 568, 320, 3)
    assert clip.metadata()["rotation"] == 270
    stored, _ = every_frame(shared_data / "clips/decoder_reference/video_90.mov")
    assert np.array_equal(clip.frames[1, 0], stored[2][::-1, 0])  # its top row is the left column, bottom first
    turned = read_clip(shared_data / "clips/decoder_reference/nasa_13013_rotated.mp4", "linspace", 2)
    assert turned.frames.shape == (2, 480, 270, 3)
    assert turned.metadata()["rotation"] == 90


# --- codecs and containers -------------------------------------------------------------------------------------------

ENCODINGS: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "plain.mp4": ("libx264", "yuv420p", {"g": "20"}, True),
    "one-group.mp4": ("libx264", "yuv420p", {"g": "250"}, True),
    "all-intra.mp4": ("libx264", "yuv420p", {"g": "1"}, True),
    "pyramid.mkv": ("libx264", "yuv420p", {"x264_params": "bframes=8:b-pyramid=normal:ref=6:keyint=25"}, True),
    "open-groups.mp4": ("libx264", "yuv420p", {"x264_params": "open-gop=1:keyint=15:bframes=3"}, True),
    "open-groups.ts": ("libx264", "yuv420p", {"x264_params": "open-gop=1:keyint=15:bframes=3"}, True),
    "refresh.mkv": ("libx264", "yuv420p", {"x264_params": "intra-refresh=1:keyint=15"}, True),
    "interlaced.mp4": ("libx264", "yuv420p", {"x264_params": "tff=1:keyint=20"}, True),
    "high.mp4": ("libx264", "yuv444p", {"g": "20"}, True),
    "flash.flv": ("libx264", "yuv420p", {"g": "20"}, True),
    "hevc.mkv": ("libx265", "yuv420p", {"x265_params": "keyint=20:log-level=none"}, True),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "20", "cpu_used": "8", "lag_in_frames": "25"}, True),
    "av1.mp4": ("libsvtav1", "yuv420p", {"g": "20", "preset": "12"}, True),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "20", "auto_alt_ref": "1", "lag_in_frames": "16"}, False),
    "b-frames.avi": ("libx264", "yuv420p", {"g": "20", "bf": "2"}, False),
    "asp.mp4": ("mpeg4", "yuv420p", {"bf": "2", "g": "20"}, False),
    "stream.mpg": ("mpeg2video", "yuv420p", {"bf": "2", "g": "12"}, False),
    "motion.avi": ("mjpeg", "yuvj420p", {}, False),
    "picture.gif": ("gif", "rgb8", {}, False),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_codec_equals_decoding_everything(name: str, tmp_path: Path) -> None:
    codec, pixels, options, indexed = ENCODINGS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    path = encode(tmp_path / name, codec, pixels=pixels, **options)
    assert is_indexed(path) == indexed
    for rule, n in (("tsn-centre", 8), ("linspace", 3), ("all", 0), ("stride:59", 0)):
        assert_equals_sequence(read_clip(path, rule, n), path, rule, n)


@pytest.mark.parametrize("name", ["plain.mp4", "pyramid.mkv", "open-groups.ts", "hevc.mkv", "vp9.webm", "av1.mp4"])
def test_the_index_alone_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way is taken and not silently replaced by the slow one."""
    codec, pixels, options, _ = ENCODINGS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    path = encode(tmp_path / name, codec, pixels=pixels, **options)
    monkeypatch.setattr(read, "_read_everything", lambda job: pytest.fail("decoded everything"))
    assert_equals_sequence(read_clip(path, "linspace", 4), path, "linspace", 4)


INTERLEAVED = {
    "closed.mp4": ("libx264", {"x264_params": "bframes=5:b-pyramid=normal:ref=5:keyint=18"}),
    "open.ts": ("libx264", {"x264_params": "bframes=5:b-pyramid=strict:ref=3:keyint=12:open-gop=1"}),
    "open.mkv": ("libx265", {"x265_params": "bframes=4:keyint=18:open-gop=1:log-level=none"}),
    "layers.mp4": ("libx265", {"x265_params": "bframes=4:keyint=18:open-gop=0:temporal-layers=3:log-level=none"}),
    "hidden.webm": ("libvpx-vp9", {"g": "18", "cpu_used": "8", "lag_in_frames": "25", "auto_alt_ref": "2"}),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_any_set_of_frames_by_index(name: str, tmp_path: Path) -> None:
    codec, options = INTERLEAVED[name]
    path = encode(tmp_path / name, codec, **options)
    frames, _ = every_frame(path)
    with read.opened(Job("", path, "all", 0)) as (container, video):
        found = packet_index(container, video)
        assert found is not None
        assert found.open_groups == name.startswith("open")

    @settings(max_examples=25, deadline=None)
    @given(wanted=st.sets(st.integers(0, 59), min_size=1, max_size=12), threads=st.sampled_from([0, 1, 2]))
    def same(wanted: set[int], threads: int) -> None:
        with read.opened(Job("", path, "all", 0)) as (container, video):
            index = packet_index(container, video)
            assert index is not None
            times = [index.pts[i] for i in sorted(wanted)]
            got = [f.to_ndarray(format="rgb24") for f in read.decode_at(container, video, index, times, threads)]
        assert len(got) == len(wanted)
        assert all(np.array_equal(a, frames[i]) for a, i in zip(got, sorted(wanted), strict=True))

    same()


def test_counting_without_an_index_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", "mpeg4", bf="2")
    monkeypatch.setattr(read, "BUFFER_BYTES", 100_000)
    assert_equals_sequence(read_clip(path, "tsn-centre", 8), path, "tsn-centre", 8)


def test_frames_that_an_edit_list_cuts_away(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", g="30")
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # version and flags, count; then duration, media time
    start = int.from_bytes(data[entry + 4 : entry + 8], "big")
    data[entry + 4 : entry + 8] = (start + 10 * 512).to_bytes(4, "big")  # ten frames of 512/12800 s
    path.write_bytes(data)
    clip = read_clip(path, "tsn-centre", 8)
    assert clip.total_frames == 50
    assert_equals_sequence(clip, path, "tsn-centre", 8)
    assert is_indexed(path)


def test_a_stream_whose_time_stamps_go_back(tmp_path: Path) -> None:
    once = encode(tmp_path / "once.ts", count=30, g="15").read_bytes()
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once + once)
    clip = read_clip(twice, "linspace", 8)
    assert clip.total_frames == 60
    assert_equals_sequence(clip, twice, "linspace", 8)
    assert (np.diff(clip.seconds) > 0).all()


def test_a_stream_cut_in_the_middle_of_a_group(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.ts", x264_params="open-gop=1:keyint=20:bframes=3").read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole[188 * 40 :])
    clip = read_clip(cut, "tsn-centre", 8)
    assert clip.total_frames < 60
    assert_equals_sequence(clip, cut, "tsn-centre", 8)


def test_a_varying_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 500, 540, 1000, 1040, 1080, 1120, 3000]
    path = encode(tmp_path / "a.mkv", count=10, times=times)
    clip = read_clip(path, "all", 0)
    assert np.abs(clip.seconds * 1000 - times).max() < 1.01
    by_second = read_clip(path, "fps:1", 0)
    assert by_second.indices.tolist() == [0, 5, 8, 9]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(
    ("rule", "start", "end", "expected"),
    [
        ("all", 0.05, 1.05, [2, 3, 4, 5, 6]),
        ("all", 0.5, 1.0, [3, 4]),  # the end does not belong to the segment
        ("all", 1.2, 2.9, [8]),  # no frame begins in it: the one on display
        ("all", 2.0, None, [9]),
        ("stride:2", 0.08, 1.1, [2, 4, 6]),
        ("fps:2", 0.5, None, [3, 5, 8, 8, 8, 9]),  # 0.5, 1.0, 1.5, 2.0, 2.5, 3.0 s
        ("fps:10", 0.48, 1.06, [3, 4, 4, 4, 4, 5]),  # 0.5, 0.6 ... 1.0 s, from its first frame on
        ("tsn-centre", 0.5, 1.13, [4, 6, 8]),  # the middles of three pairs of frames, rounded up
    ],
)
def test_segments_of_a_varying_frame_rate(
    tmp_path: Path, suffix: str, rule: str, start: float, end: float | None, expected: list[int]
) -> None:
    """Worked by hand from the times of the frames, with and without an index, as one clip and in chunks."""
    times = [0, 40, 80, 500, 540, 1000, 1040, 1080, 1120, 3000]
    path = encode(tmp_path / f"a.{suffix}", count=10, times=times)
    clip = read_clip(path, rule, 3, start_seconds=start, end_seconds=end)
    assert clip.indices.tolist() == expected
    assert np.abs(clip.seconds * 1000 - np.array(times)[expected]).max() < 1.01
    for image, reference in zip(clip.frames, some_frames(path, expected), strict=True):
        assert np.array_equal(image, reference)
    assert read._read_everything(Job("", path, rule, 3, None, 0, start, end)).indices.tolist() == expected
    chunks = read_chunks(Job("", path, rule, 3, None, 0, start, end, chunk=2))
    assert [int(i) for chunk in chunks if chunk is not None for i in chunk.indices] == expected


def test_the_best_stream_and_the_one_asked_for(shared_data: Path) -> None:
    path = shared_data / "clips/decoder_reference/nasa_13013.mp4"
    assert read_clip(path, "linspace", 1).metadata()["stream"] == 3
    first = read_clip(path, "linspace", 1, stream=0)
    assert (first.metadata()["stream"], first.frames.shape[1:3]) == (0, (180, 320))
    with pytest.raises(BadInput, match=r"(?s)holds no video stream 1\..*video streams: 0, 3"):
        read_clip(path, "linspace", 1, stream=1)


# --- parts, short videos, metadata -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / "a.mp4", count=50, g="12")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.4, 0.8, list(range(10, 20))),  # 25 frames per second; the end does not belong to the part
        (None, 0.2, list(range(5))),
        (1.8, None, list(range(45, 50))),
        (1.8, 99.0, list(range(45, 50))),
        (0.41, 0.43, [10]),  # between two frames: the one on display
        (0.4, 0.4001, [10]),
        (0, None, list(range(50))),
    ],
)
def test_a_part_of_a_video(second_long: Path, start: float | None, end: float | None, expected: list[int]) -> None:
    clip = read_clip(second_long, "all", 0, start_seconds=start, end_seconds=end)
    assert clip.indices.tolist() == expected
    assert clip.total_frames == 50
    assert clip.metadata()["window"] == [start, end]
    assert np.allclose(clip.seconds, np.array(expected) / 25)


def test_a_part_counts_from_the_first_frame(shared_data: Path) -> None:
    path = shared_data / "clips/decoder_reference/test_non_zero_start.mp4"
    clip = read_clip(path, "all", 0, start_seconds=0.1, end_seconds=0.2)
    assert clip.indices.tolist() == [3, 4, 5]
    assert clip.seconds[0] == pytest.approx(8.433008, abs=1e-6)


def test_a_part_behind_the_end(second_long: Path) -> None:
    with pytest.raises(BadInput, match=r"(?s)from 7 s on lies behind the end .*\(2\.00 s\).*Correct start_seconds"):
        read_clip(second_long, "all", 0, start_seconds=7)


def test_a_short_video_repeats_its_last_frame_and_says_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", count=3)
    clip = read_clip(path, "tsn-centre", 8)
    assert clip.indices.tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert clip.metadata()["repeated"] == 5
    assert np.array_equal(clip.frames[2], clip.frames[7])
    assert read_clip(path, "all", 8).metadata()["repeated"] == 0


def test_metadata_is_json(second_long: Path) -> None:
    metadata = read_clip(second_long, "linspace", 2).metadata()
    assert json.loads(json.dumps(metadata)) == {
        "indices": [0, 49], "seconds": [0.0, 1.96], "fps": 25.0, "total_frames": 50, "height": 64, "width": 96,
        "stream": 0, "codec": "h264", "rotation": 0, "repeated": 0,
    }  # fmt: skip


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix",
    [(s * a, s * b, t * b, t * a) for a, b in ((1, 0), (0, 1)) for s in (1, -1) for t in (1, -1)],
)
def test_orientation_moves_each_pixel_where_the_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    image = np.arange(2 * 3 * 1).reshape(2, 3, 1)
    moved = {(a * x + c * y, b * x + d * y): image[y, x, 0] for y in range(2) for x in range(3)}
    left, top = min(x for x, _ in moved), min(y for _, y in moved)
    wide, high = max(x for x, _ in moved) - left + 1, max(y for _, y in moved) - top + 1
    expected = [[moved[x + left, y + top] for x in range(wide)] for y in range(high)]
    stored = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14], dtype=np.int32) << np.int32(16)
    frame: Any = SimpleNamespace(side_data={"DISPLAYMATRIX": stored.tobytes()})
    turned = orientation.orientation(frame)
    assert turned.apply(image)[:, :, 0].tolist() == expected
    assert turned.notes().get("mirrored", False) == (a * d - b * c < 0)


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_read_and_the_damage_recorded(part: float, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", container={"movflags": "faststart"}, g="20")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    clip = read_clip(path, "tsn-centre", 8)
    assert 0 < clip.total_frames < 60
    assert clip.metadata()["header_frames"] == 60
    assert "could not be read or decoded" in str(clip.metadata()["damage"])
    whole = list(pictures(60, 96, 64))
    assert np.abs(clip.frames[0].astype(int) - whole[clip.indices[0]]).mean() < 25  # the right picture, coded


@pytest.mark.parametrize("seed", range(4))
def test_corrupted_bytes_give_frames_or_a_reason_and_the_same_twice(seed: int, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", container={"movflags": "faststart"}, g="20")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data) // 4, len(data), 30):
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    first, again = read_clip(path, "tsn-centre", 8), read_clip(path, "tsn-centre", 8)
    assert np.array_equal(first.frames, again.frames)
    assert first.metadata() == again.metadata()
    assert "damage" in first.metadata()


def test_files_that_are_no_videos(tmp_path: Path, shared_data: Path) -> None:
    empty, text, moved = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "headless.mp4"
    empty.touch()
    text.write_text("no video\n" * 100)
    moved.write_bytes(encode(tmp_path / "a.mp4").read_bytes()[:4000])
    with pytest.raises(MissingPath, match=r"(?s)no file .*nowhere\.mp4.*Check the path"):
        read_clip(tmp_path / "nowhere.mp4", "all", 0)
    with pytest.raises(BadInput, match="is a folder, not a video"):
        read_clip(tmp_path, "all", 0)
    with pytest.raises(BadInput, match=r"(?s)empty\.mp4 cannot be opened as a video: the file is empty.*plays"):
        read_clip(empty, "all", 0)
    with pytest.raises(BadInput, match=r"headless\.mp4 cannot be opened as a video: .*moov atom not found"):
        read_clip(moved, "all", 0)
    with pytest.raises(BadInput, match=r"text\.mp4 cannot be opened as a video: Invalid data"):
        read_clip(text, "all", 0)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(BadInput, match=r"(?s)sound\.mp4 holds no video stream\..*video streams: none"):
        read_clip(sound, "all", 0)


def test_no_frame_at_all(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", container={"movflags": "faststart"}, count=5)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"No frame of .*a\.mp4 can be decoded"):
        read_clip(path, "all", 0)


def test_a_picture_that_changes_its_size(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.ts", count=20, g="10").read_bytes()
    large = encode(tmp_path / "large.ts", count=20, g="10", size=(128, 96)).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(small + large)
    with pytest.raises(BadInput, match=r"(?s)both\.ts changes its size from 96x64 to 128x96.*Re-encode"):
        read_clip(path, "linspace", 4)


def test_an_unknown_rule_is_refused_before_the_file_is_touched() -> None:
    with pytest.raises(UnknownName, match="no frame rule 'middle'"):
        read_clip("nowhere.mp4", "middle", 8)


def test_metadata_that_is_not_utf8_is_ignored(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", container={"metadata": ""})
    data = path.read_bytes().replace(b"Lavf", b"\xff\xfe\xfa\xfb")
    path.write_bytes(data)
    assert read_clip(path, "linspace", 2).total_frames == 60


def test_a_path_with_blanks_commas_and_non_latin_letters(tmp_path: Path) -> None:
    path = tmp_path / "twisting (wringing), wet — 日本" / "ü%d ö.mp4"
    path.parent.mkdir()
    shutil.copy(encode(tmp_path / "a.mp4", count=5), path)
    assert read_clip(path, "all", 0).total_frames == 5
