"""The papers' heads at true size, without memory, beside the numbers that the papers print."""

from __future__ import annotations

import pytest

from vfc.heads.efficiency.cost import Model, PaperCost
from vfc.heads.efficiency.papers import paper_cost, published, with_published_costs


@pytest.fixture(scope="module")
def rows() -> dict[str, PaperCost]:
    """Every row of every paper; the models are not counted here."""
    costs = [
        paper_cost(row, lambda name: Model(name, 0, 0)) for head in with_published_costs() for row in published(head)
    ]
    return {cost.row: cost for cost in costs}


def row_of(rows: dict[str, PaperCost], start: str) -> PaperCost:
    (row,) = [cost for name, cost in rows.items() if name.startswith(start)]
    return row


def test_the_four_papers_have_their_rows() -> None:
    assert with_published_costs() == ["actionllm", "fsar", "msta", "vidprism"]
    assert published("linear-probe") == ()


def test_fsar_has_the_operations_of_its_table(rows: dict[str, PaperCost]) -> None:
    """30.4 G multiply-adds without the down-projection; 9.26 x 2^20 parameters."""
    row = row_of(rows, "FSAR-LLaVA, Table 8: Video-LLaVA")
    assert row.parameters == 9_711_616
    assert row.flops == pytest.approx(30.4e9, rel=0.01)
    # By hand: 10 clips of 8 x 257 + 60 rows through 4096 -> 1024 -> 256.
    assert row.flops_of_all - 2 * row.flops == 2 * 10 * (8 * 257 + 60) * (4096 * 1024 + 1024 * 256)


def test_actionllm_has_the_operations_of_its_table(rows: dict[str, PaperCost]) -> None:
    """5,575.18 G over 423 rows, and 4,205,120 parameters."""
    row = row_of(rows, "ActionLLM, Table III")
    assert row.parameters == 4_205_120
    assert row.flops == pytest.approx(5575.18e9, rel=1e-3)


def test_msta_has_the_parameters_of_its_logs_and_table(rows: dict[str, PaperCost]) -> None:
    assert row_of(rows, "MSTA, public logs").parameters == 1_744_000
    assert row_of(rows, "MSTA, Table 5").parameters == 8_712_192


def test_vidprism_has_the_parameters_of_the_released_head(rows: dict[str, PaperCost]) -> None:
    """The counts of the released code without its projection head."""
    counts = [row.parameters for name, row in rows.items() if name.startswith("VidPrism")]
    assert counts == [12_424_345, 18_332_064, 27_778_585, 41_063_840]
