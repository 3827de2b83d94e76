"""One line per setting: the default, the help text and the panel of the flag that is made of a dataclass field."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Final

DEVICE_HELP: Final = "auto: a GPU where there is one; or cpu, cuda, cuda:1 (the second GPU), xpu, mps"
"""Help of every `--device`; see `devices.chosen_device`."""


def setting(default: Any, text: str, panel: str = "", **more: Any) -> Any:
    """A dataclass field with its help text; `dataclasses.MISSING` as the default: the flag must be given.

    `more` is metadata as `vfc.cli.options` reads it (`choices`, `metavar`, `flag`, `renamed_from` ...). `unless="x"`:
    the path of this setting need not exist where the setting `x` is given. `added=True` marks a setting that a later
    version added to a head or task: at its default it is left out of config.json, so that runs of earlier versions are
    still the same run.
    """
    return field(default=default, metadata={"help": text, **({"panel": panel} if panel else {}), **more})
