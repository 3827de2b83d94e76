"""The training-free baselines of one list are scored once; nothing else is ever taken for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from suites.motion_store import MakeStore, Told

from vfc.cache_schema.annotations import load, write_annotations
from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.fewshot import kept_baselines
from vfc.heads.tasks.fewshot import task as fewshot_task
from vfc.heads.training.fit import train

SILENT = Silent()
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return make_store(noise=0.3)


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Run:
    """A training of two updates in a folder of its own: its row."""
    folders = iter(tmp_path / f"run{number}" for number in range(20))

    def of(head: str = "prototype", progress: Any = SILENT, seed: int = 0, **task: Any) -> dict[str, Any]:
        how = TrainConfig(steps=2, batch=2, validate_every=2, device="cpu", seed=seed, out=next(folders))
        settings = fewshot.Config(store, **{"way": 3, "train_queries": 2, "val_tasks": 5, "tasks": 40, **task})
        return train(head, settings, configs(head)["head"], how, progress).row

    return of


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per call that scores the baselines."""
    calls: list[str] = []
    real = fewshot_task.baselines

    def counting(*arguments: Any) -> Any:
        calls.append("scored")
        return real(*arguments)

    monkeypatch.setattr(fewshot_task, "baselines", counting)
    return calls


def test_a_second_run_takes_the_scores_of_the_first(run: Run, scored: list[str], told: Told) -> None:
    first, second = run(), run(progress=told)
    assert scored == ["scored"]
    assert first["baselines"] == second["baselines"]
    assert len(first["baselines"]) == 6
    assert any("were scored before" in line for line in told.lines)
    other = run(seed=1)  # other weights on the same tasks
    assert scored == ["scored"]
    assert [row["accuracy"] for row in other["baselines"]] == [row["accuracy"] for row in first["baselines"]]


@pytest.mark.parametrize("change", [{"tasks": 41}, {"shot": 2}, {"episode_seed": 1}, {"queries": 2}, {"way": 2}])
def test_another_list_is_scored_anew(run: Run, scored: list[str], change: dict[str, Any]) -> None:
    run()
    run(**change)
    assert len(scored) == 2


def test_another_training_clip_is_another_mean(run: Run, scored: list[str], store: Path) -> None:
    run()
    rows = load(store, "default").rows
    fewer = tuple(row for row in rows if row.name != "class00/0.mp4")
    write_annotations(store, "default", replace(load(store, "default"), rows=fewer))
    run()
    assert len(scored) == 2


def test_other_code_and_other_arithmetic_are_scored_anew(
    run: Run, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    with monkeypatch.context() as patched:
        patched.setattr(kept_baselines, "_code_digest", lambda: "another")
        run()
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    run()
    assert len(scored) == 3


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 half a file"])
def test_a_damaged_file_is_made_anew(run: Run, scored: list[str], content: bytes) -> None:
    first = run()
    (kept,) = (kept_baselines.cache_folder() / "baselines").glob("*.npz")
    whole = kept.read_bytes()
    for damaged in (content, whole[: len(whole) // 2], whole[:-7] + b"\0" * 7):
        kept.write_bytes(damaged)
        assert run()["baselines"] == first["baselines"]
    assert len(scored) >= 3
    assert kept.read_bytes() == whole


def test_a_cache_that_takes_no_writes_costs_no_result(
    run: Run, scored: list[str], told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VFC_CACHE", str(tmp_path / "file"))
    assert run(progress=told)["baselines"] == run()["baselines"]
    assert len(scored) == 2
    assert any("could not be kept" in line for line in told.lines)
