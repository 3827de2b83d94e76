"""The run around a toy backbone: what is kept, skipped, listed, and that the bits never depend on how it was run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.toy import WIDTH, ToyBackbone, toy_family, write_clip, write_clips

from vfc.cache_schema.annotations import load
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import (
    AxisMismatch,
    BadInput,
    MissingPath,
    NotAStore,
    RecipeMismatch,
    RecordRejected,
    Refused,
    UnknownName,
    VfcError,
)
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.extract.backbone import BackboneOptions, Encoded
from vfc.extract.decode import Decoders, read_clip
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline import run as run_module
from vfc.extract.pipeline.device_copy import DeviceToHost, Wait, host
from vfc.extract.pipeline.failures import read_failures
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 8)


@pytest.fixture
def videos(clips: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(clips, tmp_path / "videos"))


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The pool has its own tests, and test_run_faults.py runs it whole; starting it here would cost most of the time.
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))


@pytest.fixture
def run(tmp_path: Path, clips: Path) -> Run:
    def start(make: type[ToyBackbone] = ToyBackbone, said: list[str] | None = None, **settings: Any) -> Summary:
        given = {"videos": clips, "out": tmp_path / "store", "model": "toy", "num_frames": 4, "threads": 1, **settings}
        with toy_family(make):
            return extract(ExtractConfig(**given), Said(said if said is not None else []))

    return start


class Said:
    """Progress that keeps what was said."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        return

    def advance(self, amount: int = 1, note: str = "") -> None:
        return

    def say(self, line: str) -> None:
        self.lines.append(line)


def opened(summary: Summary) -> StoreReader:
    return open_store(Path(summary.out))


def parts(store: Path) -> set[str]:
    return {path.name for path in (store / "parts").iterdir() if path.is_dir()}


# What is kept


def test_records_hold_what_a_plain_loop_gives(run: Run, clips: Path) -> None:
    summary = run()
    assert (summary.done, summary.skipped, summary.failed, summary.exit_code) == (8, 0, (), 0)
    weights = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    with opened(summary) as reader:
        assert len(reader) == 8
        for path in sorted(clips.rglob("*.mp4")):
            key = Key("video", path.relative_to(clips).as_posix())
            clip = read_clip(path, "tsn-centre", 4)
            wanted = torch.tanh(torch.from_numpy(clip.frames).float().mean((1, 2)) @ weights / 100)
            assert np.array_equal(reader.read(key, "frames"), wanted.half().float().numpy())
            metadata = reader.metadata(key)
            assert metadata["indices"] == [1, 3, 6, 8]
            assert (metadata["total_frames"], metadata["width"], metadata["height"]) == (10, 32, 24)
            assert (metadata["fps"], metadata["repeated"], metadata["toy"]) == (10.0, 0, True)
            data = path.read_bytes()
            sha256, mtime_ns = hashlib.sha256(data).hexdigest(), path.stat().st_mtime_ns
            assert metadata["file"] == {"size": len(data), "mtime_ns": mtime_ns, "sha256": sha256}


def test_the_summary_tells_it_all(run: Run) -> None:
    summary = run()
    with opened(summary) as reader:
        assert summary.digest == reader.digest
    document = json.loads(json.dumps(summary.to_json()))
    assert document["done"] == 8
    assert document["exit_code"] == 0
    assert document["bytes"] == 8 * 4 * WIDTH * 2
    assert document["bottleneck"] in ("decode", "pixels", "forward", "write")
    assert sum(document["shares"].values()) == pytest.approx(1)
    text = "\n".join(summary.lines())
    assert "8 records made, 0 were there, 0 failed" in text
    assert f"Bound by {document['bottleneck']}" in text


def test_the_bottleneck_is_what_took_longest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.05")
    assert run().bottleneck == "forward"


def test_the_recipe_says_how_the_numbers_are_made(run: Run) -> None:
    with opened(run(frames="tsn-random", seed=3, stream=0)) as reader:
        fields = reader.recipe.fields
    assert fields["frames"] == {"rule": "tsn-random", "count": 4, "seed": 3, "stream": 0, "short": "repeat last"}
    assert fields["numerics"] == {"mode": "deterministic", "threads": 1}
    assert fields["decoder"]["name"] == "pyav"
    assert fields["backbone"] == "toy"


def test_short_videos_repeat_their_last_frame_and_say_so(run: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "short" / "a.mp4", 1, frames=2)
    with opened(run(videos=tmp_path / "short")) as reader:
        assert reader.metadata(Key("video", "a.mp4"))["repeated"] == 2


# Nothing twice


def test_a_second_run_does_nothing_and_says_so(run: Run, tmp_path: Path) -> None:
    first, before = run(), parts(tmp_path / "store")
    loads = ToyBackbone.loads
    again = run()
    assert (again.done, again.skipped, again.exit_code, again.digest) == (0, 8, 0, first.digest)
    assert ToyBackbone.loads == loads, "a model was loaded for nothing"
    assert parts(tmp_path / "store") == before
    assert again.lines()[0].startswith("Nothing to do: all 8 records are in")


def test_only_what_is_new_is_made(run: Run, videos: Path, tmp_path: Path) -> None:
    run(videos=videos)
    before = parts(tmp_path / "store")
    write_clip(videos / "hug" / "new.mp4", 99)
    said: list[str] = []
    summary = run(videos=videos, said=said)
    assert (summary.done, summary.skipped) == (1, 8)
    assert "8 records are there, 0 failed before, 1 to do." in said
    assert before < parts(tmp_path / "store")


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_make_what_one_makes(run: Run, tmp_path: Path, world: int) -> None:
    alone = run(out=tmp_path / "alone")
    shares = [run(rank=rank, world_size=world) for rank in range(world)]
    assert sum(summary.done for summary in shares) == 8
    assert shares[-1].digest == alone.digest
    finished = [run(rank=rank, world_size=world).done for rank in range(world)]
    assert finished == [0] * world


@pytest.mark.parametrize(
    ("settings", "commits"),
    [
        ({"part_mb": 1e-6}, 8),
        ({"part_seconds": 1e-9}, 8),
        ({"part_mb": inf, "part_seconds": inf}, 1),
        ({"worker": "me"}, 1),
    ],
)
def test_the_digest_does_not_depend_on_how_records_are_committed(
    run: Run, tmp_path: Path, settings: Mapping[str, Any], commits: int
) -> None:
    assert run(out=tmp_path / "a").digest == run(out=tmp_path / "b", **settings).digest
    assert len(parts(tmp_path / "b")) == commits


def test_batches_of_fast_mode_keep_every_record(run: Run, tmp_path: Path) -> None:
    three = run(out=tmp_path / "a", mode="fast", batch=3)
    one = run(out=tmp_path / "b", mode="fast", batch=1)
    assert (three.done, three.mode) == (8, "fast")
    assert three.digest == one.digest, "the toy computes the same in any batch"


# Annotations


def test_labels_come_from_the_folders_and_splits_from_the_list(run: Run, tmp_path: Path) -> None:
    run(classes="hmdb51-arn")
    rows = load(tmp_path / "store").by_label()
    assert {label: len(names) for label, names in rows.items()} == {"hug": 4, "kick": 4}
    assert set(load(tmp_path / "store").splits()) <= {"train", "val", "test"}
    assert load(tmp_path / "store").splits()


def test_annotations_change_only_when_they_change(run: Run, tmp_path: Path, videos: Path) -> None:
    file = tmp_path / "store" / "annotations" / "default.jsonl"
    run(videos=videos)
    inode = file.stat().st_ino
    run(videos=videos)
    assert file.stat().st_ino == inode, "replaced without need"
    run(videos=videos, include=("hug",))
    assert len(load(tmp_path / "store")) == 8, "a filtered run forgot the rows of the others"
    assert file.stat().st_ino == inode


def test_corrected_labels_arrive_though_nothing_is_to_do(run: Run, videos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    names = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))
    listing.write_text("path,label\n" + "".join(f"{name},wrong\n" for name in names))
    run(videos=listing, root=videos)
    listing.write_text("path,label\n" + "".join(f"{name},right\n" for name in names))
    assert run(videos=listing, root=videos).done == 0
    assert load(tmp_path / "store").labels() == ["right"]


# What fails


def test_a_bad_video_is_listed_and_costs_itself(run: Run, videos: Path, tmp_path: Path) -> None:
    bad = videos / "hug" / "bad.mp4"
    bad.write_bytes(b"this is no video")
    summary = run(videos=videos)
    assert (summary.done, summary.exit_code) == (8, 3)
    ((name, reason),) = summary.failed
    assert name == "hug/bad.mp4"
    assert "cannot be opened" in reason
    assert "hug/bad.mp4" in "\n".join(summary.lines())
    assert read_failures(tmp_path / "store").of(Key("video", name), bad) is not None

    loads = ToyBackbone.loads
    again = run(videos=videos)
    assert (again.done, again.skipped, again.exit_code) == (0, 8, 3)
    assert again.failed_before[0][0] == name
    assert "--retry-failed" in "\n".join(again.lines())
    assert ToyBackbone.loads == loads

    assert run(videos=videos, retry_failed=True).failed[0][0] == name
    write_clip(bad, 5)
    mended = run(videos=videos)
    assert (mended.done, mended.exit_code, mended.failed_before) == (1, 0, ())


@pytest.mark.parametrize(
    ("grey", "reason"),
    [(250, "pixels of this clip raise"), (200, "forward of this clip raises"), (150, "--dtype bf16")],
)
@pytest.mark.parametrize("mode", ["deterministic", "fast"])
def test_a_video_that_upsets_the_model_costs_itself(run: Run, videos: Path, grey: int, reason: str, mode: str) -> None:
    write_clip(videos / "hug" / "000a.mp4", 0, grey=grey)
    summary = run(videos=videos, mode=mode)
    assert (summary.done, summary.exit_code) == (8, 3)
    ((name, said),) = summary.failed
    assert name == "hug/000a.mp4"
    assert reason in said


def test_a_folder_of_nothing_but_bad_videos_is_no_success(run: Run, tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{i}.mp4").write_bytes(b"no video")
    summary = run(videos=tmp_path / "bad")
    assert (summary.done, len(summary.failed), summary.exit_code) == (0, 10, 3)


class Buggy(ToyBackbone):
    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        raise AttributeError("no attribute 'layers'")


def test_a_bug_that_fails_every_video_is_raised_and_nobody_is_blamed(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="no attribute 'layers'"):
        run(Buggy)
    assert not list((tmp_path / "store").glob("failures/*"))
    assert run().done == 8


def test_values_that_never_fit_the_dtype_are_an_error_with_a_remedy(run: Run, tmp_path: Path) -> None:
    for i in range(3):
        write_clip(tmp_path / "large" / f"{i}.mp4", i, grey=150)
    with pytest.raises(RecordRejected, match="--dtype bf16") as caught:
        run(videos=tmp_path / "large")
    assert caught.value.exit_code == 2
    assert run(videos=tmp_path / "large", dtype="bf16", out=tmp_path / "b").done == 3


class Tired(ToyBackbone):
    """Fails for good at its fourth video, with the error that a test sets."""

    error: Exception = MemoryError("no more")
    calls = 0

    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        type(self).calls += 1
        if type(self).calls > 3:
            raise self.error
        return super().encode_videos(batch)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError("no more"), Refused, "Out of memory at the video record of .*--batch"),
        (torch.OutOfMemoryError("CUDA out of memory."), Refused, "Out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Refused, "Out of memory"),
        (torch.AcceleratorError("device-side assert"), torch.AcceleratorError, "device-side assert"),
    ],
)
def test_what_no_video_can_survive_ends_the_run_and_keeps_what_was_made(
    run: Run, error: Exception, raised: type[Exception], message: str, tmp_path: Path
) -> None:
    Tired.error, Tired.calls = error, 0
    with pytest.raises(raised, match=f"(?s){message}"):
        run(Tired)
    with open_store(tmp_path / "store") as reader:
        assert len(reader) == 3
    assert not list((tmp_path / "store").glob("failures/*")), "an innocent video was listed"
    assert run().done == 5


class Narrow(ToyBackbone):
    """Holds two videos at once."""

    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().encode_videos(batch)


def test_a_run_goes_on_with_smaller_batches_where_memory_runs_out(run: Run, tmp_path: Path) -> None:
    said: list[str] = []
    summary = run(Narrow, said, mode="fast", batch=8)
    assert (summary.done, summary.failed, summary.exit_code) == (8, (), 0)
    assert [line for line in said if "Out of memory" in line] == [
        "Out of memory with 8 videos at once: the batch halves, to 4 now, and again where that is too much. "
        "--batch 4 begins there."
    ]
    assert summary.digest == run(out=tmp_path / "singly", mode="fast", batch=1).digest


class TooLarge(ToyBackbone):
    """A model that memory cannot hold."""

    def load(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n(a table)")


def test_a_model_that_memory_cannot_hold_is_refused_with_what_helps(run: Run) -> None:
    with pytest.raises(Refused, match=r"Out of memory while the model is loaded to cpu: .*Tried to allocate") as caught:
        run(TooLarge)
    assert caught.value.exit_code == 6
    assert "--compute-dtype bf16" in caught.value.remedy
    assert "--layer" in caught.value.remedy


def test_a_refresh_whose_model_cannot_be_loaded_costs_no_record(run: Run, videos: Path) -> None:
    before = run(videos=videos)
    write_clip(next(iter(sorted(videos.rglob("*.mp4")))), 77)
    with pytest.raises(Refused):
        run(TooLarge, videos=videos, refresh=True)
    with opened(before) as reader:
        assert (len(reader), reader.digest) == (8, before.digest)
    again = run(videos=videos, refresh=True)
    assert (again.done, again.refreshed) == (1, 1)
    assert again.digest != before.digest


# A device whose results arrive later


class Late(DeviceToHost):
    """Runs on the CPU as if it were a GPU: arrays are empty until somebody waits for them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.asynchronous = True

    def run(self, encode: Any, batch: Any) -> tuple[list[Encoded], Wait]:
        complete, _ = super().run(encode, batch)
        empty = [
            {name: torch.full_like(array, torch.nan) for name, array in output.video.items()} for output in complete
        ]

        def arrive() -> None:
            for arrays, output in zip(empty, complete, strict=True):
                for name, array in output.video.items():
                    host(arrays[name])[...] = host(array)

        return [Encoded(arrays, ()) for arrays in empty], arrive


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_still_on_its_way_is_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    at_once = run(out=tmp_path / "at once", mode="fast", batch=batch)
    monkeypatch.setattr(run_module, "DeviceToHost", Late)
    monkeypatch.setattr(prefetch_module, "pinned", dict)
    assert run(mode="fast", batch=batch).digest == at_once.digest


def test_an_interrupt_waits_for_the_batch_on_its_way(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "DeviceToHost", Late)
    monkeypatch.setattr(prefetch_module, "pinned", dict)
    Struck.signum, Struck.calls = signal.SIGINT, 0
    summary = run(Struck)
    assert (summary.done, summary.left, summary.exit_code) == (3, 5, 130)
    assert run().digest == run(out=tmp_path / "whole").digest


# Interrupts


class Struck(ToyBackbone):
    """The process is asked to stop while the third video is at hand."""

    signum = signal.SIGINT
    calls = 0

    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        type(self).calls += 1
        if type(self).calls == 3:
            os.kill(os.getpid(), self.signum)
        return super().encode_videos(batch)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_finishes_the_record_commits_and_says_what_is_left(
    run: Run, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    Struck.signum, Struck.calls = signum, 0
    summary = run(Struck)
    assert (summary.done, summary.left, summary.exit_code) == (3, 5, code)
    assert "Interrupted with 5 records left" in "\n".join(summary.lines())
    with opened(summary) as reader:
        assert len(reader) == 3
    assert run().digest == run(out=tmp_path / "whole").digest


# Texts


def test_class_names_become_text_records(run: Run, tmp_path: Path) -> None:
    summary = run(texts="classes", template=("a photo of {label}", "{label}!"))
    assert summary.done == 8 + 4
    with opened(summary) as reader:
        assert [key.name for key in reader.keys("text")] == ["a photo of hug", "a photo of kick", "hug!", "kick!"]
        metadata = reader.metadata(Key("text", "a photo of kick"))
        assert metadata["label"] == "kick"
        assert reader.axes("template")[str(metadata["template"])] == "a photo of {label}"
        assert reader.read(Key("text", "hug!"), "embedding").shape == (WIDTH,)


def test_texts_can_be_added_later(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "texts.txt").write_text("a man waves\nsomeone falls\n")
    summary = run(texts=str(tmp_path / "texts.txt"))
    assert (summary.done, summary.skipped) == (2, 8)
    again = run(texts=str(tmp_path / "texts.txt"))
    assert (again.done, again.skipped) == (0, 10)


class OtherTexts(ToyBackbone):
    def specs(self) -> Mapping[str, Any]:
        return {**super().specs(), "text": (ArraySpec("layer1.text", "fp16", (None, WIDTH)),)}


def test_other_arrays_never_pass_for_those_that_are_there(run: Run) -> None:
    run(texts="classes")
    message = r"text records in .* have the arrays embedding \[64\] fp16; asked: layer1.text \[None, 64\] fp16"
    with pytest.raises(AxisMismatch, match=message) as caught:
        run(OtherTexts, texts="classes")
    refused(caught.value)
    assert caught.value.exit_code == 5


class Mute(ToyBackbone):
    def specs(self) -> Mapping[str, Any]:
        return {"video": super().specs()["video"]}


def test_a_model_without_a_text_tower_refuses_texts(run: Run) -> None:
    with pytest.raises(BadInput, match=r"--texts is given, but --model toy has no text tower"):
        run(Mute, texts="classes")


# Bad input


def refused(error: VfcError) -> None:
    lines = str(error).split("\n")
    assert len(lines) == 2
    assert all(lines)


def test_another_recipe_is_another_store(run: Run) -> None:
    first = run()
    with pytest.raises(RecipeMismatch, match=r"frames\.rule: \"tsn-centre\" there, \"linspace\" asked") as caught:
        run(frames="linspace")
    refused(caught.value)
    assert caught.value.exit_code == 5
    assert run().digest == first.digest


def test_a_folder_with_something_else_in_it_is_no_store(run: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(NotAStore) as caught:
        run()
    refused(caught.value)
    assert caught.value.exit_code == 2
    assert (tmp_path / "store" / "holiday.jpg").read_bytes() == b"dear"


def test_a_store_of_a_newer_format_is_left_alone(run: Run, tmp_path: Path) -> None:
    run()
    path = tmp_path / "store" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["vfc"]["format"] = 99
    path.write_text(json.dumps(document))
    with pytest.raises(NotAStore, match=r"format 99.*\nUpgrade vfc") as caught:
        run()
    refused(caught.value)


def test_missing_and_empty_folders(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingPath) as missing:
        run(videos=tmp_path / "nowhere")
    refused(missing.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as empty:
        run(videos=tmp_path / "empty")
    refused(empty.value)
    assert (missing.value.exit_code, empty.value.exit_code) == (2, 2)
    assert not (tmp_path / "store").exists()


def test_unknown_models_and_rules_get_a_suggestion(clips: Path, run: Run) -> None:
    with pytest.raises(UnknownName, match=r"no model 'imgae'. Did you mean 'image'"):
        extract(ExtractConfig(videos=clips, model="imgae"))
    with pytest.raises(UnknownName, match=r"no frame rule 'tsn-center'. Did you mean 'tsn-centre'"):
        run(frames="tsn-center")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, r"--num-frames is 0.\n--num-frames takes 1 or more"),
        ({"part_seconds": 0.0}, r"--part-seconds is 0.0.\n--part-seconds takes more than 0"),
        ({"seed": -1}, r"--seed is -1.\n--seed takes 0 or more"),
        ({"stream": -1}, r"--stream is -1.\n--stream takes 0 or more"),
        ({"batch": 4, "mode": "deterministic"}, r"--batch 4 contradicts --mode deterministic"),
        ({"batch": 4}, r"--batch 4 contradicts deterministic mode \(the default on a CPU\)"),
        ({"template": ("{label}",)}, r"--template is given without --texts"),
        ({"device": "tpu"}, r"--device tpu is not known.\nGive cpu, cuda"),
        ({"rank": 2}, r"--rank 2 is given alone"),
        ({"worker": "a/b"}, r"cannot be called 'a/b'"),
    ],
)
def test_settings_that_cannot_be(run: Run, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        run(**settings)
    refused(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_not_replaced_by_a_cpu(run: Run) -> None:
    with pytest.raises(BadInput, match=r"--device cuda:1 asks for a GPU, but torch sees none here"):
        run(device="cuda:1")


# What all commands share


def test_torch_is_left_as_it_was(run: Run) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    seen: list[tuple[int, bool]] = []

    class Looking(ToyBackbone):
        def __init__(self, options: BackboneOptions) -> None:
            super().__init__(options)

        def load(self) -> None:
            seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            super().load()

    run(Looking, threads=3)
    assert seen == [(3, True)]
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    assert after == before


def test_circumstances_are_kept_beside_the_parts(run: Run, tmp_path: Path) -> None:
    run()
    (part,) = parts(tmp_path / "store")
    attributes = json.loads((tmp_path / "store" / "parts" / part / "zarr.json").read_text())["attributes"]
    assert '"torch_threads": 1' in json.dumps(attributes)
    assert '"device": "cpu"' in json.dumps(attributes)
