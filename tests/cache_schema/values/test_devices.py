"""The choice of a device: what `auto` takes, what is refused, and float64 where a device has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from vfc.cache_schema.values import devices
from vfc.cache_schema.values.devices import chosen_device, double
from vfc.cache_schema.values.errors import BadInput

Machine = Callable[[Mapping[str, int]], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets how many devices of each kind torch sees."""

    def set_counts(counts: Mapping[str, int]) -> None:
        for kind in ("cuda", "xpu", "mps"):
            module, count = torch.get_device_module(kind), counts.get(kind, 0)
            monkeypatch.setattr(module, "device_count", lambda count=count: count)
            monkeypatch.setattr(module, "is_available", lambda count=count: count > 0)

    return set_counts


@pytest.mark.parametrize(
    ("counts", "device"),
    [
        ({}, "cpu"),
        ({"mps": 1}, "mps:0"),
        ({"xpu": 2, "mps": 1}, "xpu:0"),
        ({"cuda": 1, "xpu": 1, "mps": 1}, "cuda:0"),
    ],
)
def test_auto_and_nothing_take_cuda_before_xpu_before_mps_before_the_cpu(
    machine: Machine, counts: Mapping[str, int], device: str
) -> None:
    machine(counts)
    assert chosen_device("auto") == chosen_device(None) == torch.device(device)
    assert chosen_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cuda:2", "--device cuda:2 asks for a GPU, but there are 2, cuda:0 to cuda:1."),
        ("mps", "--device mps asks for a GPU, but torch sees none here."),
        ("xpu:1", "--device xpu:1 asks for a GPU, but torch sees none here."),
        ("gpu", "--device gpu is not known."),
        ("meta", "--device meta is not known."),
        ("cuda:x", "--device cuda:x is not known."),
        ("", "--device  is not known."),
    ],
)
def test_what_is_not_there_or_not_known_is_refused_by_name(machine: Machine, name: str, problem: str) -> None:
    machine({"cuda": 2})
    with pytest.raises(BadInput) as caught:
        chosen_device(name)
    assert caught.value.problem == problem
    assert "--device cpu" in caught.value.remedy or "Give cpu" in caught.value.remedy


def test_float64_is_computed_on_the_cpu_where_the_device_has_none() -> None:
    class OnMps(torch.Tensor):
        """Says that it lies on an MPS device until it is copied, and has no float64 there."""

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("mps")

        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            return self.as_subclass(torch.Tensor)

        def double(self) -> torch.Tensor:
            raise TypeError("MPS has no float64")

    values = torch.tensor([0.1, 3.0])
    assert torch.equal(double(values.as_subclass(OnMps)), values.double())
    assert double(values).dtype == torch.float64
    assert not devices.has_streams("mps")
