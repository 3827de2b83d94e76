"""Progress as lines, as JSON lines and as a bar, on a clock that the test turns by hand."""

from __future__ import annotations

import io
import json

import pytest

from vfc.cache_schema.values.progress import Progress
from vfc.cli.progress import Bar, JsonLines, Lines, Quiet, Stage, duration, show


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_every_few_seconds_and_at_the_end_of_a_stage() -> None:
    clock, out = Clock(), io.StringIO()
    lines = Lines(out, every_seconds=5, clock=clock)
    lines.begin("extract", 40, "videos")
    for _ in range(12):
        clock.now += 1
        lines.advance(2, note="bound by decode")
    lines.begin("verify", None, "records")
    clock.now += 1
    lines.advance(3)
    lines.say("all is well")
    lines.close()
    lines.close()
    assert out.getvalue().splitlines() == [
        "extract: 10/40 videos, 2 videos/s, 0:15 left, bound by decode",
        "extract: 20/40 videos, 2 videos/s, 0:10 left, bound by decode",
        "extract: 24/40 videos, 2 videos/s, 0:08 left, bound by decode",
        "all is well",
        "verify: 3 records, 3 records/s",
    ]


def test_json_lines_are_one_object_each() -> None:
    clock, out = Clock(), io.StringIO()
    lines = JsonLines(out, clock=clock)
    lines.begin("extract", 4, "videos")
    clock.now += 2
    lines.advance()
    lines.advance()
    lines.say("a warning")
    lines.close()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", "advance", "say", "end"]
    assert events[0] == {"event": "begin", "label": "extract", "total": 4, "unit": "videos"}
    assert (events[1]["done"], events[1]["per_second"], events[1]["seconds_left"]) == (1, 0.5, 6.0)
    assert (events[3]["done"], events[3]["total"]) == (2, 4)


def test_an_unknown_total_and_a_stage_without_work() -> None:
    stage = Stage("scan", None, "files", 0.0)
    assert stage.line(1.0) == "scan: 0 files"
    assert stage.seconds_left(1.0) is None


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    bar = show("auto", out)
    assert isinstance(bar, Bar)
    bar.begin("extract", 2, "videos")
    bar.say("[not markup] on its own line")
    bar.advance(2, note="done soon")
    bar.close()
    assert "extract" in out.getvalue()
    assert "2/2" in out.getvalue()
    assert "[not markup] on its own line" in out.getvalue()


def test_no_colour_is_drawn_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    bar = Bar(out)
    bar.begin("extract", 2)
    bar.advance(2)
    bar.close()
    # Select Graphic Rendition with a colour (30 to 38, 90 to 97) would be \x1b[3… or \x1b[9….
    assert "\x1b[3" not in out.getvalue()
    assert "\x1b[9" not in out.getvalue()


def test_what_is_shown_by_default_depends_on_where() -> None:
    assert type(show("auto", io.StringIO())) is Lines
    assert type(show("jsonl", io.StringIO())) is JsonLines
    quiet: Progress = show("none", io.StringIO())
    assert isinstance(quiet, Quiet)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
