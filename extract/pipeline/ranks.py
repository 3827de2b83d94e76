"""Which share of the work is this process's: from flags, torchrun or accelerate, or SLURM.

Ranks need nothing of each other: no process group, no barrier. A rank that dies hurts nobody, and the same command
with other ranks goes on from what is committed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Key

_REMEDY = "Give both --rank and --world-size; ranks count from 0."


@dataclass(frozen=True)
class Rank:
    """Process `number` of `world_size`, the `local_rank`-th on its machine, as read from `source`."""

    number: int = 0
    world_size: int = 1
    local_rank: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.number < self.world_size:
            raise BadInput(
                f"Rank {self.number} of {self.world_size} ({self.source}) cannot be.",
                f"There are ranks 0 to world size - 1. {_REMEDY}",
            )

    def owns(self, key: Key) -> bool:
        """Whether a record is this rank's: its hash modulo the world size."""
        return int.from_bytes(key.hash128(), "big") % self.world_size == self.number

    @property
    def description(self) -> str:
        """One line for the log; empty for a single process."""
        if self.world_size == 1:
            return ""
        return f"Rank {self.number} of {self.world_size} ({self.source}): takes its share of the records, by hash."


def find_rank(rank: int | None, world_size: int | None, environment: Mapping[str, str] | None = None) -> Rank:
    """This process's rank: flags first, then torchrun or accelerate, then SLURM tasks and array, else alone.

    Raises:
        BadInput: half of a pair is given, a value is no number, or a SLURM job of several tasks runs without srun.
    """
    env = os.environ if environment is None else environment
    if rank is not None or world_size is not None:
        if rank is None or world_size is None:
            alone = f"--rank {rank}" if world_size is None else f"--world-size {world_size}"
            raise BadInput(f"{alone} is given alone.", _REMEDY)
        return Rank(rank, world_size, rank, "--rank and --world-size")
    if "RANK" in env or "WORLD_SIZE" in env:
        return _of_torchrun(env)
    return _of_slurm(env)


def _of_torchrun(env: Mapping[str, str]) -> Rank:
    source = "RANK and WORLD_SIZE, as torchrun and accelerate set them"
    rank = _number(env, "RANK", source)
    return Rank(rank, _number(env, "WORLD_SIZE", source), _number(env, "LOCAL_RANK", source, rank), source)


def _of_slurm(env: Mapping[str, str]) -> Rank:
    """Tasks of a step, jobs of an array, or both: job a of an array with n tasks each has the ranks from a * n up."""
    source, task, tasks = "SLURM_PROCID and SLURM_NTASKS", 0, 1
    if "SLURM_PROCID" in env:
        tasks = _number(env, "SLURM_STEP_NUM_TASKS", source, _number(env, "SLURM_NTASKS", source, 1))
        task = _number(env, "SLURM_PROCID", source)
        if tasks > 1 and not {"SLURM_STEP_ID", "SLURM_STEPID"} & env.keys():
            raise BadInput(
                f"SLURM gives this job {tasks} tasks, but this process was not started by srun, so it is the only one.",
                "Start it with `srun vfc extract ...`, or give --rank 0 --world-size 1.",
            )
    local = _number(env, "SLURM_LOCALID", source, task)
    if "SLURM_ARRAY_TASK_ID" not in env:
        return Rank(task, tasks, local, source)
    source = "SLURM_ARRAY_TASK_ID, _MIN, _STEP and _COUNT" + (f" with {source}" if tasks > 1 else "")
    number, first = _number(env, "SLURM_ARRAY_TASK_ID", source), _number(env, "SLURM_ARRAY_TASK_MIN", source, 0)
    job, rest = divmod(number - first, _number(env, "SLURM_ARRAY_TASK_STEP", source, 1))
    count = _number(env, "SLURM_ARRAY_TASK_COUNT", source)
    if rest or not 0 <= job < count:
        raise BadInput(
            f"Task {number} of a SLURM array of {count} that starts at {first} has no rank: the ids are uneven.",
            f"Submit with --array=0-{count - 1}, or give both --rank and --world-size.",
        )
    return Rank(job * tasks + task, count * tasks, local, source)


def _number(env: Mapping[str, str], name: str, source: str, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    try:
        number = int(text)
    except ValueError:
        value = f"is {text!r}" if text else "is missing"
        raise BadInput(f"The rank of this process comes from {source}, but {name} {value}.", _REMEDY) from None
    if number < 0 or (number == 0 and "STEP" in name and "ID" not in name):
        raise BadInput(f"{name} is {number}, which cannot be.", _REMEDY)
    return number
