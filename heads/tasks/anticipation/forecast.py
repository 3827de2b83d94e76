"""What a head predicts for windows: of test videos, and of new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vfc.cache_schema.values.progress import Progress

from .contract import AnticipationHead, WindowBatch
from .decoding import Decoder, Rule
from .segments import Ids
from .windows import Sample


def predicted_futures(
    head: AnticipationHead,
    tests: Sequence[tuple[int, Sample]],
    collated: Callable[[Sequence[Sample]], WindowBatch],
    *,
    batch: int,
    rule: Rule,
    progress: Progress,
) -> list[Ids]:
    """Class ids of the frames to predict, per test (place of the observed ratio, window).

    Windows of like length are predicted together, `batch` at a time; then they are decoded in order, with one decoder
    per observed ratio.
    """
    order = sorted(range(len(tests)), key=lambda i: tests[i][1].cut.observed)
    answers: dict[int, tuple[Any, Any]] = {}
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        answer = head.predict(collated([tests[i][1] for i in places]))
        rows = zip(answer.actions.float().cpu().numpy(), answer.durations.float().cpu().numpy(), strict=True)
        answers.update(zip(places, rows, strict=True))
        progress.advance(len(places))
    decoders = {place: Decoder(rule) for place, _ in tests}
    return [decoders[place](*answers[i], sample.cut.future) for i, (place, sample) in enumerate(tests)]
