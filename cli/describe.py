"""`vfc describe`: a language model on this machine writes sentences about the classes of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand

from vfc.cache_schema.values.progress import Progress

from .command import Command, Outcome

if TYPE_CHECKING:
    from vfc.extract.language.class_descriptions import DescribeConfig


def _describe(config: DescribeConfig, progress: Progress) -> Outcome:
    from vfc.extract.language.class_descriptions import describe_classes

    written = describe_classes(config, progress)
    return Outcome(written.to_json(), "\n".join(written.lines()), written.exit_code)


def describe() -> TyperCommand:
    """`vfc describe`."""
    from vfc.extract.language.class_descriptions import DescribeConfig

    return Command(
        "describe",
        "Let a local language model write sentences about each class.",
        DescribeConfig,
        _describe,
        "vfc describe --checkpoint Qwen/Qwen3-4B --class-list classes.txt --name hmdb --out descriptions",
        "It writes two files: what is seen, and the steps in time. The same command continues an interrupted run.",
    ).build()
