"""One process trains in one folder, and no variable of the environment or file of the machine changes a number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from suites.motion_store import MakeStore

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import prototype
from vfc.heads.results.tables import read_rows
from vfc.heads.runs.lock import locked
from vfc.heads.tasks import fewshot
from vfc.heads.training.fit import train
from vfc.heads.training.process import own_draws

QUICK = TrainConfig(steps=5, batch=4, validate_every=5, device="cpu")
ACCELERATE = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
    "ACCELERATE_USE_FSDP": "true",
}
CONFIG_FILE = "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nuse_cpu: true\n"
LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


@pytest.fixture
def task(make_store: MakeStore) -> fewshot.Config:
    return fewshot.Config(make_store(noise=0.3), way=3, train_queries=2, val_tasks=5, tasks=10)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    """accelerate reads the environment once per process."""
    AcceleratorState._reset_state(reset_partial_state=True)


def run(task: fewshot.Config, out: Path) -> bytes:
    """Weights of a short training."""
    train("prototype", task, prototype.Config(), replace(QUICK, out=out), Silent())
    return (out / "head.safetensors").read_bytes()


def command(task: fewshot.Config, out: Path) -> list[str]:
    sizes = ["--way", "3", "--train-queries", "2", "--val-tasks", "5", "--tasks", "10"]
    lengths = ["--steps", "5", "--batch", "4", "--validate-every", "5", "--device", "cpu"]
    return ["train-head", "prototype", "--cache", str(task.cache), *sizes, *lengths, "--out", str(out)]


def vfc(arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "import sys, torch; from vfc.cli.app import main; torch.set_num_threads(1); sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ACCELERATE if "FSDP" not in name])
def test_a_variable_of_accelerate_changes_no_weight(
    name: str, task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(task, tmp_path / "plain")
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setenv(name, ACCELERATE[name])
    assert run(task, tmp_path / "other") == plain
    assert os.environ[name] == ACCELERATE[name]


def test_a_real_process_with_all_of_them_and_a_config_file_gives_the_same_weights(
    task: fewshot.Config, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = run(task, tmp_path / "plain")
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "hf" / "accelerate").mkdir(parents=True)
    (tmp_path / "hf" / "accelerate" / "default_config.yaml").write_text(CONFIG_FILE)
    done = vfc(command(task, tmp_path / "other"), {**ACCELERATE, "HF_HOME": str(tmp_path / "hf")})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other" / "head.safetensors").read_bytes() == plain


def test_variables_that_cannot_be_undone_are_said_and_recorded(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    run(task, tmp_path / "run")
    (row,) = read_rows(tmp_path / "run" / "results.jsonl")
    assert row["circumstances"]["NVIDIA_TF32_OVERRIDE"] == "1"
    assert row["circumstances"]["threads"] == torch.get_num_threads()
    assert "NVIDIA_TF32_OVERRIDE is set and may change the numbers." in row["notes"]


def test_left_over_variables_of_a_launcher_are_refused_before_anything_starts(
    task: fewshot.Config, tmp_path: Path
) -> None:
    done = vfc(command(task, tmp_path / "run"), LAUNCHED)
    assert done.returncode == 2
    assert "A head is trained by one process; the environment names several: WORLD_SIZE=2." in done.stderr
    assert "unset RANK LOCAL_RANK WORLD_SIZE" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


def test_torchrun_with_two_processes_trains_nothing(task: fewshot.Config, tmp_path: Path) -> None:
    script = tmp_path / "vfc.py"
    script.write_text("import sys\nsys.path.pop(0)\nfrom vfc.cli.app import main\nsys.exit(main())\n")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), *command(task, tmp_path / "run")],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "A head is trained by one process; the environment names several: " in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "2"}, {"LOCAL_RANK": "1"}, {"OMPI_COMM_WORLD_SIZE": "4"}, {"RANK": "x"}]
)
def test_ranks_of_every_launcher_are_refused(
    variables: dict[str, str], task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=r"names several: .*\n.*unset"):
        run(task, tmp_path / "run")


def test_a_launcher_of_one_process_is_as_none(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(task, tmp_path / "plain")
    for name, value in {**LAUNCHED, "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run(task, tmp_path / "launched") == plain


HOLD = """
import sys, time
from pathlib import Path
from vfc.heads.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_folder_in_use_is_refused_and_a_killed_process_blocks_nobody(task: fewshot.Config, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=rf"The run folder .* is in use by process {holder.pid} on .*\nWait until"):
            run(task, folder)
        assert {path.name for path in folder.iterdir()} == {"lock"}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (folder / "lock").exists()
    assert run(task, folder)
    assert not (folder / "lock").exists()


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        raise ZeroDivisionError
    with locked(tmp_path / "run"), pytest.raises(BadInput, match="is in use by process"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / "lock").exists()


def test_gradients_on_a_cpu_do_not_depend_on_which_thread_was_first() -> None:
    """Rows that several tasks share sum their gradients; without a fixed order three runs gave three results."""
    values = torch.randn(40, 8192, requires_grad=True)
    index = torch.randint(40, (600,))
    factors = torch.randn(600, 8192)

    def gradient() -> torch.Tensor:
        (values[index] * factors).sum().backward()
        assert values.grad is not None
        grad, values.grad = values.grad, None
        return grad

    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(4)
    try:
        with own_draws(torch.device("cpu")):
            first, *others = [gradient() for _ in range(8)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)
    assert torch.are_deterministic_algorithms_enabled() == before
