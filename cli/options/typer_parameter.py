"""A flag as a parameter of a typer command, with its help line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .flag import Flag


def _help(flag: Flag) -> str:
    """The help line, with the default, in typer's markup (where a square bracket would open a tag)."""
    default = flag.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    if flag.required:
        default = None if flag.metadata.get("argument") else "required"
    elif isinstance(default, bool):
        default = "default: yes" if default else None
    elif default is not None and default != "":
        default = f"default: {default}"
    text = str(flag.metadata.get("help", ""))
    text = text if text.endswith("...") else text.rstrip(".")
    return f"{text} [{default}]".replace("[", r"\[") if default else text.replace("[", r"\[")


def parameter(flag: Flag) -> inspect.Parameter:
    """The flag as typer reads it. Its default is always None, which means: not typed."""
    annotation: Any = bool if flag.scalar is bool else Path if flag.scalar is Path else str
    if flag.many:
        together = flag.metadata.get("values")
        annotation = tuple[(annotation,) * together] if together else list[annotation]  # type: ignore[misc]
    completion: Callable[[], list[str]] | None = (lambda: list(flag.choices())) if flag.choices() else None
    common: dict[str, Any] = {
        "help": _help(flag),
        "show_default": False,
        "rich_help_panel": flag.metadata.get("panel"),
        "autocompletion": completion,
    }
    default: Any = None
    if flag.metadata.get("argument"):
        info: Any = typer.Argument(metavar=flag.metavar, **common)
        default = inspect.Parameter.empty if flag.required else None
    elif flag.scalar is bool:
        both = "" if flag.metadata.get("one_way") else f"/--no-{flag.spelled[2:]}"
        info = typer.Option(flag.spelled + both, **common)
    else:
        info = typer.Option(flag.spelled, metavar=flag.metavar, **common)
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )
