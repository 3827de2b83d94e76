"""Prototypes, CTPCM and the gate against loops written from the equations, with ragged text, K = 1 and 5."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from suites import fsar_loops as loops
from torch import Tensor

from vfc.heads.similarity.prototypes import (
    PadPolicy,
    adaptive_alpha,
    correct_prototypes,
    gather_peers,
    prototype_distances,
    prototypes,
)
from vfc.heads.similarity.token_distances import TokenDistances

WIDTH, LONGEST = 6, 7


class Episode:
    """Two tasks of three classes and four queries, text of 1 to 7 rows (zeros where padded)."""

    def __init__(self, shots: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def text(*shape: int) -> tuple[Tensor, Tensor]:
            lengths = torch.randint(1, LONGEST + 1, shape, generator=generator)
            valid = torch.arange(LONGEST) < lengths[..., None]
            return torch.randn(*shape, LONGEST, WIDTH, generator=generator) * valid[..., None], valid

        self.support, self.support_valid = text(2, 3, shots)
        self.query, self.query_valid = text(2, 4)
        self.frames_support = torch.randn(2, 3, shots, 5, WIDTH, generator=generator)
        self.frames_query = torch.randn(2, 4, 5, WIDTH, generator=generator)

    def shots(self, b: int, w: int) -> list[Tensor]:
        return [rows[valid] for rows, valid in zip(self.support[b, w], self.support_valid[b, w], strict=True)]

    def queries(self, b: int, chosen: list[int]) -> list[Tensor]:
        return [self.query[b, q][self.query_valid[b, q]] for q in chosen]


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("policy", ["mask", "literal"])
def test_prototypes_equal_their_loop(shots: int, policy: PadPolicy) -> None:
    case = Episode(shots)
    result, reached = prototypes(case.support, case.support_valid, policy)
    assert reached is not None
    for b in range(2):
        for w in range(3):
            slow = loops.prototype(case.shots(b, w), policy)
            assert reached[b, w].tolist() == [i < len(slow) for i in range(LONGEST)]
            torch.testing.assert_close(result[b, w], loops.pad(slow, LONGEST), rtol=1e-5, atol=1e-6)
    plain, none = prototypes(case.frames_support, None)
    assert none is None
    torch.testing.assert_close(plain, case.frames_support.mean(dim=2))


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("tau", [1.0, 0.2])
@pytest.mark.parametrize("policy", ["mask", "literal"])
def test_ctpcm_equals_its_loop(
    shots: int, parts: tuple[bool, bool], tau: float, policy: Literal["mask", "literal"]
) -> None:
    case = Episode(shots, seed=shots)
    proto, _ = prototypes(case.support, case.support_valid)
    result = correct_prototypes(
        proto,
        case.query[:, None],
        0.7,
        locally=parts[0],
        globally=parts[1],
        tau=tau,
        query_valid=case.query_valid[:, None],
        policy=policy,
    )
    for b in range(2):
        for w in range(3):
            slow = loops.correct_prototypes(
                loops.prototype(case.shots(b, w)),
                case.queries(b, [0, 1, 2, 3]),
                0.7,
                local=parts[0],
                whole=parts[1],
                tau=tau,
                policy=policy,
            )
            torch.testing.assert_close(result[b, 0, w], loops.pad(slow, LONGEST), rtol=1e-5, atol=1e-5)


def test_global_correction_without_padding_is_one_weight_per_video_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    prototype, queries = (torch.randn(shape, generator=generator) for shape in ((2, 5, 8, 64), (2, 1, 25, 8, 64)))
    unit = (torch.nn.functional.normalize(rows, dim=-1) for rows in (prototype.mean(dim=2), queries.mean(dim=3)))
    weights = torch.einsum("bwd,bgsd->bgws", *unit).softmax(dim=3)
    expected = (prototype[:, None] + torch.einsum("bgws,bgsld->bgwld", weights, queries)) / 2
    assert torch.equal(correct_prototypes(prototype, queries, 0.0, locally=False), expected)


def test_ctpcm_of_groups_sees_their_queries_alone() -> None:
    case = Episode(2)
    proto, _ = prototypes(case.support, case.support_valid)
    peers = torch.tensor([[[0, 2], [1, 3], [2, 1], [3, 0]]]).expand(2, -1, -1)
    alpha = torch.tensor([[0.1, 0.3, 0.5, 0.9], [0.2, 0.4, 0.6, 0.8]])
    valid = gather_peers(case.query_valid, peers)
    result = correct_prototypes(proto, gather_peers(case.query, peers), alpha, query_valid=valid)
    assert result.shape == (2, 4, 3, LONGEST, WIDTH)
    for b in range(2):
        for g in range(4):
            for w in range(3):
                slow = loops.correct_prototypes(
                    loops.prototype(case.shots(b, w)), case.queries(b, peers[b, g].tolist()), float(alpha[b, g])
                )
                torch.testing.assert_close(result[b, g, w], loops.pad(slow, LONGEST), rtol=1e-5, atol=1e-5)


def test_one_query_alone_meets_the_prototype_half_way() -> None:
    case = Episode(1)
    proto = case.frames_support[:, :, 0]
    peers = torch.arange(4).expand(2, 4)[..., None]
    result = correct_prototypes(proto, gather_peers(case.frames_query, peers), 0.4)
    torch.testing.assert_close(result, (proto[:, None] + case.frames_query[:, :, None]) / 2)


@pytest.mark.parametrize("policy", ["mask", "literal"])
@pytest.mark.parametrize("alone", [False, True])
def test_padding_policies_equal_loops_on_true_lengths(policy: PadPolicy, alone: bool) -> None:
    case = Episode(2, seed=3)
    proto, reached = prototypes(case.support, case.support_valid, policy)
    branch = prototype_distances(
        case.query, case.query_valid, proto[:, None], reached, None, policy=policy, alone=alone
    )
    to_proto, to_query = branch.nearest()
    for b in range(2):
        queries = case.queries(b, [0, 1, 2, 3])
        for w in range(3):
            slow = loops.prototype(case.shots(b, w), policy)
            for q, query in enumerate(queries):
                mine = slow
                if policy == "literal":
                    common = max(len(slow), *(len(other) for other in ([query] if alone else queries)))
                    mine, query = loops.pad(slow, common), loops.pad(query, common)
                of_proto, of_query = loops.charges(query, mine)
                torch.testing.assert_close(
                    to_proto[b, q, w, : len(of_proto)], torch.tensor(of_proto), rtol=1e-5, atol=1e-5
                )
                torch.testing.assert_close(
                    to_query[b, q, w, : len(of_query)], torch.tensor(of_query), rtol=1e-5, atol=1e-5
                )
                assert branch.support_valid is not None
                assert branch.query_valid is not None
                assert branch.support_valid[b, q, w].sum() == len(mine)
                assert branch.query_valid[b, q, w].sum() == len(query)


@pytest.mark.parametrize("shots", [1, 5])
def test_the_gate_equals_its_loop(shots: int) -> None:
    seen = set()
    for seed in range(12):
        case = Episode(shots, seed)
        scale = 0.2 if seed % 2 else 5.0
        frames = prototypes(case.frames_support * scale, None)[0]
        proto, reached = prototypes(case.support, case.support_valid)
        visual = prototype_distances(case.frames_query * scale, None, frames[:, None], None, None)
        text = prototype_distances(case.query, case.query_valid, proto[:, None], reached, None)
        result = adaptive_alpha(visual, text, None)
        assert result.shape == (2, 1)
        for b in range(2):
            words = case.queries(b, [0, 1, 2, 3])
            slow = loops.gate(
                [(case.frames_query[b, q] * scale, words[q]) for q in range(4)],
                [(frames[b, w], loops.prototype(case.shots(b, w))) for w in range(3)],
            )
            assert result[b, 0].item() == pytest.approx(slow)
            seen.add(slow)
    assert seen == {0.1, 0.9}


def test_the_gate_takes_as_many_text_distances_as_a_pair_has_frames() -> None:
    """Whatever longer clips stand in the same batch."""
    decided = set()
    for seed in range(12):
        case = Episode(1, seed)
        generator = torch.Generator().manual_seed(seed)
        of_support, of_query = (torch.randint(1, 6, shape, generator=generator) for shape in ((2, 3), (2, 4)))
        scale = (0.3, 1.0, 1.4)[seed % 3]
        support, query = case.frames_support[:, :, 0] * scale, case.frames_query * scale
        support_valid, query_valid = (torch.arange(5) < lengths[..., None] for lengths in (of_support, of_query))
        proto, in_use = prototypes(case.support, case.support_valid)
        visual = prototype_distances(query, query_valid, support[:, None], support_valid, None)
        text = prototype_distances(case.query, case.query_valid, proto[:, None], in_use, None)
        alphas = adaptive_alpha(visual, text, None)
        for b in range(2):
            words = case.queries(b, [0, 1, 2, 3])
            slow = loops.gate(
                [(query[b, q, : of_query[b, q]], words[q]) for q in range(4)],
                [(support[b, w, : of_support[b, w]], loops.prototype(case.shots(b, w))) for w in range(3)],
            )
            assert alphas[b, 0].item() == pytest.approx(slow)
            decided.add(slow)
    assert decided == {0.1, 0.9}


def test_the_gate_follows_the_equation_not_the_sentence_after_it() -> None:
    near, far = TokenDistances(torch.full((1, 2, 3, 8, 8), 0.5)), TokenDistances(torch.full((1, 2, 3, 20, 20), 2.0))
    assert adaptive_alpha(near, far, None).item() == pytest.approx(0.1)
    assert adaptive_alpha(far, near, None).item() == pytest.approx(0.9)
