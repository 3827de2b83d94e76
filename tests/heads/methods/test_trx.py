"""TRX: the suite, the published numbers of tuples and parameters, the forward against loops."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from suites.head import EpisodicHeadSuite

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.methods.trx import Config, Head, Tuples
from vfc.heads.tasks.fewshot import EpisodeBatch

SMALL = Config(width=10)
SPECS = {"visual": ArraySpec("frames", "fp32", (4, 6))}


class TestTrx(EpisodicHeadSuite):
    method = "trx"
    config: ClassVar[Config] = SMALL


def test_28_pairs_and_56_triples_of_8_frames() -> None:
    pairs, triples = Tuples(2, 8, 4, 3), Tuples(3, 8, 4, 3)
    assert (len(pairs.order), len(triples.order)) == (28, 56)
    assert pairs.order.tolist() == [list(pair) for pair in itertools.combinations(range(8), 2)]


def test_parameters_are_those_of_the_paper() -> None:
    # Two linear maps with bias and one LayerNorm per size, on 2,048 channels.
    with torch.device("meta"):
        head = Head(Config(), {"visual": ArraySpec("frames", "fp16", (8, 2048))})
    expected = sum(2 * (size * 2048 * 1152 + 1152) + 2 * 1152 for size in (2, 3))
    assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize("shots", [1, 5])
def test_equals_loops(shots: int) -> None:
    torch.manual_seed(0)
    head = Head(SMALL, SPECS).eval()
    clips = torch.randn(3 * shots + 4, 4, 6)
    support = torch.arange(3 * shots).view(1, 3, shots)
    query = torch.arange(3 * shots, len(clips))[None]
    with torch.no_grad():
        result = head.scores(EpisodeBatch({"visual": clips}, support, query, torch.zeros_like(query)))[0]
        place = torch.zeros(4, 6)
        for t, c in itertools.product(range(4), range(0, 6, 2)):
            angle = t / 10_000 ** (c / 6)
            place[t, c], place[t, c + 1] = 0.1 * math.sin(angle), 0.1 * math.cos(angle)
        for q, w in itertools.product(range(4), range(3)):
            logit = 0.0
            for part in head.parts:
                assert isinstance(part, Tuples)
                tuples = list(itertools.combinations(range(4), part.order.shape[1]))

                def side(
                    clip: int, part: Tuples = part, tuples: list[tuple[int, ...]] = tuples
                ) -> list[tuple[torch.Tensor, torch.Tensor]]:
                    joined = [torch.cat([clips[clip, t] + place[t] for t in frames]) for frames in tuples]
                    return [(part.norm(part.key(row)), part.value(row)) for row in joined]

                shown = [pair for clip in support[0, w].tolist() for pair in side(clip)]
                distance = 0.0
                for key, value in side(int(query[0, q])):
                    energy = torch.stack([(key * other).sum() / math.sqrt(10) for other, _ in shown])
                    share = energy.softmax(dim=0)
                    read = sum((s * v for s, (_, v) in zip(share, shown, strict=True)), torch.zeros(10))
                    distance += float(((value - read) ** 2).sum())
                logit -= distance / len(tuples) / 2
            assert result[q, w].item() == pytest.approx(logit, rel=1e-4)


@pytest.mark.parametrize("sizes", [(), (5,), (0, 2)])
def test_impossible_tuples_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="asks for tuples out of 4 frames"):
        Head(replace(SMALL, cardinalities=sizes), SPECS)
