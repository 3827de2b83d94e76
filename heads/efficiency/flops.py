"""FLOPs by torch's own counter: matrix products, convolutions and attention, two per multiply-add.

What is elementwise (norms, softmax, distances between tokens) is not counted, as in every published table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vfc.heads.contract.head import Head


@dataclass(frozen=True)
class Flops:
    """All operations of a pass, and those of each module of the head by its name.

    `once`: what the first pass does besides and the later ones reuse, such as encoding the class texts in a test.
    """

    total: int
    parts: Mapping[str, int]
    once: int = 0

    def without(self, modules: tuple[str, ...]) -> int:
        """The operations that are left without some modules."""
        return self.total - sum(self.parts.get(name, 0) for name in modules)


class _Scores(nn.Module):
    """The scores of a head as a forward pass, so that the counter sees the modules below it."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Any) -> Tensor:
        """Logits of a batch."""
        return self.head.scores(batch)


def head_flops(head: Head, batch: Any) -> Flops:
    """Operations of scoring one batch, the head in evaluation mode. It is scored twice, see `Flops.once`."""
    training, scores = head.training, _Scores(head).eval()
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    try:
        # The counter looks for the gradient of every module whose input has one, also where none is computed.
        head.requires_grad_(requires_grad=False)
        first = count_flops(lambda: scores(batch))
        with torch.no_grad(), _countable(), FlopCounterMode(display=False) as counter:
            scores(batch)
    finally:
        head.train(training)
        for parameter in trained:
            parameter.requires_grad_()
    prefix = f"{_Scores.__name__}.head."
    parts = {
        name.removeprefix(prefix): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(prefix)
    }
    total = int(counter.get_total_flops())
    return Flops(total, parts, first - total)


def count_flops(run: Callable[[], object]) -> int:
    """Operations of one call."""
    with torch.no_grad(), _countable(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def _countable() -> Iterator[None]:
    """Attention as matrix products: torch's counter knows neither the CPU's fused kernels nor the fast path of MHA."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors made within have a shape and no memory, as on the meta device, but the device of a CPU."""
    with FakeTensorMode():
        yield
