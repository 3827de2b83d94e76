"""Metrics on several branches: against loops, and the properties a distance must have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import fsar_loops as loops
from torch import Tensor

from vfc.heads.similarity import matching, token_distances
from vfc.heads.similarity.token_distances import METRICS, TokenDistances, bi_mhm, hausdorff, mpmm, otam, pairwise


def ragged(generator: torch.Generator, lengths: list[int], longest: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows `[n, longest, width]`, garbage where padded, and what is valid."""
    rows = torch.randn(len(lengths), longest, width, generator=generator)
    valid = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return rows, valid


class Case:
    """Two tasks, three classes, four queries; visual of 5 frames, text of 1 to 7 rows."""

    def __init__(self, seed: int, width: int = 6) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths_q = torch.randint(1, 8, (2, 4), generator=generator)
        self.lengths_p = torch.randint(1, 8, (2, 3), generator=generator)
        self.visual_q = torch.randn(2, 4, 5, width, generator=generator)
        self.visual_p = torch.randn(2, 3, 5, width, generator=generator)
        text_q, valid_q = ragged(generator, self.lengths_q.flatten().tolist(), 7, width)
        text_p, valid_p = ragged(generator, self.lengths_p.flatten().tolist(), 7, width)
        self.text_q, self.valid_q = text_q.view(2, 4, 7, width), valid_q.view(2, 4, 7)
        self.text_p, self.valid_p = text_p.view(2, 3, 7, width), valid_p.view(2, 3, 7)

    def branches(self, distance: token_distances.Distance) -> list[TokenDistances]:
        query_valid = self.valid_q[:, :, None].expand(2, 4, 3, 7)
        support_valid = self.valid_p[:, None].expand(2, 4, 3, 7)
        return [
            TokenDistances(pairwise(self.visual_q, self.visual_p[:, None], distance)),
            TokenDistances(pairwise(self.text_q, self.text_p[:, None], distance), query_valid, support_valid),
        ]

    def pair(self, b: int, q: int, w: int) -> tuple[list[Tensor], list[Tensor]]:
        return (
            [self.visual_q[b, q], self.text_q[b, q, : self.lengths_q[b, q]]],
            [self.visual_p[b, w], self.text_p[b, w, : self.lengths_p[b, w]]],
        )


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_its_loop(seed: int, distance: token_distances.Distance) -> None:
    case = Case(seed)
    result = case.branches(distance)
    for b in range(2):
        for q in range(4):
            for w in range(3):
                query, proto = case.pair(b, q, w)
                for u in (1, 3, 10, 50):
                    assert mpmm(result, u)[b, q, w].item() == pytest.approx(
                        loops.mpmm(query, proto, u, distance), abs=1e-5
                    )
                assert hausdorff(result)[b, q, w].item() == pytest.approx(
                    loops.hausdorff(query, proto, distance), abs=1e-5
                )
                assert bi_mhm(result)[b, q, w].item() == pytest.approx(loops.bi_mhm(query, proto, distance), abs=1e-5)
                slow = loops.otam(query, proto, 0.1, distance)
                assert otam(result, 0.1)[b, q, w].item() == pytest.approx(slow, abs=1e-4, rel=1e-5)


def test_by_hand() -> None:
    # Visual: query tokens 0 and 4, prototype tokens 1 and 2. Of prototype tokens: 1, 2. Of query tokens: 1, 2.
    # Text: query token 10, prototype tokens 10 and 13. Of prototype tokens: 0, 3. Of the query token: 0.
    def row(*values: float) -> Tensor:
        return torch.tensor(values)[:, None]

    visual = TokenDistances(pairwise(row(0, 4)[None, None], row(1, 2)[None, None, None]))
    text = TokenDistances(pairwise(row(10)[None, None], row(10, 13)[None, None, None]))
    assert mpmm([visual, text], 2).item() == pytest.approx((3 + 2) / 2 + (2 + 1) / 2)
    assert mpmm([visual, text], 10).item() == pytest.approx((1 + 2 + 0 + 3) / 4 + (1 + 2 + 0) / 3)
    assert hausdorff([visual, text]).item() == pytest.approx((2 + 2) + (3 + 0))
    assert bi_mhm([visual, text]).item() == pytest.approx((1.5 + 1.5) + (1.5 + 0))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("metric", ["mpmm", "hausdorff", "bi-mhm"])
def test_identical_videos_are_at_zero_with_zero_gradient(metric: str, distance: token_distances.Distance) -> None:
    # More than 25 rows: where torch.cdist would switch to the form that cancels.
    tokens = torch.randn(1, 1, 60, 256, generator=torch.Generator().manual_seed(0)) * 30
    query, support = tokens.clone().requires_grad_(), tokens.clone()[:, None].requires_grad_()
    visual = TokenDistances(pairwise(query, support, distance))
    text = TokenDistances(pairwise(query[:, :, :40], support[:, :, :, :40], distance))
    apart = METRICS[metric]([visual, text])
    assert apart.item() == 0
    apart.sum().backward()
    for side in (query, support):
        assert side.grad is not None
        assert not side.grad.any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_symmetric_under_exchange_of_query_and_prototype(seed: int, u: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(1, 1, 8, 5, generator=generator), torch.randn(1, 1, 8, 5, generator=generator)
    there, back = [TokenDistances(pairwise(a, b[:, None]))], [TokenDistances(pairwise(b, a[:, None]))]
    for result in (mpmm(there, u) - mpmm(back, u), hausdorff(there) - hausdorff(back), bi_mhm(there) - bi_mhm(back)):
        assert result.abs().item() < 1e-5
    assert otam(there).item() == pytest.approx(otam(back).item(), abs=1e-4)


def test_one_branch_agrees_with_the_metrics_of_frames() -> None:
    generator = torch.Generator().manual_seed(1)
    query, support = torch.randn(2, 4, 8, 6, generator=generator), torch.randn(2, 3, 5, 8, 6, generator=generator)
    result = [TokenDistances(pairwise(query, support.mean(dim=2)[:, None], "cosine"))]
    torch.testing.assert_close(-hausdorff(result), matching.hausdorff(query, support), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(-8 * bi_mhm(result), matching.bi_mhm(query, support), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(-mpmm(result), matching.METRICS["mpmm"](query, support, distance="cosine"))
    apart = token_distances.alignment(result[0].distance, 0.1)
    torch.testing.assert_close(apart, matching.alignment(result[0].distance, 0.1))


def test_the_distance_holds_under_autocast() -> None:
    tokens = torch.randn(1, 2, 30, 16)
    with torch.autocast("cpu", torch.bfloat16):
        result = pairwise(tokens, tokens[:, None])
    assert result.dtype == torch.float32
    assert result[0, 0, 0].diagonal().abs().max() == 0
