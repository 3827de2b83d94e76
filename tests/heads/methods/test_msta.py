"""MSTA as a head: its suite, training from the cache equal to training online, the lines it gives, descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from suites.head import ClassifierHeadSuite
from suites.motion_store import Told
from suites.viclip_tail import TINY, Pair, class_ids, pair
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.protocol.descriptions import write_descriptions
from vfc.cache_schema.values.errors import BadInput, Damaged, MissingRecord, RecipeMismatch, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.head import Head as AnyHead
from vfc.heads.methods import msta
from vfc.heads.tasks import classification
from vfc.heads.training.fit import train
from vfc.heads.training.schedule import learning_rate, optimizer, resolve_length, with_preset

NAMES = ("kick", "point", "wave")
TOKENS = 1 + TINY.grid**2 * TINY.frames
SMALL = msta.Config(from_block=3, dim=8, strength=0.05)
LAYOUT = "cls first, patch-major, grid 2x2, frames 4"


class TestMsta(ClassifierHeadSuite):
    method = "msta"
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("layer2.visual", "fp32", (TOKENS, 24), LAYOUT),
        "frozen": ArraySpec("layer3.visual", "fp32", (TOKENS, 24), LAYOUT),
        "class.tokens": ArraySpec("layer2.text", "fp32", (None, 16)),
        "classes": ArraySpec("classes", "int64", (3,)),
    }
    # The class token alone leaves the last block, so its convolution over time moves nothing.
    never_trained: ClassVar[tuple[str, ...]] = (
        "adapters.branches.video.4.up.temporal.weight",
        "adapters.branches.video.4.up.temporal.bias",
    )
    overfit_steps = 40
    kind: ClassVar[dict[str, Any]] = {"strength": 0.5}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _tail(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        built = pair(tmp_path_factory.mktemp("msta"), 3)
        cls.config = replace(SMALL, tail=built.tail, **cls.kind)


class TestLora(TestMsta):
    kind: ClassVar[dict[str, Any]] = {"adapter": "lora", "dim": 4}
    never_trained: ClassVar[tuple[str, ...]] = ()
    specs: ClassVar[Mapping[str, ArraySpec]] = {k: v for k, v in TestMsta.specs.items() if k != "frozen"}

    def head(self, seed: int = 0) -> AnyHead:
        """Behind a zero nothing has a gradient, so the suite begins a little away from it."""
        built = super().head(seed)
        for name, parameter in built.named_parameters():
            if parameter.requires_grad and "up" in name:
                nn.init.normal_(parameter, std=0.05)
        return built


class TestAdaptFormer(TestLora):
    kind: ClassVar[dict[str, Any]] = {"adapter": "adaptformer", "dim": 8}


class TestTextAlone(TestMsta):
    kind: ClassVar[dict[str, Any]] = {"towers": "text", "strength": 0.5}
    never_trained: ClassVar[tuple[str, ...]] = ()
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("embedding", "fp32", (1, 20)),
        "class.tokens": TestMsta.specs["class.tokens"],
        "classes": TestMsta.specs["classes"],
    }


class TestVideoAlone(TestMsta):
    kind: ClassVar[dict[str, Any]] = {"towers": "video", "shared": False, "adapter_input": "raw", "strength": 0.5}
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        **{role: TestMsta.specs[role] for role in ("visual", "classes")},
        "class.embedding": ArraySpec("embedding", "fp32", (20,)),
    }


def cached(
    root: Path, made: Pair, *, videos: int = 12, first: int = 3, lines: tuple[str, ...] = (), output: bool = True
) -> tuple[Path, Tensor, Tensor]:
    """A store of what a tiny ViCLIP says of random clips, in fp32; the clips, and the ids of the class texts."""
    generator = torch.Generator().manual_seed(5)
    clips = torch.randn(videos, TINY.frames, 3, TINY.image, TINY.image, generator=generator)
    ids = class_ids(len(NAMES) + len(lines), seed=7)
    taps, embedding = made.taps(clips, (first - 1, first))
    layers = (first - 1, first) if output else (first - 1,)
    video = [ArraySpec(f"layer{layer}.visual", "fp32", (TOKENS, 24), LAYOUT) for layer in layers]
    told = [ArraySpec(f"layer{first - 1}.text", "fp32", (None, 16)), ArraySpec("embedding", "fp32", (20,))]
    texts, text_embedding = made.texts(ids, first - 1)
    with StoreWriter(root, Recipe({"model": "tiny"})) as writer:
        writer.declare("video", [*video, ArraySpec("embedding", "fp32", (20,))])
        writer.declare("text", told)
        for i in range(videos):
            arrays = {spec.name: taps[spec.name[5:].split(".")[0]][i].numpy() for spec in video}
            writer.add(Record(Key("video", f"v{i:02}"), {**arrays, "embedding": embedding[i].numpy()}, {}))
        for i, name in enumerate((*NAMES, *lines)):
            length = int(ids[i].argmax()) + 1
            arrays = {told[0].name: texts[i, :length].numpy(), "embedding": text_embedding[i].numpy()}
            about = {"label": name, "template": "line" if name in lines else "video"}
            key = Key("text", name if name in lines else f"a video of {name}")
            writer.add(Record(key, arrays, about))
    rows = [Annotation(f"v{i:02}", NAMES[i % 3], "train" if i < videos - 3 else "test") for i in range(videos)]
    write_annotations(root, "default", Annotations(tuple(rows)))
    return root, clips, ids[: len(NAMES)]


def online_loss(head: msta.Head, made: Pair, clips: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    """The whole network on pixels and ids, adapters hung beside its blocks: no cached layer, no block of the head."""
    adapters, hooks = head.adapters, []
    for tower, network in (("text", made.network.text_encoder), ("video", made.network.vision_encoder)):
        for number in adapters.numbers:
            branch, shared = adapters.branches[tower][str(number)], adapters.shared[str(number)]

            def added(
                block: nn.Module, given: tuple[Tensor, ...], out: Tensor, branch: Any = branch, shared: Any = shared
            ) -> Tensor:
                rows = out.shape[1]
                read = block.ln_1(given[0])[:, :rows]
                beside: Tensor = branch.up(shared(branch.down(read)), 1 if rows == 1 else None)
                return out + SMALL.factor * beside

            hooks.append(network.transformer.resblocks[number - 1].register_forward_hook(added))
    text, longest = made.network.text_encoder, int(ids.argmax(dim=1).max()) + 1
    x = text.token_embedding(ids[:, :longest]) + text.positional_embedding[:longest]
    _, x = text.transformer(x, (), lambda state: state, causal=True)
    classes = text.ln_final(x[torch.arange(len(ids)), ids.argmax(dim=1)]) @ text.text_projection
    _, videos = made.network.vision_encoder(clips)
    for hook in hooks:
        hook.remove()
    near = functional.normalize(videos, dim=-1) @ functional.normalize(classes, dim=-1).T
    loss: Tensor = functional.cross_entropy(near / 0.01, labels)
    return loss


@pytest.mark.parametrize("output", [False, True])
def test_training_from_the_cache_is_training_online_step_for_step(tmp_path: Path, output: bool) -> None:
    built = pair(tmp_path / "store", 3)
    (tmp_path / "store" / "tail").rename(tmp_path / "tail")
    root, clips, ids = cached(tmp_path / "store", built, output=output)
    (tmp_path / "tail").rename(root / "tail")
    built = replace(built, tail=root / "tail" / built.tail.name)
    steady = replace(msta.TRAIN, epochs=0, warmup_epochs=0, steps=20, warmup=4, batch=4)
    settings = replace(SMALL, gradient_scaling=False)
    task = classification.prepare(
        classification.Config(cache=root), steady, msta.Head, settings, torch.device("cpu"), Silent()
    )
    assert ("frozen" in task.specs) is output
    losses: list[list[float]] = []
    for online in (False, True):
        torch.manual_seed(3)
        head = msta.Head(replace(settings, tail=built.tail), task.specs)
        learned = [p for p in head.parameters() if p.requires_grad]
        updates, told, batches = optimizer(learned, steady), [], task.batches(0)
        for step in range(20):
            batch = next(batches)
            torch.manual_seed(100 + step)
            updates.param_groups[0]["lr"] = updates.param_groups[1]["lr"] = learning_rate(steady, step)
            if online:
                result = [_which(root, visual) for visual in batch.clips["visual"]]
                loss = online_loss(head.train(), built, clips[result], ids, batch.labels)
            else:
                loss = head.train().loss(batch)["cross-entropy"]
            updates.zero_grad()
            loss.backward()
            updates.step()
            told.append(float(loss.detach()))
        losses.append(told)
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-5
    assert abs(losses[0][0] - losses[0][-1]) > 0.05


def _which(root: Path, visual: Tensor) -> int:
    from vfc.cache_schema.reader import open_store

    with open_store(root) as reader:
        keys = reader.keys("video")
        return next(i for i, key in enumerate(keys) if np.array_equal(reader.read(key, "layer2.visual"), visual))


def in_store(tmp_path: Path, **how: Any) -> Path:
    root = tmp_path / "store"
    built = pair(tmp_path / "made", 3)
    cached(root, built, **how)
    (tmp_path / "made" / "tail").rename(root / "tail")
    return root


def run(root: Path, config: msta.Config, **task: Any) -> dict[str, Any]:
    steady = replace(msta.TRAIN, epochs=2, warmup_epochs=1, batch=4, validate_every=4, device="cpu", out=root / "run")
    return train("msta", classification.Config(cache=root, **task), config, steady, Silent()).row


@pytest.fixture
def _sums_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's tails are written without the sum that extraction adds."""
    monkeypatch.setattr(msta, "check_tail", lambda path: None)


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_a_run_says_what_caching_saved_and_how_many_views_were_used(tmp_path: Path) -> None:
    row = run(in_store(tmp_path), SMALL)
    assert row["train_views"] == 1
    assert row["parameters"] == sum(p.numel() for p in _head(tmp_path, SMALL).parameters() if p.requires_grad)
    assert row["notes"][0].startswith("Adapted from block 3 on cached layer 2 and the frozen layer 3:")
    assert row["test_videos"] == 3
    assert _names(tmp_path / "store" / "run" / "head.safetensors").isdisjoint(
        {"vision_tail", "text_tail", "descriptions"}
    )


def _head(tmp_path: Path, config: msta.Config) -> msta.Head:
    return msta.Head(replace(config, tail=tmp_path / "store" / "tail" / "blocks-3.safetensors"), TestMsta.specs)


def _names(path: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name.split(".")[0] for name in file.keys()}  # noqa: SIM118


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_lambda_0_is_tested_as_the_frozen_model(tmp_path: Path) -> None:
    row = run(in_store(tmp_path), replace(SMALL, strength=0.0))
    free = train(
        "text-zero-shot",
        classification.Config(cache=tmp_path / "store", array="embedding"),
        __import__("vfc.heads.methods.text_zero_shot", fromlist=["Config"]).Config(),
        replace(msta.TRAIN, out=tmp_path / "free", device="cpu"),
        Silent(),
    ).row
    assert (row["parameters"], row["updates"]) == (0, 0)
    assert row["confusion"] == free["confusion"]
    assert "--lambda 0: this is the frozen model; nothing is trained." in row["notes"]


LINES = tuple(f"{part} {word} of {name}" for name in NAMES for part in ("s", "t") for word in ("one", "two"))


def described(folder: Path, names: tuple[str, ...] = NAMES, about: dict[str, Any] | None = None) -> tuple[Path, Path]:
    paths = folder / "s.json", folder / "t.json"
    for part, path in zip("st", paths, strict=True):
        lists = {i: [f"{part} one of {name}", f"{part} two of {name}"] for i, name in enumerate(names)}
        write_descriptions(path, lists, about or {})
    return paths


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_descriptions_are_found_by_the_class_list_or_by_their_own_header(tmp_path: Path) -> None:
    root = in_store(tmp_path, lines=LINES)
    turned = ("wave", "kick", "point")
    (tmp_path / "classes.txt").write_text("\n".join(turned))
    config = replace(SMALL, descriptions=described(tmp_path, turned))

    def settled(config: msta.Config, **task: Any) -> Any:
        told = classification.prepare(
            classification.Config(cache=root, template=("video",), **task),
            msta.TRAIN,
            msta.Head,
            config,
            torch.device("cpu"),
            Silent(),
        )
        return msta.Head.prepare_config(config, told).described, told

    result, _ = settled(config, class_list=tmp_path / "classes.txt")
    headed, task = settled(replace(config, descriptions=described(tmp_path, turned, {"classes": [*turned]})))
    assert torch.equal(result.of(NAMES), headed.of(NAMES))
    with __import__("vfc.cache_schema.reader", fromlist=["open_store"]).open_store(root) as reader:
        want = [
            [
                np.mean([reader.read(Key("text", f"{p} {w} of {n}"), "embedding") for w in ("one", "two")], 0)
                for p in "st"
            ]
            for n in NAMES
        ]
    np.testing.assert_allclose(result.of(NAMES).numpy(), np.array(want), rtol=1e-6)
    batch = next(task.batches(0))
    head = msta.Head(msta.Head.prepare_config(config, _listed(task)), task.specs).eval()
    terms = head.loss(batch)
    texts, loop = head._classes(batch.classes).detach(), 0.0
    for c, name in enumerate(batch.names):
        for one in result.of([name])[0]:
            loop += 1 - float(functional.cosine_similarity(texts[c], one, dim=0))
    assert float(terms["consistency"].detach()) == pytest.approx(loop / 3, rel=1e-5)
    assert any("N = 2" in note for note in head.notes) is False


def _listed(task: Any) -> Any:
    return SimpleNamespace(store=task.store, lists=task.lists, class_list=("wave", "kick", "point"))


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_other_sentences_under_the_same_name_are_another_run(tmp_path: Path) -> None:
    root = in_store(tmp_path, lines=LINES)
    about: dict[str, Any] = {"classes": [*NAMES]}
    config = replace(SMALL, descriptions=described(tmp_path, NAMES, about))
    row = run(root, config, template=("video",))
    assert run(root, config, template=("video",)) == row  # finished: shown again
    write_descriptions(config.descriptions[0], {i: [f"s two of {name}"] for i, name in enumerate(NAMES)}, about)
    with pytest.raises(RecipeMismatch, match=r"data\.descriptions_digest: .* there, .* asked"):
        run(root, config, template=("video",))


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_two_files_with_other_classes_under_an_id_are_refused(tmp_path: Path) -> None:
    root = in_store(tmp_path, lines=LINES)
    files = described(tmp_path, NAMES, {"classes": [*NAMES]})
    turned = NAMES[::-1]
    lists = {i: [f"t one of {name}", f"t two of {name}"] for i, name in enumerate(turned)}
    write_descriptions(files[1], lists, {"classes": [*turned]})
    with pytest.raises(BadInput, match=r"^An id means one class in .*s\.json and another in .*t\.json"):
        run(root, replace(SMALL, descriptions=files), template=("video",))


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_descriptions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = in_store(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    listed = {"class_list": tmp_path / "classes.txt"}
    config = replace(SMALL, descriptions=described(tmp_path))
    with pytest.raises(BadInput, match="no list that says which class has which id"):
        run(root, config)
    with pytest.raises(MissingRecord, match=r"has no text 's one of kick' \(6 of the 6 in .*") as error:
        run(root, config, **listed)
    assert error.value.remedy.startswith("Add them: vfc extract --model viclip --layer 2,3 --tail 3 --texts ")
    more = replace(SMALL, descriptions=described(tmp_path, (*NAMES, "hug", "hop")))
    with pytest.raises(BadInput, match="describes 5 classes; the class list has 3, of which 3 are trained on"):
        run(root, more, **listed)
    headed = replace(SMALL, descriptions=described(tmp_path, NAMES[:2], {"classes": [*NAMES[:2]]}))
    with pytest.raises(BadInput, match="describes no class 'wave'"):
        run(root, headed)
    with pytest.raises(BadInput, match="--descriptions got 1 files"):
        run(root, replace(SMALL, descriptions=config.descriptions[:1]), **listed)


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_a_store_without_what_is_needed_is_refused_with_the_line_to_type(tmp_path: Path) -> None:
    root = in_store(tmp_path)
    line = (
        'vfc extract --model viclip --layer 7,8 --tail 8 --texts classes --text-layer 7 --template "a video of {label}"'
    )
    with pytest.raises(UnknownName, match=r"layer7.visual") as error:
        run(root, msta.Config())
    assert error.value.remedy == line
    (root / "tail" / "blocks-3.safetensors").rename(root / "tail" / "blocks-4.safetensors")
    with pytest.raises(BadInput, match=r"no frozen blocks from 3 up \(in its tail/: blocks-4.safetensors\)") as lower:
        run(root, SMALL)
    assert "--layer 2,3 --tail 3" in lower.value.remedy


def test_a_tail_that_rotted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="is not what was written"):
        run(in_store(tmp_path), SMALL)


@pytest.mark.usefixtures("_sums_are_not_asked")
def test_what_one_should_know_of_the_settings_is_said(tmp_path: Path) -> None:
    in_store(tmp_path)
    notes = _head(tmp_path, replace(SMALL, preset="b2n")).notes
    assert "The paper trains b2n with --batch 32 --lr 0.001 --epochs 11, warm-up over the first 5 epochs." in notes
    assert any(note.startswith("The paper tests b2n with --test-views 10x3 on HMDB51") for note in notes)
    specs = {
        **TestMsta.specs,
        "visual": ArraySpec("layer2.visual", "fp32", (TOKENS, 24), "cls first, patch-major, grid 3x3, frames 4"),
    }
    with pytest.raises(BadInput, match=r"is \[17, 24\], which is not a class token and 9 patches of frames"):
        msta.Head(replace(SMALL, tail=tmp_path / "store" / "tail" / "blocks-3.safetensors"), specs)
    with pytest.raises(BadInput, match="The frozen blocks that msta adapts are not given"):
        msta.Head(SMALL, TestMsta.specs)
    assert json.dumps(msta.TRAIN.betas) == "[0.9, 0.98]"


@pytest.mark.parametrize(
    ("preset", "row"),
    # Batch, rate and epochs of the table of the paper.
    [("fewshot", (32, 1e-3, 50)), ("b2n", (32, 1e-3, 11)), ("zero-shot", (256, 8e-3, 100))],
)
def test_a_preset_brings_its_training(preset: Any, row: tuple[int, float, float]) -> None:
    brought, progress = msta.Head.training_of(msta.Config(preset=preset)), Told()
    config = with_preset(msta.TRAIN, msta.TRAIN, brought, progress)
    assert (config.batch, config.lr, config.epochs) == row
    assert bool(progress.lines) == (preset != "fewshot")
    # What the user gives stays: a rate, and a length in updates.
    given = with_preset(replace(msta.TRAIN, lr=5e-4, steps=7), msta.TRAIN, brought, progress)
    assert (given.lr, given.steps, given.epochs) == (5e-4, 7, 50)
    assert resolve_length(given, msta.TRAIN, progress).epochs == 0
