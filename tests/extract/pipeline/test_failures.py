from __future__ import annotations

import json
import os
from pathlib import Path

from vfc.cache_schema.values.record import Key
from vfc.extract.pipeline.failures import Failed, FailureList, read_failures, stamp

KEY = Key("video", "hug/a.avi")


def listed(store: Path, worker: str, *failed: Failed) -> FailureList:
    listing = FailureList(store, worker)
    for one in failed:
        listing.append(one)
    listing.close()
    return listing


def test_a_failure_holds_while_the_file_is_as_it_was(tmp_path: Path) -> None:
    video = tmp_path / "a.avi"
    video.write_bytes(b"no video")
    listed(tmp_path, "r0", Failed("video", KEY.name, "cannot be opened", *stamp(video)))

    found = read_failures(tmp_path).of(KEY, video)
    assert found is not None
    assert found.reason == "cannot be opened"
    assert read_failures(tmp_path).of(Key("text", KEY.name), None) is None

    video.write_bytes(b"a longer video")
    assert read_failures(tmp_path).of(KEY, video) is None
    video.write_bytes(b"no video")
    os.utime(video, ns=(1, 1))
    assert read_failures(tmp_path).of(KEY, video) is None


def test_a_missing_file_stays_failed_until_it_appears(tmp_path: Path) -> None:
    video = tmp_path / "a.avi"
    listed(tmp_path, "r0", Failed("video", KEY.name, "no such file", *stamp(video)))
    assert read_failures(tmp_path).of(KEY, video) is not None
    video.write_bytes(b"here now")
    assert read_failures(tmp_path).of(KEY, video) is None


def test_workers_list_apart_and_are_read_together(tmp_path: Path) -> None:
    listed(tmp_path, "r0", Failed("video", "a", "first"))
    listed(tmp_path, "r1", Failed("text", "grüße\nzwei", "second"))
    known = read_failures(tmp_path)
    assert {path.name for path in (tmp_path / "failures").iterdir()} == {"r0.jsonl", "r1.jsonl"}
    assert known.of(Key("video", "a"), None) is not None
    assert known.of(Key("text", "grüße\nzwei"), None) is not None


def test_half_a_line_left_by_a_kill_costs_nothing_else(tmp_path: Path) -> None:
    listing = listed(tmp_path, "r0", Failed("video", "a", "first"), Failed("video", "b", "second"))
    whole = listing.path.read_bytes()
    listing.path.write_bytes(whole[:-7])
    listed(tmp_path, "r0", Failed("video", "c", "third"))
    known = read_failures(tmp_path)
    assert known.of(Key("video", "a"), None) is not None
    assert known.of(Key("video", "b"), None) is None
    assert known.of(Key("video", "c"), None) is not None


def test_a_line_is_json_with_name_reason_size_and_time(tmp_path: Path) -> None:
    listing = listed(tmp_path, "w", Failed("video", "a", "why", 7, 11))
    assert json.loads(listing.path.read_text()) == {
        "kind": "video",
        "name": "a",
        "reason": "why",
        "size": 7,
        "mtime_ns": 11,
        "view": 0,
        "prompt": "",
    }


def test_a_store_without_failures_has_none(tmp_path: Path) -> None:
    assert read_failures(tmp_path).of(KEY, None) is None
    FailureList(tmp_path, "r0").close()
    assert not (tmp_path / "failures").exists()


def test_records_of_one_video_fail_each_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    seen, other = Key("prompted", "a", 3, "unknown"), Key("prompted", "a", 3, "known-support@1")
    listed(tmp_path, "w", Failed.of(seen, "too long", path))
    known = read_failures(tmp_path)
    found = known.of(seen, path)
    assert found is not None
    assert found.key == seen
    assert [known.of(key, path) for key in (other, Key("prompted", "a", 0, "unknown"), Key("video", "a"))] == [None] * 3
