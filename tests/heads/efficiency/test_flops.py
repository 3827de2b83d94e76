"""Operations by torch's counter against operations counted by hand, for the heads of the four papers."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from vfc.cache_schema.values.layout import PATCH_MAJOR, Layout
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.efficiency.flops import count_flops, head_flops, without_memory
from vfc.heads.methods import actionllm, fsar, msta, vidprism
from vfc.heads.methods.msta.blocks import Block, Tail, Tower
from vfc.heads.tasks.anticipation import WindowBatch
from vfc.heads.tasks.classification import ClipBatch
from vfc.heads.tasks.fewshot import EpisodeBatch

INT = torch.int64


def attention(queries: int, keys: int, width: int) -> int:
    """Multiply-adds of one row of attention: scores, and the weighted sum."""
    return 2 * queries * keys * width


def test_attention_and_multi_head_attention_are_counted_on_a_cpu() -> None:
    """torch's counter by itself counts nothing of the CPU's fused kernels."""
    q = torch.zeros(2, 4, 10, 8)
    fused = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert fused == 2 * 2 * attention(10, 10, 32)
    layer, x = nn.MultiheadAttention(32, 4, batch_first=True).eval(), torch.zeros(2, 10, 32)
    assert count_flops(lambda: layer(x, x, x, need_weights=False)) == 2 * 2 * (4 * 10 * 32**2 + attention(10, 10, 32))
    assert torch.backends.mha.get_fastpath_enabled()


def test_fsar_by_hand() -> None:
    width, hidden, dim, ffn = 12, 10, 8, 16
    steps, patches, texts, way, queries = 3, 4, 5, 2, 2
    clips = way + queries
    config = fsar.Config(dim=dim, down_hidden=hidden, ffn_dim=ffn, attention_heads=2, alpha=0.5)
    specs = {
        "visual": ArraySpec("visual", "fp32", (steps, patches, width)),
        "text": ArraySpec("text", "fp32", (None, width)),
    }
    videos = {"visual": torch.randn(clips, steps, patches, width), "text": torch.randn(clips, texts, width)}
    support, query = torch.arange(way).view(1, way, 1), torch.arange(way, clips)[None]
    flops = head_flops(
        fsar.Head(config, specs), EpisodeBatch(videos, support, query, torch.zeros(1, queries, dtype=INT))
    )

    def layer(rows: int, keys: int) -> int:
        """Queries and output, keys and values, the feed-forward part."""
        return 2 * rows * dim**2 + 2 * keys * dim**2 + 2 * rows * dim * ffn

    down = clips * (steps * patches + texts) * (width * hidden + hidden * dim)
    spatial = layer(clips * steps * patches, clips * steps * patches) + clips * steps * attention(patches, patches, dim)
    temporal = layer(clips * steps, clips * steps) + clips * attention(steps, steps, dim)
    visual = layer(clips * steps, clips * texts) + clips * attention(steps, texts, dim)
    textual = layer(clips * texts, clips * steps) + clips * attention(texts, steps, dim)
    # Of each branch: cosines and weighted sums, token by token (LPC) and of whole clips (GPC).
    corrections = sum(way * queries * (2 * n * dim + dim + n * dim) for n in (steps, texts))
    assert flops.parts["down"] == 2 * down
    assert flops.parts["fusion.spatial"] == 2 * spatial
    assert flops.total == 2 * (down + spatial + temporal + visual + textual + corrections)
    assert flops.without(("down",)) == flops.total - 2 * down
    assert flops.once == 0


def test_vidprism_by_hand() -> None:
    width, classes, rates, lengths = 8, 5, (2, 4, 8), (4, 2, 1)
    config = vidprism.Config(preset="mixed", attention_heads=2)
    specs = {"visual": ArraySpec("frames", "fp32", (8, width)), "classes": ArraySpec("c", "int64", (classes,))}
    head = vidprism.Head(config, specs)
    batch = ClipBatch({"visual": torch.randn(3, 8, width)}, torch.zeros(3, dtype=INT), (), {})
    metric = 8 * width**2 + 8 * width  # of each rate: the projection, and the score
    similarity = sum(n * rate * rate * width for n, rate in zip(lengths, rates, strict=True))
    merge = sum(n * rate * width for n, rate in zip(lengths, rates, strict=True))
    gates = 4 * (2 * width * width // 4 + width // 4)  # 0-2, 1-2, 2-0, 2-1: only the stream of rate 8 is slow
    convolved = 1 * width**2 + 2 * (5 * width**2)  # up from one token; down to one token from two streams
    experts = sum(4 * n * width**2 + attention(n, n, width) + 4 * n * width**2 for n in lengths)
    tokens = sum(lengths)
    combined = 2 * width**2 + 2 * tokens * width**2 + attention(1, tokens, width)
    by_hand = 3 * metric + similarity + merge + gates + convolved + experts + combined + width * classes
    assert head_flops(head, batch).total == 3 * 2 * by_hand


def test_msta_by_hand() -> None:
    width, text_width, embedding, middle = 16, 8, 6, 4
    frames, patches, classes, length, first, last = 2, 4, 3, 5, 8, 9
    towers = [
        Tower(first, [Block(w, 4 * w, 2) for _ in range(first, last + 1)], nn.LayerNorm(w), torch.randn(w, embedding))
        for w in (width, text_width)
    ]
    tail = Tail(towers[0], towers[1], 0.01, frames, patches)
    rows = 1 + patches * frames
    layout = str(Layout(PATCH_MAJOR, grid=(2, 2), frames=frames))
    specs = {
        "visual": ArraySpec("layer7.visual", "fp32", (rows, width), layout),
        "class.tokens": ArraySpec("layer7.text", "fp32", (None, text_width)),
    }
    head = msta.Head(msta.Config(dim=middle), specs, tail)
    clips = {"visual": torch.randn(2, rows, width)}
    batch = ClipBatch(clips, torch.zeros(2, dtype=INT), (), {"tokens": torch.randn(classes, length, text_width)})

    def block(n: int, w: int, kept: int) -> int:
        """Queries and output of the rows that are kept, keys and values of all, attention, the feed-forward part."""
        return 2 * kept * w**2 + 2 * n * w**2 + attention(kept, n, w) + 8 * kept * w**2

    def adapter(n: int, w: int, kept: int, *, time: bool) -> int:
        """Down, shared and up of the rows that are kept; along time each channel reads three frames."""
        return kept * (2 * w * middle + middle**2) + (3 * (n - 1) * w if time else 0)

    video = block(rows, width, rows) + adapter(rows, width, rows, time=True)
    video += block(rows, width, 1) + adapter(rows, width, 1, time=False) + width * embedding
    text = 2 * (block(length, text_width, length) + adapter(length, text_width, length, time=False))
    text += text_width * embedding
    flops = head_flops(head, batch)
    assert flops.total == 2 * (2 * video + 2 * classes * embedding)
    assert flops.once == 2 * classes * text


def test_actionllm_by_hand() -> None:
    features, inner, wide, ffn, layers = 6, 5, 16, 24, 2
    narrow, tuned, classes, steps, queries, count = 8, 2, 3, 7, 4, 2
    sizes = {"hidden_size": wide, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": 4}
    model = transformers.LlamaModel(transformers.LlamaConfig(**sizes, vocab_size=11))
    config = actionllm.Config(
        llm="tiny", queries=queries, adapter_width=inner, cmib_width=narrow, tuning_width=tuned, beyond=True
    )
    specs = {"visual": ArraySpec("frames", "fp32", (None, features)), "classes": ArraySpec("c", "int64", (classes,))}
    head = actionllm.Head(config, specs, model)
    head.names_of_classes = ("a", "b", "c")
    ids = torch.zeros(count, steps, dtype=INT)
    none = torch.zeros(count, 0)
    batch = WindowBatch(torch.randn(count, steps, features), ids == 0, ids, ids, none.long(), none)
    adapted = (count * steps + queries) * (features * inner + inner * wide)  # the queries are the same in every window
    rows, streams = 2 * steps + queries, (steps, steps, queries)
    cmib = rows * (2 * wide * narrow + 4 * narrow**2 + 3 * narrow * 256)  # 256: its feed-forward width, rounded up
    cmib += sum(attention(n, rows, narrow) for n in streams)
    trunk = 4 * rows * wide**2 + attention(rows, rows, wide) + 3 * rows * wide * ffn
    trunk += rows * (wide * tuned + wide * tuned // 2)  # action tuning: a full layer, and one of two groups
    decoded = queries * wide * (classes + 1 + 1)
    assert head_flops(head, batch).total == 2 * (adapted + count * (cmib + layers * trunk + decoded))


def test_without_memory_gives_shapes_and_the_same_count() -> None:
    def build() -> tuple[fsar.Head, EpisodeBatch]:
        specs = {"visual": ArraySpec("visual", "fp32", (3, 4, 12))}
        places = torch.arange(2)
        batch = EpisodeBatch({"visual": torch.ones(4, 3, 4, 12)}, places.view(1, 2, 1), places[None] + 2, places[None])
        return fsar.Head(fsar.Config(dim=8, down_hidden=8, ffn_dim=8), specs), batch

    with without_memory():
        large = torch.zeros(1 << 40, 1 << 20)
        assert large.shape[0] == 1 << 40
        counted = head_flops(*build())
    assert counted == head_flops(*build())


def test_counting_leaves_the_head_as_it_was() -> None:
    specs = {"visual": ArraySpec("frames", "fp32", (8, 8)), "classes": ArraySpec("c", "int64", (3,))}
    head = vidprism.Head(vidprism.Config(), specs).train()
    head.classifier.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in head.named_parameters()}
    head_flops(head, ClipBatch({"visual": torch.randn(1, 8, 8)}, torch.zeros(1, dtype=INT), (), {}))
    assert head.training
    assert {name: parameter.requires_grad for name, parameter in head.named_parameters()} == before
