"""Numbers that make no sense are refused where the settings are made, by the flag's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.evaluate import EpisodesConfig, EvalConfig
from vfc.heads.evaluation.probe import ProbeConfig
from vfc.heads.lookup import configs
from vfc.heads.methods import msta

NAN = float("nan")


def refused(settings: Any, name: str, value: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        replace(settings, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("batch", 0, r"^--batch 0 cannot be used\.\nGive a number: 1 or more\.$"),
        ("accumulate", 0, r"^--accumulate 0 cannot be used\.\nGive a number: 1 or more\.$"),
        ("steps", -3, r"^--steps -3 cannot be used\.\nGive a number: 0 or more\.$"),
        ("epochs", -1.0, "^--epochs -1 "),
        ("least_steps", -1, "^--least-steps -1 "),
        ("lr", -1.0, "^--lr -1 "),
        ("lr", NAN, "^--lr nan "),
        ("lr", float("inf"), "^--lr inf "),
        ("weight_decay", -0.1, "^--weight-decay -0.1 "),
        ("warmup", -5, "^--warmup -5 "),
        ("warmup_epochs", -1.0, "^--warmup-epochs -1 "),
        ("clip", -1.0, "^--clip -1 "),
        ("validate_every", -2, "^--validate-every -2 "),
        ("seed", -1, "^--seed -1 "),
        ("eps", 0.0, r"^--eps 0 cannot be used\.\nGive a number: more than 0\.$"),
        ("betas", (0.9, 1.0), r"^--betas 1 cannot be used\.\nGive a number: 0 or more, and less than 1\.$"),
        ("betas", (0.9,), r"^--betas 0\.9 cannot be used\.\nGive two numbers, as in --betas 0\.9,0\.999\.$"),
    ],
)
def test_of_the_training(name: str, value: Any, told: str) -> None:
    refused(TrainConfig(), name, value, told)


@pytest.mark.parametrize("settings", [EvalConfig(), EpisodesConfig(), ProbeConfig(), configs("fsar")["task"]])
def test_of_the_number_of_tasks(settings: Any) -> None:
    refused(settings, "tasks", 0, "^--tasks 0 ")


@pytest.mark.parametrize("settings", [EvalConfig(), ProbeConfig()])
def test_of_the_metrics(settings: Any) -> None:
    # None of the largest charges, or a soft minimum without softness: every class would be equally near.
    refused(settings, "u", 0, "^--u 0 ")
    refused(settings, "otam_lambda", 0.0, "^--otam-lambda 0 ")


@pytest.mark.parametrize(
    ("head", "name", "value"),
    [
        ("prototype", "val_tasks", 0),
        ("prototype", "train_tasks", -1),
        ("linear-probe", "shots", -1),
        ("linear-probe", "shot_seed", -1),
        ("linear-probe", "split_seed", -1),
        ("linear-probe", "val_fraction", -0.5),
        ("linear-probe", "val_fraction", 1.0),
        ("linear-probe", "val_fraction", NAN),
    ],
)
def test_of_the_tasks(head: str, name: str, value: float) -> None:
    refused(configs(head)["task"], name, value, f"^--{name.replace('_', '-')} {value:g} cannot be used")


@pytest.mark.parametrize(
    ("head", "names", "value"),
    [
        ("prototype", ("width", "attention_heads", "ffn_dim"), 0),
        ("prototype", ("dropout",), 1.0),
        ("fsar", ("dim", "down_hidden", "ffn_dim", "attention_heads", "u"), 0),
        ("fsar", ("dropout", "ffn_dropout", "alpha", "ctpcm_tau", "smoothing"), -0.1),
        ("fsar", ("alpha",), 1.5),
        ("trx", ("width",), 0),
        ("trx", ("dropout",), 2.0),
        ("mean-pool", ("hidden", "dropout"), -1),
        ("mote", ("experts",), 0),
        ("mote", ("layers", "merged_weight", "stay_weight"), -1),
        ("vidprism", ("attention_heads", "tau", "rank_temperature"), 0),
        ("vidprism", ("rank_weight", "div_weight", "gate_weight", "text_weight", "alpha"), -0.1),
        ("msta", ("strength", "alpha", "adapter_dropout"), -0.1),
        ("msta", ("dim",), 0),
        ("futr", ("width", "decoder_layers", "queries", "positions", "attention_heads"), 0),
        ("futr", ("encoder_layers", "dropout"), -1),
        ("actionllm", ("queries", "adapter_width", "cmib_width"), 0),
        ("actionllm", ("dropout",), 1.0),
        ("frame-classifier", ("hidden", "dropout"), -1),
    ],
)
def test_of_the_heads(head: str, names: tuple[str, ...], value: float) -> None:
    for name in names:
        flag = "lambda" if (head, name) == ("msta", "strength") else name.replace("_", "-")
        refused(configs(head)["head"], name, value, f"^--{flag} {value:g} cannot be used")


def test_what_is_left_to_a_preset_and_the_ends_of_a_range_are_taken() -> None:
    assert msta.Config(dim=None, strength=0.0).factor == 0
    assert TrainConfig(steps=0, lr=0.0, betas=(0.0, 0.5)).steps == 0
    assert configs("fsar")["head"].alpha is None
    for alpha in (0.0, 1.0):
        assert replace(configs("fsar")["head"], alpha=alpha).alpha == alpha
