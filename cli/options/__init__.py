"""Command-line options from settings dataclasses: each field of a frozen dataclass is one flag.

A value comes from the command line, else from the `--config` file, else from the default of the dataclass.
"""

from __future__ import annotations

from .flag import Flag as Flag
from .flag import flags as flags
from .paths import path_errors as path_errors
from .settings import build as build
from .settings import to_json as to_json
from .typer_parameter import parameter as parameter
