"""A tiny Video-LLaVA over real clips: prompts as an axis of a store, made together, added later, resumed, refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.language import qwen2_checkpoint, video_llava_checkpoint

from vfc.cache_schema.protocol import Episode, EpisodeList, EpisodeSpec, fill_prompt, prompt_id
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.upkeep import inspect
from vfc.cache_schema.values.errors import (
    AxisMismatch,
    BadInput,
    Damaged,
    MissingPath,
    RecordRejected,
    UnknownName,
    VfcError,
)
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders, read_clip
from vfc.extract.language.model import LanguageBackbone
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract
from vfc.extract.prompting.prompts import TEMPLATES

NAMES = ("hug/2_1_1.avi", "hug/10_2_1.avi", "kick/1_1_2.avi", "push/16_3_5.avi")
THREE = ("unknown", "unknown-temporal", "known-support")
Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_llava_checkpoint(tmp_path_factory.mktemp("weights") / "tiny-video-llava")


@pytest.fixture(scope="module")
def root(shared_data: Path) -> Path:
    return shared_data / "clips" / "ut_interaction_set1"


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("list") / "few.csv"
    path.write_text("path\n" + "".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture
def settings(checkpoint: Path, root: Path, listing: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "videos": listing,
        "root": root,
        "out": tmp_path / "store",
        "model": "video-llava",
        "checkpoint": str(checkpoint),
        "layer": ("2", "3"),
        "num_frames": 4,
        "threads": 1,
    }


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    return lambda **more: extract(ExtractConfig(**{**settings, **more}))


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))


def files(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of the parts: what was rewritten shows."""
    found = {}
    for path in sorted((store / "parts").rglob("*")):
        if path.is_file():
            status = path.stat()
            found[path.relative_to(store).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def contents(store: Path) -> dict[Key, dict[str, bytes]]:
    with open_store(store, verify="always") as reader:
        keys = reader.keys()
        return {
            key: {spec.name: np.array(reader.view(key, spec.name)).tobytes() for spec in reader.kinds[key.kind]}
            for key in keys
        }


def support(label: str) -> str:
    return prompt_id("known-support", fill_prompt(TEMPLATES["known-support"], {"label": label}))


# What is kept


def test_two_layers_and_three_prompts_at_once(run: Run, tmp_path: Path) -> None:
    summary = run(prompt=THREE)
    assert (summary.done, summary.failed, summary.exit_code) == (4 * (1 + 3), (), 0)
    found = inspect(tmp_path / "store", Silent())
    kinds = {kind.kind: kind for kind in found.kinds}
    assert {name: kind.records for name, kind in kinds.items()} == {"video": 4, "prompted": 12}
    assert {spec.name for spec in kinds["video"].arrays} == {"layer2.visual", "layer3.visual"}
    assert {spec.name for spec in kinds["prompted"].arrays} == {
        "layer2.text",
        "layer3.text",
        "text.ids",
        "text.positions",
    }
    with open_store(tmp_path / "store") as reader:
        prompts = {key.prompt for key in reader.keys("prompted")}
        assert prompts == {"unknown", "unknown-temporal", *map(support, ("hug", "kick", "push"))}
        assert reader.axes("prompt") == {name: {"template": TEMPLATES[name]} for name in THREE}
        metadata = reader.metadata(Key("prompted", NAMES[0], 0, support("hug")))
        assert metadata["prompt"] == "Please describe if the 'hug' action is present in the video in one sentence."
        assert metadata["template"] == "known-support"
        assert metadata["visual_tokens"] == 4 * 5
        assert reader.metadata(Key("video", NAMES[0]))["indices"] == metadata["indices"]
        assert len(reader.join("video", "prompted")) == 12


def test_the_numbers_are_those_of_the_backbone_alone(run: Run, checkpoint: Path, root: Path, tmp_path: Path) -> None:
    run(prompt=THREE)
    options = BackboneOptions(str(checkpoint), layers=("2", "3"), num_frames=4, prompts=True)
    backbone: Any = open_backbone("video-llava", options)
    backbone.load()
    clip = read_clip(root / NAMES[2], "tsn-centre", 4)
    asked = [backbone.prompt(TEMPLATES["unknown-temporal"]).tensors]
    (wanted,) = backbone.encode_prompted([backbone.pixels(clip).tensors], [asked])
    with open_store(tmp_path / "store") as reader:
        for name, tensor in wanted.video.items():
            assert np.array_equal(reader.read(Key("video", NAMES[2]), name), tensor.float().numpy())
        key = Key("prompted", NAMES[2], 0, "unknown-temporal")
        for name, tensor in wanted.prompted[0].items():
            got = reader.read(key, name)
            assert np.array_equal(got, (tensor.float() if tensor.is_floating_point() else tensor).numpy())


def test_the_open_question_is_asked_by_default_and_none_without_text(run: Run, tmp_path: Path) -> None:
    assert run().done == 8
    with open_store(tmp_path / "store") as reader:
        assert {key.prompt for key in reader.keys("prompted")} == {"unknown"}
    assert run(out=tmp_path / "seen", keep=("visual",)).done == 4
    assert run(out=tmp_path / "seen").done == 4, "text may be added later"
    assert run(out=tmp_path / "told", keep=("text",)).done == 4
    with open_store(tmp_path / "told") as reader:
        keys = reader.keys()
        assert [key.kind for key in keys] == ["prompted"] * 4
        assert reader.metadata(keys[0])["indices"]


# Nothing twice


def test_a_second_run_does_nothing_and_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, before = run(prompt=THREE), files(tmp_path / "store")
    monkeypatch.setattr(LanguageBackbone, "load", lambda self: pytest.fail("a model was loaded for nothing"))
    again = run(prompt=THREE)
    assert (again.done, again.skipped, again.exit_code, again.digest) == (0, 16, 0, first.digest)
    assert again.lines()[0].startswith("Nothing to do: all 16 records are in")
    assert files(tmp_path / "store") == before


def test_a_prompt_added_later_adds_its_records_and_rewrites_nothing(run: Run, tmp_path: Path) -> None:
    run(prompt=("unknown",))
    before, held = files(tmp_path / "store"), contents(tmp_path / "store")
    summary = run(prompt=("unknown", "unknown-temporal"))
    assert (summary.done, summary.skipped) == (4, 8)
    after, now = files(tmp_path / "store"), contents(tmp_path / "store")
    assert {name: after[name] for name in before} == before
    assert {key: now[key] for key in held} == held
    assert {(key.kind, key.prompt) for key in now.keys() - held.keys()} == {("prompted", "unknown-temporal")}
    together = run(prompt=("unknown", "unknown-temporal"), out=tmp_path / "together")
    assert together.digest == summary.digest, "a record depends on what else was asked"


@pytest.mark.parametrize("how", ["serial", "single"])
def test_an_interrupted_run_goes_on_to_the_same_store(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = run(prompt=THREE, prompt_batching=how, out=tmp_path / "whole")
    real, calls = LanguageBackbone.encode_prompted, 0

    def tired(self: LanguageBackbone, *args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("no more")
        return real(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageBackbone, "encode_prompted", tired)
        with pytest.raises(VfcError, match="Out of memory"):
            run(prompt=THREE, prompt_batching=how, part_seconds=1e-9)
    with open_store(tmp_path / "store") as reader:
        assert len(reader) == 8
    # As after a kill between two commits: the video is there, some of its prompts are not; and the other way round.
    delete(tmp_path / "store", [Key("prompted", NAMES[1], 0, "unknown"), Key("video", NAMES[0])])
    assert run(prompt=THREE, prompt_batching=how).digest == whole.digest


def delete(store: Path, keys: Sequence[Key]) -> None:
    from vfc.cache_schema.writer import StoreWriter

    with open_store(store) as reader:
        recipe, there = reader.recipe, [key for key in keys if key in reader]
    with StoreWriter(store, recipe, worker="delete") as writer:
        writer.delete(there)
    assert there


def test_ranks_together_make_what_one_makes(run: Run, tmp_path: Path) -> None:
    alone = run(prompt=THREE, out=tmp_path / "alone")
    shares = [run(prompt=THREE, rank=rank, world_size=2) for rank in range(2)]
    assert sum(summary.done for summary in shares) == 16
    assert shares[-1].digest == alone.digest


@pytest.mark.parametrize("how", ["packed", "batched", "serial"])
def test_fast_plans_give_the_same_within_rounding(run: Run, tmp_path: Path, how: str) -> None:
    run(prompt=THREE, dtype="fp32", out=tmp_path / "a")
    assert run(prompt=THREE, dtype="fp32", mode="fast", prompt_batching=how, batch=3).mode == "fast"
    with open_store(tmp_path / "a") as exact, open_store(tmp_path / "store") as fast:
        assert fast.recipe.fields["plan"] == how
        keys = exact.keys()
        for key in keys:
            for spec in exact.kinds[key.kind]:
                one, other = (reader.read(key, spec.name).astype(np.float64) for reader in (exact, fast))
                assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(one)


# Prompts that depend on a label or an episode


def test_a_video_without_a_label_costs_that_prompt_only(run: Run, root: Path, tmp_path: Path) -> None:
    folder, listing = tmp_path / "clips", tmp_path / "list.csv"
    (folder / "hug").mkdir(parents=True)
    for name, to in ((NAMES[0], "hug/a.avi"), (NAMES[2], "b.avi")):
        (folder / to).write_bytes((root / name).read_bytes())
    asked = {"root": None, "prompt": ("unknown", "known-support")}
    summary = run(videos=folder, **asked)
    assert (summary.done, summary.exit_code) == (5, 3)
    ((name, reason),) = summary.failed
    assert name == "b.avi under known-support"
    assert "the video has no label" in reason
    again = run(videos=folder, **asked)
    assert (again.done, len(again.failed_before), again.exit_code) == (0, 1, 3)
    listing.write_text("path,label\nhug/a.avi,hug\nb.avi,kick\n")
    mended = run(videos=listing, **{**asked, "root": folder})
    assert (mended.done, mended.exit_code) == (1, 0)


def episodes(path: Path, lists: Sequence[Mapping[str, tuple[str, str]]]) -> Path:
    """A frozen list; each episode is class -> (support, query)."""
    made = tuple(
        Episode(tuple(one), tuple((pair[0],) for pair in one.values()), tuple((pair[1],) for pair in one.values()))
        for one in lists
    )
    EpisodeList("0" * 64, EpisodeSpec("test", 2, 1, 1), made).write(path)
    return path


def test_query_videos_are_asked_about_the_options_of_their_episodes(run: Run, tmp_path: Path) -> None:
    hugs, kick, push = NAMES[:2], NAMES[2], NAMES[3]
    lists = [
        {"hug": (hugs[0], hugs[1]), "kick": (push, kick)},
        {"hug": (hugs[0], hugs[1]), "kick": (push, kick)},
        {"push": (kick, push), "hug": (hugs[0], hugs[1])},
    ]
    file = episodes(tmp_path / "episodes.jsonl", lists)
    summary = run(prompt=("known-query",), episodes=file)
    asked = {(hugs[1], "'hug', 'kick'"), (kick, "'hug', 'kick'"), (push, "'push', 'hug'"), (hugs[1], "'push', 'hug'")}
    wanted = {
        Key("prompted", name, 0, prompt_id("known-query", fill_prompt(TEMPLATES["known-query"], {"options": options})))
        for name, options in asked
    }
    assert summary.done == 4 + len(wanted)
    with open_store(tmp_path / "store") as reader:
        assert set(reader.keys("prompted")) == wanted
        assert reader.metadata(sorted(wanted)[0])["template"] == "known-query"
    assert run(prompt=("known-query",), episodes=file).done == 0


def test_a_plan_says_how_many_prompted_records_and_how_large(
    settings: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    told = plan(PlanConfig(**settings, prompt=THREE, calibrate=False))
    video, prompted = told.kinds
    assert (video.to_do, prompted.to_do) == (4, 12)
    assert not (tmp_path / "store").exists()
    measured = plan(PlanConfig(**settings, prompt=THREE)).kinds[1]
    assert measured.record_bytes == pytest.approx(prompted.record_bytes, rel=0.1)
    run(prompt=THREE)
    with open_store(tmp_path / "store") as reader:
        mean = np.mean([reader.length(key, "layer2.text") for key in reader.keys("prompted")])
    assert measured.record_bytes == pytest.approx(mean * (2 * 32 * 2 + 16), rel=0.02)
    assert plan(PlanConfig(**settings, prompt=THREE)).kinds[1].to_do == 0


# What fails


def test_a_prompt_that_is_too_long_costs_itself(run: Run) -> None:
    summary = run(prompt=("unknown",), prompt_text=("long=" + "Who? " * 1000,))
    assert (summary.done, summary.exit_code) == (8, 3)
    assert {name.rpartition(" ")[2] for name, _ in summary.failed} == {"long"}
    assert "positions; tiny-video-llava takes 1024" in summary.failed[0][1]


def test_the_video_s_own_record_comes_with_the_first_prompt_that_fits_whenever_it_is_made(
    run: Run, tmp_path: Path
) -> None:
    asked = {
        "prompt_batching": "single",
        "prompt_text": ("long=" + "Who? " * 1000, "fits=What is seen?", "also=Where?"),
    }
    whole = run(**asked)
    assert (whole.done, len(whole.failed)) == (4 * 3, 4)
    fits = contents(tmp_path / "store")
    delete(tmp_path / "store", [Key("video", name) for name in NAMES[:2]])
    delete(tmp_path / "store", [Key("prompted", name, 0, "also") for name in NAMES[1:3]])
    again = run(**asked)
    assert (again.done, again.failed) == (4, ())
    assert contents(tmp_path / "store") == fits
    retried = run(**asked, retry_failed=True)
    assert (retried.done, len(retried.failed), retried.digest) == (0, 4, whole.digest)


def test_a_bad_video_is_listed_for_every_record_and_mended(run: Run, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips" / "hug"
    folder.mkdir(parents=True)
    (folder / "bad.avi").write_bytes(b"no video")
    (folder / "good.avi").write_bytes((root / NAMES[0]).read_bytes())
    summary = run(videos=folder.parent, root=None, prompt=("unknown", "unknown-temporal"))
    assert (summary.done, summary.exit_code) == (3, 3)
    bad = "hug/bad.avi"
    assert [name for name, _ in summary.failed] == [bad, f"{bad} under unknown", f"{bad} under unknown-temporal"]
    (folder / "bad.avi").write_bytes((root / NAMES[1]).read_bytes())
    assert run(videos=folder.parent, root=None, prompt=("unknown", "unknown-temporal")).done == 3


def test_a_video_too_short_repeats_its_last_frame_and_says_so(run: Run, tmp_path: Path) -> None:
    from suites.toy import write_clip

    write_clip(tmp_path / "short" / "hug" / "a.mp4", 1, frames=3)
    assert run(videos=tmp_path / "short", root=None).done == 2
    with open_store(tmp_path / "store") as reader:
        assert reader.metadata(Key("video", "hug/a.mp4"))["repeated"] == 1
        assert reader.metadata(Key("prompted", "hug/a.mp4", 0, "unknown"))["repeated"] == 1


# Bad input


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"layer": ("9",)}, BadInput, r"There is no layer '9' in .*\nAllowed: 0 to 4, or norm"),
        ({"prompt": ("unknwon",)}, UnknownName, r"no prompt 'unknwon'. Did you mean 'unknown'"),
        ({"prompt_text": ("a={who}?",)}, UnknownName, r"no prompt field 'who'.*\n.*label"),
        ({"prompt_text": ("unknown=Else?",)}, BadInput, r"The prompt 'unknown' is already"),
        ({"prompt_text": ("Is <video> seen?",)}, RecordRejected, r"holds a special token"),
        ({"prompt": ("known-query",)}, BadInput, r"names the classes of an episode.*\nWrite a list with vfc episodes"),
        ({"episodes": Path("none.jsonl")}, BadInput, r"--episodes is given, but no prompt"),
        ({"prompt": ("known-query",), "episodes": Path("none.jsonl")}, MissingPath, r"no episode list none.jsonl"),
        ({"keep": ("visual",), "prompt": ("unknown",)}, BadInput, r"text is not kept"),
        ({"keep": ("visual",), "episodes": Path("none.jsonl")}, BadInput, r"--episodes is given, but text is not kept"),
        ({"keep": ("frames",)}, UnknownName, r"no stream 'frames'"),
        (
            {"prompt_batching": "packed"},
            BadInput,
            r"--prompt-batching packed contradicts deterministic mode.*\nLeave --prompt-batching out",
        ),
        ({"max_pixels": 100_000}, BadInput, r"--max-pixels 100000 is given; video-llava takes frames of one size"),
        ({"max_pixels": 0}, BadInput, r"--max-pixels is 0"),
        ({"texts": "classes"}, BadInput, r"video-llava has no text tower"),
    ],
)
def test_what_cannot_be_asked(
    run: Run, tmp_path: Path, more: Mapping[str, Any], error: type[VfcError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        run(**more)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).split("\n")) == 2
    assert not (tmp_path / "store").exists()


def test_episodes_about_other_videos_are_refused(run: Run, tmp_path: Path) -> None:
    file = episodes(tmp_path / "e.jsonl", [{"hug": ("hug/gone.avi", NAMES[1]), "kick": (NAMES[3], "kick/gone.avi")}])
    message = r"2 of the 4 videos that .*e.jsonl names are not among the 4 given, first 'hug/gone.avi'.\nGive the --vid"
    with pytest.raises(BadInput, match=message):
        run(prompt=("known-query",), episodes=file)
    text = file.read_text()
    file.write_text(text.replace("gone", "lost", 1))
    with pytest.raises(Damaged):
        run(prompt=("known-query",), episodes=file)


def test_another_architecture_is_refused(run: Run, tmp_path: Path) -> None:
    other = qwen2_checkpoint(tmp_path / "tiny-qwen2")
    with pytest.raises(BadInput, match=r"is a qwen2_vl model; video-llava needs a video_llava one.\n.*qwen2-vl"):
        run(checkpoint=str(other))


def test_a_name_stands_for_one_prompt_in_a_store(run: Run) -> None:
    run(prompt_text=("mine=What is it?",))
    with pytest.raises(AxisMismatch, match=r"prompt 'mine' of .* means .*What is it\?.*; asked: .*Who\?") as caught:
        run(prompt_text=("mine=Who?",))
    assert caught.value.exit_code == 5
    assert run(prompt_text=("mine=What is it?",)).done == 0


@pytest.mark.parametrize("flag", [{"prompt": ("unknown",)}, {"prompt_batching": "single"}, {"max_pixels": 9}])
def test_models_without_prompts_refuse_them(run: Run, shared_data: Path, flag: Mapping[str, Any]) -> None:
    weights = str(shared_data / "weights" / "mobilenet_v1_1.0_224_hf")
    message = rf"--{next(iter(flag)).replace('_', '-')} is given, but --model image takes no prompts.\nLeave it out"
    with pytest.raises(BadInput, match=message):
        run(model="image", checkpoint=weights, layer=(), **flag)


def test_qwen_takes_a_budget_of_pixels(run: Run, tmp_path: Path) -> None:
    weights = str(qwen2_checkpoint(tmp_path / "tiny-qwen2"))
    tokens = []
    for pixels in (None, 600):
        out = tmp_path / str(pixels)
        assert run(model="qwen2-vl", checkpoint=weights, max_pixels=pixels, out=out).done == 8
        with open_store(out) as reader:
            tokens.append(length(reader))
    assert tokens[1] < tokens[0]


def length(reader: StoreReader) -> int:
    return reader.length(Key("video", NAMES[0]), "layer2.visual")


def test_no_gradient_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = LanguageBackbone.encode_prompted

    def looking(self: LanguageBackbone, *args: Any, **more: Any) -> Any:
        seen.append(torch.is_inference_mode_enabled())
        return real(self, *args, **more)

    monkeypatch.setattr(LanguageBackbone, "encode_prompted", looking)
    run()
    assert seen == [True] * 4
