"""A training step of the attentive probe at the size of ViT-L: the query folded into the keys, and written out.

`python tests/benchmarks/attentive_probe.py`; the result is in `attentive_probe.md`. One thread, random tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.methods.attentive_probe import Config, Head
from vfc.heads.methods.attentive_probe.blocks import CrossBlock

BATCH, TOKENS, WIDTH, CLASSES, HEADS, REPEATS = 4, 2048, 1024, 174, 16, 5


def written_out(block: CrossBlock, query: Tensor, x: Tensor) -> Tensor:
    """The cross block `[B, Q, D]` with keys and values of every token, as the public code has it."""
    attention = block.xattn
    queries = attention.q(query).expand(len(x), -1, -1).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    keys, values = attention.kv(block.norm1(x)).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
    pooled = query + functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
    changed: Tensor = pooled + block.mlp(block.norm2(pooled))
    return changed


def seconds(head: nn.Module, logits: Callable[[], Tensor], labels: Tensor) -> float:
    """Median duration of forward, backward and the optimizer's step."""
    optimizer, durations = torch.optim.AdamW(head.parameters()), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(logits(), labels).backward()
        optimizer.step()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations[1:])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens, labels = torch.randn(BATCH, TOKENS, WIDTH), torch.arange(BATCH)
    specs = {
        "visual": ArraySpec("norm.visual", "fp32", (TOKENS, WIDTH)),
        "classes": ArraySpec("classes", "int64", (CLASSES,)),
    }
    head = Head(Config(), specs)
    pooler = head.pooler
    block, query = pooler.cross_attention_block, pooler.query_tokens[0]
    with torch.no_grad():
        apart = (pooler(tokens) - written_out(block, query, tokens)[:, 0]).abs().max().item()
    folded = seconds(head, lambda: head.linear(pooler(tokens)), labels)
    slow = seconds(head, lambda: head.linear(written_out(block, query, tokens)[:, 0]), labels)
    print("| step of one probe, depth 1 | seconds | ratio |\n|---|---|---|")
    print(f"| folded | {folded:.3f} | 1 |\n| written out | {slow:.3f} | {slow / folded:.1f} |")
    print(f"\nLargest difference of the pooled vectors: {apart:.1e}")


if __name__ == "__main__":
    main()
