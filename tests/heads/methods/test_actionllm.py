"""ActionLLM: published counts, equality with the library's LLaMA, gradients, padding, its block by equations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from suites.anticipation import AnticipationHeadSuite
from suites.sequence_store import write_made_up
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput, Damaged, MissingExtra, MissingPath
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head as AnyHead
from vfc.heads.methods.actionllm import TRAIN, Config, Head, checkpoint
from vfc.heads.methods.actionllm.cmib import Cmia, Cmib, sinusoids
from vfc.heads.methods.actionllm.names import name_table
from vfc.heads.methods.actionllm.trunk import Trunk
from vfc.heads.methods.actionllm.tuning import ActionTuning
from vfc.heads.results.tables import read_rows
from vfc.heads.runs.run_folder import weights
from vfc.heads.tasks import anticipation
from vfc.heads.tasks.anticipation import WindowBatch
from vfc.heads.training.fit import train

WIDTH, CLASSES = 24, 6
NAMES = ("cut_tomato", "peel_cucumber", "add_oil", "mix_dressing", "action_start", "action_end")


def specs(features: int = WIDTH, classes: int = CLASSES) -> dict[str, ArraySpec]:
    return {
        "visual": ArraySpec("features", "fp16", (None, features)),
        "classes": ArraySpec("classes", "int64", (classes,)),
    }


def llama(**more: Any) -> Any:
    """A random LLaMA of two layers, always the same: every path of the head, in milliseconds."""
    from transformers import LlamaConfig, LlamaModel

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 40,
        "max_position_embeddings": 128,
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng():
        torch.manual_seed(17)
        return LlamaModel(LlamaConfig(**{**sizes, **more}))


def made(config: Config | None = None, *, seed: int = 0, given: Mapping[str, ArraySpec] | None = None) -> Head:
    """A head on the random LLaMA, its table of names filled with noise in the tokenizer's stead."""
    torch.manual_seed(seed)
    head = Head(config or Config(queries=5), given or specs(), llama())
    head.names_of_classes = NAMES
    head.table.copy_(torch.randn(head.table.shape, generator=torch.Generator().manual_seed(17)))
    return head


def batch_of(lengths: tuple[int, ...], segments: tuple[int, ...], seed: int = 0) -> WindowBatch:
    generator = torch.Generator().manual_seed(seed)
    count, steps, most = len(lengths), max(lengths), max(segments)
    valid = torch.arange(steps) < torch.tensor(lengths)[:, None]
    past = torch.randint(CLASSES, (count, steps), generator=generator)
    there = torch.arange(most) < torch.tensor(segments)[:, None]
    shares = torch.rand(count, most, generator=generator) * there
    return WindowBatch(
        visual=torch.randn(count, steps, WIDTH, generator=generator) * valid[..., None],
        valid=valid,
        observed_labels=past.masked_fill(~valid, -1),
        past=past.masked_fill(~valid, -100),
        actions=torch.randint(CLASSES, (count, most), generator=generator).masked_fill(~there, -1),
        durations=shares / shares.sum(dim=1, keepdim=True),
    )


def total(head: Head, batch: WindowBatch) -> Tensor:
    return torch.stack(list(head.loss(batch).values())).sum()


@pytest.fixture
def stories(shared_data: Path) -> str:
    folder = shared_data / "weights" / "stories260K_hf"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no stories260K at {folder}")
    return str(folder)


class TestActionLlm(AnticipationHeadSuite):
    method = "actionllm"
    config = Config(queries=5, cmib_width=16)
    # D is 0 at first, so A has no gradient; a constant added to every key changes no softmax.
    never_trained = (
        *[f"cmib.attention.streams.{name}.key.bias" for name in ("text", "visual", "query")],
        *[
            f"trunk.model.layers.{i}.input_layernorm.tuning.narrow.{kind}"
            for i in (0, 1)
            for kind in ("weight", "bias")
        ],
    )
    overfit_steps = 60

    def head(self, seed: int = 0) -> Head:
        return made(self.config, seed=seed, given=self.specs)

    def shares(self, head: AnyHead, batch: WindowBatch) -> Mapping[str, Tensor]:
        """The squared errors of the durations are divided by the number of windows, as in the released code."""
        return {**super().shares(head, batch), "duration": torch.ones(len(batch.valid))}


class TestPublishedCounts:
    """The paper's Table VI and its CMIB of double width, on LLaMA-7B's shapes without memory."""

    def count(self, config: Config) -> tuple[int, Head]:
        with torch.device("meta"):
            seven = llama(
                hidden_size=4096,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=32,
                intermediate_size=11008,
                vocab_size=32000,
            )
            head = Head(config, specs(2048, 19), seven)
        return sum(p.numel() for p in head.parameters() if p.requires_grad), head

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (Config(parity=True), 4_205_120),
            (Config(parity=True, tuning_width=2), 3_680_768),
            (Config(parity=True, tuning_width=6), 4_729_472),
            (Config(parity=True, tuning_width=8), 5_253_824),
            (Config(parity=True, cmib_width=256), 7_025_472),
            # What has a use: without expert and router (655,424), with the class heads (4096 (2 19 + 20)).
            (Config(), 4_205_120 - 655_424 + 237_568),
        ],
    )
    def test_trained_parameters(self, config: Config, expected: int) -> None:
        assert self.count(config)[0] == expected

    def test_each_part_is_the_published_one(self) -> None:
        _, head = self.count(Config(parity=True))
        parts = {
            "adapter": 790_656,
            "cmib.attention": 198_144,
            "cmib.ffn": 589_824,
            "cmib.before": 768,
            "cmib.narrow": 524_288,
            "cmib.widen": 524_288,
            "trunk": 1_573_056,
            "last": 4_096,
        }
        named = {name: p.numel() for name, p in head.named_parameters() if p.requires_grad}
        for part, expected in parts.items():
            assert sum(size for name, size in named.items() if name.startswith(part)) == expected, part
        assert "655,424 of the trained parameters" in head.notes[1]


class TestTrunk:
    def test_with_adapters_that_do_nothing_states_equal_the_librarys(self, stories: str) -> None:
        from transformers import AutoModel

        rows = torch.randn(2, 11, 64)
        valid, positions = torch.ones(2, 11, dtype=torch.bool), torch.arange(11).expand(2, -1)
        theirs = AutoModel.from_pretrained(stories, dtype=torch.float32, attn_implementation="eager").eval()
        trunk = Trunk(checkpoint.load(stories, "fp32", None), hidden=4, dropout=0.1)
        with torch.no_grad():
            causal = theirs(inputs_embeds=rows).last_hidden_state
            both = theirs(inputs_embeds=rows, attention_mask=torch.zeros(2, 1, 11, 11)).last_hidden_state
            torch.testing.assert_close(trunk(rows, valid, positions, causal=True), causal, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(trunk(rows, valid, positions), both, rtol=1e-4, atol=1e-5)
        assert (causal - both).abs().max() > 0.1

    def test_the_adapter_sits_between_the_norm_and_the_attention(self) -> None:
        model, plain = llama(), llama()
        plain.load_state_dict(model.state_dict())
        trunk = Trunk(model, hidden=4, dropout=0.0).eval()
        tunings = [m for m in trunk.modules() if isinstance(m, ActionTuning)]
        assert len(tunings) == 2
        for tuning in tunings:
            torch.nn.init.normal_(tuning.widen.weight)
        rows, positions = torch.randn(1, 6, 32), torch.arange(6)[None]
        mask, rope = torch.zeros(1, 1, 6, 6), plain.rotary_emb(rows, positions)
        hidden = rows
        with torch.no_grad():
            for layer, tuning in zip(plain.layers, tunings, strict=True):
                x = layer.input_layernorm(hidden)
                narrow = x @ tuning.narrow.weight.T + tuning.narrow.bias
                wide = torch.empty_like(x)
                for half in (0, 1):
                    rows_of = slice(16 * half, 16 * half + 16)
                    wide[..., rows_of] = narrow[..., 2 * half : 2 * half + 2] @ tuning.widen.weight[rows_of].T
                read, _ = layer.self_attn(x + wide, attention_mask=mask, position_embeddings=rope)
                hidden = hidden + read
                hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            expected = plain.norm(hidden)
            result = trunk(rows, torch.ones(1, 6, dtype=torch.bool), positions)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)

    def test_the_second_convolution_has_two_groups(self) -> None:
        tuning = ActionTuning(8, 4, 0.0, spare=False)
        torch.nn.init.normal_(tuning.widen.weight)
        torch.nn.init.normal_(tuning.widen.bias)
        x = torch.randn(3, 5, 8)
        narrow = functional.conv1d(x.mT, tuning.narrow.weight[..., None], tuning.narrow.bias)
        wide = functional.conv1d(narrow, tuning.widen.weight[..., None], tuning.widen.bias, groups=2)
        torch.testing.assert_close(tuning(x), x + wide.mT)

    def test_the_state_holds_no_frozen_weights(self) -> None:
        remaining = weights(made())
        trunk = {name for name in remaining if name.startswith("trunk.")}
        assert trunk
        assert all(".tuning." in name for name in trunk)

    def test_gradient_checkpointing_changes_no_gradient(self) -> None:
        grads = []
        for checkpointing in (False, True):
            head = made(Config(queries=5, dropout=0.1, checkpointing=checkpointing))
            torch.manual_seed(1)
            total(head, batch_of((7,), (3,))).backward()
            grads.append({name: p.grad for name, p in head.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys()
        for name, grad in grads[0].items():
            torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 0.05), (torch.bfloat16, 0.2)])
    def test_a_trunk_of_half_precision_gives_nearly_the_same_gradients(self, dtype: torch.dtype, near: float) -> None:
        result = []
        for kind in (torch.float32, dtype):
            torch.manual_seed(0)
            model = llama()
            head = Head(Config(queries=5, dropout=0.0), specs(), model.to(kind))
            head.names_of_classes = NAMES
            for name, parameter in head.named_parameters():
                if name.endswith("widen.weight") and ".tuning." in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            # As small as with a large model, where fp16 would lose them.
            (1e-5 * total(head, batch_of((9,), (3,)))).backward()
            result.append({name: 1e5 * p.grad for name, p in head.named_parameters() if p.grad is not None})
        assert result[0].keys() == result[1].keys()
        for name in (
            "adapter.0.weight",
            "cmib.narrow.weight",
            "trunk.model.layers.0.input_layernorm.tuning.narrow.weight",
        ):
            assert (result[1][name] - result[0][name]).norm() < near * result[0][name].norm(), name


class TestGradients:
    """Every trained tensor, and no frozen one, on a real pretrained LLaMA."""

    @pytest.mark.parametrize("parity", [False, True])
    def test_they_reach_what_is_trained(self, stories: str, parity: bool) -> None:
        torch.manual_seed(0)
        head = Head(Config(llm=stories, queries=5, dropout=0.0, parity=parity), specs())
        head.name_classes(NAMES)
        trained = {name: p for name, p in head.named_parameters() if p.requires_grad}
        frozen = {name: p for name, p in head.named_parameters() if not p.requires_grad}
        before = {name: p.clone() for name, p in frozen.items()}
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
        batch = batch_of((9, 6), (3, 4))
        idle = {name for name in trained if ".spare_" in name}
        assert bool(idle) == parity
        silent = {name for name in trained if ".tuning.narrow." in name}
        assert len(silent) == 10
        for step in (0, 1):
            optimizer.zero_grad()
            total(head, batch).backward()
            for name, parameter in trained.items():
                if name in idle:
                    assert parameter.grad is None, name
                elif name.endswith("key.bias"):
                    # Adding a constant to every key changes no softmax.
                    assert parameter.grad.abs().max() < 1e-5, name
                elif name in silent and step == 0:
                    assert parameter.grad.abs().max() == 0, name
                else:
                    assert parameter.grad.abs().max() > 0, name
            optimizer.step()
        assert all(p.grad is None and torch.equal(p, before[name]) for name, p in frozen.items())
        class_heads = {name for name in trained if name.startswith("name_")}
        assert bool(class_heads) != parity
        assert {"name_future.weight", "name_past.text.weight", "name_past.visual.weight"} <= weights(head).keys()


def equations(block: Cmia, streams: Mapping[str, Tensor], valid: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Equations 1 to 6 of the paper, row by row and head by head."""
    size = next(iter(streams.values())).shape[-1] // heads
    result = {}
    for target, x in streams.items():
        own = block.streams[target]
        out = torch.empty_like(x)
        for b in range(len(x)):
            for i in range(x.shape[1]):
                contexts = []
                for source, y in streams.items():
                    theirs, context = block.streams[source], torch.zeros(x.shape[-1])
                    for head in range(heads):
                        part = slice(size * head, size * head + size)
                        query = (own.query.weight @ x[b, i] + own.query.bias)[part]
                        readable = [j for j in range(y.shape[1]) if valid[source][b, j]]
                        keys = [(theirs.key.weight @ y[b, j] + theirs.key.bias)[part] for j in readable]
                        values = [(theirs.value.weight @ y[b, j] + theirs.value.bias)[part] for j in readable]
                        odds = [math.exp(float(query @ key) / math.sqrt(size)) for key in keys]
                        context[part] = sum(w / sum(odds) * v for w, v in zip(odds, values, strict=True))
                    contexts.append(context)
                out[b, i] = own.out.weight @ (sum(contexts) / len(contexts)) + own.out.bias
        result[target] = out
    return result


class TestCmib:
    def test_attention_equals_the_equations(self) -> None:
        torch.manual_seed(0)
        names = ("text", "visual", "query")
        block = Cmia(names, 8, 4, "both", 0.1).eval()
        streams = {name: torch.randn(2, length, 8) for name, length in zip(names, (3, 3, 2), strict=True)}
        valid = {name: torch.ones(x.shape[:2], dtype=torch.bool) for name, x in streams.items()}
        valid["text"] = valid["visual"] = torch.tensor([[True, True, True], [True, True, False]])
        with torch.no_grad():
            result, expected = block(streams, valid), equations(block, streams, valid, 4)
        for name in names:
            torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-6)

    def test_what_is_read_can_be_limited(self) -> None:
        torch.manual_seed(0)
        streams = {name: torch.randn(1, 3, 8) for name in ("text", "visual")}
        valid = {name: torch.ones(1, 3, dtype=torch.bool) for name in streams}
        changed = {**streams, "visual": torch.randn(1, 3, 8)}
        moved = {}
        for reads in ("self", "cross", "both"):
            block = Cmia(("text", "visual"), 8, 4, reads, 0.0)
            a, b = block(streams, valid), block(changed, valid)
            moved[reads] = tuple(not torch.equal(a[name], b[name]) for name in streams)
        # Whether text changed, and whether visual changed, when visual went in changed.
        assert moved == {"self": (False, True), "cross": (True, True), "both": (True, True)}

    def test_positions_are_those_of_time_or_none(self) -> None:
        torch.manual_seed(0)
        table = sinusoids(torch.tensor([0, 3]), 6)
        rates = [1.0, 10000 ** (-2 / 6), 10000 ** (-4 / 6)]
        by_hand = [value for rate in rates for value in (math.sin(3 * rate), math.cos(3 * rate))]
        torch.testing.assert_close(table, torch.tensor([[0, 1.0, 0, 1, 0, 1], by_hand]))
        for timed in (True, False):
            block = Cmib(("a",), 16, width=8, heads=2, eps=1e-6, reads="both", dropout=0.0, timed=timed)
            equal = torch.ones(1, 4, 16)
            rows = block({"a": equal}, {"a": torch.ones(1, 4, dtype=torch.bool)})["a"][0]
            # The released code places every row at 0: equal queries then stay equal.
            assert torch.allclose(rows[0], rows[1], atol=1e-6) != timed


class TestSequences:
    def test_padding_changes_nothing(self) -> None:
        head = made().eval()
        for tuning in (m for m in head.modules() if isinstance(m, ActionTuning)):
            torch.nn.init.normal_(tuning.widen.weight, std=0.1)
        for causal in (False, True):
            head.config = replace(head.config, causal=causal)
            batch = batch_of((9, 4, 6), (3, 5, 2))
            with torch.no_grad():
                together, losses = head.predict(batch), head.loss(batch)
                alone = [
                    WindowBatch(batch.visual[i : i + 1, :n], batch.valid[i : i + 1, :n],
                                batch.observed_labels[i : i + 1, :n], batch.past[i : i + 1, :n],
                                batch.actions[i : i + 1], batch.durations[i : i + 1])
                    for i, n in enumerate((9, 4, 6))
                ]  # fmt: skip
                apart = [head.predict(one) for one in alone]
                torch.testing.assert_close(
                    together.actions, torch.cat([p.actions for p in apart]), rtol=1e-4, atol=1e-5
                )
                torch.testing.assert_close(
                    together.durations, torch.cat([p.durations for p in apart]), rtol=1e-4, atol=1e-5
                )
                each = [head.loss(one)["duration"] for one in alone]
            torch.testing.assert_close(losses["duration"], torch.stack(each).mean())

    def test_modalities_and_losses_can_be_left_out(self) -> None:
        batch = batch_of((6,), (3,))
        assert set(made().loss(batch)) == {"past text", "past visual", "action", "duration"}
        assert set(made(Config(modalities="visual")).loss(batch)) == {"past visual", "action", "duration"}
        assert set(made(Config(modalities="text")).loss(batch)) == {"past text", "action", "duration"}
        assert set(made(Config(loss_text=False, loss_visual=False)).loss(batch)) == {"action", "duration"}
        untold = replace(batch, observed_labels=None)
        made(Config(modalities="visual")).loss(untold)
        with pytest.raises(BadInput, match=r"text needs a class id per observed step[\s\S]*--modalities visual"):
            made().loss(untold)

    def test_the_text_rows_are_mean_embeddings_of_the_names(self, stories: str) -> None:
        from transformers import AutoTokenizer

        head = Head(Config(llm=stories), specs())
        head.name_classes(NAMES)
        words, table = AutoTokenizer.from_pretrained(stories), head.trunk.embeddings()
        pieces = words.convert_tokens_to_ids(words.tokenize("cut_tomato"))
        assert len(pieces) > 1
        assert not {1, 2} & set(pieces)
        torch.testing.assert_close(head.table[0], torch.stack([table[i] for i in pieces]).mean(dim=0))
        spoken = Head(Config(llm=stories, class_names="spoken"), specs())
        spoken.name_classes(NAMES)
        expected = name_table(["cut tomato"], words, table)[0]
        torch.testing.assert_close(spoken.table[0], expected)
        assert not torch.allclose(spoken.table[0], head.table[0])

    def test_queries_are_constants_or_learned(self) -> None:
        assert torch.equal(made(Config()).query, torch.ones(20, WIDTH))
        assert torch.equal(made(Config(query_init="zeros")).query, torch.zeros(20, WIDTH))
        drawn = made(Config(query_init="randn"))
        assert drawn.query.std() > 0.5
        assert "query" in weights(drawn)
        learned = made(Config(query_init="learned"))
        assert isinstance(learned.query, torch.nn.Parameter)

    def test_frozen_class_heads_are_saved_and_come_back(self) -> None:
        one, other = made(Config(parity=True), seed=0).eval(), made(Config(parity=True), seed=1).eval()
        other.load_state_dict(weights(one), strict=False)
        assert torch.equal(one.name_future.weight, other.name_future.weight)


def test_a_run_on_a_store_of_sequences(stories: str, tmp_path: Path) -> None:
    store = write_made_up(tmp_path / "store", videos=8, tests=2)
    task = anticipation.Config(cache=store, told="truth", stride=16, train_ratios=(0.2, 0.5), offsets=1)
    settings = Config(llm=stories, queries=8, cmib_width=8, adapter_width=8)
    plan = replace(TRAIN, epochs=2, batch=4, device="cpu", out=tmp_path / "run")
    result = train("actionllm", task, settings, plan, Silent())
    row = result.to_json()
    assert row["updates"] == 3  # 3 batches a pass, 2 passes, 2 batches an update
    assert any("5 layers, 64 wide, float32, frozen" in note for note in row["notes"])
    saved = load_file(tmp_path / "run" / "head.safetensors")
    assert sum(value.numel() for value in saved.values()) == row["parameters"]
    curve = [each["loss"] for each in read_rows(tmp_path / "run" / "curve.jsonl")]
    assert all(math.isfinite(loss) for loss in curve)


class TestBadInput:
    def test_an_llm_of_another_architecture(self, tmp_path: Path) -> None:
        from transformers import CLIPVisionConfig, GPT2Config

        GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11).save_pretrained(tmp_path / "gpt")
        with pytest.raises(
            BadInput, match=r"A GPT2Model is not usable as the LLM of ActionLLM[\s\S]*Give --llm a LLaMA"
        ):
            checkpoint.load(str(tmp_path / "gpt"), None, None)
        CLIPVisionConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path / "clip")
        with pytest.raises(BadInput, match="A CLIPVisionModel is not usable as the LLM of ActionLLM"):
            checkpoint.load(str(tmp_path / "clip"), None, None)

    def test_an_llm_that_is_not_there_or_not_whole(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="ActionLLM needs a language model"):
            checkpoint.load("", None, None)
        with pytest.raises(MissingPath, match="no checkpoint folder nowhere"):
            checkpoint.load("nowhere", None, None)
        with pytest.raises(MissingPath, match=r"has no config\.json"):
            checkpoint.load(str(tmp_path), None, None)
        llama().config.save_pretrained(tmp_path)
        with pytest.raises(MissingPath, match="could not be read"):
            checkpoint.load(str(tmp_path), None, None)
        model = llama()
        some = {name: value for name, value in model.state_dict().items() if "mlp" not in name}
        model.save_pretrained(tmp_path, state_dict=some)
        with pytest.raises(Damaged, match="lacks 6 weights of the model"):
            checkpoint.load(str(tmp_path), None, None)

    def test_quantisation_without_bitsandbytes_or_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r"--quantize 8bit needs bitsandbytes[\s\S]*vfc\[quant\]"):
            checkpoint.quantization("8bit")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(BadInput, match="--quantize 4bit needs a CUDA device"):
            checkpoint.quantization("4bit")

    @pytest.mark.gpu
    @pytest.mark.parametrize("kind", ["8bit", "4bit"])
    def test_quantised_weights_train_the_same_tensors(self, stories: str, kind: Literal["8bit", "4bit"]) -> None:
        pytest.importorskip("bitsandbytes")
        if not torch.cuda.is_available():
            pytest.skip("bitsandbytes is tried on a CUDA device alone")
        head = Head(Config(llm=stories, queries=5, quantize=kind), specs()).cuda()
        head.name_classes(NAMES)
        batch = batch_of((9, 6), (3, 4))
        on = WindowBatch(**{field.name: getattr(batch, field.name).cuda() for field in fields(WindowBatch)})
        total(head, on).backward()
        plain = Head(Config(llm=stories, queries=5), specs())
        assert weights(head).keys() == weights(plain).keys()
        assert head.adapter[0].weight.grad.abs().sum() > 0

    def test_sequences_longer_than_the_llm(self) -> None:
        batch = batch_of((60,), (3,))
        with pytest.raises(BadInput, match=r"60 observed steps make a sequence of 140 rows; the LLM was trained for"):
            made(Config()).loss(batch)
        assert made(Config(beyond=True)).loss(batch)
        assert made(Config(parity=True)).loss(batch)
        assert made(Config(modalities="visual")).loss(batch)

    def test_widths_that_do_not_divide(self) -> None:
        with pytest.raises(BadInput, match=r"CMIB width of 30 cannot be divided among 4 attention heads"):
            made(Config(cmib_width=30))
        with pytest.raises(BadInput, match="--tuning-width 3 is odd"):
            made(Config(tuning_width=3))

    def test_names_that_do_not_match_the_classes(self) -> None:
        with pytest.raises(BadInput, match="2 class names were given for 6 classes"):
            made().name_classes(("a", "b"))

    def test_a_name_without_tokens(self) -> None:
        with pytest.raises(BadInput, match="class name '' has no token"):
            name_table([""], lambda name, add_special_tokens: {"input_ids": []}, torch.zeros(3, 2))
