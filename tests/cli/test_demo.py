"""`vfc demo`, a little smaller than it comes: the whole way once, and once more from what is there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vfc.cache_schema import open_store
from vfc.cache_schema.upkeep import verify
from vfc.cache_schema.values.progress import Silent
from vfc.cli import app


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the demo asks for in a process of its own, where torch is not loaded yet."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_demo_learns_beyond_the_interval_and_goes_on_from_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "a demo"
    line = [
        "demo",
        "--out",
        str(out),
        "--clips-per-class",
        "8",
        "--steps",
        "60",
        "--tasks",
        "800",
        "--progress",
        "none",
    ]
    assert app.run([*line, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["failed"] == 0
    assert len(open_store(out / "store")) == first["clips"] >= 15 * 8
    assert verify(out / "store", Silent()).ok

    free, trained = first["training_free"], first["trained"]
    assert trained["tasks"] == 800
    assert trained["accuracy"] - trained["interval"] > first["chance"]
    assert free["difference"] - free["difference_interval"] > 0
    assert free["difference"] == pytest.approx(trained["accuracy"] - free["accuracy"])

    assert app.run(line) == 0
    output = capsys.readouterr().out
    assert f"trained (prototype, one linear layer) {100 * trained['accuracy']:.1f} ± " in " ".join(output.split())
    (pasted,) = (shlex.split(line) for line in output.splitlines() if line.strip().startswith("vfc store inspect"))
    assert app.run([*pasted[1:], "--progress", "none"]) == 0
    assert first["store_digest"] in capsys.readouterr().out
    assert f"vfc extract --model image --checkpoint '{out}/model' --videos '{out}/videos/" in output
    assert open_store(out / "store").digest == first["store_digest"]
