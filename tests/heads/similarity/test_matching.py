"""Metrics against slow loops, exact dynamic programmes and numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suites import fsar_loops
from torch import Tensor

from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, alignment, cosine, otam


def episodes(
    seed: int = 0, b: int = 2, w: int = 3, k: int = 2, q: int = 4, t: int = 5, d: int = 6
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, q, t, d, generator=generator), torch.randn(b, w, k, t, d, generator=generator)


def slow_distance(x: np.ndarray, y: np.ndarray, epsilon: float) -> np.ndarray:
    table = np.empty((len(x), len(y)))
    for i, a in enumerate(x):
        for j, c in enumerate(y):
            table[i, j] = 1 - np.dot(a, c) / (math.sqrt(np.dot(a, a)) * math.sqrt(np.dot(c, c)) + epsilon)
    return table


def slow_otam(d: np.ndarray, lam: float, hard: bool = False) -> float:
    """The recursion of fewshot_protocol.md 4.2, cell by cell, with the two zero columns in place."""
    rows, columns = d.shape[0], d.shape[1] + 2
    padded = np.zeros((rows, columns))
    padded[:, 1:-1] = d
    cost = np.zeros((rows, columns))

    def soft(*ways: float) -> float:
        if hard:
            return min(ways)
        low = min(ways)
        return low - lam * math.log(sum(math.exp(-(way - low) / lam) for way in ways))

    for m in range(1, columns):
        cost[0, m] = padded[0, m] + cost[0, m - 1]
    for row in range(1, rows):
        for m in range(1, columns):
            if m == 1:
                best = soft(cost[row - 1, 0], cost[row - 1, 1], cost[row, 0])
            elif m < columns - 1:
                best = soft(cost[row - 1, m - 1], cost[row, m - 1])
            else:
                best = soft(cost[row - 1, m - 1], cost[row - 1, m], cost[row, m - 1])
            cost[row, m] = padded[row, m] + best
    return float(cost[-1, -1])


def slow(metric: str, query: Tensor, support: Tensor) -> np.ndarray:
    b, q = query.shape[:2]
    w, k = support.shape[1:3]
    out = np.empty((b, q, w))
    for task in range(b):
        for i in range(q):
            for c in range(w):
                x = query[task, i].double().numpy()
                shots = support[task, c].double().numpy()
                proto = sum(shots[j] for j in range(k)) / k
                if metric == "mean-cosine":
                    out[task, i, c] = 1 - slow_distance(x.mean(0)[None], proto.mean(0)[None], 0)[0, 0]
                elif metric == "otam":
                    tables = [slow_distance(x, shots[j], 0.01) for j in range(k)]
                    out[task, i, c] = -sum(slow_otam(d, 0.1) + slow_otam(d.T, 0.1) for d in tables) / k
                elif metric == "mpmm":
                    out[task, i, c] = -fsar_loops.mpmm([query[task, i]], [support[task, c].mean(dim=0)], 10)
                else:
                    d = slow_distance(x, proto, 0)
                    ahead = [min(d[i2, j] for j in range(d.shape[1])) for i2 in range(d.shape[0])]
                    back = [min(d[i2, j] for i2 in range(d.shape[0])) for j in range(d.shape[1])]
                    out[task, i, c] = -(max(ahead) + max(back) if metric == "hausdorff" else sum(ahead) + sum(back))
    return out


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("sizes", [{}, {"k": 1, "t": 1}, {"b": 1, "w": 5, "k": 5, "t": 8}])
def test_equals_a_slow_loop(metric: str, sizes: dict[str, int]) -> None:
    query, support = episodes(1, **sizes)
    torch.testing.assert_close(
        METRICS[metric](query, support).double().numpy(), slow(metric, query, support), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_order_of_shots_and_of_tasks_does_not_matter(metric: str) -> None:
    query, support = episodes(2, b=3, k=4)
    logits = METRICS[metric](query, support)
    torch.testing.assert_close(METRICS[metric](query, support[:, :, [2, 0, 3, 1]]), logits)
    turn = torch.tensor([2, 0, 1])
    torch.testing.assert_close(METRICS[metric](query[turn], support[turn]), logits[turn])
    torch.testing.assert_close(METRICS[metric](query, support[:, turn]), logits[:, :, turn])


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_query_and_support_of_other_lengths(metric: str) -> None:
    query, _ = episodes(3, t=4)
    _, support = episodes(3, t=7)
    torch.testing.assert_close(
        METRICS[metric](query, support).double().numpy(), slow(metric, query, support), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("metric", ["hausdorff", "bi-mhm", "otam"])
def test_symmetric_under_swapping_query_and_support(metric: str) -> None:
    query, support = episodes(4, b=6, q=1, w=1, k=1)
    there = METRICS[metric](query, support)
    back = METRICS[metric](support[:, 0], query[:, :, None])
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize(("metric", "best"), [("hausdorff", 0.0), ("bi-mhm", 0.0), ("mean-cosine", 1.0)])
def test_identical_clips_are_as_near_as_can_be(metric: str, best: float) -> None:
    clip = torch.randn(1, 1, 30, 16, generator=torch.Generator().manual_seed(5))
    assert METRICS[metric](clip, clip[:, :, None]).item() == pytest.approx(best, abs=1e-5)


def test_bi_mhm_by_hand() -> None:
    # Frames along the axes: query (x, y), support (x, -x). Query frames cost 0 and 1; support frames cost 0 and 1.
    query = torch.tensor([[[[2.0, 0.0], [0.0, 3.0]]]])
    support = torch.tensor([[[[[5.0, 0.0], [-1.0, 0.0]]]]])
    assert METRICS["bi-mhm"](query, support).item() == pytest.approx(-2.0)
    assert METRICS["hausdorff"](query, support).item() == pytest.approx(-2.0)


def test_otam_by_hand() -> None:
    # Distances (1, 2; 3, 4). Row 0: 1, 3. Row 1: 3 + 0 = 3, then 4 + min(1, 3) = 5. Into the closing column lead
    # C[0,2] = 3 and C[1,2] = 5, so the last frame stays unmatched and the path costs 3.
    hard = alignment(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1e-3)
    assert hard.item() == pytest.approx(3.0, abs=0.01)
    # One frame each: d plus nothing else, in both directions; cosine 1 of unit vectors with 0.01 added is 1/1.01.
    same = torch.tensor([[[[1.0, 0.0]]]])
    assert otam(same, same[:, :, None]).item() == pytest.approx(-2 * (1 - 1 / 1.01), abs=1e-6)


def paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Every path of the hard recursion from (0, 0) to the last cell of the padded table, as visited cells."""

    def back(row: int, m: int) -> Iterator[list[tuple[int, int]]]:
        if m == 0:
            yield [(row, m)]
            return
        if row == 0:
            ways = [(0, m - 1)]
        elif m == 1:
            ways = [(row - 1, 0), (row - 1, 1), (row, 0)]
        elif m < columns - 1:
            ways = [(row - 1, m - 1), (row, m - 1)]
        else:
            ways = [(row - 1, m - 1), (row - 1, m), (row, m - 1)]
        for way in ways:
            for path in back(*way):
                yield [*path, (row, m)]

    yield from back(rows - 1, columns - 1)


def test_small_lambda_meets_the_best_of_all_paths() -> None:
    generator = np.random.default_rng(6)
    for _ in range(5):
        d = generator.uniform(0, 2, (4, 3))
        padded = np.pad(d, ((0, 0), (1, 1)))
        best = min(sum(padded[cell] for cell in path) for path in paths(4, 5))
        assert slow_otam(d, 0, hard=True) == pytest.approx(best)
        assert alignment(torch.tensor(d), 1e-4).item() == pytest.approx(best, abs=2e-3)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.01, 0.1, 0.5]), st.integers(0, 1000))
def test_alignment_equals_the_cell_by_cell_recursion(rows: int, columns: int, lam: float, seed: int) -> None:
    d = np.random.default_rng(seed).uniform(0, 2, (rows, columns))
    assert alignment(torch.tensor(d), lam).item() == pytest.approx(slow_otam(d, lam), rel=1e-9, abs=1e-9)


def test_tiny_lambda_neither_overflows_nor_loses_its_gradient() -> None:
    query, support = episodes(7)
    query.requires_grad_()
    otam(query, support, smoothing=1e-3).sum().backward()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()
    assert query.grad.abs().sum() > 0


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_float32_under_autocast(metric: str) -> None:
    query, support = episodes(8)
    plain = METRICS[metric](query, support)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(METRICS[metric](query, support), plain)


def test_cosine_of_zero_rows_is_zero_and_epsilon_shrinks_small_norms() -> None:
    zero = torch.zeros(1, 1, 1, 2)
    unit = torch.tensor([[[[[1.0, 0.0]]]]])
    assert cosine(zero, unit).item() == 0
    small = torch.tensor([[[[0.01, 0.0]]]])
    assert cosine(small, unit).item() == pytest.approx(1.0)
    assert cosine(small, unit, epsilon=0.01).item() == pytest.approx(0.5)


def test_representations_by_hand() -> None:
    frames = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])
    assert REPRESENTATIONS["mean"](frames).tolist() == pytest.approx([8 / 3, 11 / 3])
    assert REPRESENTATIONS["ordered"](frames).tolist() == [1, 2, 3, 5, 4, 4]
    assert REPRESENTATIONS["difference"](frames).tolist() == [2, 3, 1, -1]
