"""What every language model that sees videos owes, beyond BackboneSuite: equal to the library under every plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from suites.backbone import BackboneSuite, clip_of, equal, parameters
from suites.language import PROMPTS, many_prompts
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, RecordRejected, UnknownName
from vfc.cache_schema.values.record import FEATURE_DTYPES
from vfc.extract.backbone import BackboneOptions, PromptedBackbone, open_backbone

LAYERS = ("0", "1", "2", "3", "4", "norm")
CLIPS = ((1, 4, 48, 64), (2, 6, 40, 30), (3, 4, 48, 64))
"""(seed, frames, height, width): of two lengths."""


def full_model(checkpoint: Path, **more: Any) -> Any:
    """The library's whole model, head and all."""
    return transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, **more).eval()


def library_row(model: Any, inputs: Mapping[str, Tensor], length: int | None = None) -> dict[str, Tensor]:
    """States `[L, D]` by layer name, of the library's own forward over one row (or its first `length` tokens)."""
    blocks: list[Tensor] = []
    last = model.model.language_model.layers[-1]
    handle = last.register_forward_hook(lambda _m, _a, out: blocks.append(out[0]))
    rows = ("input_ids", "attention_mask", "mm_token_type_ids")
    given = {name: value[:, :length] if name in rows else value for name, value in inputs.items()}
    with torch.inference_mode():
        states = model(**given, output_hidden_states=True).hidden_states
    handle.remove()
    depth = len(states) - 1
    found = {str(i): states[i][0] for i in range(depth)}
    return {**found, str(depth): blocks[0], "norm": states[depth][0]}


def away(left: Tensor, right: Tensor) -> float:
    """Relative L2 distance."""
    left, right = left.to(torch.float64), right.to(torch.float64)
    return float(torch.linalg.vector_norm(left - right) / torch.linalg.vector_norm(right))


class Oracle:
    """The library's full forwards, divided by hand: `(ids, visual states, text states)` of a clip under a prompt."""

    def __init__(self, suite: PromptedSuite, checkpoint: Path, **more: Any) -> None:
        self.suite, self.checkpoint, self.model = suite, checkpoint, full_model(checkpoint, **more)
        self.token = suite.video_token(checkpoint)
        self._known: dict[tuple[int, str], tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]] = {}

    def __call__(
        self, i: int, tensors: Mapping[str, Tensor], prompt: str
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        if (i, prompt) not in self._known:
            inputs = self.suite.library_inputs(self.checkpoint, clip_of(*CLIPS[i]), tensors, prompt)
            ids, visual, text = inputs["input_ids"][0], {}, {}
            for layer, rows in library_row(self.model, inputs).items():
                visual[name_of(layer, "visual")] = torch.stack([rows[k] for k, j in enumerate(ids) if j == self.token])
                text[name_of(layer, "text")] = torch.stack([rows[k] for k, j in enumerate(ids) if j != self.token])
            self._known[i, prompt] = ids, visual, text
        return self._known[i, prompt]


def name_of(layer: str, stream: str) -> str:
    return f"norm.{stream}" if layer == "norm" else f"layer{layer}.{stream}"


class PromptedSuite(BackboneSuite):
    """Give `checkpoint_of` and `library_inputs`; the class variables of BackboneSuite but for `family` are set."""

    options = BackboneOptions(layers=LAYERS, num_frames=4, storage="fp32", prompts=True)
    lower = BackboneOptions(layers=("1",), num_frames=4, storage="fp32")
    layer_range = "0 to 4, or norm"
    skipped: ClassVar[tuple[str, ...]] = ()
    """Starts of names of weights that are not read."""

    @classmethod
    def checkpoint_of(cls, folder: Path, **more: Any) -> Path:
        raise NotImplementedError

    def library_inputs(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
        """What the library's model takes, made without the code under test but for the pixels (proved elsewhere)."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.checkpoint_of(tmp_path_factory.mktemp(cls.family) / f"tiny-{cls.family}")

    @pytest.fixture(scope="class")
    @classmethod
    def half_checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.checkpoint_of(tmp_path_factory.mktemp(cls.family) / "half", dtype=torch.bfloat16)

    @pytest.fixture(scope="class")
    @classmethod
    def oracle(cls, checkpoint: Path) -> Oracle:
        return Oracle(cls(), checkpoint)

    @pytest.fixture(scope="class")
    @classmethod
    def half_oracle(cls, half_checkpoint: Path) -> Oracle:
        return Oracle(cls(), half_checkpoint, dtype=torch.bfloat16)

    @classmethod
    def loaded(cls, checkpoint: Path, **changes: Any) -> PromptedBackbone:
        backbone = cls.opened(checkpoint, **changes)
        assert isinstance(backbone, PromptedBackbone)
        backbone.load()
        return backbone

    def expected(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Visual arrays from the library's forward over the row cut behind its last visual token."""
        inputs = self.library_inputs(checkpoint, clip, tensors, PROMPTS[0])
        marks = inputs["input_ids"][0] == self.video_token(checkpoint)
        states = library_row(full_model(checkpoint), inputs, int(marks.nonzero().max()) + 1)
        return {name_of(layer, "visual"): self.shaped(rows[marks[: len(rows)]], clip) for layer, rows in states.items()}

    def shaped(self, visual: Tensor, clip: Any) -> Tensor:
        """Visual rows as the record holds them."""
        return visual

    @staticmethod
    def video_token(checkpoint: Path) -> int:
        return int(transformers.AutoConfig.from_pretrained(checkpoint).video_token_id)

    def compared(self, oracle: Oracle, backbone: PromptedBackbone, prompts: Sequence[Sequence[str]]) -> float:
        """The largest distance of any array from the library's full forwards; side arrays must be equal."""
        items = [backbone.pixels(clip_of(*CLIPS[i])).tensors for i in range(len(prompts))]
        asked = [[backbone.prompt(text).tensors for text in texts] for texts in prompts]
        worst = 0.0
        for i, encoded in enumerate(backbone.encode_prompted(items, asked)):
            for place, (text, answer) in enumerate(zip(prompts[i], encoded.prompted, strict=True)):
                ids, visual, rows = oracle(i, items[i], text)
                assert torch.equal(answer["text.ids"], ids[ids != oracle.token])
                assert torch.equal(answer["text.positions"], (ids != oracle.token).nonzero()[:, 0])
                pairs = [(answer[name], states) for name, states in rows.items()]
                if place == 0:
                    pairs += [(encoded.video[name].flatten(0, -2), states) for name, states in visual.items()]
                worst = max(worst, *(away(mine, theirs) for mine, theirs in pairs))
        return worst

    # -- equal to the library ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_every_tap_is_the_library_s_bit_for_bit_under_plan_single(self, checkpoint: Path, attention: str) -> None:
        backbone = self.loaded(checkpoint, prompt_batching="single", attention=attention)
        oracle = Oracle(self, checkpoint, attn_implementation=attention)
        # The second and third video straight after the first, the second of another length.
        assert self.compared(oracle, backbone, [PROMPTS[:3], PROMPTS[3:4], PROMPTS[:1]]) == 0.0

    @pytest.mark.parametrize("plan", ["serial", "packed", "batched"])
    @pytest.mark.parametrize("count", [1, 5, 25])
    def test_a_shared_prefix_is_near_the_full_forward(
        self, checkpoint: Path, oracle: Oracle, plan: str, count: int
    ) -> None:
        backbone = self.loaded(checkpoint, prompt_batching=plan)
        prompts = many_prompts(count)
        assert self.compared(oracle, backbone, [prompts]) <= 1e-5
        assert self.compared(oracle, backbone, [prompts[:1], prompts[:2]]) <= 1e-5
        assert self.compared(oracle, backbone, [prompts, prompts[::-1][: count // 2 + 1], prompts[:1]]) <= 1e-5

    @pytest.mark.parametrize("plan", ["serial", "packed", "batched"])
    def test_and_so_it_is_in_bf16(self, half_checkpoint: Path, half_oracle: Oracle, plan: str) -> None:
        backbone = self.loaded(half_checkpoint, prompt_batching=plan)
        assert backbone.recipe()["compute"]["dtype"] == "bf16"
        for count in (1, 5, 25):
            prompts = many_prompts(count)
            assert self.compared(half_oracle, backbone, [prompts, prompts[-2:]]) <= 2e-2

    def test_and_with_eager_attention(self, checkpoint: Path) -> None:
        oracle = Oracle(self, checkpoint, attn_implementation="eager")
        for plan in ("serial", "packed", "batched"):
            backbone = self.loaded(checkpoint, prompt_batching=plan, attention="eager")
            assert self.compared(oracle, backbone, [PROMPTS, PROMPTS[:2]]) <= 1e-5

    def test_prompts_that_fill_many_rows(
        self, checkpoint: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vfc.extract.language.prompt_batching.TOKENS_PER_BATCH", 64)
        monkeypatch.setattr("vfc.extract.language.prompt_batching.ROWS_PER_BATCH", 2)
        for plan in ("packed", "batched"):
            backbone = self.loaded(checkpoint, prompt_batching=plan)
            assert self.compared(oracle, backbone, [many_prompts(7), many_prompts(3)]) <= 1e-5

    # -- what numbers depend on --------------------------------------------------------------------------------------

    def test_serial_numbers_depend_on_no_other_prompt(self, checkpoint: Path) -> None:
        backbone = self.loaded(checkpoint)
        item = backbone.pixels(clip_of(1)).tensors
        asked = [backbone.prompt(text).tensors for text in PROMPTS]
        (whole,) = backbone.encode_prompted([item], [asked])
        assert equal(whole.video, backbone.encode_videos([item])[0])
        for place in range(len(asked)):
            (alone,) = self.loaded(checkpoint).encode_prompted([item], [asked[place : place + 1]])
            assert equal(alone.prompted[0], whole.prompted[place])
            assert equal(alone.video, whole.video)
        (backwards,) = backbone.encode_prompted([item], [asked[::-1]])
        assert all(equal(a, b) for a, b in zip(whole.prompted, backwards.prompted[::-1], strict=True))

    def test_a_shallow_cut_gives_the_same_bits(self, checkpoint: Path) -> None:
        deep = self.loaded(checkpoint)
        for layers in (("0",), ("1",), ("2", "3"), ("4",)):
            cut = self.loaded(checkpoint, layers=layers)
            item, asked = cut.pixels(clip_of(3)).tensors, [cut.prompt(PROMPTS[0]).tensors]
            (mine,), (whole,) = (b.encode_prompted([item], [asked]) for b in (cut, deep))
            assert mine.prompted[0].keys() == {name_of(n, "text") for n in layers} | {"text.ids", "text.positions"}
            assert all(torch.equal(states, whole.video[name]) for name, states in mine.video.items())
            assert all(torch.equal(states, whole.prompted[0][name]) for name, states in mine.prompted[0].items())

    # -- shapes ------------------------------------------------------------------------------------------------------

    def test_prompted_arrays_match_their_specs_in_every_storage(self, checkpoint: Path) -> None:
        for storage in FEATURE_DTYPES:
            backbone = self.loaded(checkpoint, storage=storage, layers=("1", "4"))
            items = [backbone.pixels(clip_of(seed)).tensors for seed in (1, 2)]
            asked = [[backbone.prompt(text).tensors for text in PROMPTS[:n]] for n in (2, 1)]
            for plan_mates in (asked, asked[::-1]):
                for encoded in backbone.encode_prompted(items, plan_mates):
                    self.matches(backbone.specs()["video"], encoded.video)
                    for answer in encoded.prompted:
                        self.matches(backbone.specs()["prompted"], answer)

    @pytest.mark.parametrize("batching", ["serial", "packed", "batched", "single"])
    def test_the_host_waits_for_no_value_of_the_device_with_prompts(self, checkpoint: Path, batching: str) -> None:
        backbone = self.loaded(checkpoint, device="meta", prompt_batching=batching)
        items = [backbone.pixels(clip_of(*clip)).tensors for clip in CLIPS]
        prompts = [[backbone.prompt(text).tensors for text in PROMPTS]] * len(items)
        for encoded in backbone.encode_prompted(items, prompts):
            for answer in encoded.prompted:
                assert all(
                    rows.device.type == ("cpu" if name in ("text.ids", "text.positions") else "meta")
                    for name, rows in answer.items()
                )

    def test_rows_are_foretold(self, checkpoint: Path) -> None:
        for frames, height, width in ((4, 48, 64), (3, 40, 30)):
            backbone = self.loaded(checkpoint, num_frames=frames)
            clip = clip_of(1, frames, height, width)
            clip.indices, clip.fps = [round((i + 0.5) * 250 / frames) for i in range(frames)], 25.0
            clip.indices = torch.tensor(clip.indices).numpy()
            (encoded,) = backbone.encode_prompted(
                [backbone.pixels(clip).tensors], [[backbone.prompt(PROMPTS[1]).tensors]]
            )
            ragged = {s.name for specs in backbone.specs().values() for s in specs if s.ragged}
            arrays = {**encoded.video, **encoded.prompted[0]}
            assert backbone.rows(height, width, PROMPTS[1]) == {name: len(arrays[name]) for name in ragged}

    def test_streams_are_kept_as_asked(self, checkpoint: Path) -> None:
        assert self.opened(checkpoint, prompts=False).specs().keys() == {"video"}
        assert self.opened(checkpoint, keep=("visual", "text")).specs().keys() == {"video", "prompted"}
        backbone = self.loaded(checkpoint, keep=("text",))
        assert backbone.specs().keys() == {"prompted"}
        item, asked = backbone.pixels(clip_of(1)).tensors, [backbone.prompt("Who?").tensors]
        assert backbone.encode_prompted([item], [asked])[0].video == {}
        both = self.loaded(checkpoint)
        (first, second) = both.encode_prompted([item, item], [asked, []], visual=[False, True])
        assert (first.video, second.prompted) == ({}, ())
        assert second.video
        assert first.prompted

    def test_without_layers_the_penultimate_block_is_read(self, checkpoint: Path) -> None:
        specs = self.opened(checkpoint, layers=()).specs()
        assert (specs["video"][0].name, specs["prompted"][0].name) == ("layer3.visual", "layer3.text")

    def test_storage_is_bf16_unless_asked_otherwise(self, checkpoint: Path) -> None:
        assert self.opened(checkpoint, storage=None).specs()["video"][0].dtype == "bf16"

    # -- weights -----------------------------------------------------------------------------------------------------

    def test_only_what_is_run_is_read(self, checkpoint: Path, oracle: Oracle) -> None:
        backbone = self.loaded(checkpoint, layers=("2",))
        above = tuple(f"model.language_model.layers.{i}." for i in (2, 3))
        left_out = ("lm_head.", *above, *self.skipped)
        wanted = {name: p for name, p in oracle.model.named_parameters() if not name.startswith(left_out)}
        loaded = dict(backbone._model.named_parameters())
        assert {f"model.{name}" for name in loaded} == wanted.keys()
        assert all(torch.equal(p, wanted[f"model.{name}"]) for name, p in loaded.items())
        assert parameters(backbone) == sum(p.numel() for p in wanted.values())

    # -- prompts -----------------------------------------------------------------------------------------------------

    def test_prompts_are_tokenised_in_any_thread(self, checkpoint: Path) -> None:
        backbone = self.loaded(checkpoint, layers=("0",))
        texts = many_prompts(25) * 4
        expected = [self.opened(checkpoint).prompt(text).tensors["ids"].tolist() for text in texts[:25]] * 4
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda text: backbone.prompt(text).tensors["ids"].tolist(), texts))
        assert made == expected

    def test_a_prompt_says_what_it_was(self, checkpoint: Path) -> None:
        prepared = self.opened(checkpoint).prompt("Who?")
        assert prepared.metadata == {"prompt": "Who?", "prompt_tokens": len(prepared.tensors["ids"])}

    def test_special_tokens_in_a_prompt_are_refused(self, checkpoint: Path) -> None:
        backbone = self.opened(checkpoint)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        for token in [tokenizer.convert_ids_to_tokens(self.video_token(checkpoint)), tokenizer.eos_token]:
            with pytest.raises(RecordRejected, match="holds a special token of this model"):
                backbone.prompt(f"Is {token} seen?")
        with pytest.raises(RecordRejected, match="The prompt is empty"):
            backbone.prompt(" \n")

    def test_a_row_that_is_too_long_is_refused(self, checkpoint: Path) -> None:
        backbone = self.loaded(checkpoint, num_frames=4)
        item, asked = backbone.pixels(clip_of(1)).tensors, [backbone.prompt("Who? " * 1000).tensors]
        with pytest.raises(RecordRejected, match=r"make a row of \d+ positions; tiny-.* takes 1024"):
            backbone.encode_prompted([item], [asked])

    # -- recipe and refusals -----------------------------------------------------------------------------------------

    def test_recipe_names_plan_and_question_but_no_prompt(self, checkpoint: Path) -> None:
        recipe = self.opened(checkpoint).recipe()
        assert recipe["plan"] == "serial"
        assert recipe["question"].count("{prompt}") == 1
        assert self.opened(checkpoint, prompt_batching="packed").recipe() != recipe
        assert self.opened(checkpoint, prompts=False).recipe() == recipe
        assert self.opened(checkpoint, keep=("visual",), prompts=False).recipe() == recipe
        assert self.opened(checkpoint, attention="eager").recipe() != recipe

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"texts": True}, BadInput, "has no text tower.\nLeave out --texts"),
            ({"keep": ("frames",)}, UnknownName, "There is no stream 'frames'.*\nKnown: text, visual"),
            ({"keep": ("visual",)}, BadInput, "Prompts were asked for, but text is not kept"),
            ({"keep": ("text",), "prompts": False}, BadInput, "Nothing would be kept: text needs a prompt"),
            ({"prompt_batching": "pack"}, UnknownName, "There is no prompt batching 'pack'. Did you mean 'packed'"),
        ],
    )
    def test_options_that_contradict_each_other(
        self, checkpoint: Path, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            self.opened(checkpoint, **change)

    def test_the_checkpoint_s_dtype_may_be_said_of_its_language_model_alone(
        self, half_checkpoint: Path, tmp_path: Path
    ) -> None:
        other = Path(shutil.copytree(half_checkpoint, tmp_path / "other"))
        config = json.loads((other / "config.json").read_text())
        assert config.pop("dtype") == "bfloat16"
        config["text_config"]["dtype"] = "bfloat16"
        (other / "config.json").write_text(json.dumps(config))
        assert self.opened(other).recipe()["compute"]["dtype"] == "bf16"

    def test_another_architecture_is_refused_by_name(self, checkpoint: Path) -> None:
        other = "qwen3-vl" if self.family != "qwen3-vl" else "qwen2-vl"
        with pytest.raises(BadInput, match=f"is a .* model; {other} needs a .* one.\n.*try --model {self.family}"):
            open_backbone(other, BackboneOptions(str(checkpoint)))

    def test_a_checkpoint_without_its_tokenizer_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        bare = shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
        with pytest.raises(FileNotFoundError, match="The checkpoint bare has no tokenizer"):
            self.opened(Path(bare))
