from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Key
from vfc.extract.pipeline.ranks import Rank, find_rank


def test_one_process_owns_everything_and_says_nothing() -> None:
    alone = find_rank(None, None, {})
    assert (alone.number, alone.world_size, alone.description) == (0, 1, "")
    assert all(alone.owns(Key("video", f"{i}.mp4")) for i in range(20))


@given(st.integers(1, 9), st.lists(st.text(min_size=1, alphabet="abcdefgh/."), min_size=1, max_size=40, unique=True))
def test_every_record_belongs_to_exactly_one_rank(world: int, names: list[str]) -> None:
    ranks = [Rank(rank, world) for rank in range(world)]
    for name in names:
        assert sum(rank.owns(Key("video", name)) for rank in ranks) == 1


def test_shares_are_even_by_hash() -> None:
    shares = [sum(Rank(rank, 4).owns(Key("video", f"class/{i}.avi")) for i in range(4000)) for rank in range(4)]
    assert sum(shares) == 4000
    assert min(shares) > 900


def test_flags_come_before_the_environment() -> None:
    found = find_rank(1, 3, {"RANK": "0", "WORLD_SIZE": "8"})
    assert (found.number, found.world_size) == (1, 3)
    assert "Rank 1 of 3 (--rank and --world-size)" in found.description


def test_torchrun_is_read_and_comes_before_slurm() -> None:
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    found = find_rank(None, None, env)
    assert (found.number, found.world_size, found.local_rank) == (5, 8, 1)
    assert "torchrun" in found.description


def test_slurm_tasks_of_a_step() -> None:
    env = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "1"}
    found = find_rank(None, None, env)
    assert (found.number, found.world_size, found.local_rank) == (3, 4, 1)
    assert "SLURM_PROCID" in found.description


def test_a_step_may_be_smaller_than_the_job() -> None:
    env = {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "2"}
    assert find_rank(None, None, env).world_size == 2


def test_a_slurm_job_of_several_tasks_without_srun_is_refused() -> None:
    with pytest.raises(BadInput, match=r"4 tasks, but this process was not started by srun.*\nStart it with `srun vfc"):
        find_rank(None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    assert find_rank(None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}).world_size == 1


@pytest.mark.parametrize(("number", "rank"), [("1", 0), ("3", 1), ("7", 3)])
def test_slurm_array_counts_from_its_first_task_in_its_step(number: str, rank: int) -> None:
    env = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
    found = find_rank(None, None, env | {"SLURM_ARRAY_TASK_STEP": "2"})
    assert (found.number, found.world_size) == (rank, 4)
    assert "SLURM_ARRAY_TASK_ID" in found.description


def test_slurm_array_of_steps_gives_every_task_its_own_rank() -> None:
    ranks = set()
    for job in range(3):
        for task in range(2):
            env = {"SLURM_ARRAY_TASK_ID": str(job), "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}
            env |= {"SLURM_PROCID": str(task), "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
            found = find_rank(None, None, env)
            assert found.world_size == 6
            ranks.add(found.number)
    assert ranks == set(range(6))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "0"}, r"WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, r"RANK is missing"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, r"RANK is 'two'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"Rank 2 of 2 \(RANK and WORLD_SIZE.*cannot be"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, r"RANK is -1"),
        ({"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"}, r"--array=0-2"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, r"SLURM_ARRAY_TASK_COUNT is missing"),
    ],
)
def test_an_environment_that_contradicts_itself_is_an_error(env: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_rank(None, None, env)


@pytest.mark.parametrize(("rank", "world"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_half_a_pair_or_an_impossible_rank_is_an_error(rank: int | None, world: int | None) -> None:
    with pytest.raises(BadInput, match="Give both --rank and --world-size"):
        find_rank(rank, world, {})


@pytest.mark.parametrize("name", [None, "cuda"])
def test_each_rank_takes_a_gpu_of_its_own_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    assert chosen_device("cpu", 3) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [chosen_device(name, rank).index for rank in range(4)] == [0, 1, 0, 1]
    assert [chosen_device("cuda:1", rank).index for rank in range(4)] == [1, 1, 1, 1]
    assert chosen_device("cuda:0", 1).index == 0
