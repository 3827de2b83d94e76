"""Progress on stderr: a bar on a terminal, plain lines elsewhere, JSON lines on request.

Each class implements `vfc.cache_schema.values.progress.Progress`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from vfc.cache_schema.values.progress import Progress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.text import Text

Style = Literal["auto", "bar", "plain", "jsonl", "none"]


class Shown(Progress, Protocol):
    """A Progress that is closed at the end: it reports the last stage and releases the terminal."""

    def close(self) -> None:
        """End the last stage and report its count. May be called twice."""


def duration(seconds: float) -> str:
    """1:05 for 65 seconds, 2:00:00 for two hours."""
    total = max(0, round(seconds))
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(rate: float) -> str:
    """2.35, 23.5, 235, 2,350: three figures or all digits before the point."""
    return f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}"


class Stage:
    """Count, rate and remaining time of the current stage."""

    def __init__(self, label: str, total: int | None, unit: str, now: float) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note, self.began = 0, "", now

    def rate(self, now: float) -> float | None:
        """Units per second since the stage began; None before the first."""
        return self.done / (now - self.began) if self.done and now > self.began else None

    def seconds_left(self, now: float) -> float | None:
        """At this rate; None where total or rate is unknown."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if self.total is not None and rate else None

    def line(self, now: float) -> str:
        """`label: 120/400 videos, 3.1 videos/s, 1:30 left, note`."""
        rate, left = self.rate(now), self.seconds_left(now)
        parts = [f"{self.done}{'' if self.total is None else f'/{self.total}'} {self.unit}"]
        if rate is not None:
            parts.append(f"{figures(rate)} {self.unit}/s")
        if left:
            parts.append(f"{duration(left)} left")
        if self.note:
            parts.append(self.note)
        return f"{self.label}: {', '.join(parts)}"


class Lines:
    """One line every few seconds, and one at the end of each stage: for logs and pipes."""

    def __init__(self, out: TextIO, every_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._every, self._clock = out, every_seconds, clock
        self._stage: Stage | None = None
        self._last = 0.0
        # The writer thread and the main thread may report at the same time.
        self._lock = threading.Lock()

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        """End the stage before and start a new count."""
        with self._lock:
            self._end()
            self._last = self._clock()
            self._stage = Stage(label, total, unit, self._last)
            self._started(self._stage)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count, and write a line if the last one is old enough."""
        with self._lock:
            if self._stage is None:
                return
            self._stage.done += amount
            self._stage.note = note or self._stage.note
            if self._clock() - self._last >= self._every:
                self._last = self._clock()
                self._report(self._stage, ended=False)

    def say(self, line: str) -> None:
        """Write the line now."""
        with self._lock:
            self._write(line)

    def close(self) -> None:
        """Close the last stage."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            self._report(stage, ended=True)

    def _started(self, stage: Stage) -> None:
        return

    def _report(self, stage: Stage, *, ended: bool) -> None:
        if stage.done or not ended:
            self._write(stage.line(self._clock()))

    def _write(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class JsonLines(Lines):
    """One JSON object a line, for programs that watch: begin, advance (at most one a second), end, say."""

    def __init__(self, out: TextIO, every_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, every_seconds, clock)

    def say(self, line: str) -> None:
        """One `say` event."""
        with self._lock:
            self._event(event="say", line=line)

    def _started(self, stage: Stage) -> None:
        self._event(event="begin", label=stage.label, total=stage.total, unit=stage.unit)

    def _report(self, stage: Stage, *, ended: bool) -> None:
        now = self._clock()
        self._event(
            event="end" if ended else "advance",
            label=stage.label,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            per_second=stage.rate(now),
            seconds_left=stage.seconds_left(now),
            note=stage.note,
        )

    def _event(self, **fields: str | int | float | None) -> None:
        self._write(json.dumps(fields, ensure_ascii=False))


class Bar:
    """A live bar with rate and time left."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{figures(speed)} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")

        columns: list[ProgressColumn | str] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        ]
        self._live = RichProgress(*columns, console=Console(file=out), speed_estimate_period=60)
        self._task: TaskID | None = None
        self._live.start()

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        """A new bar below the one before."""
        self._task = self._live.add_task(label, total=total, unit=unit, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the newest bar."""
        if self._task is not None:
            self._live.advance(self._task, amount)
            if note:
                self._live.update(self._task, note=note)

    def say(self, line: str) -> None:
        """The line above the bars."""
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop drawing; the last state stays on the screen."""
        self._live.stop()


class Quiet:
    """No progress."""

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        """Nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def show(style: Style, out: TextIO | None = None) -> Shown:
    """The progress of a `--progress` style; `auto` is a bar on a terminal and plain lines elsewhere."""
    out = sys.stderr if out is None else out
    if style == "auto":
        style = "bar" if out.isatty() else "plain"
    if style == "bar":
        return Bar(out)
    if style == "none":
        return Quiet()
    return JsonLines(out) if style == "jsonl" else Lines(out)
