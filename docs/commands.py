"""The command-line reference and the flag tables of the head pages, read from the commands themselves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from vfc.cli import app, options


def cell(text: str) -> str:
    """A plain text as a cell of a Markdown table; what stands in backticks stays code."""
    parts = text.replace("\n", " ").split("`")
    parts[::2] = [re.sub(r"([\[\]*])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def leaves(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command below a group."""
    for name, command in group.commands.items():
        loaded = command.load() if isinstance(command, app.Lazy) else command
        if isinstance(loaded, TyperGroup):
            yield from leaves(loaded, (*path, name))
        else:
            yield (*path, name), loaded


def pages() -> dict[str, str]:
    """File name to Markdown: one page per command of `vfc`, its sub-commands as sections."""
    sections: dict[str, list[str]] = {}
    for words, command in leaves(app.root()):
        sections.setdefault(words[0], []).append(_section(words, command))
    return {
        f"{name}.md": f"# vfc {name}\n\nGenerated from the command itself.\n\n" + "\n".join(texts)
        for name, texts in sections.items()
    }


def _section(words: tuple[str, ...], command: Any) -> str:
    title = f"## vfc {' '.join(words)}\n" if len(words) > 1 else ""
    text = _plain(command.help or "")
    example = _plain(command.epilog or "").removeprefix("Example: ")
    lines = [title, text, "", "```text", example, "```", ""]
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if "--help" not in parameter.opts:
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Arguments", []).append(parameter)
    for panel, parameters in panels.items():
        lines += [f"**{panel}**", "", "| flag | takes | meaning |", "| --- | --- | --- |"]
        lines += [_row(parameter) for parameter in parameters]
        lines.append("")
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    spelled = " ".join(f"`{name}`" if name.startswith("-") else f"`{name.upper()}`" for name in names)
    takes = "" if parameter.secondary_opts or getattr(parameter, "is_flag", False) else str(parameter.metavar or "")
    return f"| {spelled} | {cell(takes)} | {cell(_plain(parameter.help or ''))} |"


def _plain(text: str) -> str:
    """Help text without the escapes of rich markup."""
    return text.replace("\\[", "[").strip()


def head_section(name: str) -> str:
    """The generated half of a head's page: its own flags, and what it trains with unless told otherwise."""
    from vfc.heads import lookup

    parts = lookup.configs(name)
    train = parts["train"]
    own = options.flags(type(parts["head"]))
    lines = ["## Settings of the model", ""]
    if own:
        lines += ["| flag | takes | meaning |", "| --- | --- | --- |"]
        lines += [_flag_row(flag) for flag in own]
    else:
        lines.append("This head has no settings of its own.")
    length = ("epochs", "least_steps") if train.epochs else ("steps",)
    values = ", ".join(
        f"`--{field.name.replace('_', '-')} {_value(getattr(train, field.name))}`"
        for field in dataclasses.fields(train)
        if field.name in (*length, "batch", "lr", "optimizer", "weight_decay", "select")
    )
    lines += ["", "## Training defaults", "", f"{values}.", ""]
    lines.append(f"All flags: [vfc train-head {name}](../reference/commands/train-head.md#vfc-train-head-{name}).")
    return "\n".join(lines) + "\n"


def _value(value: object) -> object:
    return int(value) if isinstance(value, float) and value == int(value) else value


def _flag_row(flag: Any) -> str:
    default = flag.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, bool):
        default = "yes" if default else "no"
    shown = f" [default: {default}]" if default not in (None, "") else ""
    takes = "" if flag.scalar is bool else flag.metavar
    help_text = str(flag.metadata.get("help", "")).rstrip(".")
    return f"| `{flag.spelled}` | {cell(takes)} | {cell(help_text + shown)} |"
