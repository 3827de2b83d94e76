"""Free memory: the machine's, or what is left to the control groups that a job or a container runs in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vfc.heads.data.placement import available_memory, placed

MEMINFO = "MemTotal:        2000000 kB\nMemFree:          100000 kB\nMemAvailable:    1000 kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(folder: str, limit: str, use: int, cache: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup{folder}/memory.max": limit,
        f"sys/fs/cgroup{folder}/memory.current": f"{use}\n",
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 5\ninactive_file {cache}\nactive_file 7\n",
    }


def test_without_groups_the_system_counts(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, {})) == 1000 * 1024
    assert available_memory(write(tmp_path, group("", "max\n", 500, 0))) == 1000 * 1024


def test_the_tightest_group_above_us_counts_and_file_cache_is_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
        **group("/slurm", "max\n", 900_000, 0),
        **group("/slurm/job_7", "600000\n", 500_000, 20_000),
        **group("/slurm/job_7/step_0", "900000\n", 400_000, 0),
        **group("/slurm/job_8", "1\n", 0, 0),
    }
    assert available_memory(write(tmp_path, files)) == 600_000 - (500_000 - 20_000)


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", **group("", "300000\n", 400_000, 150_000)}
    assert available_memory(write(tmp_path, files)) == 50_000
    full = group("", "300000\n", 400_000, 0)
    assert available_memory(write(tmp_path, full)) == 0


def test_the_older_kind_of_groups(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/docker/abc"
    files = {
        "proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n",
        f"{folder}/memory.limit_in_bytes": "700000\n",
        f"{folder}/memory.usage_in_bytes": "650000\n",
        f"{folder}/memory.stat": "cache 9\ntotal_inactive_file 100000\n",
    }
    assert available_memory(write(tmp_path, files)) == 150_000


def test_an_array_may_fill_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfc.heads.data.placement.available_memory", lambda: 100)
    assert placed(50, torch.device("cpu")) == "ram"
    assert placed(51, torch.device("cpu")) == "off"
