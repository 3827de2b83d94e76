"""Memory that runs out at real places of the work: exit code 6 and two lines, whatever thread it was in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from suites.motion_store import make_store

from vfc.cli import app
from vfc.heads.data.features import Features
from vfc.heads.methods import prototype
from vfc.heads.similarity import matching

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
PINNED = RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")
QUICK = "--way 3 --steps 4 --batch 2 --validate-every 2 --val-tasks 4 --tasks 6 --device cpu --progress none"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a finished run on it, and a store of tokens of a layer."""
    folder = tmp_path_factory.mktemp("place")
    store = make_store(folder / "store", noise=0.3)
    make_store(folder / "tokens", noise=0.3, tokens=2)
    assert app.run(f"train-head prototype --cache {store} {QUICK} --out {folder / 'run'}".split()) == 0
    return folder


def raising(error: Exception, after: int = 0) -> Any:
    """A function that raises, at the call with that number."""
    calls = iter(range(1 << 20))

    def patched(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(calls) >= after:
                raise error
            return real(*arguments, **named)

        return call

    return patched


@pytest.mark.parametrize("error", [GPU, PINNED], ids=["device", "pinned"])
@pytest.mark.parametrize(
    ("command", "owner", "function", "after", "advice"),
    [
        ("train-head prototype {flags}", prototype.Head, "loss", 1, "--accumulate"),
        ("train-head prototype {flags}", prototype.Head, "match", 5, "--accumulate"),
        ("train-head prototype {flags} --resident off", Features, "_read", 3, "--accumulate"),
        ("train-head prototype {flags}", Features, "_load", 0, "--resident off"),
        ("sweep prototype {flags} --grid lr=0.1,0.01", Features, "_load", 0, "fewer trials"),
        ("eval --cache {store} --way 3 --tasks 5 --device cpu", Features, "_load", 0, "--pool"),
        ("probe-layers --cache {tokens} --way 3 --tasks 5 --device cpu", Features, "_load", 0, "--pool"),
        (
            "predict --head {run} --query-cache {store} --support-cache {store} --shot 1",
            prototype.Head,
            "match",
            0,
            "fewer clips",
        ),
        (
            "predict --head {run} --query-cache {store} --support-cache {store} --shot 1",
            Features,
            "_read",
            0,
            "fewer clips",
        ),
    ],
)
def test_memory_runs_out(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    command: str,
    owner: Any,
    function: str,
    after: int,
    advice: str,
) -> None:
    store = place / "store"
    flags = f"--cache {store} {QUICK} --out {tmp_path / 'out'}"
    line = command.format(flags=flags, store=store, run=place / "run", tokens=place / "tokens")
    monkeypatch.setattr(owner, function, raising(error, after)(getattr(owner, function)))
    assert app.run(line.split()) == 6
    problem, remedy = [line for line in capsys.readouterr().err.splitlines() if line][-2:]
    assert problem == f"Out of memory: {str(error).splitlines()[0]}"
    assert advice in remedy


def test_a_metric_that_needs_too_much(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(matching.METRICS, "otam", raising(GPU)(None))
    line = f"eval --cache {place / 'store'} --way 3 --tasks 5 --metric otam --device cpu --progress none"
    assert app.run(line.split()) == 6
    assert "--layer" in capsys.readouterr().err
