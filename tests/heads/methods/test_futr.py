"""FUTR: the suite, the published counts, and its loss against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from suites.anticipation import AnticipationHeadSuite

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.methods import futr


class TestFutr(AnticipationHeadSuite):
    method = "futr"
    config = futr.Config(width=16, decoder_layers=1, queries=5, positions=16, attention_heads=2)
    overfit_lr = 3e-3
    overfit_steps = 60


@pytest.mark.parametrize(("preset", "classes", "count"), [("50salads", 19, 17_380_904), ("breakfast", 48, 1_193_314)])
def test_parameters_are_those_of_the_published_code(preset: str, classes: int, count: int) -> None:
    specs = {
        "visual": ArraySpec("features", "fp32", (None, 2048)),
        "classes": ArraySpec("classes", "int64", (classes,)),
    }
    with torch.device("meta"):
        head = futr.Head(futr.Config(preset=preset), specs)
    assert sum(parameter.numel() for parameter in head.parameters()) == count


def test_the_loss_equals_a_loop_over_windows() -> None:
    suite = TestFutr()
    head, batch = suite.head().eval(), suite.batch()
    assert isinstance(head, futr.Head)
    with torch.no_grad():
        result, answer = head.loss(batch), head.predict(batch)
    entropy, asked, squares, valid = 0.0, 0, 0.0, 0
    for b in range(4):
        actions = [a for a in batch.actions[b].tolist() if a >= 0]
        for i, action in enumerate([*actions, 5]):
            entropy -= float(answer.actions[b, i].log_softmax(dim=0)[action])
            asked += 1
        positive = [math.exp(float(answer.durations[b, i])) for i in range(len(actions))]
        for i, value in enumerate(positive):
            squares += (value / sum(positive) - float(batch.durations[b, i])) ** 2
            valid += 1
    assert float(result["action"]) == pytest.approx(entropy / asked, rel=1e-5)
    assert float(result["duration"]) == pytest.approx(squares / valid, rel=1e-5)


def test_too_long_a_window_is_refused() -> None:
    class Longer(TestFutr):
        lengths = (17,)

    suite = Longer()
    with pytest.raises(
        BadInput, match=r"A window of 17 observed steps does not fit into 16 learned positions\.\nGive a"
    ):
        suite.head().scores(suite.batch())


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(BadInput, match=r"A --width of 20 cannot be divided among 8 heads\.\nGive a --width"):
        futr.Head(futr.Config(width=20), AnticipationHeadSuite.specs)
