"""Distances whose backward pass goes in parts: bit for bit torch's exact form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vfc.heads.similarity import exact_distances
from vfc.heads.similarity.exact_distances import distances, in_parts


def sides(batch: int, rows: int, columns: int, width: int) -> tuple[Tensor, Tensor]:
    """Two leaves; their first rows are identical."""
    generator = torch.Generator().manual_seed(rows)
    a, b = torch.randn(batch, rows, width, generator=generator), torch.randn(batch, columns, width, generator=generator)
    b[:, 0] = a[:, 0]
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("at_once", [(1, 1), (4, 3), (16, 1000)])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 17, 33, 64), (4, 50, 60, 96), (2, 1, 9, 16), (1, 129, 64, 256)])
def test_values_and_gradients_equal_those_of_torch(shape: tuple[int, int, int, int], at_once: tuple[int, int]) -> None:
    results = []
    for parts in (True, False):
        a, b = sides(*shape)
        mode = "donot_use_mm_for_euclid_dist"
        apart = in_parts(a, b, at_once) if parts else torch.cdist(a, b, compute_mode=mode)
        apart.sin().sum().backward()  # a gradient that differs from pair to pair
        results.append((apart.detach(), a.grad, b.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_only_the_side_that_is_trained_gets_a_gradient() -> None:
    a, b = sides(1, 5, 6, 4)
    in_parts(a, b.detach(), (2, 2)).sum().backward()
    assert a.grad is not None
    assert b.grad is None


def test_the_rows_of_a_part_follow_from_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a device without memory (meta): four tasks of 20 queries and 5 classes with 100 text rows, 256 wide.
    shapes: list[tuple[int, ...]] = []
    exact = exact_distances._exact

    def recorded(rows: Tensor, columns: Tensor) -> Tensor:
        shapes.append((*rows.shape, columns.shape[1]))
        return exact(rows, columns)

    monkeypatch.setattr(exact_distances, "_exact", recorded)
    a = torch.empty(4, 2000, 256, device="meta", requires_grad=True)
    b = torch.empty(4, 500, 256, device="meta", requires_grad=True)
    distances(a, b).sum().backward()
    assert len(shapes) > 2
    assert max(4 * batch * rows * columns * width for batch, rows, width, columns in shapes[1:]) <= 256 << 20
    assert sum(rows for _, rows, _, columns in shapes[1:] if columns == 500) == 2000
    assert sum(rows for _, rows, _, columns in shapes[1:] if columns == 2000) == 500
    shapes.clear()
    distances(a[:, :20], b[:, :20]).sum().backward()  # a small buffer: torch's own pass
    assert len(shapes) == 1
